"""The command line: parse, build, call. One verb is one file in this folder and one line in `VERBS`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Annotated

import typer
from pydantic import ValidationError

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
    new,
    plan,
    predict,
    report,
    resume,
    rl,
    score,
    sft,
    study,
    verify,
    watch,
    world,
)
from saccade.cli import eval as eval_verb
from saccade.cli.hints import Verb
from saccade.cli.terminal import StderrHandler, echo, print_traceback, process_of, safe_record
from saccade.config import said
from saccade.disk import no_traceback
from saccade.runs.safe_text import safe
from saccade.runs.stopping import RunStopped, interruptible

VERBS: dict[str, tuple[typer.Typer | Callable[..., None], str, str]] = {
    "demo": (demo.demo, "From nothing to a trained tiny model with a report.", "saccade demo --out runs/demo"),
    "new": (new.new, "Write a recipe that fits your data.", "saccade new rl --from train.csv"),
    "check": (check.check, "Check data or a recipe before training.", "saccade check train_rl.yaml"),
    "plan": (
        plan.plan,
        "Predict the memory and time of a recipe.",
        "saccade plan vlm_r1_rec_3b_lora --memory 24 --check",
    ),
    "sft": (sft.sft, "Supervised fine-tuning.", "saccade sft vision_r1_7b_sft_lora data.0.path=cold.jsonl"),
    "rl": (rl.rl, "Reinforcement learning (GRPO and its relatives).", "saccade rl train_rl.yaml optim.lr=5e-6"),
    "resume": (resume.resume, "Continue a run that was stopped.", "saccade resume runs/train_rl"),
    "launch": (
        launch.launch,
        "Train on several GPUs or nodes.",
        "saccade launch vlm_r1_rec_3b --gpus 8 --dry-run",
    ),
    "report": (report.report, "Write the HTML page of a run, or of several.", "saccade report runs/train_rl"),
    "watch": (watch.watch, "Watch a run in the terminal.", "saccade watch runs/train_rl"),
    "eval": (
        eval_verb.evaluate,
        "Evaluate a model on a benchmark or your data.",
        "saccade eval mathvista model=Qwen/Qwen2.5-VL-3B-Instruct limit=100",
    ),
    "predict": (
        predict.predict,
        "Answer one question about an image.",
        "saccade predict shelf.png 'How many cups are there?' --model runs/train_rl/checkpoints/last",
    ),
    "export": (
        export.export,
        "A run's model as an ordinary checkpoint.",
        "saccade export runs/train_rl --out my-model",
    ),
    "coldstart": (
        coldstart.coldstart,
        "Make chains of thought by modality bridging.",
        "saccade coldstart coldstart_world",
    ),
    "convert": (
        convert.convert,
        "Write data of any format as Parquet or JSONL.",
        "saccade convert train.csv data/train --from table",
    ),
    "data": (data.app, "What a model's answers say about a data set.", "saccade data passrate --help"),
    "grade": (grade.grade, "Grade pairs of gold and answer.", "saccade grade pairs.jsonl"),
    "score": (score.score, "Score saved rollouts again.", "saccade score runs/train_rl --rubric hard"),
    "ap": (ap.ap, "COCO's twelve figures of detections.", "saccade ap detections.json annotations.json"),
    "study": (study.study, "Test a claim of the papers, with a verdict.", "saccade study box_inflation"),
    "verify": (verify.verify, "Prove the fast paths exact for a checkpoint.", "saccade verify base"),
    "world": (world.app, "The procedural visual world and its base model.", "saccade world --help"),
}
"""Verb -> a function with typer annotations (or a `typer.Typer` where it has subcommands), its line on the first
screen, and an example. Modules of verbs import heavy packages inside their functions, so that `saccade --help` responds
at once."""

SYNONYMS = {
    "train": "sft or rl",
    "grpo": "rl",
    "finetune": "sft",
    "fine-tune": "sft",
    "init": "new",
    "evaluate": "eval",
    "benchmark": "eval",
    "test": "eval",
    "generate": "predict",
    "chat": "predict",
    "infer": "predict",
    "merge": "export",
    "continue": "resume",
    "torchrun": "launch",
    "validate": "check",
    "memory": "plan",
}
"""What people type for a verb."""

EXIT_CODES = (
    "Exit status: 0 done; 1 a check found something; 2 wrong input, with one line that says what and the way out; "
    "stopped by a signal, with everything saved, 128 and its number: 130 Ctrl-C, 143 SIGTERM, 129 a closed terminal."
)

ON_SEVERAL = ("rl", "sft", "resume", "world pretrain")
"""Verbs that several processes of torchrun can share."""

EXPECTED = (ValueError, OSError, FloatingPointError)
"""Errors that the user can fix (the last: weights that overflow): shown as one line. Anything else is a bug and
keeps its traceback."""

_PEER_ENDED = ("Connection reset by peer", "Connection closed by peer", "Broken pipe", "Socket closed")
TRAINING = ("accelerate", "safetensors", "torch", "transformers")
"""Packages of the extra `train`; rewards, graders, data and served models do without."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `saccade` and ends the process: 0, or 2 with one line on stderr for a user error; 128 and its number when a
    signal stopped it, with a line that says how to continue."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.excepthook = print_traceback
    debug = "--debug" in arguments or os.environ.get("SACCADE_DEBUG", "") not in ("", "0")
    rank = process_of()[0]
    _open_standard_descriptors()
    try:
        _refuse_bytes(arguments)
        _refuse_several(arguments)
        _refuse_unknown(arguments)
        with interruptible("stopped; run the same command again"), _log_lines(quiet=rank > 0), no_traceback():
            build(next(iter(arguments), None))(args=[a for a in arguments if a != "--debug"], prog_name="saccade")
    except RunStopped as last:
        stopped = _first(last)
        echo(f"saccade: {stopped}", err=True)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):  # nobody reads it, or the caller closed it
                stream.flush()
        os._exit(int(stopped.code or 0))  # threads that wait for a reward or a server must not delay the end
    except EXPECTED as error:
        if debug:
            raise
        text = said(error) if isinstance(error, ValidationError) else str(error)
        echo(f"saccade{f' (process {rank})' if rank else ''}: {text}", err=True)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        lost = lost_process(error) if process_of()[1] > 1 else None
        if debug or (why := out_of_memory(error) or lost) is None:
            raise
        words = f"out of memory ({why}); 'saccade plan RECIPE' says what to lower"
        if lost:
            again = "what was saved is whole: start all of them again, rl and sft by 'saccade resume RUN'"
            words = f"another process of this run ended ({why}), and says why if it could; {again}"
        echo(f"saccade{f' (process {rank})' if rank else ''}: {words}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if debug or missing not in TRAINING:
            raise
        echo(f"saccade: this needs {missing}, which is not installed: pip install 'saccade[train]'", err=True)
        sys.exit(2)


def out_of_memory(error: BaseException) -> str | None:
    """What was asked for, when a device or this machine had no memory for it."""
    text = (str(error) or type(error).__name__).partition("\n")[0]
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return text[:200] if known or "can't allocate memory" in text else None


def lost_process(error: BaseException) -> str | None:
    """What was seen of the end of another one of several processes, in a collective operation with it."""
    text = str(error)
    known = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    found = next((words for words in _PEER_ENDED if words in text), None)
    return found or (text.partition("\n")[0][:200] if known else None)


def _first(stopped: RunStopped) -> RunStopped:
    """The stop that a second signal interrupted, if there was one: it knows how to continue."""
    while isinstance(stopped.__context__, RunStopped):
        stopped = stopped.__context__
    return stopped


def _open_standard_descriptors() -> None:
    """Where the caller closed 0, 1 or 2, the next file would get that number, and a library's message its content."""
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(handle)


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """ValueError for a name that is not UTF-8: weights, tables and JSON could not be written below it, or not read
    again."""
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise ValueError(f"{argument}: the name is not UTF-8; rename the file or folder")


def _refuse_several(arguments: Sequence[str]) -> None:
    """ValueError when torchrun started several processes of a verb that is for one."""
    (rank, size), words = process_of(), [a for a in arguments if not a.startswith("-")]
    verb, known = next(iter(words), ""), {" ".join(words[:1]), " ".join(words[:2])}
    if size > 1 and verb in VERBS and known.isdisjoint(ON_SEVERAL):
        if rank:
            sys.exit(2)
        raise ValueError(
            f"'{verb}' runs in one process, but torchrun started {size}; start it without torchrun "
            f"(several processes can share {', '.join(ON_SEVERAL)})"
        )


def _refuse_unknown(arguments: Sequence[str]) -> None:
    """ValueError for a first word that is no verb, with the nearest one."""
    verb = next((a for a in arguments if not a.startswith("-")), None)
    if verb is None or verb in VERBS:
        return
    near = SYNONYMS.get(verb.lower()) or next(iter(get_close_matches(verb.lower(), VERBS, n=1)), None)
    raise ValueError(f"there is no verb '{verb}'; {f'did you mean {near}?' if near else 'saccade --help lists them'}")


@contextmanager
def _log_lines(quiet: bool = False) -> Iterator[None]:
    """Log lines of this package, such as progress where there is no terminal, go to stderr while a verb runs; of all
    but the first of several processes only errors. What libraries log or warn of is made safe for the terminal."""
    handler, log = StderrHandler(), logging.getLogger("saccade")
    handler.setLevel(logging.ERROR if quiet else logging.NOTSET)
    before = log.level
    logging.raiseExceptions = False  # a log on a full disk costs its lines, and no traceback for each
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    made, formatted = logging.getLogRecordFactory(), warnings.formatwarning
    logging.setLogRecordFactory(safe_record)
    warnings.formatwarning = lambda text, kind, file, number, line=None: safe(formatted(text, kind, file, number, ""))
    try:
        yield
    finally:
        warnings.formatwarning = formatted
        logging.setLogRecordFactory(made)
        logging.raiseExceptions = True
        log.removeHandler(handler)
        log.setLevel(before)


def build(first: str | None = None) -> typer.Typer:
    """The command with all its verbs, or only with the one that the first word names."""
    app = typer.Typer(
        name="saccade",
        help="Reinforcement learning of vision-language models on answers that rules can check.",
        epilog=EXIT_CODES,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_top)
    for name, (verb, line, example) in ({first: VERBS[first]} if first in VERBS else VERBS).items():
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name, short_help=line)
        else:
            app.command(name, cls=Verb, short_help=line, epilog=f"Example: {example}")(verb)
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
