"""Planning: parameters and operations by arithmetic, memory that grows with what fills it, advice that can be taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2_5_VLConfig

from saccade.base.tiny import SIZES, build, tiny_config, write_checkpoint
from saccade.base.tokenizer import build_tokenizer
from saccade.cli.options import load_recipe
from saccade.models.config import ModelConfig
from saccade.models.forward import PATCHES_AT_ONCE
from saccade.models.policy import load_policy
from saccade.planning import flops
from saccade.planning.flops import ModelShape, RowLengths, decode_flops, prefill_flops, training_flops
from saccade.planning.inputs import read_config, visual_tokens
from saccade.planning.memory import kv_bytes, memory, rows_that_fit, state, total, tower_room
from saccade.planning.plan import Plan, candidates, overrides, plan
from saccade.planning.stages import Setting, StagePlan, stage_steps, stages_of, step_flops, works
from saccade.planning.work import Work
from saccade.rollout.fixed_slots import FixedSlots, Limits
from saccade.rollout.graphs import Graphs
from saccade.rollout.slots import Slots
from saccade.training.batching import micro_batches, repeated_cost, rows, shared_cost
from saccade.training.config import RLRecipe

ALL = ("vision", "projector", "language")


def qwen_config(size: str) -> Qwen2_5_VLConfig:
    """The published sizes of Qwen2.5-VL, written by hand."""
    hidden, layers, heads, kv_heads, mlp, vocab, tied = {
        "7B": (3584, 28, 28, 4, 18944, 152064, False),
        "3B": (2048, 36, 16, 2, 11008, 151936, True),
    }[size]
    text = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
        "vocab_size": vocab,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": tied,
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": hidden,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


@pytest.fixture(scope="module")
def shapes() -> dict[str, ModelShape]:
    return {size: ModelShape.from_config(qwen_config(size)) for size in ("3B", "7B")}


@pytest.fixture(scope="module")
def tiny() -> ModelShape:
    return ModelShape.from_config(tiny_config(build_tokenizer(), SIZES["S"]))


# ------------------------------------------------------------------------------------------------- parameters, FLOPs


@pytest.mark.parametrize(("size", "billions"), [("3B", 3.75), ("7B", 8.29)])
def test_parameters_are_those_that_were_published(shapes: dict[str, ModelShape], size: str, billions: float) -> None:
    assert shapes[size].total / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_shape_from_a_configuration_is_that_of_the_model_itself(tiny: ModelShape) -> None:
    model, _ = build("S")
    assert ModelShape.from_model(model) == tiny
    assert tiny.total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_with_an_adapter_has_a_shape(name: str, tmp_path: Path) -> None:
    """All parameters are counted, and as many patches become a visual token as in an encoded prompt."""
    policy = load_policy(ModelConfig(path=str(family(name).write(tmp_path)), device="cpu"))
    config, _ = read_config(str(tmp_path))
    shape = ModelShape.from_config(config)
    assert shape.total == sum(p.numel() for p in policy.model.parameters())
    assert shape.sharing == policy.adapter.sharing
    prompt = policy.adapter.encode("<image>How many?", [Image.new("RGB", (112, 112))])
    visual = int(torch.isin(prompt.ids_P, torch.tensor(policy.adapter.image_ids)).sum())
    # LLaVA-OneVision adds a token at the end of each line of patches
    assert shape.patches_per_token == pytest.approx(policy.adapter.patches(prompt) / visual, rel=0.11)


def test_parts_inferred_from_names_are_those_of_the_adapter(monkeypatch: pytest.MonkeyPatch, tiny: ModelShape) -> None:
    monkeypatch.setattr(flops, "ADAPTERS", {})
    by_names = ModelShape.from_model(build("S")[0])
    assert by_names.sharing is None
    assert replace(by_names, sharing=tiny.sharing) == tiny


def test_widths_and_windows_are_read(shapes: dict[str, ModelShape]) -> None:
    shape = shapes["7B"]
    assert (shape.language.count, shape.language.hidden, shape.language.mlp) == (28, 3584, 18944)
    assert (shape.vision.count, shape.vision.hidden, shape.vision.mlp) == (32, 1280, 3420)
    assert (shape.full_layers, shape.window, shape.patches_per_token) == (4, 64, 4.0)
    assert shape.kv_size * 2 == 56 * 1024  # bytes per token in bfloat16


def test_operations_are_those_of_a_hand_calculation(tiny: ModelShape) -> None:
    """Two completions of 2 and 1 tokens after a prompt of 3, without image, everything trained."""
    row = RowLengths(3, (2, 1))
    packed, plain = (training_flops(tiny, row, path, ("language",)) for path in (True, False))
    weights = tiny.language.weights
    assert packed.language == 3 * 2 * weights * (3 + 2 + 1)
    assert plain.language == 3 * 2 * weights * (5 + 4)
    pairs_packed, pairs_plain = 6 + (3 * 2 + 3) + (3 * 1 + 1), 15 + 10
    per_pair = 4 * tiny.heads * tiny.head_size * tiny.language.count
    assert packed.attention == 3.5 * per_pair * pairs_packed
    assert plain.attention == 3.5 * per_pair * pairs_plain
    assert packed.head == plain.head == 4 * 2 * tiny.vocab * tiny.language.hidden * 3
    assert packed.vision == plain.vision == 0
    assert prefill_flops(tiny, row).language == 2 * weights * 3
    decode = decode_flops(tiny, row)
    assert decode.language == 2 * weights * 1  # the second token of the first completion is the only one not prefilled
    assert decode.attention == per_pair * (3 + 1)


def test_torch_counts_the_same_operations_of_a_packed_row(tiny: ModelShape) -> None:
    """Linear layers of a forward pass, counted by torch while a real model runs."""
    from torch.utils.flop_counter import FlopCounterMode

    model, _ = build("S")
    language = model.model.language_model
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        language(input_ids=torch.ones(1, 7, dtype=torch.long), use_cache=False)
    counts: dict[Any, int] = counter.get_flop_counts()["Global"]
    linear = sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    assert linear == forward_linear(tiny, 7)


def forward_linear(shape: ModelShape, tokens: int) -> float:
    return flops.forward_flops(shape, RowLengths(tokens, ())).language


def test_torch_counts_the_same_operations_of_the_tower(tiny: ModelShape) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, _ = build("S")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.visual(torch.zeros(64, 1176), torch.tensor([[1, 8, 8]]))
    counts: dict[Any, int] = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    patches = 2 * 64 * 1176 * tiny.vision.hidden  # a convolution, whose operations torch counts under another name
    linear, _, projector = flops.vision_flops(tiny, (16,))
    assert products + patches == linear + projector


BOUNDS = [
    ("3B", 256, 64, 8, 4.4, 3.8),
    ("3B", 1024, 256, 8, 4.2, 3.6),
    ("3B", 4000, 64, 16, 14.0, 13.2),
    ("7B", 256, 1024, 8, 1.3, 1.3),
    ("7B", 1024, 256, 16, 4.7, 4.2),
    ("7B", 2048, 64, 16, 11.8, 11.1),
    ("7B", 4000, 1024, 8, 3.7, 3.3),
]
"""Model, visual tokens, C, G, and how many times fewer operations packed rows take: all trained, and a frozen tower."""


@pytest.mark.parametrize(("size", "visual", "length", "group", "full", "frozen"), BOUNDS)
def test_the_bound_of_packed_rows_is_the_known_one(
    shapes: dict[str, ModelShape], size: str, visual: int, length: int, group: int, full: float, frozen: float
) -> None:
    row = RowLengths(64 + visual, (length,) * group, (visual,))
    for trained, expected in ((ALL, full), (("language",), frozen)):
        plain, packed = (training_flops(shapes[size], row, path, trained).total for path in (False, True))
        assert plain / packed == pytest.approx(expected, rel=0.1)


def test_checkpointing_costs_one_forward_and_a_frozen_tower_no_backward(shapes: dict[str, ModelShape]) -> None:
    row = RowLengths(320, (64,) * 4, (256,))
    base, again = (training_flops(shapes["3B"], row, True, ALL, checkpointing) for checkpointing in (False, True))
    assert again.language / base.language == pytest.approx(4 / 3)
    assert again.head == base.head
    frozen = training_flops(shapes["3B"], row, True, ("language",))
    assert frozen.vision == sum(flops.vision_flops(shapes["3B"], (256,))[:2])
    assert training_flops(shapes["3B"], row, True, ("language",), vision=False).vision == 0


# ------------------------------------------------------------------------------------------------------------ memory

WORK = Work(
    name="one",
    groups=8,
    group_size=8,
    prompt_tokens=320,
    images=(256,),
    completion_tokens=128,
    budget=4096,
    vision_cost=0,
    form="merged",
    trained=("language",),
    dtype="float32",
    checkpointing=False,
    max_rows=32,
)


def peak(shape: ModelShape, phase: str = "", **changes: Any) -> float:
    """Bytes of a phase, or of the largest."""
    phases = memory(shape, replace(WORK, **changes))
    return total(phases[phase]) if phase else max(map(total, phases.values()))


@pytest.mark.parametrize(
    ("phase", "changes"),
    [
        ("update", {"budget": 8192}),
        ("update", {"completion_tokens": 6000}),
        ("update", {"reference": True}),
        ("update", {"trained": ALL}),
        ("update", {"form": "split"}),
        ("optimizer", {"trained": ALL}),
        ("rollout", {"max_rows": 64}),
        ("rollout", {"completion_tokens": 256}),
        ("rollout", {"prompt_tokens": 2000}),
        ("vision", {"groups": 16}),
        ("vision", {"images": (256, 256)}),
    ],
)
def test_memory_grows_with_what_fills_it(shapes: dict[str, ModelShape], phase: str, changes: dict[str, Any]) -> None:
    assert peak(shapes["3B"], phase, **changes) > peak(shapes["3B"], phase)


def test_the_tower_takes_no_more_patches_at_once_than_the_trainer_gives_it(shapes: dict[str, ModelShape]) -> None:
    shape, tower = shapes["3B"], "tower, no gradient"
    few, many = (memory(shape, replace(WORK, groups=n))["vision"][tower] for n in (64, 256))
    assert few == many == tower_room(shape, 4) * PATCHES_AT_ONCE
    huge = memory(shape, replace(WORK, groups=64, images=(20_000,)))["vision"][tower]
    assert huge == tower_room(shape, 4) * 80_000


def test_memory_shrinks_with_checkpointing(shapes: dict[str, ModelShape]) -> None:
    assert peak(shapes["3B"], "update", checkpointing=True) < peak(shapes["3B"], "update")


def test_bfloat16_keeps_float32_masters_gradients_and_moments(shapes: dict[str, ModelShape]) -> None:
    shape = shapes["3B"]
    moving = shape.parameters["language"]
    parts = memory(shape, replace(WORK, dtype="bfloat16"))["optimizer"]
    assert parts["weights"] == 2 * shape.total
    assert parts["float32 master weights"] == parts["gradients"] == 4 * moving
    assert parts["optimizer state"] == 8 * moving
    assert "float32 master weights" not in memory(shape, WORK)["optimizer"]


@given(
    prompts=st.integers(1, 9),
    group=st.integers(1, 9),
    prompt=st.integers(1, 40),
    length=st.integers(1, 30),
    budget=st.integers(1, 300),
    packed=st.booleans(),
)
def test_micro_batches_are_those_of_the_trainer(
    prompts: int, group: int, prompt: int, length: int, budget: int, packed: bool
) -> None:
    work = replace(
        WORK,
        groups=prompts,
        group_size=group,
        prompt_tokens=prompt,
        completion_tokens=length,
        budget=budget,
        form="merged" if packed else "plain",
    )
    cost = shared_cost if packed else repeated_cost
    real = [row for i in range(prompts) for row in rows(i, prompt, [(k, length) for k in range(group)], budget, cost)]
    largest = max(sum(row.cost for row in batch) for batch in micro_batches(real, budget))
    assert len(real) == work.rows
    assert max(largest, work.tokens_at_once) <= max(budget, max(row.cost for row in real))
    if group % work.row_completions == 0:  # all rows are alike; else the last of each group is shorter
        assert (largest, len(micro_batches(real, budget))) == (work.tokens_at_once, work.micro_batches)


def test_completions_get_room_as_they_do_in_the_engine(tmp_path: Path) -> None:
    """Kept by the engine's own account, with the copy of a layer while it grows."""
    policy = load_policy(str(write_checkpoint(tmp_path, "S")))
    small = ModelShape.from_model(policy.model)
    work = replace(
        WORK, groups=2, group_size=3, prompt_tokens=9, images=(), max_rows=6, completion_tokens=70, dtype="float32"
    )
    slots, fixed = Slots(policy), FixedSlots(policy, Limits(6, 3, 70, 2, 9), Graphs(None))
    grown = kv_bytes(small, replace(work, graphs=False))  # in one of two layers what is there exists twice
    assert grown / 1.5 <= slots.memory([70] * 6, [9, 9]) <= grown
    assert fixed.memory([70] * 6, [9, 9]) == pytest.approx(kv_bytes(small, work), rel=0.02)


