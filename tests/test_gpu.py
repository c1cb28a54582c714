"""What only a GPU can show: `pytest -m gpu`, or `make gpu-check`, which runs the most important first.

SACCADE_GPU_REHEARSAL=1 runs the same tests on a CPU, with a tape in place of CUDA's graphs, so that a mistake in a test
is found before a GPU is rented.
"""

from __future__ import annotations

import json
import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from family_matrix import batch
from ragged import LONGEST, ragged_prompts
from replies import builtin, generate
from tape import record
from test_models_fused import with_our_layers
from test_models_shared_prefix import HEADS, KV_HEADS, LAYOUTS, reference
from test_models_shared_prefix import run as output_and_gradients
from training_runs import rl_recipe, write_world

from saccade.models.adapter import PARTS
from saccade.models.config import ModelConfig
from saccade.models.packing import Layout
from saccade.models.policy import Policy, load_policy
from saccade.models.shared_prefix import fastest_kernel, shared_attention
from saccade.rollout.config import Sampling
from saccade.rollout.graphs import Graphs
from saccade.training.rl import train
from saccade.verify.difference import difference, run
from saccade.verify.verify import verify_policy

pytestmark = pytest.mark.gpu
FIRST = "qwen2_5_vl"
ORDERED = [FIRST, "qwen3_vl", *(name for name in FAMILIES if name not in (FIRST, "qwen3_vl"))]
"""Families whose models are most trained come first: time on a GPU may end."""
HEAD_SIZE = 64
LONG = Layout((700, 333), ((257, 1, 64, 300), (129, 500)))


@pytest.fixture(scope="module")
def device() -> torch.device:
    if os.environ.get("SACCADE_GPU_REHEARSAL"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible to torch; SACCADE_GPU_REHEARSAL=1 runs these tests on the CPU")
    torch.backends.cudnn.allow_tf32 = False  # as for matrix products, where it is off unless asked for
    return torch.device("cuda")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family(FIRST).write(tmp_path_factory.mktemp(FIRST), seed=1)


def policy_of(directory: Path, device: torch.device, dtype: str = "float32", **options: Any) -> Policy:
    return load_policy(ModelConfig(path=str(directory), device=device.type, dtype=dtype, train=PARTS, **options))


@pytest.mark.parametrize("layout", [*LAYOUTS, LONG], ids=str)
@pytest.mark.parametrize("form", ["merged", "split"])
def test_attention_of_a_packed_row_in_bfloat16_is_as_near_to_float64_as_plain_attention(
    device: torch.device, form: str, layout: Layout
) -> None:
    """Output and gradients of each form of the packed row against the dense softmax in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, layout.length, heads, HEAD_SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    half = [torch.randn(shape, generator=generator).to(torch.bfloat16).transpose(1, 2) for shape in shapes]
    scale = HEAD_SIZE**-0.5
    truth = output_and_gradients(lambda q, k, v: reference(layout, q, k, v, scale), [x.double() for x in half])
    coarse = output_and_gradients(lambda q, k, v: reference(layout, q, k, v, scale), half)
    attend = shared_attention(layout, device, torch.bfloat16, form).attend
    found = output_and_gradients(lambda q, k, v: attend(0, q.to(device), k.to(device), v.to(device), scale).cpu(), half)
    for name, ours, plain, exact in zip(("output", "dq", "dk", "dv"), found, coarse, truth, strict=True):
        far, bound = (float((x.double() - exact).norm() / exact.norm()) for x in (ours, plain))
        assert far <= 1.5 * bound + 2e-3, f"{name} of {layout}"


def test_the_fast_form_is_used_in_bfloat16(device: torch.device) -> None:
    assert fastest_kernel(device, torch.bfloat16, HEAD_SIZE) == "merged"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_give_the_tokens_of_unrecorded_ones(directory: Path, device: torch.device, dtype: str) -> None:
    policy = policy_of(directory, device, dtype)
    prompts = ragged_prompts(policy)
    sampling = Sampling(max_new_tokens=LONGEST, min_new_tokens=LONGEST, greedy=True)
    if device.type == "cuda":
        engine = builtin(policy, cuda_graphs="on")
    else:
        engine = builtin(policy, runner=Graphs(record, required=True))
    replayed = generate(engine, prompts, sampling, n=2)
    launched = generate(builtin(policy, cuda_graphs="off"), prompts, sampling, n=2)
    runner = engine.runner
    assert isinstance(runner, Graphs) and runner.failure is None
    assert runner.replayed > LONGEST / 2
    pairs = [pair for ours, theirs in zip(replayed, launched, strict=True) for pair in zip(ours, theirs, strict=True)]
    if dtype == "float32":
        assert all(a.token_ids == b.token_ids for a, b in pairs)
    first = [abs(a.logprobs[0] - b.logprobs[0]) for a, b in pairs]
    assert max(first) < {"float32": 1e-4, "bfloat16": 0.1}[dtype]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fused_layers_give_the_familys_own_numbers(directory: Path, device: torch.device, dtype: str) -> None:
    policy = policy_of(directory, device, dtype)
    packed = batch(policy.adapter, "all of it")
    apart = difference(with_our_layers(policy), run(policy, packed, "plain"))
    assert max(apart) <= {"float32": 1e-4, "bfloat16": 0.1}[dtype], apart


def test_two_steps_of_grpo_in_bfloat16_move_float32_masters(
    device: torch.device, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = write_world(tmp_path_factory.mktemp("world"))
    model = {"path": str(world / "model"), "device": device.type, "dtype": "bfloat16", "gradient_checkpointing": True}
    out = tmp_path_factory.mktemp("run")
    train(rl_recipe(world, model=model, num_steps=2), out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(math.isfinite(row["policy/loss"]) and row["policy/grad_norm"] > 0 for row in rows)
    assert all(row["sampler/gap_mean"] < 0.05 for row in rows)


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_a_packed_row_with_adapters_is_the_plain_rows(directory: Path, device: torch.device, quantize: Any) -> None:
    if quantize and find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    config = {"path": str(directory), "device": device.type, "lora": {"rank": 4, "alpha": 8}, "quantize": quantize}
    policy = load_policy(ModelConfig.model_validate(config))
    for name, parameter in policy.trainable():
        if "lora_B" in name:  # adapters begin without an effect
            torch.nn.init.normal_(parameter, std=0.1)
    packed = batch(policy.adapter, "all of it")
    plain = run(policy, packed, "plain")
    assert len(plain.gradients) == len(policy.trainable()) > 0
    assert max(difference(run(policy, packed, "packed"), plain)) <= 1e-4


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_code_path_is_exact(device: torch.device, tmp_path: Path, dtype: str, name: str) -> None:
    """Packed = plain, cached = uncached, the sampler's log-probs = the trainer's, with controls that must differ."""
    policy = policy_of(family(name).write(tmp_path, seed=1), device, dtype)
    report = verify_policy(policy, name, limit=1e-4)
    assert report.failed == ()
