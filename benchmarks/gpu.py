"""A GPU's figures at the shapes of Qwen2.5-VL-3B and 7B, with random weights.

The training pass on both paths (tokens/s, share of the card's arithmetic, peak memory), rollout against `generate`
(decode tokens/s), and a whole step with its optimizer; with --trl also that of TRL's GRPOTrainer.

    python -m benchmarks.gpu --shape 3b --json 3b.json          # then 7b; --parts language leaves the tower frozen
    python -m benchmarks.gpu --shape tiny --device cpu --quick  # shows that it runs

Seconds are wall seconds between two synchronisations, so nothing else may use the card. Random weights cost what
trained ones cost. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import gpu_trl
from benchmarks.gpu_model import LORA, PARTS, SHAPES, config_of, policy_of
from benchmarks.measure import peak_gauge
from benchmarks.setting import Setting, samples
from benchmarks.table import environment
from benchmarks.training_pass import batch
from saccade.algorithm import LossConfig
from saccade.models import lora
from saccade.models.forward import branch_logprobs, default_sharing, vision_features
from saccade.models.packing import Packed
from saccade.models.policy import Policy
from saccade.planning.flops import ModelShape, RowLengths, training_flops
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.config import BuiltinEngineConfig, Sampling
from saccade.rollout.graphs import Graphs
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt, prepare
from saccade.training.config import OptimConfig, UpdateConfig
from saccade.training.learner import Learner, open_learner
from saccade.training.optim import GuardedOptimizer, build_optimizer
from saccade.training.policy_step import policy_step
from saccade.types import Score

SETTINGS = (Setting(256, 64, 8, 4), Setting(1024, 64, 8, 4), Setting(256, 256, 16, 2), Setting(1024, 256, 8, 4))
QUICK = (Setting(64, 8, 4, 2),)
PEAK_TFLOPS = 989.0
"""bfloat16 without sparsity, of an H100 or H200."""


def timed(work: Callable[[], Any], device: torch.device, repeats: int) -> tuple[float, float]:
    """(median wall seconds, peak GiB above the level before), after one unmeasured run. Not a number where the card's
    memory does not hold the work: what else was measured must not be lost for it."""
    try:
        return _timed(work, device, repeats)
    except torch.cuda.OutOfMemoryError:
        pass  # the memory is free again only when the error and what it refers to are gone
    torch.cuda.empty_cache()
    return math.nan, math.nan


def _timed(work: Callable[[], Any], device: torch.device, repeats: int) -> tuple[float, float]:
    work()
    runs = [measured(work, device)[1] for _ in range(repeats)]
    return statistics.median(run.seconds for run in runs), statistics.median(run.above_gib for run in runs)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a piece of work took."""

    seconds: float
    above_gib: float
    """Peak of the card's memory above the level before; not a number on a CPU."""
    peak_gb: float
    """Peak of the card's memory, all of it; on a CPU of the process's resident set."""


T = TypeVar("T")


def measured(work: Callable[[], T], device: torch.device) -> tuple[T, Usage]:
    """Result and usage of one run."""
    level, gauge = 0, peak_gauge()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        level = torch.cuda.memory_allocated()
    else:
        gauge.start()
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if device.type != "cuda":
        return result, Usage(seconds, math.nan, gauge.stop() * 2**20 / 1e9)
    peak = torch.cuda.max_memory_allocated()
    return result, Usage(seconds, (peak - level) / 2**30, peak / 1e9)


