"""The matrix of shared prefixes: family x tower x tuning x recomputing x content x sharing, each against plain rows.

`tests/test_family_matrix.py` holds every cell under its bound; `python -m benchmarks.matrix` writes down what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from families import family
from peft import LoraConfig, inject_adapter_in_model

from saccade.models.adapter import PARTS, Adapter
from saccade.models.config import ModelConfig
from saccade.models.forward import SharingMode
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import Policy, disable_checkpointing, enable_checkpointing, load_policy
from saccade.verify.difference import Pass, PassDifference, difference, run
from saccade.verify.fixtures import BranchGroup, branches, questions
from saccade.verify.subject import sharing_modes

Tower = Literal["frozen", "trainable"]
Tuning = Literal["full", "lora"]
Content = Literal["one image", "equal lengths", "two images", "text mixed in", "two groups", "all of it"]

TOWERS: tuple[Tower, ...] = ("frozen", "trainable")
TUNINGS: tuple[Tuning, ...] = ("full", "lora")
CONTENTS: tuple[Content, ...] = ("one image", "equal lengths", "two images", "text mixed in", "two groups", "all of it")
LIMIT, LIMIT_FLOAT64 = 1e-5, 1e-8
"""Of the largest difference of a log-prob and of the whole gradient's relative difference: float32, random weights."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to train on one batch."""

    tower: Tower
    tuning: Tuning
    content: Content

    def __str__(self) -> str:
        return f"{self.content}, {self.tower} tower, {self.tuning}"


CELLS = tuple(Cell(*axes) for axes in product(TOWERS, TUNINGS, CONTENTS))
DEFAULT = Cell("trainable", "full", "all of it")


def load(name: str, directory: Path, tuning: Tuning = "full", dtype: str = "float32") -> Policy:
    """The family's tiny random model; with 'lora' the weights of adapters stand beside its language layers."""
    path = directory if (directory / "config.json").is_file() else family(name).write(directory, seed=1)
    policy = load_policy(ModelConfig(path=str(path), dtype=dtype, device="cpu", train=PARTS))
    if tuning == "lora":
        inject_lora(policy)
    return policy


def inject_lora(policy: Policy) -> None:
    """Rank 8 on the queries and values of the language model, both factors random, in place: the tree of modules and
    with it every seam of ours stays as it was."""
    named = policy.parameters_by_part()["language"]
    targets = [name.removesuffix(".weight") for name, _ in named if name.endswith(("q_proj.weight", "v_proj.weight"))]
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets, init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        inject_adapter_in_model(config, policy.model)
    policy.model.eval()


def select(policy: Policy, tower: Tower, tuning: Tuning) -> None:
    """Leave trainable what the cell trains."""
    for part, named in policy.parameters_by_part().items():
        for name, parameter in named:
            trains = (tuning == "full" or "lora_" in name) if part == "language" else tower == "trainable"
            parameter.requires_grad_(trains)


def batch(adapter: Adapter, content: Content) -> Packed:
    """Ragged replies (one of one token, one cut off before its end, one whose loss begins late) but for one content."""
    asked = {name: question.encode(adapter) for name, question in questions(seed=2).items()}
    ragged = branches(adapter, 5)
    few, others = ragged[:3], ragged[2:]
    n = min(len(branch.ids) for branch in (ragged[0], ragged[2]))
    equal = tuple(Branch(branch.ids[:n]) for branch in (ragged[0], ragged[2], ragged[0]))
    groups: dict[Content, list[BranchGroup]] = {
        "one image": [(asked["one image"], ragged)],
        "equal lengths": [(asked["one image"], equal)],
        "two images": [(asked["two images"], few)],
        "text mixed in": [(asked["text"], others), (asked["one image"], few)],
        "two groups": [(asked["one image"], others), (asked["two images"], few)],
        "all of it": [(asked["one image"], ragged), (asked["text"], few), (asked["two images"], others)],
    }
    return pack(groups[content])


@contextmanager
def recomputing(policy: Policy) -> Iterator[None]:
    """Gradient checkpointing as a run has it."""
    enable_checkpointing(policy.model)
    try:
        yield
    finally:
        disable_checkpointing(policy.model)


def measure(policy: Policy, cell: Cell) -> dict[tuple[SharingMode, bool], PassDifference | None]:
    """(sharing, recomputed) -> how far the packed row is from the plain rows; None where the combination is refused."""
    select(policy, cell.tower, cell.tuning)
    packed = batch(policy.adapter, cell.content)
    plain = run(policy, packed, "plain")
    assert plain.gradients, f"{cell}: nothing trains"
    found: dict[tuple[SharingMode, bool], PassDifference | None] = {}
    for sharing in sharing_modes(policy):
        found[sharing, False] = difference(run(policy, packed, "packed", sharing), plain)
        recomputed = recomputed_pass(policy, packed, sharing)
        found[sharing, True] = None if recomputed is None else difference(recomputed, plain)
    return found


def recomputed_pass(policy: Policy, packed: Packed, sharing: SharingMode) -> Pass | None:
    """None where sharing through a cache refuses to be recomputed; any other refusal is an error."""
    with recomputing(policy):
        try:
            return run(policy, packed, "packed", sharing)
        except ValueError as error:
            if sharing == "two_phase" and "gradient checkpointing" in str(error):
                return None
            raise