def test_completions_that_find_no_room_wait(shapes: dict[str, ModelShape]) -> None:
    shape, work = shapes["7B"], replace(WORK, dtype="bfloat16", groups=64, group_size=8, max_rows=512)
    work = replace(work, completion_tokens=4096, longest=4096)
    limit = 20e9
    rows = rows_that_fit(shape, replace(work, kv_limit=limit))
    assert 1 < rows < 512
    assert kv_bytes(shape, replace(work, max_rows=rows)) <= limit < kv_bytes(shape, replace(work, max_rows=rows + 8))
    assert rows_that_fit(shape, replace(work, kv_limit=1e13)) == 512
    assert rows_that_fit(shape, replace(work, kv_limit=1.0)) == 1


def test_a_long_cap_costs_time_and_no_memory_beyond_the_card(shapes: dict[str, ModelShape]) -> None:
    stage = {"name": "long", "group_size": 8}
    model = {"path": "nowhere/nothing", "dtype": "bfloat16", "gradient_checkpointing": True}

    def stage_of(cap: int) -> StagePlan:
        recipe = recipe_of(
            model=model,
            prompts_per_step=64,
            stages=[stage | {"max_new_tokens": cap}],
            num_steps=1,
            optim={"lr": 1e-6, "kind": "adamw_8bit"},
        )
        return stages_of(recipe, shapes["3B"], Setting(images=(256,), memory_gb=80.0))[0]

    short, long = stage_of(512), stage_of(8192)
    assert total(long.memory["rollout"]) < 80e9
    assert long.decode_steps > 16 * short.decode_steps  # 16 times as long, and in more waves


