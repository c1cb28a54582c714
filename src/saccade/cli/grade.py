"""`saccade grade`: predictions against golds, each with a verdict, its route and its time."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from saccade.cli.options import AsJson, refuse_run_file
from saccade.cli.terminal import echo_json
from saccade.disk import AGAIN, atomic_file, sweep_beside, writing

if TYPE_CHECKING:
    from rich.table import Table

    from saccade.grading.judge import Judge

KEY_VARIABLE = "OPENAI_API_KEY"
VERDICTS = ("right", "wrong", "ungradable")
SHOWN = 10
"""Listed rows that differ from their `expected`."""


def grade(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS.jsonl", help="Rows {prediction, gold, kind?, options?, precision?, question?, expected?}."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write the graded rows; default: standard output."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Rows graded in parallel.")] = 2,
    judge_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OpenAI-compatible server that judges answers rejected by the rules."),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(metavar="NAME", help="The judge's name on that server.")] = None,
    judge_cache: Annotated[Path, typer.Option(metavar="FILE", help="Where the judge's replies are cached.")] = Path(
        "judge.sqlite"
    ),
    as_json: AsJson = False,
) -> None:
    """Grade PAIRS.jsonl: right, wrong or ungradable, with the rule and time of each; prints a summary table (to stderr
    when the rows go to standard output)."""
    from saccade.grading.pairs import grade_pairs, read_pairs
    from saccade.runs.safe_console import SafeConsole

    if not pairs.is_file():
        raise FileNotFoundError(f"{pairs}: there is no such file; expected one JSON object per line")
    refuse_run_file("--out", out)
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir() or out.resolve() == pairs.resolve()):
        raise ValueError(f"--out {out}: expected a file in an existing folder, other than the input")
    summary = Summary()
    with ExitStack() as open_things:
        judge = open_things.enter_context(_judge(judge_url, judge_model, judge_cache, workers))
        sink = open_things.enter_context(_sink(out))
        for row in grade_pairs(read_pairs(pairs), workers, judge):
            sink.write(json.dumps(row) + "\n")
            summary.add(row)
    if not summary.total:
        raise ValueError(f"{pairs}: no rows; each line is one object with prediction and gold")
    if as_json:
        echo_json(summary.as_dict(), err=out is None)
        return
    console = SafeConsole(stderr=out is None)
    console.print(summary.table())
    for line in summary.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _sink(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that gets its name only when complete."""
    if out is None:
        yield typer.get_text_stream("stdout")
        return
    sweep_beside(out)
    with writing(out.absolute().parent, AGAIN), atomic_file(out) as file:
        yield file


@contextmanager
def _judge(url: str | None, model: str | None, cache: Path, workers: int) -> Iterator[Judge | None]:
    if (url is None) != (model is None):
        raise ValueError("--judge-url and --judge-model go together; got only one of them")
    if url is None or model is None:
        yield None
        return
    from saccade.endpoint import Endpoint, ReplyCache, RequestLimits
    from saccade.grading.judge import Judge

    replies = ReplyCache(cache)
    try:
        limits = RequestLimits(concurrency=workers)
        with Endpoint(url, model, os.environ.get(KEY_VARIABLE), replies, limits) as endpoint:
            yield Judge(endpoint)
    finally:
        replies.close()


class Summary:
    """Counts and seconds by route; rows that differ from what they expect."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # the sum, the longest
        self._expected = self._agreeing = 0
        self._differing: list[str] = []

    @property
    def total(self) -> int:
        return sum(counts.total() for counts in self._counts.values())

    def add(self, row: dict[str, Any]) -> None:
        route, verdict = row["route"], row["verdict"]
        self._counts[route][verdict] += 1
        seconds = self._seconds[route]
        seconds[0], seconds[1] = seconds[0] + row["seconds"], max(seconds[1], row["seconds"])
        if "expected" not in row:
            return
        self._expected += 1
        self._agreeing += row["expected"] == verdict
        if row["expected"] != verdict and len(self._differing) < SHOWN:
            shown = f"{str(row['prediction'])[-60:]!r} for {str(row['gold'])[:60]!r}"
            self._differing.append(f"expected {row['expected']}, got {verdict} ({route}): {shown}")

    def as_dict(self) -> dict[str, Any]:
        """The table and the lines as plain data."""
        routes = {
            route: {
                **{name: counts[name] for name in VERDICTS},
                "mean_s": self._seconds[route][0] / counts.total(),
                "longest_s": self._seconds[route][1],
            }
            for route, counts in sorted(self._counts.items(), key=lambda item: -item[1].total())
        }
        sums = sum(self._counts.values(), Counter())
        found = {"rows": self.total, **{name: sums[name] for name in VERDICTS}, "routes": routes}
        return found | ({"expected": self._expected, "as_expected": self._agreeing} if self._expected else {})

    def table(self) -> Table:
        from rich.table import Table

        table = Table("route", "right", "wrong", "ungradable", "mean s", "longest s")
        for route, counts in sorted(self._counts.items(), key=lambda item: -item[1].total()):
            total, longest = self._seconds[route]
            cells = [str(counts[name]) for name in VERDICTS]
            table.add_row(route, *cells, f"{total / counts.total():.4f}", f"{longest:.4f}")
        return table

    def lines(self) -> list[str]:
        sums = sum(self._counts.values(), Counter())
        lines = [f"{sums['right']} right, {sums['wrong']} wrong, {sums['ungradable']} ungradable of {self.total}"]
        if self._expected:
            lines.append(f"{self._agreeing} of {self._expected} as expected")
        return lines + self._differing
