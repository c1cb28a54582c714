"""Metrics of a step's groups, named as in docs/design.md. A metric without data is omitted from the row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from saccade.parsing import read_reply
from saccade.rewards.naming import is_file
from saccade.rollout.groups import Group, Rollout
from saccade.training.reply_metrics import reply_metrics
from saccade.types import Completion, Sample

Right = Callable[[Completion, Sample], bool | None]
"""Whether the answer is right; None when it cannot be graded."""


def mean(values: Iterable[float]) -> float | None:
    """The mean; None without values."""
    seen = list(values)
    return sum(seen) / len(seen) if seen else None


def truncated_share(groups: Sequence[Group]) -> float:
    """Share of the completions that hit the cap; 0 without any."""
    return mean(float(r.completion.truncated) for group in groups for r in group.rollouts) or 0.0


def group_metrics(groups: Sequence[Group], right: Right) -> dict[str, float]:
    """Rewards and their parts, accuracy, format, lengths, truncation, groups without signal; also by task and source.

    Rewards are means over rollouts that are not masked; all others are over all rollouts.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    verdicts = [right(r.completion, group.sample) for group in groups for r in group.rollouts]
    scored = [r for r in rollouts if r.score.masked is None]
    metrics: dict[str, float | None] = {
        "reward/total": mean(r.score.value for r in scored),
        "length/mean": mean(_length(r) for r in rollouts),
        "length/right": mean(_length(r) for r, ok in zip(rollouts, verdicts, strict=True) if ok is True),
        "length/wrong": mean(_length(r) for r, ok in zip(rollouts, verdicts, strict=True) if ok is False),
        "format/strict": mean(float(read_reply(r.completion.text).strict) for r in rollouts),
        "truncated/share": truncated_share(groups),
        "groups/count": float(len(groups)),
        "groups/zero_variance": mean(float(not group.has_signal) for group in groups),
        "rollouts/masked": mean(float(r.score.masked is not None) for r in rollouts),
        "rollouts/failed": mean(float(r.score.failed) for r in rollouts),
    }
    parts: dict[str, list[float]] = defaultdict(list)
    for rollout in scored:
        for name, value in rollout.score.parts.items():
            parts[name.rsplit("/", 1)[-1] if is_file(name) else name].append(value)  # not by its file's whole path
    metrics |= {f"reward/{name}": mean(values) for name, values in parts.items()}
    metrics |= _accuracies([group.sample for group in groups for _ in group.rollouts], rollouts, verdicts)
    return {name: value for name, value in metrics.items() if value is not None} | reply_metrics(groups)


def _length(rollout: Rollout) -> float:
    return float(len(rollout.completion.token_ids))


def _accuracies(
    samples: Sequence[Sample], rollouts: Sequence[Rollout], verdicts: Sequence[bool | None]
) -> dict[str, float | None]:
    """`accuracy/<task>`, `source/<source>/accuracy` and `source/<source>/reward`."""
    graded: dict[str, list[float]] = defaultdict(list)
    for sample, rollout, ok in zip(samples, rollouts, verdicts, strict=True):
        source = sample.meta.get("source")
        if ok is not None:
            graded["accuracy/all"].append(float(ok))
            graded[f"accuracy/{sample.task}"].append(float(ok))
            if source is not None:
                graded[f"source/{source}/accuracy"].append(float(ok))
        if source is not None and rollout.score.masked is None:
            graded[f"source/{source}/reward"].append(rollout.score.value)
    if len([name for name in graded if name.startswith("accuracy/")]) == 2:
        del graded["accuracy/all"]  # of one task it says the same
    return {name: mean(values) for name, values in sorted(graded.items())}


def glance(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a line about a step shows: accuracy first, and apart from the format, which a reward may mix with it."""
    of_tasks = [value for name, value in metrics.items() if name.startswith("accuracy/")]
    accuracy = metrics.get("accuracy/all", of_tasks[0] if of_tasks else None)
    shown = {
        "accuracy": accuracy,
        "format": metrics.get("format/strict"),
        "reward": metrics.get("reward/total", 0.0),
        "length": metrics.get("length/mean", 0.0),
    }
    return {name: value for name, value in shown.items() if value is not None}
