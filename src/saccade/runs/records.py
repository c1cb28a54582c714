"""The files of a run directory, which is the interface between programs (docs/design.md, "Files that others read").

`metrics.jsonl` has a row per step, `rollouts.jsonl` a row per completion, `groups.jsonl` a row per prompt with its
question and gold answer and, for some, the image under `images/`. On resume they are truncated to the checkpoint, so no
row is duplicated.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from shlex import quote
from typing import Any
from zlib import crc32

from saccade.config import Config, dump, load
from saccade.data.images import large_alone, load_image
from saccade.disk import PARTIAL, flush, read_text, write_text
from saccade.rollout.groups import Group, Rollout
from saccade.runs.alarms import ALARMS, Alarm
from saccade.runs.drawing import drawn_replies
from saccade.runs.lock import WRITERS, keep_lock, refuse_checkpoint
from saccade.runs.sinks import Sinks
from saccade.runs.streams import GROUPS, METRICS, ROLLOUTS, STREAMS, Stream, end_of_step, lost_of, missing_steps, tail
from saccade.runs.token_ends import Decode, token_ends
from saccade.types import Completion, Frame, ImageSource

log = logging.getLogger(__name__)

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
FULL_UNTIL, AFTERWARDS = 2_000_000_000, 0.1
"""Bytes of rollouts.jsonl after which only this share of groups keeps its token ids and log-probs."""
LOST = "lost_rows"
"""Alarm of a run whose files something else changed while it trained, or before it was resumed."""


@dataclass(frozen=True)
class Run:
    """An open run directory; `create` starts a run, `reopen` resumes one."""

    directory: Path
    writes: bool = True
    """False in all but the first of several processes."""
    sinks: Sinks = field(default_factory=Sinks)
    """Trackers that get the same rows."""
    streams: dict[str, Stream] = field(default_factory=dict)
    """Files that this process has appended to."""

    @property
    def name(self) -> str:
        return self.directory.absolute().name

    @staticmethod
    def refuse_existing(directory: Path) -> None:
        """FileExistsError when the directory already contains a run, ValueError when it is a checkpoint."""
        refuse_checkpoint(directory)
        found = [name for name in (CONFIG, *WRITERS) if (directory / name).exists()]
        if found:
            raise FileExistsError(
                f"{directory} already holds a run ({', '.join(found)}); resume it with: saccade resume "
                f"{quote(str(directory))}, or choose another directory"
            )

    @classmethod
    def create(cls, directory: Path, config: Config) -> Run:
        """Starts a run. FileExistsError when the directory already contains one."""
        cls.refuse_existing(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / CONFIG, dump(config))
        return cls(directory)

    def keep_config(self, config: Config) -> None:
        """Writes the recipe again where something else removed it: without it nobody could resume the run."""
        if self.writes and not (self.directory / CONFIG).exists():
            keep_lock(self.directory)
            write_text(self.directory / CONFIG, dump(config))
            log.warning("%s was removed by something else; it is written again", self.directory / CONFIG)

    @classmethod
    def reopen(cls, directory: Path, config: Config) -> Run:
        """Resumes a run. FileNotFoundError when there is none, ValueError when its configuration differs."""
        path = directory / CONFIG
        if not path.is_file():
            raise FileNotFoundError(f"{directory} holds no run to resume: expected {CONFIG} there")
        if load(path, type(config)) != config:
            before, now = read_text(path).splitlines(), dump(config).splitlines()
            line = next((i for i, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), 0)
            there, here = (lines[line].strip() if line < len(lines) else "(nothing)" for lines in (before, now))
            raise ValueError(
                f"{path}:{line + 1}: the run has '{there}' but the recipe '{here}'; a run is resumed with its own "
                "configuration (to change it deliberately, edit that file)"
            )
        return cls(directory)

    def environment(self, facts: Mapping[str, Any]) -> None:
        if self.writes:
            keep_lock(self.directory)
            write_text(self.directory / ENVIRONMENT, json.dumps(facts, indent=1, default=str) + "\n")

    def metrics(self, step: int, row: Mapping[str, float | str | None]) -> None:
        """One row; non-finite numbers are written as null, since JSON cannot represent them."""
        self.append(METRICS, [{"step": step, **row}], step)
        self.sinks.metrics(step, row)

    def rollouts(
        self,
        step: int,
        stage: str,
        groups: Sequence[Group],
        keep_tokens: float | None = None,
        decode: Decode | None = None,
        decoded: int = 0,
    ) -> None:
        """A row for every completion of every group, with token ids and log-probs for a share of the groups.

        `keep_tokens`: that share, 0 to 1; None is all of them until the file has FULL_UNTIL bytes, then AFTERWARDS.
        Of the first `decoded` groups the rows also say where each token ends in the text.
        """
        path = self.directory / ROLLOUTS
        if keep_tokens is None and path.exists() and path.stat().st_size >= FULL_UNTIL:
            keep_tokens = AFTERWARDS
            _say_once(path)
        self.append(
            ROLLOUTS,
            [
                {
                    **{"run": self.name, "step": step, "stage": stage},
                    **rollout_row(group, index, rollout, tokens, decode if place < decoded else None),
                }
                for place, group in enumerate(groups)
                for tokens in (keep_tokens is None or crc32(group.id.encode()) < keep_tokens * 2**32,)
                for index, rollout in enumerate(group.rollouts)
            ],
            step,
        )

    def groups(self, step: int, groups: Sequence[Group], keep: int) -> None:
        """A row for every group; the images of the first `keep` are saved (once each), the others only named."""
        if not self.writes:
            return
        rows = []
        for i, group in enumerate(groups):
            shas, pictures = group.prompt.encoded.image_shas, group.prompt.images
            files = [self._image(sha, one) for sha, one in zip(shas, pictures, strict=True)] if i < keep else []
            sample = group.sample
            rows.append(
                {
                    "step": step,
                    "group_id": group.id,
                    "sample_id": sample.id,
                    "task": sample.task,
                    "question": sample.question,
                    "answer": sample.answer,
                    "meta": dict(sample.meta),
                    "image_sha": list(shas),
                    "image_files": files,
                }
            )
        self.append(GROUPS, rows, step)
        if keep:
            self.sinks.images(step, partial(drawn_replies, groups[:1]))

    def sizes(self) -> dict[str, int]:
        """Size of each stream in bytes, for the checkpoint. First says which of them something else has changed."""
        for name in tuple(self.streams):
            keep_lock(self.directory)
            self._look(name)
        paths = {name: self.directory / name for name in STREAMS}
        return {name: path.stat().st_size if path.is_file() else 0 for name, path in paths.items()}

    def sync(self) -> None:
        """Forces the streams to disk, so that no checkpoint is newer than its rows."""
        for path in (self.directory / name for name in STREAMS):
            if path.exists():
                flush(path)
        flush(self.directory)

    def standing(self, sizes: Mapping[str, int], step: int | None) -> dict[str, int]:
        """What the streams hold of their `sizes` after `step`. A stream that lacks rows keeps those that it has of the
        steps up to there (None: of all); what is lost is logged and recorded as an alarm. No other file is looked at,
        whatever `sizes` names: they may be those of a run of others."""
        found = {name: sizes[name] for name in STREAMS if name in sizes}
        for name, size in found.items():
            path = self.directory / name
            if lost := lost_of(path, size):
                self.say_lost(lost if step is None else f"{lost}; {missing_steps(path, step)}", step or 0)
                found[name] = end_of_step(path, sys.maxsize if step is None else step)
        return found

    def cut_back(self, sizes: Mapping[str, int], step: int | None) -> dict[str, int]:
        """Drops the rows written after `sizes` were recorded, at `step`; returns how many, by stream. Where earlier
        rows are missing, see `standing`."""
        keep_lock(self.directory)
        dropped = {}
        for name, kept in self.standing(sizes, step).items():
            path = self.directory / name
            if path.is_file() and path.stat().st_size > kept:
                dropped[name] = sum(chunk.count(b"\n") for chunk in tail(path, kept))
                os.truncate(path, kept)
            self.streams.pop(name, None)
        return dropped

    def append(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Appends rows of a step to a file of the directory; first says what something else has done to it."""
        if not self.writes:
            return
        keep_lock(self.directory)
        self._look(name)
        lines = [json.dumps(_finite(row), ensure_ascii=False, default=str) for row in rows]
        self.streams.setdefault(name, Stream(self.directory / name)).append(lines, step)

    def _look(self, name: str) -> None:
        stream = self.streams.get(name)
        if stream is not None and (change := stream.change()):
            self.say_lost(change, stream.step)

    def say_lost(self, text: str, step: int, then: str = "new rows follow what is left") -> None:
        """Logs and records as an alarm what something else did to the run's files: a run of days does not end for it,
        and does not continue in silence."""
        alarm = Alarm(LOST, step, text, f"find what writes or cleans up there; the run continues: {then}")
        log.warning("%s", alarm)
        self.append(ALARMS, [asdict(alarm)], step)

    def _image(self, sha: str, image: ImageSource) -> str:
        path = self.directory / "images" / f"{sha}.png"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(PARTIAL)
            with large_alone([image]):
                load_image(image).save(partial, format="PNG")
            partial.replace(path)
        return f"images/{path.name}"


