"""What `saccade check` prints and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from saccade.data.preflight import PreflightReport

BARS = 8


def safe(report: PreflightReport, facts: dict[str, Any]) -> bool:
    return report.ok and facts.get("fits") is not False


def show(report: PreflightReport, facts: dict[str, Any]) -> None:
    """Prints the report."""
    tasks = ", ".join(f"{name} {count:,}" for name, count in report.tasks.most_common())
    typer.echo(f"{report.samples:,} rows: {tasks or 'none that can be read'}")
    for title, counts in (
        ("tokens of a prompt", report.prompt_tokens),
        ("visual tokens of an image", report.image_tokens),
        ("tokens of a reply", report.reply_tokens),
    ):
        for line in histogram(title, counts):
            typer.echo(line)
    if facts["model"] is None:
        typer.echo("no model was given (--model), so no tokens were counted")
    else:
        typer.echo(f"budget of a prompt: {facts['budget']:,} tokens (the model's context: {facts['context']:,})")
    for stage in facts.get("stages", ()):
        typer.echo(
            f"stage {stage['stage']}: {stage['tokens_per_step']:,} tokens a step, {stage['peak_gb']:.3g} GB at the "
            f"longest prompt ({stage['peak_phase']})"
        )
    for note in facts.get("notes", ()):
        typer.echo(f"note: {note}")
    for text, number in report.notes.items():
        typer.echo(f"note: {text}: {number:,}")
    for kind, number in sorted(report.counts.items(), key=lambda item: -item[1]):
        typer.echo(f"{number:8,} {kind}")
    for finding in report.findings:
        typer.echo(f"  {finding}")
    if report.hidden:
        typer.echo(f"  and {report.hidden:,} more (--show N prints more)")
    typer.echo(verdict(report, facts))


def verdict(report: PreflightReport, facts: dict[str, Any]) -> str:
    why = [f"{number:,} x {kind}" for kind, number in report.counts.items()]
    if facts.get("fits") is False:
        why.append(f"needs more memory than {facts['memory_gb']:g} GB less a tenth (saccade plan suggests changes)")
    return f"not safe to train: {', '.join(why)}" if why else "safe to train"


def histogram(title: str, counts: Counter[int]) -> Iterator[str]:
    """Smallest, middle and largest, then a bar for each range."""
    if not counts:
        return
    total, values = counts.total(), sorted(counts)
    lowest, highest = values[0], values[-1]
    at = [f"{name} {quantile(counts, share):,}" for name, share in (("median", 0.5), ("95% up to", 0.95))]
    yield f"{title}: {lowest:,} to {highest:,}, {', '.join(at)}"
    width = max(1, -(-(highest - lowest + 1) // BARS))
    for start in range(lowest, highest + 1, width) if highest > lowest else ():
        number = sum(counts[value] for value in values if start <= value < start + width)
        bar = "#" * round(40 * number / total) or ("." if number else "")
        yield f"  {start:>7,} - {start + width - 1:>7,} {number:>9,} {bar}".rstrip()


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest value that this share of all does not exceed."""
    seen, total = 0, counts.total()
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * total:
            return value
    return max(counts)


def as_dict(report: PreflightReport, facts: dict[str, Any]) -> dict[str, Any]:
    """The report as plain data."""
    tokens = ("prompt_tokens", "image_tokens", "reply_tokens", "tasks")
    return {
        "safe": safe(report, facts),
        "samples": report.samples,
        "counts": report.counts,
        "findings": list(report.findings),
        **{name: {str(key): value for key, value in sorted(getattr(report, name).items())} for name in tokens},
        **facts,
        "notes": [*facts.get("notes", ()), *(f"{text}: {number}" for text, number in report.notes.items())],
    }
