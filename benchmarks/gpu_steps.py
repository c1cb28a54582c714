"""The steps of `benchmarks.gpu_check`, each in a process of its own: python -m benchmarks.gpu_steps NAME --out DIR

A row is appended to DIR/rows.jsonl as soon as it is measured, so that a step that is stopped keeps what it has.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu, gpu_trl
from benchmarks.gpu_model import LORA, PARTS, config_of, policy_of
from benchmarks.lengths import lognormal
from benchmarks.measure import resident_mb
from benchmarks.setting import Setting, samples
from benchmarks.table import environment
from saccade.models.policy import Policy, disable_checkpointing, enable_checkpointing
from saccade.planning.flops import ModelShape
from saccade.planning.memory import total
from saccade.planning.plan import Plan, plan
from saccade.planning.stages import Setting as PlanSetting
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.config import Sampling
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import prepare
from saccade.training.config import RLRecipe
from saccade.types import Completion, Score

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the measurements are."""

    shapes: tuple[str, str]
    """The small and the large model."""
    device: str
    step: Setting
    tokens: int
    """`update.tokens_per_micro_batch` of the whole step."""
    cap: int
    """`max_new_tokens` of the long replies."""
    lengths: tuple[int, int]
    """Longest reply of the first and of the second rollout of long replies."""
    prompts: int
    """Of those rollouts, 8 replies each."""
    matrix: int
    repeats: int = 2


CARD = Scale(("3b", "7b"), "cuda", Setting(1024, 256, 8, 4), 4096, 8192, (2048, 8192), 32, 8192)
REHEARSAL = Scale(("tiny", "tiny"), "cpu", Setting(64, 8, 4, 2), 200, 64, (16, 64), 2, 256, repeats=1)


@dataclass(frozen=True, slots=True)
class Run:
    """One step being run."""

    name: str
    out: Path
    scale: Scale

    @property
    def rehearsing(self) -> bool:
        return self.scale is REHEARSAL

    @property
    def device(self) -> torch.device:
        return torch.device(self.scale.device)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, on the disk when this returns."""
        with (self.out / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.name} | row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_all(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self.write(row)

    def options(self, shape: str, **changes: Any) -> argparse.Namespace:
        """What `benchmarks.gpu` reads of its command line."""
        given: dict[str, Any] = {
            "shape": shape,
            "device": self.scale.device,
            "dtype": "bfloat16",
            "parts": "language",
            "lora": False,
            "checkpointing": False,
            "optimizer": "adamw",
            "tokens": self.scale.tokens,
            "peak_tflops": gpu.PEAK_TFLOPS,
            "repeats": self.scale.repeats,
            "trl_rows": None,
        }
        return argparse.Namespace(**given | changes)


def card(run: Run) -> None:
    """What it is, and what a matrix product and a copy reach on it."""
    cuda, n = run.device.type == "cuda", run.scale.matrix
    facts = environment() | {"python": sys.version.split()[0]}
    if cuda:
        found = torch.cuda.get_device_properties(0)
        facts |= {"card": found.name, "memory_gb": found.total_memory / 1e9, "cuda": torch.version.cuda}
    run.write({"what": "card", "arm": facts.get("card", "CPU"), "facts": facts})
    a = torch.randn(n, n, device=run.device, dtype=torch.bfloat16)
    for what, work, unit, amount in (
        ("matrix product", lambda: a @ a, "TFLOP/s", 2 * n**3 / 1e12),
        ("copy", lambda: a.clone(), "TB/s", 2 * a.numel() * a.element_size() / 1e12),
    ):
        seconds, _ = gpu.timed(lambda work=work: [work() for _ in range(10)], run.device, 3)
        run.write({"what": what, "arm": f"{10 * amount / seconds:.3g} {unit}", "seconds": seconds / 10})


class EachTest:
    """A plugin of pytest that writes a row for every test."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            row = {"what": "test", "arm": report.nodeid.partition("::")[2], "outcome": report.outcome}
            reason = "" if report.outcome == "passed" else str(report.longrepr).strip().splitlines()[-1]
            self.run.write(row | {"seconds": report.duration} | ({"note": reason} if reason else {}))


def tests(run: Run) -> None:
    """The tests that are marked gpu; in a rehearsal those of one family."""
    import pytest

    if run.rehearsing:
        os.environ["SACCADE_GPU_REHEARSAL"] = "1"
    chosen = ["-k", "not every_code_path or qwen2_5_vl"] if run.rehearsing else []
    arguments = [
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(ROOT),
        str(ROOT / "tests" / "test_gpu.py"),
    ]
    if pytest.main([*arguments, *chosen], plugins=[EachTest(run)]) != pytest.ExitCode.OK:
        raise SystemExit("a test failed; its row names it")


