"""`saccade new`: a commented recipe that fits the user's data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saccade.cli.terminal import echo
from saccade.disk import write_text
from saccade.runs.safe_text import printable

if TYPE_CHECKING:
    from saccade.data.guess import Guess

_PLAIN = re.compile(r"(?!(?i:null|true|false|yes|no|on|off|y|n)$)[A-Za-z/][A-Za-z0-9_./@+-]*")
REAL = "Qwen/Qwen2.5-VL-3B-Instruct"
LONG_TASKS = ("math", "free_form", "geometry")
"""Tasks whose replies need room for a long thought."""


def new(
    kind: Annotated[Literal["rl", "sft", "eval"], typer.Argument(help="What the recipe is for.")],
    source: Annotated[
        Path | None, typer.Option("--from", metavar="DATA", help="A file or folder of your data, which is looked at.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: <name of the data>_<kind>.yaml, here.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="M", help="A checkpoint: a directory or a name on the hub.")] = REAL,
) -> None:
    """Write a commented recipe that fits your data: its format, columns, tasks and size."""
    from saccade.data.guess import guess
    from saccade.data.sources import open_source

    found = None if source is None else guess(source)
    rows = 1000
    if found is not None:
        rows = len(open_source(found.config.model_copy(update={"on_bad": "skip"})))
        tasks = ", ".join(sorted(found.tasks))
        echo(f"{source}: {rows:,} usable rows, tasks {tasks}; {found}")
        if found.problem:
            echo(f"a row that cannot be used: {found.problem}", err=True)
    path = out or Path(f"{source.stem if source else 'my'}_{kind}.yaml")
    if path.exists():
        raise ValueError(f"{path} exists; choose another name with --out, or remove it")
    text = written(kind, found, rows, path, model)
    write_text(path, text, errors="backslashreplace")  # a name that is not UTF-8 becomes an escape of YAML
    _check(path)
    echo(f"wrote {path}; next: saccade {'eval' if kind == 'eval' else 'check'} {path}")


def written(kind: str, found: Guess | None, rows: int, path: Path, model: str) -> str:
    """The recipe as YAML with comments."""
    return {"rl": _rl, "sft": _sft, "eval": _eval}[kind](found, rows, path, model)


def _check(path: Path) -> None:
    """Loads the recipe that was written: it must be one."""
    from saccade.cli.options import load_recipe

    load_recipe(str(path))


def _entry(found: Guess | None, indent: str, extra: str = "") -> str:
    if found is None:
        return f"{indent}- source: table               # formats: docs/data.md\n{indent}  path: train.csv\n{extra}"
    lines = [f"- source: {found.config.source}", f"  path: {_quoted(str(Path(str(found.config.path)).resolve()))}"]
    if found.config.split:
        lines.append(f"  split: {_named(found.config.split)}")
    if found.config.columns:
        pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in found.config.columns.items())
        lines.append(f"  columns: {{{pairs}}}")
    if found.problem:
        lines.append("  on_bad: skip                # some rows cannot be used; saccade check names them")
    return "".join(f"{indent}{line}\n" for line in lines) + extra


def _quoted(value: Any) -> str:
    """A value as YAML reads it, whatever a file's or folder's name holds."""
    return printable(json.dumps(value, ensure_ascii=False))


def _named(name: str) -> str:
    """A name of the user's as it is where it is plain, which reads better."""
    return name if _PLAIN.fullmatch(name) else _quoted(name)


def _one_line(text: str) -> str:
    """For a comment."""
    return " ".join(printable(text).split())


def _model(model: str, gradient_checkpointing: bool = True) -> str:
    if model == "base":
        return "model:\n  path: base                    # the tiny model of the demo, on a CPU\n  device: cpu\n"
    return (
        f"model:\n  path: {_named(model)}\n  dtype: bfloat16               # float32 copies of what trains are kept\n"
        "  train: []                     # parts that train in full, besides the adapters\n"
        "  lora: {rank: 64, alpha: 128, targets: language}\n"
        + ("  gradient_checkpointing: true  # less memory, a third more time\n" if gradient_checkpointing else "")
    )


def _head(kind: str, found: Guess | None, rows: int, path: Path) -> str:
    data = "your data" if found is None else f"{_one_line(Path(str(found.config.path)).name)}, {rows:,} rows"
    verbs = [f"saccade {verb} {_one_line(path.name)}" for verb in ("check", "plan", kind)]
    if kind == "eval":
        verbs = verbs[-1:]
    return f"# {kind.upper()} on {data}. Every key: docs/keys.md.\n" + "".join(f"#   {verb}\n" for verb in verbs)


def _rl(found: Guess | None, rows: int, path: Path, model: str) -> str:
    tiny = model == "base"
    long = found is None or any(task in LONG_TASKS for task in found.tasks)
    tokens = 96 if tiny else 1024 if long else 512
    prompts = min(16, max(1, rows))
    steps = max(10, min(1000, -(-2 * rows // prompts)))
    tasks = _one_line(", ".join(sorted(found.tasks))) if found else "inferred from the rows"
    return (
        _head("rl", found, rows, path)
        + f"kind: rl\nseed: 0\n{_model(model)}data:\n{_entry(found, '  ')}"
        + f"# Tasks: {tasks}. Each brings its prompt and reward; `task:` in the entry above chooses another.\n"
        + f"stages:\n  - name: main\n    max_new_tokens: {tokens}         # longer replies earn no reward\n"
        + "    group_size: 8               # replies to each prompt, compared with each other\n"
        + f"prompts_per_step: {prompts}\nnum_steps: {steps:<20}  # {passes(steps * prompts / rows)} over the rows\n"
        + f"optim:\n  lr: {'2.0e-4' if tiny else '1.0e-5'}\n"
        + "checkpoint: {every: 50, keep: 2}\n"
        + "# Held-out accuracy while training: questions that are not in `data`.\n"
        + "# eval:\n#   every: 50\n#   data:\n#     - {source: table, path: val.csv}\n"
    )


def passes(number: float) -> str:
    """`about 2 passes`."""
    whole = max(1, round(number))
    return f"about {whole} pass{'es' if whole > 1 else ''}"


def _sft(found: Guess | None, rows: int, path: Path, model: str) -> str:
    replies = found is None or any("response" in sample.meta for sample in found.samples)
    learned = (
        ""
        if replies
        else "    reply: gold                 # the rows have no replies: their gold answers are learned\n"
    )
    return (
        _head("sft", found, rows, path)
        + f"kind: sft\nseed: 0\n{_model(model)}data:\n{_entry(found, '  ', learned)}"
        + f"prompts_per_step: {min(32, max(1, rows))}\nepochs: 2\n"
        + "cutoff_len: 4096                # longer rows are skipped and counted, never truncated\n"
        + f"optim:\n  lr: {'1.0e-3' if model == 'base' else '5.0e-5'}\n  warmup_ratio: 0.05\n"
        + "checkpoint: {every: 200, keep: 2}\n"
    )


def _eval(found: Guess | None, rows: int, path: Path, model: str) -> str:
    device = ", device: cpu" if model == "base" else ", dtype: bfloat16"
    return (
        _head("eval", found, rows, path)
        + f"kind: eval\nmodel: {{path: {_named(model)}, train: []{device}}}  # or the address of a `server`\n"
        + f"label: {_named(Path(model).name)}\ndata:\n{_entry(found, '  ')}"
        + f"decoding: {{greedy: true, max_new_tokens: {96 if model == 'base' else 1024}}}\n"
        + f"out: {_named(f'runs/{path.stem}')}\n"
    )
