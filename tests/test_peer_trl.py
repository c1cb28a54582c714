"""Saccade and TRL, given the same rollouts, take the same step: comparing their speed means something."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.setting import Setting, checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed; it is in the extra 'bench'"),
]
SETTING = Setting(visual_tokens=16, new_tokens=12, group_size=4, prompts=2)
ROUND_OFF = 1e-5


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("peer") / "model", "S")


@pytest.mark.parametrize("shared_prefix", ["on", "off"])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_the_gradient_of_a_step_on_the_same_rollouts_is_that_of_trl(
    directory: Path, loss_type: str, shared_prefix: str
) -> None:
    from benchmarks.agreement import agreement

    same = agreement(directory, SETTING, loss_type, shared_prefix)
    assert same.distance <= ROUND_OFF
    assert same.loss == pytest.approx(same.trl_loss, abs=1e-6)
    assert same.parameters > 50, "vision tower, projector and language model all have a gradient"


def test_another_average_over_tokens_is_another_gradient(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: on replies of unequal lengths, the mean over tokens is not that over sequences."""
    from benchmarks import agreement

    monkeypatch.setitem(agreement.AGGREGATION, "dapo", "sequence_mean")
    assert agreement.agreement(directory, SETTING, "dapo").distance > 100 * ROUND_OFF
