"""Scores saved rollouts again with other rewards, without a model: what changes, and which replies differ."""

from __future__ import annotations

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from typing import Any, TextIO

from saccade.faults import shown
from saccade.rewards import Rubric, score_all
from saccade.runs.files import LONGEST_LINE, file_inside
from saccade.runs.shapes import (
    Check,
    is_count,
    is_name,
    is_number,
    is_object,
    is_pair,
    is_text,
    list_of,
    numbers_by_name,
)
from saccade.types import Completion, Frame, Sample, Score

CHUNK = 1024
"""Rollouts per scoring batch."""
SAME = 1e-9
FEWEST_TOKENS, MOST_SIBLINGS = 1 << 15, 256
"""Tokens that a row may count, or 4 for each character; and replies of a group whose pairs are compared."""

RubricForTask = Callable[[str], Rubric]
"""Task name -> rubric."""
Rewards = tuple[float | None, float | None]
"""Before and now; None when masked."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """One rollout under both scores."""

    row: Mapping[str, Any]
    """As saved."""
    score: Score

    @property
    def was(self) -> float | None:
        """The saved reward; None when it was masked."""
        return None if self.row.get("masked") else float(self.row["reward"])

    @property
    def now(self) -> float | None:
        return None if self.score.masked else self.score.value

    @property
    def difference(self) -> float:
        """Absolute difference of the rewards; infinite when exactly one of them is masked."""
        if self.was is None or self.now is None:
            return 0.0 if self.was is self.now else math.inf
        return abs(self.was - self.now)

    def as_row(self) -> dict[str, Any]:
        keys = ("step", "group_id", "index", "sample_id", "task")
        place = {key: self.row.get(key) for key in keys}
        old = {"reward": self.was, "parts": self.row.get("parts") or {}, "masked": self.row.get("masked")}
        new = {"reward": self.now, "parts": dict(self.score.parts), "masked": self.score.masked}
        return place | {"was": old, "now": new | {"reasons": dict(self.score.reasons)}, "text": self.row.get("text")}


@dataclass
class RewardTally:
    """Means of one reward part under both scores; masked rollouts are excluded."""

    was: list[float] = field(default_factory=lambda: [0.0, 0.0])
    now: list[float] = field(default_factory=lambda: [0.0, 0.0])
    changed: int = 0

    def add(self, was: float | None, now: float | None) -> None:
        for side, value in ((self.was, was), (self.now, now)):
            if value is not None:
                side[0] += value
                side[1] += 1
        self.changed += was is not None and now is not None and abs(was - now) > SAME

    def mean(self, side: list[float]) -> float | None:
        return side[0] / side[1] if side[1] else None


@dataclass
class RescoreComparison:
    """The comparison over all rollouts of a run."""

    rollouts: int = 0
    masked: list[int] = field(default_factory=lambda: [0, 0])
    """Before and now."""
    tallies: dict[str, RewardTally] = field(default_factory=lambda: defaultdict(RewardTally))
    """'total', then each part of either rubric."""
    groups: int = 0
    zero_variance: list[int] = field(default_factory=lambda: [0, 0])
    """Groups whose rewards are all equal, before and now: they give no gradient."""
    pairs: int = 0
    """Pairs of siblings that both scores distinguish."""
    reordered: int = 0
    """The pairs that the two scores rank in opposite order."""
    largest_changes: list[Rescored] = field(default_factory=list)
    """The rollouts with the largest differences, in descending order."""

    def as_dict(self) -> dict[str, Any]:
        """As plain data; pairs of two are before and now."""
        parts = {
            name: {"was": tally.mean(tally.was), "now": tally.mean(tally.now), "changed": tally.changed}
            for name, tally in self.tallies.items()
        }
        counts = ("rollouts", "groups", "masked", "zero_variance", "pairs", "reordered")
        changes = [one.as_row() for one in self.largest_changes]
        return {**{name: getattr(self, name) for name in counts}, "parts": parts, "largest_changes": changes}


def rescore(path: Path, rubric_of: RubricForTask, show: int = 10, out: TextIO | None = None) -> RescoreComparison:
    """Scores every rollout of a file (or run directory) again; writes a row per rollout to `out` if given.

    The questions come from groups.jsonl in the same directory. ValueError with file and line for missing or damaged
    rows.
    """
    rollouts = path / "rollouts.jsonl" if path.is_dir() else path
    samples = read_samples(rollouts.parent / "groups.jsonl")
    found, groups = RescoreComparison(), defaultdict[str, list[Rewards]](list)
    heap: list[tuple[float, int, Rescored]] = []
    rows = read_rows(rollouts)
    while chunk := list(islice(rows, CHUNK)):
        for one in _score(chunk, samples, rubric_of):
            _count_rollout(found, one)
            groups[str(one.row["group_id"])].append((one.was, one.now))
            if one.difference > SAME:
                heapq.heappush(heap, (one.difference, -found.rollouts, one))
                if len(heap) > show:
                    heapq.heappop(heap)
            if out is not None:
                out.write(json.dumps(one.as_row(), ensure_ascii=False) + "\n")
    for siblings in groups.values():
        _count_group(found, siblings)
    found.largest_changes = [one for _, _, one in sorted(heap, key=lambda entry: (-entry[0], -entry[1]))]
    return found


def _score(
    chunk: Sequence[tuple[str, Mapping[str, Any]]], samples: Mapping[str, Sample], rubric_of: RubricForTask
) -> list[Rescored]:
    items = []
    for place, row in chunk:
        sample = samples.get(str(row["group_id"]))
        if sample is None:
            raise ValueError(f"{place}: group {row['group_id']!r} is not in groups.jsonl, so its question is unknown")
        try:
            rubric = rubric_of(sample.task)
        except ValueError as error:
            raise ValueError(f"{place}: group {row['group_id']!r} in groups.jsonl: {error}") from None
        items.append((rubric, completion_of(row, place), sample))
    return [Rescored(row, score) for (_, row), score in zip(chunk, score_all(items), strict=True)]


def _count_rollout(found: RescoreComparison, one: Rescored) -> None:
    found.rollouts += 1
    found.masked[0] += one.was is None
    found.masked[1] += one.now is None
    found.tallies["total"].add(one.was, one.now)
    before = {} if one.was is None else one.row.get("parts") or {}
    now = {} if one.now is None else one.score.parts
    for name in dict.fromkeys([*before, *now]):
        found.tallies[name].add(before.get(name), now.get(name))


def _count_group(found: RescoreComparison, siblings: Sequence[Rewards]) -> None:
    """Counts zero-variance groups and reordered pairs."""
    found.groups += 1
    for side in (0, 1):
        known = [value for rewards in siblings if (value := rewards[side]) is not None]
        found.zero_variance[side] += not known or max(known) - min(known) <= SAME
    both = [(was, now) for was, now in siblings if was is not None and now is not None]
    for (was_a, now_a), (was_b, now_b) in combinations(both[:MOST_SIBLINGS], 2):
        if abs(was_a - was_b) > SAME and abs(now_a - now_b) > SAME:
            found.pairs += 1
            found.reordered += (was_a > was_b) is not (now_a > now_b)


# ------------------------------------------------------------------------------------------------------------- reading

_EXPECTED = {
    **{"group_id": is_name, "text": is_text, "reward": is_number, "parts": numbers_by_name, "masked": is_text},
    **{"tokens": is_count, "weights_version": is_count, "token_ids": list_of(is_count), "logprobs": list_of(is_number)},
    **{"size_original": list_of(is_pair), "size_input": list_of(is_pair), "step": is_count, "index": is_count},
    **{"sample_id": is_name, "task": is_text, "frame": is_text, "finish_reason": is_text},
}
"""Key -> what a row of rollouts.jsonl has there."""
_EXPECTED_GROUP = {"group_id": is_name, "sample_id": is_name, "task": is_text, "question": is_text, "meta": is_object}
"""Key -> what a row of groups.jsonl has there."""


def _refuse_odd(row: Mapping[str, Any], expected: Mapping[str, Check]) -> None:
    """ValueError for a value of another type."""
    if odd := [key for key, fits in expected.items() if row.get(key) is not None and not fits(row[key])]:
        raise ValueError(f"field '{odd[0]}': got {shown(row[odd[0]])}, which no run of ours writes there")


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of every line. ValueError for a line that is not a rollout."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the rollouts.jsonl of a run")
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE), ""), 1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place}: not JSON ({error}); a killed run truncates its last line") from None
            missing = [key for key in ("group_id", "text", "reward") if not isinstance(row, dict) or key not in row]
            if missing:
                raise ValueError(f"{place}: field '{missing[0]}' is missing; expected a row of rollouts.jsonl")
            try:
                _refuse_odd(row, _EXPECTED)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
            if row["reward"] is None and not row.get("masked"):
                raise ValueError(f"{place}: field 'reward' is null, but the rollout is not masked")
            yield place, row


def read_samples(path: Path) -> dict[str, Sample]:
    """Group -> sample, from a run's groups.jsonl. Images are included if the run saved them."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it contains the questions and gold answers of the rollouts")
    samples: dict[str, Sample] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE), ""), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                _refuse_odd(row, _EXPECTED_GROUP)
                files = [file_inside(path.parent, name) for name in row.get("image_files") or ()]
                images = tuple(str(file) for file in files if file is not None)
                meta = row.get("meta") or {}
                sample = Sample(row["sample_id"], images, row["question"], row["answer"], row["task"], meta)
                samples[str(row["group_id"])] = sample
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
                why = f"{type(error).__name__}: {error}"
                raise ValueError(f"{path}:{number}: not a row of groups.jsonl ({why})") from None
    return samples


def completion_of(row: Mapping[str, Any], place: str) -> Completion:
    """The reply of a row of rollouts.jsonl."""
    try:
        sizes = zip(row.get("size_original") or (), row.get("size_input") or (), strict=True)
        frames = tuple(Frame(row["frame"], (a[0], a[1]), (b[0], b[1])) for a, b in sizes)
        text = str(row["text"])
        count = min(int(row.get("tokens") or 0), max(4 * len(text), FEWEST_TOKENS))
        return Completion(
            text=text,
            token_ids=tuple(row.get("token_ids") or (0,) * count),
            logprobs=tuple(row.get("logprobs") or ()),
            finish_reason=row.get("finish_reason") or "stop",
            frames=frames,
            weights_version=int(row.get("weights_version") or 0),
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{place}: not a row of rollouts.jsonl ({type(error).__name__}: {error})") from None
