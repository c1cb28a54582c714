"""Groups as plain data, for a checkpoint: replies, scores and advantages. Prompts are prepared again from their
samples, whose ids are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt
from saccade.types import Completion, Score


def plain_group(group: Group) -> dict[str, Any]:
    """The group without its prompt."""
    return {"id": group.id, "sample": group.sample.id, "rollouts": [plain_rollout(one) for one in group.rollouts]}


def plain_rollout(rollout: Rollout) -> dict[str, Any]:
    """Numbers, texts and lists only; the frames of the completion are those of its prompt."""
    completion = {f.name: getattr(rollout.completion, f.name) for f in fields(Completion) if f.name != "frames"}
    score = asdict(rollout.score)
    own = ("advantage", "token_advantages", "kl_penalties")
    return {"completion": completion, "score": score, **{name: getattr(rollout, name) for name in own}}


def same_samples(stored: Sequence[Mapping[str, Any]], prompts: Sequence[Prompt], accepted: bool) -> list[bool]:
    """Which of the stored groups the data has the same sample for. ValueError for any other, unless changes of the data
    were `accepted`."""
    same = [prompt.name == one["sample"] for one, prompt in zip(stored, prompts, strict=True)]
    if not accepted and not all(same):
        place = same.index(False)
        raise ValueError(
            f"the checkpoint holds replies to sample {stored[place]['sample']!r}, but the data gives "
            f"{prompts[place].name!r} in its place; resume with the data of the run, or drop these replies with "
            "--accept-changes"
        )
    return same


def group_from(data: Mapping[str, Any], prompt: Prompt) -> Group:
    """The inverse of `plain_group`, with the prompt of the same sample."""
    return Group(data["id"], prompt, tuple(rollout_from(one, prompt) for one in data["rollouts"]))


def rollout_from(data: Mapping[str, Any], prompt: Prompt) -> Rollout:
    """The inverse of `plain_rollout`."""
    completion = Completion(frames=prompt.encoded.frames, **data["completion"])
    return Rollout(completion, Score(**data["score"]), **{k: data[k] for k in data if k not in ("completion", "score")})
