"""The command line: parse, build, call. One verb is one file in this folder and one line in `VERBS`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

import saccade
from saccade.cli import (
    ap,
    check,
    coldstart,
    convert,
    data,
    demo,
    export,
    grade,
    launch,
    plan,
    predict,
    report,
    resume,
    rl,
    score,
    sft,
    verify,
    watch,
    world,
)
from saccade.cli import eval as eval_verb
from saccade.cli.hints import Verb
from saccade.cli.terminal import StderrHandler, echo, print_traceback
from saccade.runs.stopping import RunStopped

VERBS: dict[str, typer.Typer | Callable[..., None]] = {
    "demo": demo.demo,
    "world": world.app,
    "convert": convert.convert,
    "check": check.check,
    "data": data.app,
    "coldstart": coldstart.coldstart,
    "sft": sft.sft,
    "rl": rl.rl,
    "resume": resume.resume,
    "launch": launch.launch,
    "eval": eval_verb.evaluate,
    "grade": grade.grade,
    "report": report.report,
    "watch": watch.watch,
    "predict": predict.predict,
    "export": export.export,
    "score": score.score,
    "ap": ap.ap,
    "verify": verify.verify,
    "plan": plan.plan,
}
"""A verb: a function with typer annotations, or a `typer.Typer` where it has subcommands. Modules of verbs import
heavy packages inside their functions, so that `saccade --help` responds at once."""

ON_SEVERAL = ("rl", "sft", "resume")
"""Verbs that several processes of torchrun can share."""

EXPECTED = (ValueError, OSError, FloatingPointError)
"""Errors that the user can fix (the last: weights that overflow): shown as one line. Anything else is a bug and
keeps its traceback."""

TRAINING = ("accelerate", "safetensors", "torch", "transformers")
"""Packages of the extra `train`; rewards, graders, data and served models do without."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `saccade` and ends the process: 0, or 2 with one line on stderr for a user error; 130 or 143 when a signal
    stopped it, with a line that says how to continue."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.excepthook = print_traceback
    debug = "--debug" in arguments or os.environ.get("SACCADE_DEBUG", "") not in ("", "0")
    rank = os.environ.get("RANK", "0")
    try:
        _refuse_several(arguments)
        with _log_lines(quiet=rank != "0"):
            build()(args=[a for a in arguments if a != "--debug"], prog_name="saccade")
    except RunStopped as stopped:
        echo(f"saccade: {stopped}", err=True)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(int(stopped.code or 0))  # threads that wait for a reward or a server must not delay the end
    except EXPECTED as error:
        if debug:
            raise
        echo(f"saccade{'' if rank == '0' else f' (process {rank})'}: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if debug or missing not in TRAINING:
            raise
        echo(f"saccade: this needs {missing}, which is not installed: pip install 'saccade[train]'", err=True)
        sys.exit(2)


def _refuse_several(arguments: Sequence[str]) -> None:
    """ValueError when torchrun started several processes of a verb that is for one."""
    size, verb = int(os.environ.get("WORLD_SIZE", "1")), next((a for a in arguments if not a.startswith("-")), "")
    if size > 1 and verb in VERBS and verb not in ON_SEVERAL:
        if os.environ.get("RANK", "0") != "0":
            sys.exit(2)
        raise ValueError(
            f"'{verb}' runs in one process, but torchrun started {size}; start it without torchrun "
            f"(several processes can share {', '.join(ON_SEVERAL)})"
        )


@contextmanager
def _log_lines(quiet: bool = False) -> Iterator[None]:
    """Log lines of this package, such as progress where there is no terminal, go to stderr while a verb runs; of all
    but the first of several processes only errors."""
    handler, log = StderrHandler(), logging.getLogger("saccade")
    handler.setLevel(logging.ERROR if quiet else logging.NOTSET)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def build() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(
        name="saccade",
        help="Reinforcement learning of vision-language models on answers that rules can check.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_top)
    for name, verb in VERBS.items():
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name)
        else:
            app.command(name, cls=Verb)(verb)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"saccade {saccade.__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; SACCADE_DEBUG=1 does the same.")] = False,
) -> None:
    """The options before a verb; `main` removes `--debug` from the arguments, wherever it is."""