def grpo(run: Run, shape: str, lora: bool = False) -> None:
    """The training pass, decoding, and the whole step beside its plan; adapters or the whole language model train."""
    setting = run.scale.step
    args = run.options(shape, lora=lora)
    level = 0.0 if run.device.type == "cuda" else resident_mb() * 2**20 / 1e9
    policy = policy_of(shape, run.device, torch.bfloat16, args)
    if lora:
        run.write_all(row for row in gpu.training_rows(policy, setting, args) if "one pass" in row["arm"])
    else:
        run.write_all(gpu.against_last(gpu.training_rows(policy, setting, args)))
        run.write_all(gpu.against_last(gpu.rollout_rows(policy, setting, args, transformers=False)))
    enable_checkpointing(policy.model)
    release()
    foreseen = planned(run, args, policy)
    row = {"setting": setting.name, "what": what_trains(args), "planned_gb": foreseen.worst.peak / 1e9}
    try:
        whole_step(run, policy, args, foreseen, row, level)
    except torch.cuda.OutOfMemoryError as error:
        run.write(row | {"arm": "did not fit", "note": str(error).splitlines()[0]})


def what_trains(args: argparse.Namespace) -> str:
    return f"whole step, LoRA rank {LORA.rank}" if args.lora else gpu.step_name(args)


def whole_step(
    run: Run, policy: Policy, args: argparse.Namespace, foreseen: Plan, row: dict[str, Any], level: float
) -> None:
    """One unmeasured step, then the median of some; the peak of each phase beside that of the plan. On a CPU `level`
    is what the process had before there was a model."""
    step = gpu.WholeStep(policy, gpu.learner_of(policy, args), run.scale.step)
    step.update(step.rollout())
    best: dict[str, Any] = {"seconds": float("inf")}
    for _ in range(run.scale.repeats):
        groups, rolled = gpu.measured(step.rollout, run.device)
        _, updated = gpu.measured(lambda groups=groups: step.update(groups), run.device)
        seconds = rolled.seconds + updated.seconds
        if seconds < best["seconds"]:
            best = {"seconds": seconds, "rollout_s": rolled.seconds, "update_s": updated.seconds}
            best |= {"rollout_gb": rolled.peak_gb - level, "update_gb": updated.peak_gb - level}
    memory = foreseen.worst.memory
    best |= {
        "arm": step.path,
        "tokens_per_s": gpu.new_tokens(run.scale.step) / best["seconds"],
        "peak_gb": max(best["rollout_gb"], best["update_gb"]),
        "planned_rollout_gb": max(total(memory[name]) for name in ("vision", "rollout") if name in memory) / 1e9,
        "planned_update_gb": max(total(memory[name]) for name in ("update", "optimizer")) / 1e9,
    }
    run.write(row | best | {"plan_error": row["planned_gb"] / best["peak_gb"] - 1.0})


def planned(run: Run, args: argparse.Namespace, policy: Policy) -> Plan:
    """What `saccade plan` says of the recipe of this step."""
    setting, prompt = run.scale.step, prepare(policy.adapter, samples(run.scale.step)[0]).encoded
    model = {"path": "random", "dtype": args.dtype, "device": run.scale.device, "gradient_checkpointing": True}
    model |= {"lora": LORA.model_dump()} if args.lora else {"train": PARTS[args.parts]}
    recipe = RLRecipe.model_validate(
        {
            "model": model,
            "data": [{"source": "vlm_r1", "path": "none.jsonl"}],
            "stages": [{"name": "step", "max_new_tokens": setting.new_tokens, "group_size": setting.group_size}],
            "num_steps": 1,
            "prompts_per_step": setting.prompts,
            "update": {"tokens_per_micro_batch": args.tokens},
            "optim": {"lr": 1e-7},
        }
    )
    text = len(prompt) - setting.visual_tokens
    return plan(recipe, ModelShape.from_config(config_of(args.shape)), PlanSetting((setting.visual_tokens,), text))