def training_rows(policy: Policy, setting: Setting, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Forward and backward: packed, all groups in one pass and a group to a pass, and plain, a group to a pass."""
    whole = batch(policy, setting, ragged=False)
    groups = list(whole.groups())
    shape = ModelShape.from_config(config_of(args.shape))  # of the model without adapters
    kind = f"packed ({default_sharing(policy)})"
    arms = ((f"{kind}, one pass", [whole], "packed"), (kind, groups, "packed"), ("plain", groups, "plain"))
    for arm, passes, path in arms:

        def work(passes: Sequence[Packed] = passes, path: Any = path) -> None:
            for one in passes:
                logprobs_R, _ = branch_logprobs(policy, one, path=path)
                logprobs_R.sum().backward()
            policy.model.zero_grad(set_to_none=True)

        seconds, peak = timed(work, policy.device, args.repeats)
        flops = sum(operations(shape, group, path == "packed", args) for group in groups)
        yield {
            "setting": setting.name,
            "what": "training pass",
            "arm": arm,
            "seconds": seconds,
            "peak_gib": peak,
            "tokens_per_s": sum(group.num_tokens for group in groups) / seconds,
            "utilization": flops / seconds / (args.peak_tflops * 1e12),
        }


def against_last(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `ratio`, the seconds of the last / their own."""
    found = list(rows)
    for row in found[:-1]:
        row["ratio"] = found[-1]["seconds"] / row["seconds"]
    return found


def operations(shape: ModelShape, group: Packed, packed: bool, args: argparse.Namespace) -> float:
    """Of the model's own arithmetic: what checkpointing computes again does not count as use of the card, and neither
    do adapters, which are small beside it."""
    lengths = RowLengths(
        group.layout.prompts[0], group.layout.branches[0], (int(group.prompts[0].pixels["image_grid_thw"].prod()) // 4,)
    )
    return training_flops(shape, lengths, packed, () if args.lora else PARTS[args.parts], False).total


def rollout_rows(
    policy: Policy, setting: Setting, args: argparse.Namespace, transformers: bool = True
) -> Iterator[dict[str, Any]]:
    """Decoding with CUDA graphs and without, and with `transformers` also by its `generate`."""
    prompts = [prepare(policy.adapter, one) for one in samples(setting)]
    n, new = setting.group_size, setting.new_tokens
    replaying, launching = BuiltinEngine(policy), BuiltinEngine(policy, BuiltinEngineConfig(cuda_graphs="off"))
    sampling = Sampling(max_new_tokens=new, min_new_tokens=new)
    tokens = len(prompts) * n * new

    @torch.no_grad()
    def generate() -> None:
        for prompt in prompts:
            encoded = prompt.encoded
            inputs = policy.adapter.plain_inputs(encoded, encoded.ids_P[None])
            policy.model.generate(
                input_ids=encoded.ids_P[None].to(policy.device),
                attention_mask=torch.ones_like(encoded.ids_P[None]).to(policy.device),
                **{name: value.to(policy.device) for name, value in inputs.items()},
                do_sample=True,
                top_k=0,  # else 50, and other work than ours
                max_new_tokens=new,
                min_new_tokens=new,
                num_return_sequences=n,
                pad_token_id=0,
            )

    engines = [engine for engine in (replaying, launching) if engine is launching or engine.runner is not None]
    for one in (*engines, *([generate] if transformers else [])):
        work = one if one is generate else partial(one.generate, prompts, sampling, n, range(len(prompts)))
        seconds, peak = timed(work, policy.device, args.repeats)
        arm = "generate, num_return_sequences, prompt by prompt" if one is generate else engine_path(one)
        yield {
            "setting": setting.name,
            "what": "rollout",
            "arm": arm,
            "seconds": seconds,
            "peak_gib": peak,
            "tokens_per_s": tokens / seconds,
        }


def engine_path(engine: BuiltinEngine) -> str:
    """What ran, not what was asked for."""
    name, runner = f"built-in engine ({engine.stats.decoder})", engine.runner
    if not isinstance(runner, Graphs):
        return name
    share = runner.replayed / max(1, runner.steps)
    return f"{name}, {share:.0%} of steps replayed{'' if runner.failure is None else f', then: {runner.failure}'}"


@dataclass(eq=False)
class WholeStep:
    """Prompts, rollout and update, the optimizer's step included."""

    policy: Policy
    learner: Learner
    setting: Setting

    def __post_init__(self) -> None:
        self.engine, self.samples = BuiltinEngine(self.policy), samples(self.setting)

    def rollout(self) -> list[Group]:
        """From PNG bytes and text, as TRL does it."""
        prepared = [prepare(self.policy.adapter, one) for one in self.samples]
        with torch.no_grad():
            features = vision_features(self.policy, [one.encoded for one in prepared])
        prompts = [replace(one, features=own) for one, own in zip(prepared, features, strict=True)]
        return groups_of(self.engine, prompts, self.setting)

    def update(self, groups: Sequence[Group]) -> None:
        metrics = policy_step(self.learner, groups, temperature=1.0, max_length=self.setting.new_tokens, lr=1e-7)
        if metrics["update/skipped"]:
            raise ValueError("the step moved nothing; expected an update")

    @property
    def path(self) -> str:
        choice = self.learner.runner.choice
        return str(choice.sharing or choice.path) if choice else "-"


def step_row(policy: Policy, learner: Learner, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    step = WholeStep(policy, learner, setting)
    seconds, peak = timed(lambda: step.update(step.rollout()), policy.device, args.repeats)
    return {
        "setting": setting.name,
        "what": step_name(args),
        "arm": step.path,
        "seconds": seconds,
        "peak_gib": peak,
        "tokens_per_s": new_tokens(setting) / seconds,
    }


def step_name(args: argparse.Namespace) -> str:
    return "whole step, AdamW" if args.optimizer == "adamw" else "whole step, SGD"


def new_tokens(setting: Setting) -> int:
    return setting.prompts * setting.group_size * setting.new_tokens


def groups_of(engine: BuiltinEngine, prompts: Sequence[Prompt], setting: Setting) -> list[Group]:
    """Every other reply is as good as the rest are bad, so all of them are trained on."""
    sampling = Sampling(max_new_tokens=setting.new_tokens, min_new_tokens=setting.new_tokens)
    replies = engine.generate(prompts, sampling, setting.group_size, range(len(prompts)))
    return [
        Group(
            f"g{i}",
            one,
            tuple(Rollout(reply, Score(float(k % 2)), 1.0 if k % 2 else -1.0) for k, reply in enumerate(own)),
        )
        for i, (one, own) in enumerate(zip(prompts, replies, strict=True))
    ]


def learner_of(policy: Policy, args: argparse.Namespace) -> Learner:
    config = OptimConfig(lr=1e-7)
    if args.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = build_optimizer(policy.trainable(), config)
    else:
        optimizer = torch.optim.SGD([p for _, p in policy.trainable()], lr=1e-7)
    update = UpdateConfig(tokens_per_micro_batch=args.tokens)
    return open_learner(policy, GuardedOptimizer(optimizer, config), LossConfig(), update)


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table()
    columns = ("setting", "what", "arm", "seconds", "ratio", "tokens_per_s", "utilization", "peak_gib")
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:3] else "right")
    for one in rows:
        values = [one.get(name) for name in columns]
        table.add_row(*("-" if v is None else f"{v:,.3g}" if isinstance(v, float) else str(v) for v in values))
    Console(width=None if Console().is_terminal else 200).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "tiny"], default="3b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--parts", choices=sorted(PARTS), default="all", help="parts that train")
    parser.add_argument("--lora", action="store_true", help=f"adapters of rank {LORA.rank} train, in place of weights")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument(
        "--optimizer", choices=["adamw", "sgd"], default="adamw", help="adamw takes 22 bytes a parameter: 183 GB for 7b"
    )
    parser.add_argument("--tokens", type=int, default=16384, help="update.tokens_per_micro_batch of the whole step")
    parser.add_argument("--peak-tflops", type=float, default=PEAK_TFLOPS, help="what utilisation is a share of")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one tiny setting, once: shows that it runs")
    parser.add_argument("--json", type=argparse.FileType("w"), help="write the rows here")
    gpu_trl.add_options(parser)
    args = parser.parse_args(argv)
    settings = QUICK if args.quick else SETTINGS
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU is visible; use --device cpu --shape tiny to see that the program runs")
    if args.lora:
        lora.check_installed()
    if args.trl and (reason := gpu_trl.refusal(args, settings)):
        parser.error(reason)
    args.repeats = 1 if args.quick else args.repeats
    device = torch.device(args.device)
    policy, rows = policy_of(args.shape, device, getattr(torch, args.dtype), args), list[dict[str, Any]]()
    for setting in settings:
        rows += against_last(training_rows(policy, setting, args)) + against_last(rollout_rows(policy, setting, args))
    kept = gpu_trl.keep(policy) if args.trl else None
    learner = learner_of(policy, args)
    for setting in settings:
        rows.append(step_row(policy, learner, setting, args))
    del policy, learner  # a card may not hold them beside TRL's
    try:
        if kept is not None:
            gpu_trl.stand_beside(rows, kept, settings, args)
    finally:  # what was measured must not be lost for what was not
        finish(rows, device, args)
    return 0


def finish(rows: Sequence[dict[str, Any]], device: torch.device, args: argparse.Namespace) -> None:
    show(rows)
    if args.json:
        card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        options = {name: value for name, value in vars(args).items() if name != "json"}
        json.dump(
            {"program": "gpu", "card": card, "options": options} | environment() | {"rows": rows}, args.json, indent=1
        )


if __name__ == "__main__":
    sys.exit(main())
