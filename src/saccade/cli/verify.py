"""`saccade verify`: which code paths are verified for a checkpoint, by measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saccade.cli.options import JsonFile, check_json, write_json

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from saccade.rollout.config import EngineConfig
    from saccade.verify import Check, VerifyReport

CONTEXT = 2048
"""Tokens of a prompt and its reply in the checks of vLLM; the prompts are short."""
RESULTS = {True: ("held", "green"), False: ("FAILED", "bold red"), None: ("not checked", "yellow")}
VERDICTS = {True: ("safe", "green"), False: ("NOT SAFE", "bold red"), None: ("not shown", "yellow")}
"""Words and their colors for a check and for a use."""


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint directory, a hub name, or 'base'.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float64"],
        typer.Option(help="Dtype of the weights; bfloat16 is compared with float32."),
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[
        Literal["builtin", "vllm", "vllm_colocated"],
        typer.Option(help="Also verify vLLM: a server that is started for this, or vLLM in this process."),
    ] = "builtin",
    vllm_executable: Annotated[str, typer.Option(help="The program 'vllm' of the environment that has it.")] = "vllm",
    out: JsonFile = None,
) -> None:
    """Verify a checkpoint: ids and pixels, packed = plain, cached = uncached, and more. Exit status 1 if a check
    fails."""
    from rich.text import Text
    from transformers.utils import logging as transformers_logging

    from saccade import verify as contract
    from saccade.runs.safe_console import SafeConsole

    check_json(out)
    transformers_logging.disable_progress_bar()
    with (
        SafeConsole(stderr=True).status(Text(f"verifying {model}")),
        sampling_engine(engine, model, dtype, vllm_executable) as other,
    ):
        report = contract.verify(model, dtype, device, other)
    if not write_json(report.as_dict(), out):
        show(report)
    if report.failed:
        raise typer.Exit(1)


@contextmanager
def sampling_engine(kind: str, model: str, dtype: str, executable: str) -> Iterator[EngineConfig | None]:
    """The engine to verify beside the built-in one; a server runs until the block ends."""
    from saccade.rollout.config import VllmColocatedConfig, VllmServerConfig

    if kind == "builtin":
        yield None
        return
    if dtype == "float64":
        raise ValueError(f"--engine {kind}: vLLM has no float64; choose float32 or bfloat16")
    if kind == "vllm_colocated":
        yield VllmColocatedConfig(context=CONTEXT)
        return
    from saccade.cli.vllm_servers import a_server

    with a_server(model, dtype, executable, CONTEXT) as url:
        yield VllmServerConfig(urls=(url,))


def show(report: VerifyReport) -> None:
    """The table, the reasons, and what is safe."""
    from saccade.runs.safe_console import SafeConsole

    console = SafeConsole(highlight=False)
    console.print(table(report))
    for line in [*reasons(report), *verdicts(report)]:
        console.print(line, soft_wrap=False)


def table(report: VerifyReport) -> Table:
    """A row per check."""
    from rich.table import Table
    from rich.text import Text

    title = f"{report.model}: {report.family}, {report.dtype} on {report.device}, {report.seconds:.1f} s"
    rows = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rows.add_column("check", overflow="fold")
    rows.add_column("result", no_wrap=True)
    rows.add_column("measured", justify="right", no_wrap=True)
    rows.add_column("bound", justify="right", no_wrap=True)
    for section, checks in report.sections.items():
        rows.add_row(Text(section, style="bold"))
        for check in checks:
            word, style = RESULTS[check.held]
            rows.add_row(f"  {check.name}", Text(word, style=style), number(check.measured), bound(check))
    return rows


def number(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def bound(check: Check) -> str:
    """What is allowed; a negative control has to be above it."""
    if check.bound is None:
        return ""
    return f"{'>' if check.name.startswith('control:') else '<='} {number(check.bound)}"


def reasons(report: VerifyReport) -> list[Text]:
    """Why checks failed or were not run, grouped by reason."""
    from rich.text import Text

    grouped: dict[tuple[bool | None, str], list[str]] = {}
    for check in report.checks:
        if check.held is not True and (check.detail or check.held is False):
            grouped.setdefault((check.held, check.detail or "measured is beyond the bound"), []).append(check.name)
    lines = [Text()] if grouped else []
    for (held, detail), names in sorted(grouped.items(), key=lambda one: one[0][0] is None):
        word, style = RESULTS[held]
        lines.append(Text.assemble((word, style), f": {'; '.join(names)}: {detail}"))
    return lines


def verdicts(report: VerifyReport) -> list[Text]:
    """A line per use: safe, not safe with the checks that failed, or not shown with the reason."""
    from rich.text import Text

    lines = [Text()]
    for use, held in report.safe.items():
        word, style = VERDICTS[held]
        why = "" if held else f" ({'; '.join(check.name for check in report.blockers(use))})"
        lines.append(Text.assemble((f"{word:9}", style), f" {use}{why}"))
    return lines
