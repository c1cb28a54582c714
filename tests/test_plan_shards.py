"""What one of several GPUs holds and waits for, by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from test_plan import qwen_config

from saccade.cli.options import load_recipe
from saccade.planning.flops import ModelShape
from saccade.planning.memory import memory, total
from saccade.planning.plan import Plan, plan
from saccade.planning.shards import Links, communication, state
from saccade.planning.stages import Setting, works
from saccade.training.config import RLRecipe, SFTRecipe

SETTING = Setting(images=(1369,), completion_tokens=512)


@pytest.fixture(scope="module")
def shapes() -> dict[str, ModelShape]:
    return {size: ModelShape.from_config(qwen_config(size)) for size in ("3B", "7B")}


def recipe_of(name: str, *overrides: str) -> RLRecipe:
    found = load_recipe(name, overrides)
    assert isinstance(found, RLRecipe)
    return found


def planned(shapes: dict[str, ModelShape], gpus: int, *overrides: str) -> Plan:
    return plan(recipe_of("vlm_r1_rec_3b", *overrides), shapes["3B"], replace(SETTING, gpus=gpus))


def test_the_shards_of_all_gpus_are_the_whole_state(shapes: dict[str, ModelShape]) -> None:
    shape = shapes["3B"]
    for gpus in (2, 8, 16):
        (work,) = works(recipe_of("vlm_r1_rec_3b"), shape, replace(SETTING, gpus=gpus))
        held = state(shape, work, shape.total)
        assert held["shard of the weights"] * gpus == pytest.approx(4 * shape.total)
        assert held["optimizer state"] * gpus == pytest.approx(8 * shape.total)


def test_more_gpus_need_less_memory_and_time_each(shapes: dict[str, ModelShape]) -> None:
    plans = [planned(shapes, gpus) for gpus in (1, 2, 4, 8, 16)]
    assert all(more.worst.peak < fewer.worst.peak for fewer, more in pairwise(plans))
    seconds = [one.stages[0].step_seconds for one in plans]
    assert all(more < fewer for fewer, more in pairwise(seconds))
    assert seconds[0] / seconds[-1] <= 16.0


def test_copies_of_the_model_hold_more_and_offloading_less(shapes: dict[str, ModelShape]) -> None:
    plain, copied, offloaded = (
        planned(shapes, 16, *overrides) for overrides in ((), ("shard.replicate=2",), ("shard.cpu_offload=true",))
    )
    assert offloaded.worst.peak < plain.worst.peak < copied.worst.peak


def test_a_frozen_vision_side_is_whole_on_every_gpu(shapes: dict[str, ModelShape]) -> None:
    shape = shapes["7B"]
    recipe = recipe_of("vision_r1_7b", "model.dtype=bfloat16")
    for work in works(recipe, shape, replace(SETTING, gpus=8)):
        held = memory(shape, work)
        vision = shape.parameters["vision"] + shape.parameters["projector"]
        assert held["update"]["frozen vision side"] == 2 * vision
        assert total(held["rollout"]) > 2 * shape.parameters["language"]  # all weights are there to generate


def test_waiting_grows_with_slow_networks_and_falls_with_copies_inside_a_node(shapes: dict[str, ModelShape]) -> None:
    shape, fast, slow = shapes["7B"], Links(), Links(network_gbs=5.0)
    recipe = recipe_of("vision_r1_7b", "prompts_per_step=512")

    def waiting(links: Links, gpus: int, *overrides: str) -> float:
        found = recipe_of("vision_r1_7b", "prompts_per_step=512", *overrides)
        work = works(found, shape, replace(SETTING, gpus=gpus))[0]
        return communication(shape, work, links, 0.0, shape.parameters["language"])

    assert works(recipe, shape, replace(SETTING, gpus=512))[0].groups == 1
    assert waiting(slow, 64) > 2 * waiting(fast, 64)
    assert waiting(slow, 64, "shard.replicate=8") < waiting(slow, 64)
    assert waiting(fast, 512) / works(recipe, shape, replace(SETTING, gpus=512))[0].micro_batches > 0


def test_a_collective_within_one_gpu_takes_no_time() -> None:
    assert Links().seconds(10, 1e9, 1, spread=False) == 0.0
    inside, outside = (Links(network_gbs=10).seconds(1, 1e9, 16, spread) for spread in (False, True))
    assert outside > inside > 1e9 * 15 / 16 / 450e9


ALL_7B = "model.train=[vision,projector,language]"
TABLE = [
    ("vlm_r1_rec_3b", "3B", 256, (), {8: (17.4, [1.4]), 16: (14.3, [1.0])}),
    ("vision_r1_7b_sft", "7B", None, (), {8: (22.3, [1.2]), 16: (15.1, [0.6])}),
    (
        "vision_r1_7b",
        "7B",
        1024,
        (ALL_7B, "rollout.engine.max_rows=32"),
        {8: (51.2, [104, 56]), 16: (43.0, [52, 28])},
    ),
    (
        "vision_r1_7b",
        "7B",
        1024,
        ("prompts_per_step=512", "rollout.engine.max_rows=64"),
        {8: (67.0, [330, 176]), 64: (52.1, [41, 22]), 512: (22.2, [8.6, 6.8])},
    ),
]


@pytest.mark.parametrize(("name", "size", "tokens", "overrides", "expected"), TABLE)
def test_the_table_of_the_documentation_is_what_the_plan_says(
    shapes: dict[str, ModelShape],
    name: str,
    size: str,
    tokens: int | None,
    overrides: tuple[str, ...],
    expected: dict[int, tuple[float, list[float]]],
) -> None:
    recipe = load_recipe(name, ("model.dtype=bfloat16", *overrides))
    assert isinstance(recipe, RLRecipe | SFTRecipe)
    for gpus, (peak, seconds) in expected.items():
        found = plan(recipe, shapes[size], Setting(images=(1369,), completion_tokens=tokens, gpus=gpus))
        assert found.fits
        assert found.worst.peak / 1e9 == pytest.approx(peak, abs=0.06)
        assert [stage.step_seconds for stage in found.stages] == pytest.approx(seconds, rel=0.05)
