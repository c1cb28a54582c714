"""How far the shared prefix is from plain rows, for every family: the numbers behind `tests/test_family_matrix.py`.

    python -m benchmarks.matrix --markdown FILE

The families, cells and controls are those of the test, from `tests/`; this program only writes down what they measure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers.utils import logging as transformers_logging

from saccade.models.policy import Policy
from saccade.verify.difference import PassDifference, difference, run, throughout
from saccade.verify.faults import FAULTS
from saccade.verify.sharing import control, distances
from saccade.verify.subject import float32_copy, sharing_modes, subject_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from families import FAMILIES  # found through the line above
from family_matrix import CELLS, DEFAULT, Cell, batch, load, measure, select

AXES = ("one image", "equal lengths", "two images", "text mixed in", "two groups", "all of it")
WAYS = ("frozen tower", "trainable tower", "LoRA", "recomputed")


@dataclass(frozen=True)
class Line:
    """What was measured of one family."""

    name: str
    sharing: str
    worst: dict[str, PassDifference | None]
    """Value of an axis -> the largest differences among the cells that have it."""
    controls: dict[str, float | None]
    float64: PassDifference | None
    half: tuple[float, float] | None
    """Distance of packed from the float32 truth / that of plain, in bfloat16: log-probs and gradient."""


def measured(name: str, folder: Path) -> Line:
    """All cells of a family; `folder` takes its checkpoint."""
    policies = {tuning: load(name, folder / name, tuning) for tuning in ("full", "lora")}
    full = policies["full"]
    if not sharing_modes(full):
        return Line(name, "none", {}, {}, None, None)
    found: list[tuple[set[str], PassDifference | None]] = []
    for cell in CELLS:
        for (_, recomputed), apart in measure(policies[cell.tuning], cell).items():
            found.append((labels(cell, recomputed), apart))
    worst = {label: largest(a for names, a in found if label in names) for label in (*AXES, *WAYS)}
    select(full, "trainable", "full")
    subject = subject_of(full)
    controls = {fault: control(subject, fault).measured for fault in FAULTS}
    half = load(name, folder / name, dtype="bfloat16")
    return Line(
        name,
        ", ".join(sharing_modes(full)),
        worst,
        controls,
        exactness(load(name, folder / name, dtype="float64")),
        ratios(half),
    )


def labels(cell: Cell, recomputed: bool) -> set[str]:
    """The columns that a cell counts in."""
    further = [*(["LoRA"] if cell.tuning == "lora" else []), *(["recomputed"] if recomputed else [])]
    return {cell.content, f"{cell.tower} tower", *further}


def largest(found: Iterable[PassDifference | None]) -> PassDifference | None:
    """Of each kind on its own; None when all were refused."""
    kept = [apart for apart in found if apart is not None]
    return PassDifference(max(a.logprobs for a in kept), max(a.gradient for a in kept)) if kept else None


def exactness(policy: Policy) -> PassDifference | None:
    """The default cell in float64 throughout."""
    packed = batch(policy.adapter, DEFAULT.content)
    with throughout(policy.model.dtype):
        plain = run(policy, packed, "plain")
        return largest(difference(run(policy, packed, "packed", sharing), plain) for sharing in sharing_modes(policy))


def ratios(policy: Policy) -> tuple[float, float] | None:
    truth = float32_copy(policy)
    if truth is None:
        return None
    ours, plain = distances(policy, truth)
    return ours.logprobs / plain.logprobs, ours.gradient / plain.gradient


def markdown(lines: Sequence[Line]) -> str:
    """Two tables: the cells of each family, and what stands around them."""
    first = [["family", "forms", *AXES, *WAYS]]
    first += [
        [f"`{line.name}`", line.sharing, *(pair(line.worst.get(axis)) for axis in (*AXES, *WAYS))] for line in lines
    ]
    second = [["family", *(f"control: {fault}" for fault in FAULTS), "float64", "bfloat16 to float32, packed / plain"]]
    for line in lines:
        controls = [number(line.controls.get(fault)) for fault in FAULTS]
        half = "" if line.half is None else f"{line.half[0]:.2f} / {line.half[1]:.2f}"
        second.append([f"`{line.name}`", *controls, pair(line.float64), half])
    return f"{table(first)}\n\n{table(second)}\n"


def pair(apart: PassDifference | None) -> str:
    return "-" if apart is None else f"{apart.logprobs:.0e} / {apart.gradient:.0e}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def main() -> None:
    parser = argparse.ArgumentParser(description="Shared prefix against plain rows, for every family.")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there instead of printing them")
    parser.add_argument(
        "--family", action="append", choices=FAMILIES, help="only this one; may be given more than once"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.family or FAMILIES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            lines.append(measured(name, Path(folder)))
    text = f"PyTorch {torch.__version__}, transformers {transformers.__version__}\n\n{markdown(lines)}"
    if options.markdown is None:
        print(text)
    else:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
