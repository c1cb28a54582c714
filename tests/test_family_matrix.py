"""Shared prefix = plain rows for every family, however it is tuned and whatever the row holds; and a fault would show.
`make test` runs each family's default and all of Qwen2.5-VL; `make test-slow` runs the whole matrix.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES
from family_matrix import CELLS, DEFAULT, LIMIT, LIMIT_FLOAT64, Cell, batch, load, measure

from saccade.models.adapter import PARTS
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, load_policy
from saccade.models.sharing import HALF_FACTOR, HALF_FLOOR
from saccade.verify.difference import difference, run, throughout
from saccade.verify.faults import FAULTS
from saccade.verify.sharing import control, distances
from saccade.verify.subject import float32_copy, sharing_modes, subject_of

FULL = "qwen2_5_vl"
MROPE = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "glm46v"}
"""Families whose positions have three axes, so that a reply does not begin at the number of tokens."""


def quick_for(name: str, *values: object) -> object:
    """The one family in full is quick, the others are slow."""
    return pytest.param(name, *values, marks=[] if name == FULL else [pytest.mark.slow])


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory):
    """(family, tuning, dtype) -> policy, each written and loaded once."""
    folder, known = tmp_path_factory.mktemp("families"), dict[tuple[str, ...], Policy]()

    def get(name: str, tuning: str = "full", dtype: str = "float32") -> Policy:
        key = (name, tuning, dtype)
        if key not in known:
            known[key] = load(name, folder / name, tuning, dtype)
        return known[key]

    return get


def assert_equal(policy: Policy, cell: Cell) -> None:
    found = measure(policy, cell)
    assert found, "the family shares no prompts"
    for (sharing, recomputed), apart in found.items():
        assert apart is not None or (sharing == "two_phase" and recomputed)
        assert apart is None or max(apart) <= LIMIT, f"{cell}, {sharing}, recomputed: {recomputed}: {apart}"


def shares(policy: Policy) -> bool:
    return policy.adapter.sharing != "none"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_packed_rows_equal_its_plain_rows(policies, name) -> None:
    policy = policies(name)
    if not shares(policy):
        pytest.skip(f"{name} has no proven way to share prompts; it trains on the plain path")
    assert_equal(policy, DEFAULT)


@pytest.mark.parametrize("name", [quick_for(name) for name in FAMILIES])
def test_without_round_off_nothing_is_left_of_the_difference(policies, name) -> None:
    """What float32 leaves could hide a small fault; float64 throughout leaves 1e-14."""
    policy = policies(name, dtype="float64")
    if not shares(policy):
        pytest.skip(f"{name} packs no rows")
    packed = batch(policy.adapter, DEFAULT.content)
    with throughout(policy.model.dtype):
        plain = run(policy, packed, "plain")
        for sharing in sharing_modes(policy):
            assert max(difference(run(policy, packed, "packed", sharing), plain)) <= LIMIT_FLOAT64


CASES = [quick_for(name, cell) for name in FAMILIES for cell in CELLS if (name, cell) != (FULL, DEFAULT)]


@pytest.mark.parametrize("name, cell", CASES, ids=str)
def test_packed_rows_equal_plain_rows_however_tuned_and_whatever_they_hold(policies, name, cell) -> None:
    policy = policies(name, cell.tuning)
    if shares(policy):
        assert_equal(policy, cell)
    else:
        gradients = run(policy, batch(policy.adapter, cell.content), "plain").gradients
        assert all(torch.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", [quick_for(name) for name in FAMILIES])
def test_a_fault_in_the_packed_row_is_far_beyond_the_bound(policies, name, fault) -> None:
    policy = policies(name)
    if not shares(policy):
        pytest.skip(f"{name} packs no rows")
    check = control(subject_of(policy, limit=10 * LIMIT), fault)
    if fault == "start at len(prompt)" and name not in MROPE:
        assert check.held is None
    else:
        assert check.held is True, check


@pytest.mark.parametrize("name", [quick_for(name) for name in FAMILIES])
def test_half_precision_is_as_near_to_float32_packed_as_plain(policies, name) -> None:
    policy = policies(name, dtype="bfloat16")
    if not shares(policy):
        pytest.skip(f"{name} packs no rows")
    truth = float32_copy(policy)
    assert truth is not None
    ours, plain = distances(policy, truth)
    assert plain.gradient > 0
    assert ours.logprobs <= HALF_FACTOR * plain.logprobs + HALF_FLOOR
    assert ours.gradient <= HALF_FACTOR * plain.gradient


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-3), ("float64", 1e-8)])
def test_packed_rows_equal_plain_rows_on_trained_weights(dtype, limit) -> None:
    policy = load_policy(ModelConfig(path="base", dtype=dtype, device="cpu", train=PARTS))
    packed = batch(policy.adapter, "all of it")
    with throughout(policy.model.dtype):
        plain = run(policy, packed, "plain")
        for sharing in ("merged", "split"):
            apart = difference(run(policy, packed, "packed", sharing), plain)
            assert max(apart) <= limit, f"{sharing}: {apart}"


def test_lora_trains_its_own_weights_and_the_tower_only_where_asked(policies) -> None:
    policy: Policy = policies(FULL, "lora")
    for tower, parts in (("frozen", {"language"}), ("trainable", {"vision", "projector", "language"})):
        measure(policy, Cell(tower, "lora", "one image"))
        moving = {part for part, named in policy.parameters_by_part().items() if any(p.requires_grad for _, p in named)}
        assert moving == parts
        language = [name for name, p in policy.parameters_by_part()["language"] if p.requires_grad]
        assert language and all("lora_" in name for name in language)


def test_the_matrix_holds_every_family_of_the_table() -> None:
    from saccade.models.families import ADAPTERS

    assert set(ADAPTERS) <= {Path(name).stem for name in FAMILIES}
