"""Planning LoRA and QLoRA: what trains, what is kept, and recipes that fit because of it."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import pytest
from test_plan import qwen_config

from saccade.cli.options import load_recipe
from saccade.planning.flops import ModelShape, RowLengths, training_flops
from saccade.planning.memory import NF4, quantized_weights, weights
from saccade.planning.plan import Plan, plan
from saccade.planning.stages import Setting, works

LORA = ["model.train=[]", "model.lora.rank=64", "model.lora.alpha=128"]
HALF = ["model.dtype=bfloat16", "model.gradient_checkpointing=true"]


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return ModelShape.from_config(qwen_config("3B"))


def planned(shape: ModelShape, *overrides: str, memory_gb: float = 24.0) -> Plan:
    return plan(load_recipe("vlm_r1_rec_3b", [*HALF, *overrides]), shape, Setting((1296,), memory_gb=memory_gb))


def test_adapters_alone_train_and_need_no_second_model(shape: ModelShape) -> None:
    """3B: 36 layers of 7 matrices; rank x (inputs + outputs) of each."""
    hidden, kv, mlp = 2048, 256, 11008
    per_layer = 2 * (hidden + hidden) + 2 * (hidden + kv) + 3 * (hidden + mlp)
    found = planned(shape, *LORA)
    assert found.trainable == 64 * 36 * per_layer
    parts = found.worst.memory["update"]
    assert "reference model" not in parts and "reference model" in planned(shape).worst.memory["update"]
    assert parts["optimizer state"] == 8 * found.trainable and parts["gradients"] == 4 * found.trainable
    assert parts["weights"] == 2 * (shape.total + found.trainable)
    assert not parts.get("gradient of the head")


def test_four_bits_are_what_bitsandbytes_takes_for_a_layer(shape: ModelShape) -> None:
    layer = bnb.nn.Linear4bit(2048, 2048, bias=False, quant_type="nf4", compress_statistics=True)
    layer = layer.to("cpu")
    state = layer.weight.quant_state
    held = [layer.weight, state.absmax, state.state2.absmax, state.state2.code, state.code]
    assert sum(t.numel() * t.element_size() for t in held) / 2048**2 == pytest.approx(NF4, rel=0.002)
    recipe: Any = load_recipe("vlm_r1_rec_3b", [*HALF, *LORA, "model.quantize=nf4"])
    (work, *_) = works(recipe, shape, Setting((1296,)))
    four = quantized_weights(shape)
    rest = shape.total - four + sum(work.adapters.values())
    assert weights(shape, work) == pytest.approx(2 * rest + NF4 * four)
    assert four == 36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008)


def test_a_full_run_that_does_not_fit_is_advised_to_use_adapters_then_four_bits(shape: ModelShape) -> None:
    changes = [one.change for one in planned(shape).advice]
    lora = next(i for i, one in enumerate(changes) if "model.lora.rank=64" in one)
    after = planned(shape, *(word for one in changes[: lora + 1] for word in one.split()))
    assert after.worst.peak == pytest.approx(planned(shape).advice[lora].peak)
    small = [one.change for one in planned(shape, *LORA, memory_gb=8.0).advice]
    assert "model.quantize=nf4" in small


def test_frozen_weights_cost_no_gradient_and_adapters_little(shape: ModelShape) -> None:
    row = RowLengths(300, (100,) * 8)
    full = training_flops(shape, row)
    none = training_flops(shape, row, trained=())
    ours = training_flops(shape, row, trained=(), adapters={"language": 10**6})
    assert none.language == pytest.approx(full.language * 2 / 3)
    assert ours.language - none.language == 2 * 3 * 10**6 * row.packed_tokens


def test_a_target_that_selects_nothing_is_refused_by_the_plan(shape: ModelShape) -> None:
    with pytest.raises(ValueError, match="'q_proj' matches no linear layer"):
        planned(shape, *LORA, "model.lora.targets=[q_proj]")


def test_adapters_on_the_tower_keep_its_activations(shape: ModelShape) -> None:
    parts = planned(shape, *LORA, "model.lora.targets=[vision,language]").worst.memory["update"]
    assert parts["activations, vision"] > 0
    assert "activations, vision" not in planned(shape, *LORA).worst.memory["update"]
