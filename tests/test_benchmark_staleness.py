"""The simulation of sampling one step ahead: closed forms, and what it can never gain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.staleness import Times, bound, main, simulate


def test_constant_times_give_the_closed_forms() -> None:
    times = Times(rollout=6.0, train=4.0, sync=1.0)
    assert simulate(times, 0, 10) == pytest.approx(11.0)
    # the first rollout is alone, then nine steps last as long as a rollout, and the last update is alone
    assert simulate(times, 1, 10) == pytest.approx((1 + 6 + 9 * (1 + 6) + 4) / 10)
    assert bound(times) == pytest.approx(11 / 7)


@pytest.mark.parametrize("train", [1.0, 6.0, 30.0])
def test_the_gain_is_below_its_bound_and_shrinks_with_the_spread(train: float) -> None:
    gains = []
    for spread in (0.0, 0.5):
        times = Times(6.0, train, 0.5, spread)
        gains.append(simulate(times, 0, 3000) / simulate(times, 1, 3000))
    assert 1.0 < gains[1] < gains[0] * 1.01  # the drawn means are a little off the given ones
    assert gains[0] <= bound(Times(6.0, train, 0.5))


def test_an_evaluation_waits_for_the_rollout_in_flight() -> None:
    often = Times(6.0, 4.0, evaluation=2.0, every=1)
    assert simulate(often, 1, 100) == pytest.approx((6 + 99 * (6 + 2) + 4 + 2) / 100)


def test_the_program_writes_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rollout", "10", "--train", "10", "--sync", "0", "--spread", "0", "--json", str(tmp_path / "n.json")])
    found = json.loads((tmp_path / "n.json").read_text())
    assert found["gain"] == pytest.approx(2.0, rel=2e-3)
    assert "gain" in capsys.readouterr().out


@pytest.mark.slow
def test_the_loop_itself_can_be_measured(tmp_path: Path) -> None:
    main(["--measure", "--quick", "--json", str(tmp_path / "n.json")])
    assert json.loads((tmp_path / "n.json").read_text())["rollout_s"] > 0.05
