from __future__ import annotations

import math

import numpy as np
import pytest

from saccade.evaluation import statistics as st


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.490162, 0.943318), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (150, 300, 0.443780, 0.556220)],
)
def test_the_wilson_interval_has_the_published_values(right, n, low, high):
    interval = st.wilson(right, n)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((right / n, low, high), abs=1e-6)


def test_no_items_give_no_mean_and_the_whole_range():
    for interval in (st.wilson(0, 0), st.bootstrap([])):
        assert math.isnan(interval.mean) and (interval.low, interval.high) == (0.0, 1.0)


def test_more_right_answers_than_items_are_refused():
    with pytest.raises(ValueError, match="5 right of 4"):
        st.wilson(5, 4)


def test_the_bootstrap_of_independent_answers_is_as_wide_as_the_normal_interval():
    values = [1.0] * 120 + [0.0] * 180
    interval = st.bootstrap(values)
    half = 1.96 * math.sqrt(0.4 * 0.6 / 300)
    assert interval.mean == pytest.approx(0.4)
    assert (interval.low, interval.high) == pytest.approx((0.4 - half, 0.4 + half), abs=0.005)


def test_the_bootstrap_is_the_same_for_the_same_seed_and_another_for_another():
    values = np.random.default_rng(0).random(50).tolist()
    assert st.bootstrap(values, seed=3) == st.bootstrap(values, seed=3)
    assert st.bootstrap(values, seed=3) != st.bootstrap(values, seed=4)


def test_equal_items_have_an_interval_without_width():
    assert st.bootstrap([0.25] * 40) == st.Interval(0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("n", "right", "k", "expected"),
    [(10, 3, 5, 1 - 21 / 252), (4, 1, 1, 0.25), (4, 1, 4, 1.0), (4, 0, 4, 0.0), (8, 7, 2, 1.0), (5, 2, 2, 0.7)],
)
def test_pass_at_k_is_the_unbiased_estimator(n, right, k, expected):
    assert st.pass_at_k(n, right, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_one_is_the_share_that_is_right():
    assert st.pass_at_k(5, 3, 1) == pytest.approx(3 / 5)


def test_pass_at_more_attempts_than_were_made_is_refused():
    with pytest.raises(ValueError, match="k=5"):
        st.pass_at_k(4, 1, 5)


def test_the_majority_wins_ties_count_by_halves_and_silence_does_not_vote():
    assert st.maj_at_k(["3", "3", "4"], [True, True, False]) == 1.0
    assert st.maj_at_k(["3", "4", "4"], [True, False, False]) == 0.0
    assert st.maj_at_k(["3", "4"], [True, False]) == 0.5
    assert st.maj_at_k([None, None, "3"], [False, False, True]) == 1.0
    assert st.maj_at_k([None, None], [False, False]) == 0.0


def test_equal_answers_vote_together_however_they_are_spelled():
    halves = ["1/2", "0.5", r"\frac{1}{2}", "3", "3"]
    assert st.maj_at_k(halves, [True, True, True, False, False]) == 1.0
    assert st.maj_at_k(halves, [False, False, False, True, True]) == 0.0
    assert st.maj_at_k(["7", "7.0", "$7$", "8 cm", "8 cm"], [False, False, False, True, True]) == 0.0
    assert st.maj_at_k(["A cat.", "a  cat", "dog", "dog"], [True, False, False, False]) == 0.5
    assert st.maj_at_k(["30 min", "half an hour", "2", "2"], [True, True, False, False]) == 0.5


@pytest.mark.parametrize(
    ("one", "other", "options"),
    [
        ("1/2", "0.50", ()),
        (r"\dfrac12", "50/100", ()),
        (r"\sqrt{4}", "2", ()),
        ("1,000", "1000", ()),
        ("-0", "0", ()),
        ("Red.", "red", ()),
        ("(B)", "blue", ("red", "blue")),
        ("B", "The answer is B.", ("red", "blue")),
    ],
)
def test_the_key_of_a_vote_is_the_meaning_of_the_answer(one: str, other: str, options: tuple[str, ...]):
    assert st.vote_key(one, options) == st.vote_key(other, options)
    assert st.vote_key(one, options) != st.vote_key("7.5", options)


def test_any_text_has_a_key():
    for text in ("", " ", "\\frac{1}{0}", "1e999", "9" * 5_000, "{" * 400, "nan", "\ud800", "x" * 600):
        assert isinstance(st.vote_key(text), str) and isinstance(st.vote_key(text, ("a", "b")), str)


@pytest.mark.parametrize(
    ("a", "b", "p"), [(5, 15, 0.041389465), (0, 0, 1.0), (6, 0, 0.03125), (10, 10, 1.0), (1, 9, 0.021484375)]
)
def test_mcnemar_is_the_exact_binomial_p(a, b, p):
    assert st.mcnemar(a, b) == pytest.approx(p, abs=1e-9)
    assert st.mcnemar(b, a) == st.mcnemar(a, b)


def test_a_paired_comparison_is_narrower_than_two_separate_intervals():
    rng = np.random.default_rng(1)
    b = (rng.random(300) < 0.5).astype(float)
    a = np.maximum(b, rng.random(300) < 0.2)
    paired = st.compare_paired("a - b", a.tolist(), b.tolist())
    separate = st.wilson(int(a.sum()), 300).high - st.wilson(int(a.sum()), 300).low
    assert paired.difference == pytest.approx(a.mean() - b.mean())
    assert paired.high - paired.low < separate
    assert paired.shown and paired.p is not None and paired.p < 1e-6


def test_a_run_compared_with_itself_shows_nothing():
    same = [1.0, 0.0, 1.0, 1.0]
    result = st.compare_paired("same", same, same)
    assert (result.difference, result.low, result.high, result.shown, result.p) == (0.0, 0.0, 0.0, False, 1.0)


def test_shares_of_several_attempts_have_no_mcnemar_p():
    assert st.compare_paired("k", [0.5, 1.0, 0.25], [0.0, 0.5, 0.25]).p is None


def test_runs_on_different_items_are_not_compared():
    with pytest.raises(ValueError, match="2 and 1 items"):
        st.compare_paired("odd", [1.0, 0.0], [1.0])
