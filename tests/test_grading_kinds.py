"""Laws of the door to all graders, of the tolerances of the benchmarks, and of answers of several parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples

from saccade.grading import ALL_KINDS, TOLERANCES, grade_answer, grade_reply, grade_similarity, grade_within, math_pool
from saccade.grading.kinds import kind_of
from saccade.grading.sets import compare, read_intervals
from tests.test_parsing_total import ANYTHING


@pytest.mark.parametrize(
    ("rule", "answer", "gold", "right"),
    [
        ("exact", "0.5", "1/2", True),
        ("exact", "0.5001", "0.5", False),
        ("mathvista_float", "1.24", "1.2", True),
        ("mathvista_float", "1.25", "1.2", True),  # round() of the float below 1.25
        ("mathvista_float", "1.26", "1.2", False),
        ("mathvista_integer", "3.9", "3", True),
        ("mathvista_integer", "4", "3", False),
        ("mm_math", "1.01", "1", True),
        ("mm_math", "1.02", "1", False),
        ("mm_math", "50", "0.5", True),  # the published rule, false positives and all
        ("mm_math", "0.03", "3", True),
        ("math_vision", "3.141", "3.14", True),
        ("math_vision", "3.16", "3.14", False),
        ("math_vision_vlmeval", "3.141", "3.14", False),
        ("math_vision_vlmeval", "3.1400001", "3.14", True),
        ("dynamath", "1.0009", "1", True),
        ("dynamath", "1.002", "1", False),
        ("dynamath", "3\\pi", "9.425", True),
        ("chartqa", "105", "100", True),
        ("chartqa", "106", "100", False),
        ("chartqa", "2016", "2015", True),
        ("chartqa", "-100", "100", False),
        ("chartqa", "50%", "0.5", True),
        ("chartqa", "50%", "50", False),
        ("chartqa", "1,000", "1000", False),
        ("chartqa", "0.0", "0", False),
        ("chartqa", "0", "0", True),
        ("chartqa", "Blue", "blue", True),
        ("chartqa", "nan", "1", False),
        ("qwen_math", "1.00009", "1", True),
        ("qwen_math", "1.001", "1", False),
        ("qwen_math", "50", "0.5", True),
        ("math_verify", "0.3333333", "1/3", True),
        ("math_verify", "0.333", "1/3", False),
        ("dynamath", "none", "1", False),
        ("dynamath", "1", "none", None),
    ],
)
def test_each_benchmark_has_its_tolerance(rule, answer, gold, right):
    assert grade_within(answer, gold, rule, precision=1).right is right


def test_every_tolerance_says_where_it_is_from_and_takes_the_gold_itself():
    assert all(rule.source for rule in TOLERANCES.values())
    for name in TOLERANCES:
        assert grade_within("1.5", "1.5", name, precision=1).right is True
        assert grade_within("1.5", 1.5, name, precision=1).right is True


def test_unknown_rules_kinds_and_missing_precision_are_refused():
    with pytest.raises(ValueError, match=r"'charqa', expected one of exact"):
        grade_within("1", "1", "charqa")
    with pytest.raises(ValueError, match="precision=1"):
        grade_within("1", "1", "mathvista_float")
    with pytest.raises(ValueError, match="'nonsense', expected one of auto"):
        grade_answer("1", "1", "nonsense")
    with pytest.raises(ValueError, match="share above 0"):
        grade_similarity("a", "a", at_least=0)


@pytest.mark.parametrize(
    ("gold", "options", "kind"),
    [
        ("B", (), "choice"),
        ("(b)".upper(), (), "choice"),
        ("red", ("red", "blue"), "choice"),
        ("yes", (), "yes_no"),
        (True, (), "yes_no"),
        ("否", (), "yes_no"),
        ("No Defect", (), "text"),
        ("Tuesday", (), "text"),
        ("x", (), "math"),
        ("12 cm", (), "math"),
        (r"\sqrt{2}", (), "math"),
        (3, (), "math"),
    ],
)
def test_the_kind_follows_from_the_gold(gold, options, kind):
    assert kind_of(gold, options) == kind


@pytest.mark.parametrize(
    ("reply", "gold", "options", "right", "route"),
    [
        ("<think>A</think><answer>Final Answer: B</answer>", "B", (), True, "choice"),
        ("<think>A</think><answer>B</answer>", "blue", ("red", "blue"), True, "choice"),
        ("<think>the answer is 5</think>", "5", (), False, "no answer"),
        ("<think>5", "5", (), False, "no answer"),
        ("", "", (), None, "no answer"),
        ("It is \\boxed{1} or \\boxed{2}", "1, 2", (), True, "math: exact"),
        ("It is \\boxed{1} or \\boxed{2}", [2, 1], (), True, "math: parts"),
        ("It is \\boxed{1}, no: \\boxed{2}", "2", (), True, "math: exact"),
        ("The answer is no defect.", "No Defect", (), True, "text"),
        ("< answer >yes</ answer >", True, (), True, "yes_no"),
        ("3", None, (), None, "gold"),
        ("3", {"a": 1}, (), False, None),
    ],
)
def test_a_reply_is_graded_by_what_it_answers(reply, gold, options, right, route):
    verdict = grade_reply(reply, gold, "auto", options).verdict
    if route is not None:
        assert (verdict.right, verdict.route) == (right, route)
    math_pool.shared().close()


def test_the_page_on_grading_names_every_kind_and_tolerance():
    page = (Path(__file__).parent.parent / "docs" / "grading.md").read_text(encoding="utf-8")
    assert [kind for kind in ALL_KINDS if f"| `{kind}` |" not in page] == []


def test_similarity_is_an_edit_distance_with_a_threshold():
    assert grade_similarity("kitten", "sitting").value == pytest.approx(1 - 3 / 7)
    assert grade_similarity("Kitten ", "kitten").right is True
    assert grade_similarity("kittens", "kitten", at_least=0.8).right is True
    assert grade_similarity("dog", "kitten", at_least=0.8).right is False
    assert grade_similarity("dog", " ").right is None


def same(a: str, b: str) -> bool | None:
    return True if a == b else (False if a.isdigit() and b.isdigit() else None)


@pytest.mark.parametrize(
    ("got", "wanted", "equal"),
    [
        ("(1,2)", "(1,2]", False),
        ("(1,2]", "1<x\\leq2", True),
        ("2\\geqx>1", "1<x\\leq2", True),
        ("(-\\infty,\\frac{1}{2})", "x<0.5", True),
        ("(1,2)\\cup(3,4)", "(3,4)\\cup(1,2)", True),
        ("(1,2)", "(1,2)\\cup(3,4)", False),
        ("x\\neq1", "x<1orx>1", True),
        ("\\{\\}", "\\{1\\}", False),
        ("\\{1\\}", "1", True),
        ("((1,2),(3,4))", "((1,2),(3,4))", True),
        ("(1,2),(3,4)", "(3,4),(1,2)", True),
        ("\\{1,2\\}", "(1,2)", False),
        ("1\\pm2", "1+2,1-2", True),
        ("x", "y", None),
        ("(((", "1,2", None),
        ("1" + ",1" * 70, "1,2", None),
        ("1" + ",1" * 60, "1", True),
    ],
)
def test_parts_are_compared_by_what_their_brackets_mean(got, wanted, equal):
    assert compare(got, wanted, same) is equal


@given(st.permutations(range(5)), st.integers(1, 5))
def test_order_counts_in_tuples_only(order, n):
    items, shuffled = [str(i) for i in range(n)], [str(i) for i in order if i < n]
    for opening, closing in (("\\{", "\\}"), ("", "")):
        if n > 1 or opening:
            left, right = (opening + ",".join(each) + closing for each in (items, shuffled))
            assert compare(left, right, same) is True
            assert compare(left, "\\{9\\}", same) is False
    if n > 1:
        left, right = ("(" + ",".join(each) + ")" for each in ([*items, "x"], [*shuffled, "x"]))
        assert compare(left, right, same) is (items == shuffled)


def test_an_interval_that_runs_backwards_is_none():
    assert read_intervals("(2,1)") is None and read_intervals("(1,2)") is not None


GOLDS = (
    st.sampled_from(["B", "yes", "3", "12 cm", "1, 2", r"\{1,2\}", "(0,1)", "x>2", "50%", "No Defect", "3:4"])
    | ANYTHING
)
QUICK_KINDS = [kind for kind in ALL_KINDS if kind not in ("math", "auto")]


@given(ANYTHING, GOLDS, st.sampled_from(QUICK_KINDS))
@settings(max_examples=examples(2_000, random=200_000))
def test_no_text_raises_and_the_verdict_is_one_of_three(reply, gold, kind):
    graded = grade_reply(reply, gold, kind, ("red", "blue", "1"), precision=1)
    assert graded.verdict.right in (True, False, None) and graded.verdict.route
    assert graded.answer is not None or graded.verdict.right is not True


@given(ANYTHING, ANYTHING)
@settings(max_examples=examples(2_000))
def test_mathematics_without_algebra_takes_any_two_texts(answer, gold):
    pool, asked = math_pool.shared, []

    class Pool:
        def verify(self, gold: str, answer: str) -> None:
            asked.append((gold, answer))
            return grade_within(answer, gold, "exact")

    math_pool.shared = Pool
    try:
        assert grade_answer(answer, gold, "math").right in (True, False, None)
    finally:
        math_pool.shared = pool


def test_rewards_import_without_torch_or_network_in_under_a_second():
    code = (
        "import sys, time; import saccade.rewards;"
        "assert not {'torch', 'httpx2', 'sympy', 'math_verify'} & set(sys.modules), 'heavy';"
        "print(time.process_time())"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) for _ in range(2)
    ]
    assert min(seconds) < 1.0
