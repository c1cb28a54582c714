"""From items to the published table: `results.json` rows with intervals, comparisons, several attempts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from saccade.disk import write_text
from saccade.evaluation.items import ItemResult
from saccade.evaluation.statistics import (
    Comparison,
    Interval,
    bootstrap,
    compare_paired,
    maj_at_k,
    pass_at_k,
    vote_key,
    wilson,
)
from saccade.runs.files import JsonRow

SCHEMA = 1
ALL = "all"


def summarize(results: Iterable[ItemResult]) -> list[JsonRow]:
    """Rows of `results.json`: for each model, control, decoding and split one row over all tasks and one per task.

    Wilson interval for one answer per item, bootstrap over items otherwise. Items whose gold cannot be graded are
    not counted in `n`.
    """
    return [_row(key, task, items) for key, task, items in _cells(results)]


def summarize_attempts(results: Iterable[ItemResult]) -> list[JsonRow]:
    """For items with k > 1 attempts: avg@k, pass@j for j = 1, 2, 4, ... k, and maj@k, per split and task."""
    rows = []
    for (model, control, decoding, split), task, items in _cells(results):
        k = len(items[0].verdicts)
        if k == 1:
            continue
        sizes = sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})
        right = [sum(v is True for v in item.verdicts) for item in items]
        rows.append(
            {
                "model": model,
                "control": control,
                "split": split,
                "task": task,
                "decoding": decoding,
                "k": k,
                "n": len(items),
                "avg": fmean(item.accuracy for item in items),
                "pass": {str(j): fmean(pass_at_k(k, r, j) for r in right) for j in sizes},
                "maj": fmean(map(_majority, items)),
            }
        )
    return rows


def _majority(item: ItemResult) -> float:
    key = partial(vote_key, options=item.options)
    return maj_at_k(item.answers, [verdict is True for verdict in item.verdicts], key)


def _cells(results: Iterable[ItemResult]) -> Iterator[tuple[tuple[str, str | None, str, str], str, list[ItemResult]]]:
    """((model, control, decoding, split), task or 'all', gradable items), in order of first appearance."""
    groups: dict[tuple[str, str | None, str, str], dict[str, list[ItemResult]]] = {}
    for item in results:
        if item.gradable:
            tasks = groups.setdefault((item.model, item.control, item.decoding, item.split), {ALL: []})
            tasks[ALL].append(item)
            tasks.setdefault(item.task, []).append(item)
    for key, tasks in groups.items():
        attempts = {len(item.verdicts) for item in tasks[ALL]}
        if len(attempts) > 1:
            raise ValueError(
                f"items of {key} have {sorted(attempts)} attempts; expected one number of attempts per table row"
            )
        for task, items in tasks.items():
            yield key, task, items


def _row(key: tuple[str, str | None, str, str], task: str, items: Sequence[ItemResult]) -> JsonRow:
    model, control, decoding, split = key
    interval = interval_of(items)
    return {
        "model": model,
        "control": control,
        "split": split,
        "task": task,
        "decoding": decoding,
        "k": len(items[0].verdicts),
        "n": len(items),
        "accuracy": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "mean_tokens": fmean(t for item in items for t in item.tokens),
        "truncated": fmean(t for item in items for t in item.truncated),
    }


def interval_of(items: Sequence[ItemResult]) -> Interval:
    """Accuracy with the interval that fits the number of attempts.

    Resampling items that are all right or all wrong gives an interval without width; there Wilson's over items, which
    counts each item as one answer, is the appropriate one.
    """
    values = [item.accuracy for item in items]
    if all(len(item.verdicts) == 1 for item in items) or set(values) in ({0.0}, {1.0}):
        return wilson(round(sum(values)), len(items))
    return bootstrap(values)


def mean_listings(items: Iterable[ItemResult]) -> float:
    """Listings per reply, over all attempts."""
    return fmean(n for item in items for n in item.listings)


def compare(name: str, a: Iterable[ItemResult], b: Iterable[ItemResult]) -> Comparison:
    """Accuracy of `a` minus that of `b` on the same items. Raises ValueError when the items differ."""
    left, right = _by_item(a), _by_item(b)
    if left.keys() != right.keys():
        odd = sorted(left.keys() ^ right.keys())
        raise ValueError(
            f"comparison '{name}': {len(odd)} items are in one run only, first {odd[0]}; "
            "evaluate both on the same items"
        )
    keys = [key for key in left if left[key].gradable and right[key].gradable]
    return compare_paired(name, [left[key].accuracy for key in keys], [right[key].accuracy for key in keys])


def _by_item(items: Iterable[ItemResult]) -> dict[tuple[str, str, str], ItemResult]:
    found: dict[tuple[str, str, str], ItemResult] = {}
    for item in items:
        key = (item.split, item.task, item.sample_id)
        if key in found:
            raise ValueError(
                f"item {key} occurs twice in one side of a comparison; give one model and one decoding per side"
            )
        found[key] = item
    return found


def comparison_row(comparison: Comparison) -> JsonRow:
    """A comparison as `demo.json` and the report read it."""
    return {
        "name": comparison.name,
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "n": comparison.n,
        "p": comparison.p,
        "shown": comparison.shown,
    }


def write_results(
    path: str | Path, rows: Sequence[JsonRow], *, seconds: float, seed: int, attempts: Sequence[JsonRow] = ()
) -> Path:
    """Write `results.json` (schema 1) atomically. `attempts` adds the key of
    that name."""
    document: JsonRow = {"schema": SCHEMA, "seconds": round(seconds, 3), "seed": seed, "rows": list(rows)}
    if attempts:
        document["attempts"] = list(attempts)
    return write_json(path, document)


def write_json(path: str | Path, document: JsonRow | Sequence[JsonRow]) -> Path:
    """Write JSON atomically (NaN and infinities refused: they are not JSON)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path