def test_times_of_a_recipe_that_does_not_fit_are_those_of_a_card_that_it_fits_on(shapes: dict[str, ModelShape]) -> None:
    small, large = (planned(shapes["7B"], memory_gb=gb) for gb in (24.0, 1000.0))
    assert not small.fits and [s.seconds for s in small.stages] == [s.seconds for s in large.stages]


def test_moments_of_8_bits_take_a_quarter(shapes: dict[str, ModelShape]) -> None:
    wide, narrow = (state(shapes["3B"], replace(WORK, optimizer=kind)) for kind in ("adamw", "adamw_8bit"))
    assert narrow["optimizer state"] == pytest.approx(wide["optimizer state"] / 4, rel=0.02)
    assert narrow["weights"] == wide["weights"]


def test_a_projector_that_trains_keeps_the_tower_s_output_and_does_not_run_it_again(
    shapes: dict[str, ModelShape],
) -> None:
    shape, parts = shapes["3B"], ("projector", "language")
    work = replace(WORK, trained=parts)
    assert memory(shape, work)["update"]["tower output"] > 0
    assert "tower output" not in memory(shape, replace(work, trained=ALL))["update"]
    frozen, shared, whole = (
        step_flops(shape, replace(WORK, trained=some))["training, packed"].total for some in (("language",), parts, ALL)
    )
    assert frozen <= shared < whole - 0.5 * (whole - frozen)