def trl(run: Run) -> None:
    """TRL's GRPOTrainer on the same whole step."""
    args = run.options(run.scale.shapes[0], checkpointing=True, repeats=1)
    reason = gpu_trl.refusal(args, (run.scale.step,)) or cannot_import("benchmarks.peer_trl")
    if reason:
        return run.write({"what": "whole step, AdamW", "arm": "TRL", "skipped": reason})
    policy = policy_of(args.shape, run.device, torch.bfloat16, args)
    kept = gpu_trl.keep(policy)
    del policy
    seconds, peak = gpu_trl.timed(kept, run.scale.step, args)
    row = {"setting": run.scale.step.name, "what": gpu.step_name(args), "arm": gpu_trl.arm_name(args)}
    rate = gpu.new_tokens(run.scale.step) / seconds
    return run.write(row | {"seconds": seconds, "peak_gib": peak, "tokens_per_s": rate})


def cannot_import(module: str) -> str | None:
    try:
        import_module(module)
    except ImportError as error:
        return f"{type(error).__name__}: {error}"
    return None


def long_replies(run: Run) -> None:
    """A cap of 8,192 tokens: an update on replies of that length, and rollouts with ragged lengths up to it."""
    scale = run.scale
    args = run.options(scale.shapes[0], lora=True, optimizer="sgd")
    policy = policy_of(args.shape, run.device, torch.bfloat16, args)
    long_update(run, policy, args)
    release()
    for longest in scale.lengths:
        setting = replace(scale.step, prompts=scale.prompts, new_tokens=scale.cap, group_size=8)
        lengths = lognormal(8 * scale.prompts, max(5, longest // 8), longest)
        prompts = [prepare(policy.adapter, one) for one in samples(setting)]
        engine, sampling = BuiltinEngine(policy), Sampling(max_new_tokens=scale.cap)
        by_prompt = [lengths[8 * i : 8 * i + 8] for i in range(scale.prompts)]
        name = f"{scale.step.visual_tokens} visual, cap {scale.cap}, longest {longest}, {len(lengths)} replies"

        def work(by_prompt: Any = by_prompt, prompts: Any = prompts, engine: Any = engine, s: Any = sampling) -> str:
            engine.generate(prompts, s, 8, range(len(prompts)), lengths=by_prompt)
            return gpu.engine_path(engine)

        guarded(run, name, "rollout", work, sum(lengths))
        release()


def long_update(run: Run, policy: Policy, args: argparse.Namespace) -> None:
    """One group whose replies all have the length of the cap, one reply to a pass."""
    setting = replace(run.scale.step, prompts=1, new_tokens=run.scale.cap)
    group = made_up_group(policy, setting)
    args.tokens = setting.new_tokens + 2 * len(group.prompt.encoded)
    step = gpu.WholeStep(policy, gpu.learner_of(policy, args), setting)
    enable_checkpointing(policy.model)
    name = f"{setting.group_size} replies of {setting.new_tokens} tokens"
    guarded(run, name, "update, LoRA, SGD", lambda: step.update([group]))
    disable_checkpointing(policy.model)


def guarded(run: Run, setting: str, what: str, work: Callable[[], Any], tokens: int | None = None) -> None:
    """A row of one run, or one that says that the card's memory did not hold it."""
    row: dict[str, Any] = {"setting": setting, "what": what}
    try:
        arm, usage = gpu.measured(work, run.device)
    except torch.cuda.OutOfMemoryError as error:
        return run.write(row | {"arm": "did not fit", "note": str(error).splitlines()[0], "outcome": "failed"})
    rate = {} if tokens is None else {"tokens_per_s": tokens / usage.seconds}
    return run.write(row | {"arm": arm or "fits", "seconds": usage.seconds, "peak_gb": usage.peak_gb} | rate)


def made_up_group(policy: Policy, setting: Setting) -> Group:
    """A prompt with replies of the full length, of tokens that nobody sampled."""
    prompt = prepare(policy.adapter, samples(setting)[0])
    draw = torch.Generator().manual_seed(0)
    rollouts = []
    for k in range(setting.group_size):
        ids = tuple(torch.randint(300, 1000, (setting.new_tokens,), generator=draw).tolist())
        reply = Completion("", ids, (-7.0,) * len(ids), "length")
        rollouts.append(Rollout(reply, Score(float(k % 2)), 1.0 if k % 2 else -1.0))
    return Group("g0", prompt, tuple(rollouts))


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


STEPS: dict[str, Callable[[Run], None]] = {
    "card": card,
    "tests": tests,
    "grpo_3b": lambda run: grpo(run, run.scale.shapes[0]),
    "trl_3b": trl,
    "lora_3b": lambda run: grpo(run, run.scale.shapes[0], lora=True),
    "lora_7b": lambda run: grpo(run, run.scale.shapes[1], lora=True),
    "replies_8k": long_replies,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    STEPS[args.step](Run(args.step, args.out, REHEARSAL if args.rehearse else CARD))
    print(f"{args.step}: {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
