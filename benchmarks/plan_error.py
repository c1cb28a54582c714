"""How far `saccade plan` is from the memory that a step takes: `python -m benchmarks.plan_error --json FILE`.

Each setting runs in a process of its own: the benchmark model L, or that of `--model DIR` (one thread), one small
update so that the optimizer's state exists, then one update on made-up groups about a 448 x 448 image, by the code that
trains, or the decoding of such groups by the engine. Measured is the peak of the resident set above the level just
before; predicted is the largest of the phases `update` and `optimizer`, or the phase `rollout`, without what is there
all the time. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from saccade.algorithm import LossConfig
from saccade.base.tiny import write_checkpoint
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs, vision_features
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy, load_policy
from saccade.models.tower_output import shares_tower
from saccade.planning.flops import ModelShape
from saccade.planning.memory import Work, memory, rows_that_fit, state, total
from saccade.planning.stages import adapter_sizes
from saccade.rollout.config import BuiltinEngineConfig, Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import prepare
from saccade.training.config import OptimConfig, OptimKind, UpdateConfig
from saccade.training.learner import Learner, open_learner
from saccade.training.optim import GuardedOptimizer, build_optimizer
from saccade.training.policy_step import policy_step
from saccade.types import Completion, Sample, Score

ALL = ("vision", "projector", "language")


@dataclass(frozen=True, slots=True)
class Case:
    """One setting."""

    prompts: int
    group_size: int
    tokens: int
    checkpointing: bool
    train: tuple[str, ...] = ("language",)
    budget: int = 8192
    dtype: Literal["float32", "bfloat16"] = "float32"
    optimizer: OptimKind = "adamw"
    decode: bool = False
    """Measure the decoding of the groups instead of an update."""
    memory_mb: int | None = None
    """The engine's limit on keys and values."""
    rank: int = 0
    """Of LoRA on `train`; 0 trains the weights."""
    quantize: Literal["nf4"] | None = None
    model: str | None = None
    """A checkpoint; None is the benchmark model L."""


@dataclass(frozen=True, slots=True)
class Found:
    """Bytes above the level before the update."""

    case: Case
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1.0


SIZES = ((1, 8, 64), (4, 8, 64), (4, 8, 256))
CASES = (
    *(Case(*size, checkpointing) for size in SIZES for checkpointing in (False, True)),
    *(Case(4, 8, 64, checkpointing, ALL) for checkpointing in (False, True)),
)
LATER = (
    Case(4, 8, 64, False, dtype="bfloat16"),
    Case(4, 8, 256, True, dtype="bfloat16"),
    Case(4, 8, 64, True, optimizer="adamw_8bit"),
    Case(4, 8, 64, False, ("projector", "language")),
    Case(8, 8, 128, False, decode=True),
    Case(8, 8, 128, False, decode=True, memory_mb=48),
)
"""8-bit moments, bfloat16 with masters, a shared tower, and decoding with and without a limit."""
OF_A_MODEL = (
    *(Case(2, 4, 64, checkpointing) for checkpointing in (False, True)),
    Case(2, 4, 64, True, optimizer="adamw_8bit"),
    Case(2, 4, 64, True, dtype="bfloat16"),
    Case(4, 8, 64, True, rank=16),
    Case(4, 8, 96, False, decode=True),
    Case(4, 8, 96, False, decode=True, memory_mb=64),
)
"""Settings of `--model`."""
HELD_OUT = (
    Case(2, 6, 160, False),
    Case(3, 4, 400, True),
    Case(6, 4, 32, False, ALL, budget=3000),
    Case(5, 8, 100, True, ("projector", "language"), budget=2500),
    *(Case(4, 8, 64, checkpointing, rank=16) for checkpointing in (False, True)),
    Case(4, 8, 64, False, ALL, rank=16),
    Case(4, 8, 256, True, rank=64, quantize="nf4"),
    Case(4, 8, 64, False, rank=16, quantize="nf4"),
)
"""Settings that no formula of the plan was corrected on."""


def measure(case: Case) -> Found:
    """The case in a fresh process. RuntimeError with what it wrote when it fails."""
    # memory that is freed goes back to the system at once, so that the resident set is what is in use
    alone = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.plan_error", "--case", json.dumps(asdict(case))]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, **alone}, check=False)
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stderr}")
    row = json.loads(done.stdout.splitlines()[-1])
    return Found(case, row["measured"], row["predicted"])


