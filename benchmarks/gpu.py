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
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks import gpu_trl
from benchmarks.setting import SIDE, Setting, samples
from benchmarks.table import environment
from benchmarks.training_pass import batch
from saccade.algorithm import LossConfig
from saccade.base.tiny import MIN_PIXELS, SIZES, tiny_config
from saccade.base.tokenizer import build_tokenizer
from saccade.models import attention
from saccade.models.families import ADAPTERS
from saccade.models.forward import branch_logprobs, default_sharing, vision_features
from saccade.models.fused import fuse
from saccade.models.packing import Packed
from saccade.models.policy import Policy, enable_checkpointing, freeze
from saccade.planning.flops import ModelShape, RowLengths, training_flops
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.config import BuiltinEngineConfig, Sampling
from saccade.rollout.graphs import Graphs
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt, prepare
from saccade.training.config import OptimConfig, UpdateConfig
from saccade.training.optim import GuardedOptimizer, build_optimizer
from saccade.training.policy_step import Learner, open_learner, policy_step
from saccade.types import Score

SHAPES: dict[str, dict[str, Any]] = {
    "3b": {"hidden": 2048, "layers": 36, "heads": 16, "kv": 2, "inter": 11008, "vocab": 151936, "tied": True},
    "7b": {"hidden": 3584, "layers": 28, "heads": 28, "kv": 4, "inter": 18944, "vocab": 152064, "tied": False},
}
"""Language models of the published checkpoints; their towers are alike."""
SETTINGS = (Setting(256, 64, 8, 4), Setting(1024, 64, 8, 4), Setting(256, 256, 16, 2), Setting(1024, 256, 8, 4))
QUICK = (Setting(64, 8, 4, 2),)
PEAK_TFLOPS = 989.0
"""bfloat16 without sparsity, of an H100 or H200."""
PARTS = {"all": ("vision", "projector", "language"), "language": ("language",)}


def config_of(shape: str) -> Qwen2_5_VLConfig:
    """The published shape on our tokenizer, whose ids are the first of a vocabulary of the published size."""
    tokenizer = build_tokenizer()
    config = tiny_config(tokenizer, SIZES["L"])
    if shape == "tiny":
        return config
    one, content = SHAPES[shape], config.to_dict()
    content["text_config"] |= {
        "hidden_size": one["hidden"],
        "num_hidden_layers": one["layers"],
        "num_attention_heads": one["heads"],
        "num_key_value_heads": one["kv"],
        "intermediate_size": one["inter"],
        "vocab_size": one["vocab"],
        "tie_word_embeddings": one["tied"],
        "layer_types": None,
        "max_window_layers": one["layers"],
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    content["vision_config"] |= {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": one["hidden"],
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    content["tie_word_embeddings"] = one["tied"]
    return Qwen2_5_VLConfig.from_dict(content)


def policy_of(shape: str, device: torch.device, dtype: torch.dtype, args: argparse.Namespace) -> Policy:
    """Built on the device, never on disk."""
    config, tokenizer = config_of(shape), build_tokenizer()
    side = 32 * SIDE
    images = Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=side * side)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    if args.checkpointing:
        enable_checkpointing(model)
    attention.install(model)
    policy = Policy(model.eval(), ADAPTERS["qwen2_5_vl"](tokenizer, images, model.config), (tokenizer, images))
    freeze(policy, PARTS[args.parts])
    fuse(model)
    return policy


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
    seconds, peaks = [], []
    for _ in range(repeats):
        level = 0
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            level = torch.cuda.memory_allocated()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
            peaks.append((torch.cuda.max_memory_allocated() - level) / 2**30)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), statistics.median(peaks) if peaks else float("nan")


