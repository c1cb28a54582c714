"""Rows of predictions and golds, read and graded one at a time; see `saccade grade`."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from saccade.faults import listed, shown
from saccade.grading.judge import Judge
from saccade.grading.kinds import ALL_KINDS, Graded, grade_reply
from saccade.grading.tolerances import TOLERANCES

VERDICTS = {True: "right", False: "wrong", None: "ungradable"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A row: what was said, what should have been, and how to compare."""

    row: Mapping[str, Any]
    """As it stands in the file; keys that are not read are kept."""
    prediction: str
    kind: str
    options: tuple[str, ...]
    precision: int | None


def read_pairs(path: str | Path) -> Iterator[Pair]:
    """Rows {prediction, gold, kind?, options?, precision?, question?, expected?} of a JSONL file, without empty lines.

    Raises ValueError that names file, line and key for a row that cannot be read.
    """
    with Path(path).open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _pair(line, f"{path}:{number}")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: byte {error.start} is no UTF-8; save the file as UTF-8") from None


READ = ("prediction", "gold", "kind", "options", "precision", "question", "expected")
"""Keys of a row that mean something; others are carried along."""


def _pair(line: str, place: str) -> Pair:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: no JSON ({error}); each line is one object") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: got a {type(row).__name__}, expected an object with prediction and gold")
    for key in ("prediction", "gold"):
        if key not in row:
            raise ValueError(f"{place}: no {key!r}; got the keys {listed(list(map(repr, row)))}")
    for key in row.keys() - set(READ):
        near = get_close_matches(str(key), READ, n=1, cutoff=0.74)
        if near and near[0] not in row:
            raise ValueError(
                f"{place}: got the key {shown(key)}; did you mean {near[0]!r}? (other keys are kept, not read)"
            )
    prediction = row["prediction"]
    if not isinstance(prediction, str | int | float):
        raise ValueError(f"{place}: prediction is {json.dumps(prediction)[:60]}, expected text")
    kind, options, precision = row.get("kind") or "auto", row.get("options") or [], row.get("precision")
    if kind not in ALL_KINDS:
        raise ValueError(f"{place}: got the kind {shown(kind)}, expected one of {', '.join(ALL_KINDS)}")
    if not isinstance(options, list) or len(options) > 26:
        raise ValueError(f"{place}: options is {json.dumps(options)[:60]}, expected a list of at most 26 texts")
    if precision is not None and (not isinstance(precision, int | float) or precision != int(precision)):
        raise ValueError(f"{place}: precision is {shown(precision)}, expected a number of decimals")
    if kind in TOLERANCES and TOLERANCES[kind].decimals == "stated" and precision is None:
        raise ValueError(f'{place}: the kind {kind!r} rounds to the item\'s precision; add "precision": 1 or 2')
    if row.get("expected", "right") not in VERDICTS.values():
        raise ValueError(f"{place}: expected is {shown(row['expected'])}; it may be right, wrong or ungradable")
    return Pair(row, str(prediction), kind, tuple(map(str, options)), None if precision is None else int(precision))


def grade_pairs(pairs: Iterable[Pair], workers: int = 2, judge: Judge | None = None) -> Iterator[dict[str, Any]]:
    """The rows in order, each with verdict, route, detail, answer, found and seconds; `workers` are graded at once.

    Holds a few rows in memory however many there are.
    """
    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for pair in pairs:
                waiting.append(threads.submit(_graded, pair, judge))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _graded(pair: Pair, judge: Judge | None) -> dict[str, Any]:
    began = time.perf_counter()
    gold = pair.row["gold"]
    graded: Graded = grade_reply(pair.prediction, gold, pair.kind, pair.options, pair.precision)
    verdict = graded.verdict
    if judge is not None and gold is not None:
        verdict = judge.review(verdict, str(pair.row.get("question", "")), gold, graded.answer or "")
    return {
        **pair.row,
        "verdict": VERDICTS[verdict.right],
        "route": verdict.route,
        "detail": verdict.detail,
        "answer": graded.answer,
        "found": graded.found,
        "seconds": round(time.perf_counter() - began, 6),
    }
