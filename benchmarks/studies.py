"""Writes the tables of recorded verdicts in docs/studies.md and docs/results.md: python -m benchmarks.studies [RUNS]

With RUNS, a folder such as runs/studies, finished studies on their recorded seeds are first copied to docs/studies/.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from saccade.report.study_page import WORDS, tested

RECORDED = Path(__file__).parents[1] / "docs" / "studies"
MARKS = ("<!-- verdicts -->", "<!-- /verdicts -->")


def copied(runs: Path) -> list[str]:
    """Copies the results of finished, recorded studies; returns their names."""
    found = [path for path in sorted(runs.glob("*/study.json")) if json.loads(path.read_text())["recorded"]]
    RECORDED.mkdir(exist_ok=True)
    for path in found:
        (RECORDED / f"{path.parent.name}.json").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return [path.parent.name for path in found]


def table() -> str:
    """Markdown: a row per hypothesis, with the study's verdict in its first row."""
    lines = [
        "| study | verdict | hypothesis | effect | 95% interval | threshold | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RECORDED.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        for number, row in enumerate(document["hypotheses"]):
            one = tested(row)
            first = f"`{path.stem}` | {WORDS[document['verdict']]}" if number == 0 else " |"
            name = one.name if one.primary else f"*{one.name}*"
            verdict = f"{one.verdict.lower()}{f'; {one.more}' if one.more else ''}"
            cells = f"{name} | {one.mean} | {one.interval} | {one.above}: {verdict} | {one.seeds}"
            lines.append(f"| {first} | {cells} |")
    return "\n".join(lines)


def summary() -> str:
    """Markdown: a row per study, with its cost and the sentence of its verdict."""
    lines = ["| study | seeds | CPU minutes | verdict |", "|---|---|---|---|"]
    for path in sorted(RECORDED.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        seeds = ", ".join(map(str, found["seeds"]))
        words = f"{WORDS[found['verdict']]}: {found['sentence']}"
        lines.append(f"| `{path.stem}` | {seeds} | {found['cpu_minutes']:.0f} | {words} |")
    return "\n".join(lines)


PAGES = {RECORDED.with_suffix(".md"): table, RECORDED.with_name("results.md"): summary}
"""Page -> what is between its marks."""


def written() -> None:
    """Replaces what is between the marks of the pages."""
    for page, text in PAGES.items():
        before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
        page.write_text(f"{before}{MARKS[0]}\n{text()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(f"copied: {', '.join(copied(Path(sys.argv[1])))}")
    written()