# ------------------------------------------------------------------------------------------------------ plan, advice


def recipe_of(**changes: Any) -> RLRecipe:
    base: dict[str, Any] = {
        "model": {"path": "nowhere/nothing", "dtype": "bfloat16"},
        "data": [{"source": "world", "task": "count"}],
        "stages": [
            {"name": "short", "max_new_tokens": 64, "group_size": 16, "until": {"step": 10}},
            {"name": "long", "max_new_tokens": 512, "group_size": 8, "until": {"step": 30}},
        ],
        "optim": {"lr": 1e-6},
    }
    return RLRecipe.model_validate(base | changes)


def planned(shape: ModelShape, recipe: RLRecipe | None = None, **setting: Any) -> Plan:
    return plan(recipe or recipe_of(), shape, Setting(**({"images": (256,)} | setting)))


def test_every_stage_has_a_row_and_the_largest_decides(shapes: dict[str, ModelShape]) -> None:
    found = planned(shapes["3B"])
    assert [(s.name, s.steps, s.group_size, s.completion_tokens) for s in found.stages] == [
        ("short", 10, 16, 64),
        ("long", 20, 8, 512),
    ]
    assert found.worst.peak == max(stage.peak for stage in found.stages)
    assert found.stages[1].decode_steps == 511  # 128 completions at once


def test_steps_of_stages_follow_their_rules() -> None:
    recipe = recipe_of(
        stages=[
            {"name": "a", "max_new_tokens": 8, "group_size": 2, "until": {"step": 5}},
            {
                "name": "b",
                "max_new_tokens": 8,
                "group_size": 2,
                "until": {"truncation_below": 0.1, "over": 2, "at_most": 7},
            },
            {"name": "c", "max_new_tokens": 8, "group_size": 2},
        ],
        num_steps=20,
    )
    assert stage_steps(recipe.stages, recipe.num_steps) == [5, 7, 8]