def training_rows(policy: Policy, setting: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Forward and backward, a group to a pass, as both paths would be run."""
    groups = list(batch(policy, setting, ragged=False).groups())
    rows, shape = [], ModelShape.from_model(policy.model)
    for path in ("packed", "plain"):

        def work(path: Any = path) -> None:
            for group in groups:
                logprobs_R, _ = branch_logprobs(policy, group, path=path)
                logprobs_R.sum().backward()
            policy.model.zero_grad(set_to_none=True)

        seconds, peak = timed(work, policy.device, args.repeats)
        flops = sum(operations(shape, group, path == "packed", args) for group in groups)
        rows.append(
            {
                "setting": setting.name,
                "what": "training pass",
                "arm": f"{path} ({default_sharing(policy)})" if path == "packed" else path,
                "seconds": seconds,
                "peak_gib": peak,
                "tokens_per_s": sum(group.num_tokens for group in groups) / seconds,
                "utilisation": flops / seconds / (args.peak_tflops * 1e12),
            }
        )
    rows[0]["ratio"] = rows[1]["seconds"] / rows[0]["seconds"]
    return rows


def operations(shape: ModelShape, group: Packed, packed: bool, args: argparse.Namespace) -> float:
    """Of the model's own arithmetic: what checkpointing computes again does not count as use of the card."""
    lengths = RowLengths(
        group.layout.prompts[0], group.layout.branches[0], (int(group.prompts[0].pixels["image_grid_thw"].prod()) // 4,)
    )
    return training_flops(shape, lengths, packed, PARTS[args.parts], False).total


def rollout_rows(policy: Policy, setting: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
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

    rows = []
    engines = [engine for engine in (replaying, launching) if engine is launching or engine.runner is not None]
    for one in (*engines, generate):
        work = one if one is generate else partial(one.generate, prompts, sampling, n, range(len(prompts)))
        seconds, peak = timed(work, policy.device, args.repeats)
        arm = "generate, num_return_sequences, prompt by prompt" if one is generate else engine_path(one)
        rows.append(
            {"setting": setting.name, "what": "rollout", "arm": arm, "seconds": seconds, "peak_gib": peak}
            | {"tokens_per_s": tokens / seconds}
        )
    for row in rows[:-1]:
        row["ratio"] = rows[-1]["seconds"] / row["seconds"]
    return rows


def engine_path(engine: BuiltinEngine) -> str:
    """What ran, not what was asked for."""
    name, runner = f"built-in engine ({engine.stats.decoder})", engine.runner
    if not isinstance(runner, Graphs):
        return name
    share = runner.replayed / max(1, runner.steps)
    return f"{name}, {share:.0%} of steps replayed{'' if runner.failure is None else f', then: {runner.failure}'}"


def step_row(policy: Policy, learner: Learner, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Prompts, rollout and update, the optimizer's step included."""
    engine, questions = BuiltinEngine(policy), samples(setting)

    def work() -> None:
        prepared = [prepare(policy.adapter, one) for one in questions]  # from PNG bytes and text, as TRL does it
        with torch.no_grad():
            features = vision_features(policy, [one.encoded for one in prepared])
        prompts = [replace(one, features=own) for one, own in zip(prepared, features, strict=True)]
        groups = groups_of(engine, prompts, setting)
        metrics = policy_step(learner, groups, temperature=1.0, max_length=setting.new_tokens, lr=1e-7)
        if metrics["update/skipped"]:
            raise ValueError("the step moved nothing; expected an update")

    seconds, peak = timed(work, policy.device, args.repeats)
    tokens = setting.prompts * setting.group_size * setting.new_tokens
    choice = learner.runner.choice
    return {
        "setting": setting.name,
        "what": "whole step, AdamW" if args.optimizer == "adamw" else "whole step, SGD",
        "arm": str(choice.sharing or choice.path) if choice else "-",
        "seconds": seconds,
        "peak_gib": peak,
        "tokens_per_s": tokens / seconds,
    }


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
    columns = ("setting", "what", "arm", "seconds", "ratio", "tokens_per_s", "utilisation", "peak_gib")
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
    if args.trl and (reason := gpu_trl.refusal(args, settings)):
        parser.error(reason)
    args.repeats = 1 if args.quick else args.repeats
    device = torch.device(args.device)
    policy, rows = policy_of(args.shape, device, getattr(torch, args.dtype), args), list[dict[str, Any]]()
    for setting in settings:
        rows += training_rows(policy, setting, args) + rollout_rows(policy, setting, args)
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
