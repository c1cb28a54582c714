"""What `saccade check` prints and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saccade.cli.histogram import histogram
from saccade.cli.terminal import echo

if TYPE_CHECKING:
    from saccade.data.preflight import PreflightReport


def safe(report: PreflightReport, facts: dict[str, Any]) -> bool:
    return report.ok and facts.get("fits") is not False


def show(report: PreflightReport, facts: dict[str, Any]) -> None:
    """Prints the report."""
    tasks = ", ".join(f"{name} {count:,}" for name, count in report.tasks.most_common())
    echo(f"{report.samples:,} rows: {tasks or 'none that can be read'}")
    for title, counts in (
        ("tokens of a prompt", report.prompt_tokens),
        ("visual tokens of an image", report.image_tokens),
        ("tokens of a reply", report.reply_tokens),
    ):
        for line in histogram(title, counts):
            echo(line)
    if facts["model"] is None:
        echo("no model was given (--model), so no tokens were counted")
    else:
        echo(f"budget of a prompt: {facts['budget']:,} tokens (the model's context: {facts['context']:,})")
    for stage in facts.get("stages", ()):
        echo(
            f"stage {stage['stage']}: {stage['tokens_per_step']:,} tokens a step, {stage['peak_gb']:.3g} GB at the "
            f"longest prompt ({stage['peak_phase']})"
        )
    for note in facts.get("notes", ()):
        echo(f"note: {note}")
    for text, number in report.notes.items():
        echo(f"note: {text}: {number:,}")
    for kind, number in sorted(report.counts.items(), key=lambda item: -item[1]):
        echo(f"{number:8,} {kind}")
    for finding in report.findings:
        echo(f"  {finding}")
    if report.hidden:
        echo(f"  and {report.hidden:,} more (--show N prints more)")
    echo(verdict(report, facts))


def verdict(report: PreflightReport, facts: dict[str, Any]) -> str:
    why = [f"{number:,} x {kind}" for kind, number in report.counts.items()]
    if facts.get("fits") is False:
        why.append(f"needs more memory than {facts['memory_gb']:g} GB less a tenth (saccade plan suggests changes)")
    return f"not safe to train: {', '.join(why)}" if why else "safe to train"


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