@cache
def _say_once(path: Path) -> None:
    log.warning(
        "%s has %.1f GB: from now on it keeps token ids and log-probs for %g of the groups (keep_tokens)",
        *(path, FULL_UNTIL / 1e9, AFTERWARDS),
    )


def rollout_row(
    group: Group, index: int, rollout: Rollout, tokens: bool = True, decode: Decode | None = None
) -> dict[str, Any]:
    """The row of a completion, without run, step and stage, and without token ids and log-probs unless `tokens`. Lists
    of sizes have one entry per image of the prompt. With `decode` it has the ends of the tokens too, if they decode to
    the text."""
    completion: Completion = rollout.completion
    ends = token_ends(completion.text, completion.token_ids, decode) if tokens and decode else None
    frames: Sequence[Frame] = completion.frames
    return {
        "weights_version": completion.weights_version,
        "group_id": group.id,
        "index": index,
        "sample_id": group.sample.id,
        "task": group.sample.task,
        "image_sha": list(group.prompt.encoded.image_shas),
        "size_original": [list(frame.size_original) for frame in frames],
        "size_input": [list(frame.size_input) for frame in frames],
        "frame": frames[0].name if frames else None,
        "prompt_id": group.prompt.encoded.prompt_id,
        "text": completion.text,
        "tokens": len(completion.token_ids),
        **({"token_ids": list(completion.token_ids)} if tokens else {}),
        **({"logprobs": [round(one, 5) for one in completion.logprobs]} if tokens else {}),
        **({"token_ends": ends} if ends else {}),
        "finish_reason": completion.finish_reason,
        "parts": dict(rollout.score.parts),
        "reasons": dict(rollout.score.reasons),
        "reward": rollout.score.value,
        "advantage": rollout.advantage,
        "masked": rollout.score.masked,
        **({"sampler_cause": rollout.sampler_cause} if rollout.sampler_cause else {}),
    }


def _finite(value: Any) -> Any:
    """`value` with non-finite numbers replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
