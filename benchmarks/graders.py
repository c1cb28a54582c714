"""How often graders are wrong on hand-made pairs: `python -m benchmarks.graders [FILES]`.

Ours for every kind; for kind math also plain math-verify and, where it is installed, mathruler, both given the whole
prediction (math-verify a bare formula between dollar signs). A false accept is a wrong answer that counts as right. At
the end, how fast the path without math-verify is on the golds of MATH-Vision and Geometry3K in `SACCADE_DATA` (else
../shared/data).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from saccade.grading import Verdict, grade_math, grade_reply, math_pool

HERE = Path(__file__).resolve().parent.parent
FILES = (HERE / "tests" / "cases" / "grading.jsonl", HERE.parent / "shared" / "cases" / "grading.jsonl")
DATA = Path(os.environ.get("SACCADE_DATA", HERE.parent / "shared" / "data"))
FORMS = ("{}", "${}$", "\\boxed{{{}}}", "The answer is ${}$.", "{}.", "x = {}", " {} ")
"""How a gold is written when the speed is measured."""
Grade = Callable[[dict[str, Any]], bool]


def ours(row: dict[str, Any]) -> bool:
    return grade_reply(row["prediction"], row["gold"], row["kind"], tuple(row.get("options", ()))).verdict.right is True


def math_verify(row: dict[str, Any]) -> bool:
    from math_verify import parse, verify

    try:
        return bool(verify(parse(framed(str(row["gold"]))), parse(framed(row["prediction"]))))
    except Exception:  # noqa: BLE001 - what another grader raises counts as a rejection
        return False


def framed(text: str) -> str:
    """A formula between the dollar signs that math-verify looks for; prose and what has a frame stay as they are."""
    return text if re.search(r"\$|\\[(\[]|boxed|[A-Za-z]{3,} [A-Za-z]{2,}|^[\w\s]+$|<", text) else f"${text}$"


def mathruler(row: dict[str, Any]) -> bool:
    from mathruler.grader import extract_boxed_content, grade_answer  # pyright: ignore[reportMissingImports]  # optional, not a dependency

    said = extract_boxed_content(row["prediction"])
    return bool(grade_answer(row["prediction"] if said == "None" else said, str(row["gold"])))


def graders() -> dict[str, Grade]:
    found: dict[str, Grade] = {"saccade": ours, "math-verify": math_verify}
    return {**found, "mathruler": mathruler} if find_spec("mathruler") else found


def main(files: list[Path]) -> None:
    logging.disable(logging.CRITICAL)
    others = graders()
    print("| file | kind | cause | pairs |", " | ".join(f"{name}: false accepts, rejects" for name in others), "|")
    print("|---" * (4 + len(others)) + "|")
    for file in files:
        counts: dict[tuple[str, str], list[list[int]]] = defaultdict(lambda: [[0, 0] for _ in others])
        sizes: dict[tuple[str, str], int] = defaultdict(int)
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            for key in ((row["kind"], row["cause"]), (row["kind"], "all")):
                sizes[key] += 1
            for place, (name, grade) in enumerate(others.items()):
                if name != "saccade" and row["kind"] != "math":
                    continue
                right, wanted = grade(row), row["expected"] == "right"
                for key in ((row["kind"], row["cause"]), (row["kind"], "all")):
                    counts[key][place][int(wanted)] += right != wanted
        for (kind, cause), cells in sorted(counts.items()):
            shown = [f"{a}, {r}" if kind == "math" or i == 0 else "" for i, (a, r) in enumerate(cells)]
            print(f"| {file.parent.parent.name} | {kind} | {cause} | {sizes[kind, cause]} |", " | ".join(shown), "|")
    math_pool.shared().close()
    speed()


def golds() -> Iterator[str]:
    for file in sorted(DATA.glob("math_vision/*.jsonl")):
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            options, answer = row.get("options") or [], str(row["answer"])
            place = "ABCDE".find(answer) if len(answer) == 1 else -1
            yield str(options[place]) if 0 <= place < len(options) else answer
    for file in sorted(DATA.glob("geometry3k/*/data.json")):
        yield from map(str, json.loads(file.read_text(encoding="utf-8"))["choices"])


class Asked:
    """In place of the pool: counts what would need it."""

    count = 0

    def verify(self, gold: str, answer: str) -> Verdict:
        Asked.count += 1
        return Verdict(False, "math: symbolic")


def speed() -> None:
    found = [gold for gold in dict.fromkeys(golds()) if gold not in "ABCDE"]
    shared, math_pool.shared = math_pool.shared, Asked
    seconds, right = [], 0
    try:
        for gold in found:
            for form in FORMS:
                began = time.perf_counter()
                right += grade_math(form.format(gold.strip("$")), gold).right is True
                seconds.append(time.perf_counter() - began)
    finally:
        math_pool.shared = shared
    if not seconds:
        print(f"no golds under {DATA}; the speed is not measured")
        return
    seconds.sort()
    median, late = (seconds[int(len(seconds) * share)] * 1e6 for share in (0.5, 0.9))
    print(
        f"{len(found)} golds, {len(seconds)} variants: {1 - Asked.count / len(seconds):.1%} without math-verify,",
        end=" ",
    )
    print(f"{right / len(seconds):.1%} accepted; median {median:.0f} us, nine of ten under {late:.0f} us")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or [file for file in FILES if file.is_file()])
