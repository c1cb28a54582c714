"""The mixture and prefetching: pure in (seed, step), fair, without repetition."""

from __future__ import annotations

import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples

from saccade.data import Mixture, Prefetch, Source
from saccade.types import Sample


def source(name: str, size: int | None) -> Source:
    return Source(name, lambda i: Sample(f"{name}/{i}", (), "?", i, "count"), size)


def ids(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples]


@settings(max_examples=examples(30))
@given(
    weights=st.lists(st.floats(0.05, 20), min_size=1, max_size=5),
    n=st.integers(1, 9),
    seed=st.integers(0, 99),
    steps=st.integers(1, 60),
)
def test_each_source_has_its_share_of_any_number_of_steps(weights: list[float], n: int, seed: int, steps: int) -> None:
    mixture = Mixture([source(str(k), None) for k in range(len(weights))], weights, seed)
    drawn = Counter(s.meta["source"] for step in range(steps) for s in mixture.draw(step * n, n))
    for k, weight in enumerate(weights):
        assert abs(drawn[str(k)] - steps * n * weight / sum(weights)) < 6


def test_a_step_does_not_depend_on_previous_draws() -> None:
    sources = [source("a", 7), source("b", None)]
    walked = Mixture(sources, [2, 1], seed=5)
    stream = [ids(walked.draw(4 * step, 4)) for step in range(12)]
    assert [ids(Mixture(sources, [2, 1], seed=5).draw(4 * step, 4)) for step in reversed(range(12))] == stream[::-1]
    assert [ids(Mixture(sources, [2, 1], seed=6).draw(4 * step, 4)) for step in range(12)] != stream


def test_steps_of_a_mixture_can_be_drawn_in_any_order() -> None:
    sources = [source("a", 7), source("b", None)]
    asked = Mixture(sources, [2, 1], seed=5)
    for step in (5, 2, 2, 9, 0, 3):
        assert ids(asked.draw(4 * step, 4)) == ids(Mixture(sources, [2, 1], seed=5).draw(4 * step, 4)), step


def test_the_stream_of_a_seed_is_the_same_in_every_version() -> None:
    # interrupted runs depend on it: these are recorded values, not computed by hand
    mixture = Mixture([source("a", 3), source("b", None)], [2, 1], seed=7)
    assert ids(mixture.draw(0, 6)) == ["a/0", "a/2", "b/0", "a/1", "a/0", "b/1"]
    assert ids(mixture.draw(6, 6)) == ["a/1", "b/2", "a/2", "a/2", "b/3", "a/0"]


def test_position_p_belongs_to_the_share_that_contains_p_times_the_golden_ratio() -> None:
    mixture = Mixture([source("a", None), source("b", None), source("c", None)], [1, 2, 1], seed=0)
    shift = float(np.random.default_rng((0, 0)).random())
    drawn = [s.meta["source"] for s in mixture.draw(0, 40)]
    assert drawn == ["abbc"[int(4 * ((p * (5**0.5 - 1) / 2 + shift) % 1))] for p in range(40)]


def test_sources_without_weights_have_equal_shares_for_any_seed() -> None:
    sources = [source("a", 5), source("b", 5)]
    for seed in (-3, 0, 12):
        assert ids(Mixture(sources, seed=seed).draw(24, 8)) == ids(Mixture(sources, [4, 4], seed).draw(24, 8))
    assert ids(Mixture(sources).draw(0, 8)) == ids(Mixture(sources, seed=0).draw(0, 8))


def test_a_finite_source_repeats_nothing_within_an_epoch_and_changes_its_order_between_them() -> None:
    mixture = Mixture([source("a", 10), source("b", None)], [3, 1], seed=1)
    drawn = [s.id for step in range(20) for s in mixture.draw(4 * step, 4) if s.meta["source"] == "a"]
    epochs = [drawn[i : i + 10] for i in range(0, 50, 10)]
    assert all(sorted(epoch) == sorted(f"a/{i}" for i in range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_an_infinite_source_is_read_in_order() -> None:
    mixture = Mixture([source("w", None)])
    assert [s for step in range(3) for s in ids(mixture.draw(2 * step, 2))] == [f"w/{i}" for i in range(6)]


def test_mismatched_sources_and_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="0 sources and 0 weights"):
        Mixture([])
    with pytest.raises(ValueError, match="expected numbers above 0"):
        Mixture([source("a", 3), source("b", 3)], [2, -1])
    assert len(Mixture([source("a", 3)], [1e-3]).draw(0, 1)) == 1
    with pytest.raises(ValueError, match="1 sources and 2 weights"):
        Mixture([source("a", 3)], [1, 2])
    with pytest.raises(ValueError, match="expected numbers above 0"):
        Mixture([source("a", 3)], [0])
    with pytest.raises(ValueError, match="'a' holds no samples"):
        Mixture([source("a", 0)])


def test_prefetch_returns_the_results_of_the_function_in_any_order() -> None:
    with Prefetch(lambda step: step * step, depth=2) as ahead:
        assert [ahead(step) for step in (0, 1, 2, 7, 3, 4)] == [0, 1, 4, 49, 9, 16]


def test_prefetch_works_ahead_and_not_past_the_stop() -> None:
    began: list[int] = []
    with Prefetch(lambda step: began.append(step) or step, depth=2, stop=4) as ahead:
        assert ahead(1) == 1
        until = time.monotonic() + 5
        while began != [1, 2, 3] and time.monotonic() < until:
            time.sleep(0.001)
    assert began == [1, 2, 3]


def test_prefetch_raises_in_the_call_for_the_failed_step() -> None:
    def fail_at_two(step: int) -> int:
        if step == 2:
            raise ValueError("image 2 is damaged")
        return step

    with Prefetch(fail_at_two) as ahead:
        assert ahead(0) == 0
        assert ahead(1) == 1
        with pytest.raises(ValueError, match="image 2 is damaged"):
            ahead(2)
        assert ahead(3) == 3


def test_prefetch_leaves_no_thread_behind() -> None:
    with pytest.raises(KeyError), Prefetch(lambda step: step) as ahead:
        ahead(0)
        raise KeyError
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