def test_a_reference_and_a_second_pass_are_counted(shapes: dict[str, ModelShape]) -> None:
    recipe = recipe_of(loss={"kl": "k3", "kl_coef": 0.04}, update={"old_logprobs": "recompute"})
    flops_of, plain = planned(shapes["3B"], recipe).stages[0].flops, planned(shapes["3B"]).stages[0].flops
    assert {"reference", "old log-probs"} <= flops_of.keys()
    assert not {"reference", "old log-probs"} & plain.keys()


@pytest.mark.parametrize("name", ["vlm_r1_rec_3b", "vision_r1_7b", "vision_r1_7b_sft"])
@pytest.mark.parametrize("memory_gb", [24.0, 80.0, 200.0])
def test_advice_names_keys_of_the_recipe_and_can_be_taken(
    shapes: dict[str, ModelShape], name: str, memory_gb: float
) -> None:
    recipe = load_recipe(name)
    shape = shapes["3B" if "3b" in name else "7B"]
    found = plan(recipe, shape, Setting((1296,), memory_gb=memory_gb, completion_tokens=1024))
    assert not (found.fits and found.advice)
    changed = load_recipe(name, [word for one in found.advice for word in one.change.split()])
    setting = Setting((1296,), memory_gb=memory_gb, completion_tokens=1024)
    after = plan(changed, shape, setting)
    peaks = [found.worst.peak, *(one.peak for one in found.advice)]
    assert after.worst.peak == pytest.approx(peaks[-1])
    assert after.fits or not after.advice, "all that helps was advised"
    assert peaks == sorted(set(peaks), reverse=True)


def test_every_key_that_advice_can_name_is_a_key_of_the_schema(shapes: dict[str, ModelShape]) -> None:
    """Each value too: an override that the loader refuses is no advice."""
    asks_all = ["model.dtype=float64", "model.fused_layers=false", "model.train=[vision, language]"]
    for name in ("vlm_r1_rec_3b", "vision_r1_7b_sft"):
        recipe = load_recipe(name, [*asks_all, "model.gradient_checkpointing=false"])
        found = list(candidates(recipe, shapes["3B"], Setting((1296,))))
        assert len({key for key, _ in found}) >= 5
        for key, value in found:
            after: Any = load_recipe(name, overrides(key, value))
            for part in key.split("."):
                assert part in type(after).model_fields
                after = getattr(after, part)
            if isinstance(value, dict):
                assert after.model_dump(include=set(value)) == {**value, "targets": tuple(value["targets"])}
            else:
                assert (list(after) if isinstance(after, tuple) else after) == value


def test_advice_begins_with_what_costs_only_time(shapes: dict[str, ModelShape]) -> None:
    recipe = recipe_of(update={"tokens_per_micro_batch": 65536}, prompts_per_step=64)
    peak_gb = planned(shapes["3B"], recipe).worst.peak / 1e9
    found = planned(shapes["3B"], recipe, memory_gb=peak_gb)
    assert found.advice[0].change == "model.gradient_checkpointing=true"


def test_the_trained_tower_counts_in_micro_batches(shapes: dict[str, ModelShape]) -> None:
    recipe = recipe_of(model={"path": "nowhere/nothing", "train": list(ALL)})
    (short, _) = works(recipe, shapes["3B"], Setting((256,)))
    vision, language = (shapes["3B"].parameters[part] for part in ("vision", "language"))
    assert short.vision_cost == round(1024 * vision / language)


# ------------------------------------------------------------------------------------------------------------ inputs


def test_visual_tokens_follow_the_size_of_the_image() -> None:
    config = qwen_config("3B")
    assert visual_tokens(config, None, (560, 280))[0] == 20 * 10
    assert visual_tokens(config, None, None) == (1369, "images of 1024 x 1024 pixels (assumed, resized to 1036 x 1036)")


def test_the_processors_maximum_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 3136, "max_pixels": 448 * 448}))
    assert visual_tokens(qwen_config("3B"), tmp_path, None)[0] == 256
    assert visual_tokens(qwen_config("3B"), tmp_path, (4000, 4000))[0] == 256


# ---------------------------------------------------------------------------------------------------------- measured


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("prompts", "tokens"), [(1, 64), (4, 64), (4, 256)])
def test_predicted_memory_is_near_what_a_step_takes(prompts: int, tokens: int, checkpointing: bool) -> None:
    from benchmarks.plan_error import Case, measure

    found = measure(Case(prompts, 8, tokens, checkpointing))
    assert abs(found.error) < 0.2, found
