"""Forward and backward only: packed against plain, and against what the arithmetic allows."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.lengths import lognormal
from benchmarks.measure import alternate
from benchmarks.observe import training_path, watched
from benchmarks.setting import Setting, checkpoint, policy_of, samples
from benchmarks.table import Row, finish, options, parse, row
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import Policy
from saccade.planning.flops import ModelShape, RowLengths, training_flops
from saccade.rollout.prompts import prepare

SETTINGS = (Setting(256, 64, 8), Setting(256, 64, 16), Setting(1024, 64, 8), Setting(256, 256, 16))
QUICK = (Setting(64, 8, 4),)
TARGET = 0.8
"""Wanted: the measured ratio / the ratio of operations."""
ARMS: tuple[Literal["plain", "packed"], ...] = ("plain", "packed")
PARTS = {"all": ("vision", "projector", "language"), "language": ("language",)}


def batch(policy: Policy, setting: Setting, ragged: bool) -> Packed:
    """Prompts with replies of random words; all of the setting's length, or ragged with half of it as their mean."""
    draw = random.Random(0)
    count = setting.prompts * setting.group_size
    lengths = [setting.new_tokens] * count
    if ragged:
        lengths = lognormal(count, setting.new_tokens / 2, setting.new_tokens)
    replies = [Branch([draw.randint(300, 1000) for _ in range(n)]) for n in lengths]
    G = setting.group_size
    prompts = [prepare(policy.adapter, sample).encoded for sample in samples(setting)]
    return pack([(prompt, replies[i * G : (i + 1) * G]) for i, prompt in enumerate(prompts)])


def a_pass(policy: Policy, packed: Packed, path: Literal["plain", "packed"]) -> Callable[[], None]:
    """One forward and backward of a weighted sum of log-probs; the gradients are dropped."""
    weights_R = torch.linspace(-1.0, 1.0, packed.num_tokens)

    def work() -> None:
        logprobs_R, _ = branch_logprobs(policy, packed, path=path)
        (logprobs_R * weights_R).sum().backward()
        policy.model.zero_grad(set_to_none=True)

    return work


def flop_ratio(policy: Policy, packed: Packed, setting: Setting, parts: str, checkpointing: bool) -> float:
    """Operations of the plain pass / operations of the packed one, without padding, which only the plain one has."""
    shape = ModelShape.from_model(policy.model)
    total = {True: 0.0, False: 0.0}
    for prompt, branches in zip(packed.prompts, packed.branches, strict=True):
        lengths = RowLengths(len(prompt), tuple(len(b.ids) for b in branches), (setting.visual_tokens,))
        for one in total:
            total[one] += training_flops(shape, lengths, one, PARTS[parts], checkpointing).total
    return total[False] / total[True]


def rows_of(policy: Policy, setting: Setting, ragged: bool, repeats: int, how: dict[str, Any]) -> list[Row]:
    packed = batch(policy, setting, ragged)
    passes = {arm: a_pass(policy, packed, arm) for arm in ARMS}
    prompts = [len(prompt) for prompt in packed.prompts]
    replies = [[len(b.ids) for b in branches] for branches in packed.branches]
    paths = {}
    for arm, work in passes.items():  # also the unmeasured run of each
        with watched(policy.model) as seen:
            work()
        paths[arm] = f"{training_path(seen, prompts, replies)}; {seen.images} images"
    costs = alternate(passes, repeats, warm=False)
    bound = flop_ratio(policy, packed, setting, **how)
    measured = costs["plain"].cpu_seconds / costs["packed"].cpu_seconds
    name = setting.name + (
        f", ragged (mean {sum(map(len_of, packed.branches)) / packed.num_branches:.0f})" if ragged else ""
    )
    more = {"flop_ratio": round(bound, 3), "of_bound": round(measured / bound, 3), "target": TARGET}
    return [row(name, arm, costs[arm], costs["plain"], paths[arm], **(more if arm == "packed" else {})) for arm in ARMS]


def len_of(branches: Sequence[Branch]) -> int:
    return sum(len(branch.ids) for branch in branches)


def main(argv: Sequence[str] | None = None) -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--train", choices=sorted(PARTS), default="all", help="parts that train")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in both arms")
    args = parse(parser, argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        policy = policy_of(checkpoint(Path(folder) / "model"), args.train, args.checkpointing)
        how = {"parts": args.train, "checkpointing": args.checkpointing}
        for setting in QUICK if args.quick else SETTINGS:
            rows += rows_of(policy, setting, False, args.repeats, how)
        ragged = Setting(64, 16, 8) if args.quick else Setting(256, 128, 8)
        rows += rows_of(policy, ragged, True, args.repeats, how)
    notes = [
        f"{args.train} trains; checkpointing {'on' if args.checkpointing else 'off'}. of_bound = ratio / flop_ratio."
    ]
    finish("training_pass", args, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