def run(case: Case) -> dict[str, float]:
    """Measured and predicted bytes; changes this process, so each needs its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        policy = load_policy(model_of(case, case.model or str(write_checkpoint(folder, "L"))))
    shape = ModelShape.from_config(policy.model.config)
    if case.decode:
        return decoding(case, policy, shape)
    optim = OptimConfig(lr=1e-4, kind=case.optimizer)
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), optim), optim)
    config = UpdateConfig(tokens_per_micro_batch=case.budget)
    learner = open_learner(policy, optimizer, LossConfig(), config)
    step(learner, [group_of(policy, 100, 2, 4)])
    groups = [group_of(policy, i, case.group_size, case.tokens) for i in range(case.prompts)]
    work = work_of(case, policy, groups[0])
    measured = step(learner, groups)
    parts = memory(shape, work)
    there = total(state(shape, work)) + sum(parts["update"].get(name, 0.0) for name in KEPT)
    return {"measured": measured, "predicted": max(total(parts[phase]) for phase in ("update", "optimizer")) - there}


KEPT = ("vision features", "tower output")
"""What is there before the update."""


def decoding(case: Case, policy: Policy, shape: ModelShape) -> dict[str, float]:
    """As `run`, of a call of the engine that draws all tokens; a short call goes before it."""
    engine = open_engine(policy, BuiltinEngineConfig(memory_mb=case.memory_mb))
    groups = [group_of(policy, i, 2, 4) for i in range(case.prompts)]
    prompts = [group.prompt for group in groups]
    with torch.no_grad():
        features = vision_features(policy, [prompt.encoded for prompt in prompts])
    prompts = [replace(prompt, features=one) for prompt, one in zip(prompts, features, strict=True)]

    def generate(n: int, tokens: int) -> None:
        engine.generate(prompts, Sampling(max_new_tokens=tokens, min_new_tokens=tokens), n, list(range(len(prompts))))

    generate(1, 2)
    measured = growth(lambda: generate(case.group_size, case.tokens))
    work = work_of(case, policy, groups[0])
    work = replace(work, max_rows=rows_that_fit(shape, work))
    parts = memory(shape, work)["rollout"]
    there = total(state(shape, work)) + sum(parts.get(name, 0.0) for name in KEPT)
    return {"measured": measured, "predicted": total(parts) - there}


def model_of(case: Case, path: str) -> ModelConfig:
    lora: dict[str, Any] = {"rank": case.rank, "alpha": 2 * case.rank, "targets": case.train}
    trained = {"lora": lora} if case.rank else {"train": case.train}
    keys = {"path": path, "device": "cpu", "gradient_checkpointing": case.checkpointing, "quantize": case.quantize}
    keys["dtype"] = case.dtype
    return ModelConfig.model_validate(keys | trained)


def work_of(case: Case, policy: Policy, group: Group) -> Work:
    lora = model_of(case, "").lora
    adapters = {} if lora is None else adapter_sizes(lora, ModelShape.from_config(policy.model.config), 4)
    asked = group.prompt.encoded
    visual = int(torch.isin(asked.ids_P, torch.tensor(policy.adapter.image_ids)).sum())
    return Work(
        name="measured",
        groups=case.prompts,
        group_size=case.group_size,
        prompt_tokens=len(asked),
        images=(visual,),
        completion_tokens=case.tokens,
        budget=case.budget,
        vision_cost=policy.vision_cost(asked),
        form="merged",
        trained=() if lora is not None else case.train,
        dtype=case.dtype,
        checkpointing=case.checkpointing,
        optimizer=case.optimizer,
        graphs=False,
        max_rows=512,
        kv_limit=None if case.memory_mb is None else case.memory_mb * 2**20,
        quantized=case.quantize is not None,
        **adapters,
        cuda=False,
    )


def group_of(policy: Policy, number: int, size: int, tokens: int) -> Group:
    """A group about an image of its own colour, with made-up tokens and the log-probs that the model gives them."""
    sample = Sample(f"s{number}", (Image.new("RGB", (448, 448), (number, 9, 9)),), "How many?", 1, "count")
    prompt = prepare(policy.adapter, sample)
    generator = torch.Generator().manual_seed(number)
    ids = [torch.randint(40, 400, (tokens,), generator=generator).tolist() for _ in range(size)]
    with torch.no_grad():
        logprobs_R, _ = branch_logprobs(policy, pack([(prompt.encoded, [Branch(one) for one in ids])]))
    rollouts = tuple(
        Rollout(Completion("", tuple(one), tuple(lp.tolist())), Score(float(k % 2)), 1.0 - 2.0 * (k % 2))
        for k, (one, lp) in enumerate(zip(ids, logprobs_R.split(tokens), strict=True))
    )
    return Group(f"g{number}", prompt, rollouts)


def step(learner: Learner, groups: Sequence[Group]) -> float:
    """One update; bytes of the resident set's peak above the level before."""
    policy = learner.runner.policy
    if policy.vision_is_frozen() or shares_tower(policy):
        with torch.no_grad():
            features = vision_features(policy, [group.prompt.encoded for group in groups])
        groups = [
            replace(group, prompt=replace(group.prompt, features=one))
            for group, one in zip(groups, features, strict=True)
        ]
    length = max(len(r.completion.token_ids) for g in groups for r in g.rollouts)
    return growth(lambda: policy_step(learner, groups, temperature=1.0, max_length=length, lr=1e-4))


def growth(work: Callable[[], object]) -> float:
    """Bytes of the resident set's peak during `work` above the level before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak falls back to the level
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(name: str) -> float:
    """Bytes of an entry of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def line_of(found: Found) -> str:
    case = found.case
    kept = "checkpointing" if case.checkpointing else "all kept"
    held_out = "  held out" if case in HELD_OUT else ""
    more = [case.dtype] if case.dtype != "float32" else []
    more += [case.optimizer] if case.optimizer != "adamw" else []
    more += ["decoding" if case.memory_mb is None else f"decoding in {case.memory_mb} MiB"] if case.decode else []
    named = ", ".join(["+".join(case.train), *more])
    what = f"{case.prompts} x {case.group_size} x {case.tokens:<4} {kept:<14} {named:<40}"
    what += f" rank {case.rank:<3} {case.quantize or '':<4}" if case.rank else ""
    numbers = f"measured {found.measured / 1e6:7.1f} MB  predicted {found.predicted / 1e6:7.1f} MB"
    return f"{what} {numbers}  {found.error:+.0%}{held_out}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows go as well")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--model", metavar="DIR", help="a checkpoint, such as that of benchmarks.real_model")
    options = parser.parse_args()
    if options.case:
        data = json.loads(options.case)
        print(json.dumps(run(Case(**{**data, "train": tuple(data["train"])}))))
        return
    rows = []
    given = [replace(case, model=options.model) for case in OF_A_MODEL] if options.model else ()
    for case in given or (*CASES, *LATER, *HELD_OUT):
        rows.append(measure(case))
        print(line_of(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) | {"error": row.error} for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
