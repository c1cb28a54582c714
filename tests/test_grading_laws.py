"""Laws of the graders: all hand-made cases, rewrites that keep the meaning stay right, those that spoil it do not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from saccade.grading import MathRules, Verdict, grade_choices, grade_math, grade_reply, math_pool
from saccade.grading.pairs import VERDICTS
from tests.answer_rewrites import keep, other_unit, spoil

HERE = Path(__file__).parent
FILES = {"own": HERE / "cases" / "grading.jsonl", "given": HERE.parent.parent / "shared" / "cases" / "grading.jsonl"}


@pytest.fixture(scope="module", autouse=True)
def pool():
    yield
    math_pool.shared().close()


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("name", FILES)
def test_every_hand_made_case_is_as_expected(name, part):
    if not FILES[name].is_file():
        pytest.skip(f"{FILES[name]} is not there")
    differing = []
    for line in FILES[name].read_text(encoding="utf-8").splitlines()[part::8]:
        row = json.loads(line)
        graded = grade_reply(row["prediction"], row["gold"], row["kind"], tuple(row.get("options", ())))
        if VERDICTS[graded.verdict.right] != row["expected"]:
            differing.append((row, graded))
    assert differing == []


class NoAlgebra:
    """A pool that holds nothing equal, so that the rules alone must know what is right."""

    def verify(self, gold: str, answer: str) -> Verdict:
        return Verdict(False, "math: symbolic")


def misjudged(count: int, seed: int) -> list[tuple[str, str]]:
    """The first rewrites with a verdict that is not theirs: half keep the meaning, half spoil it."""
    rng = random.Random(seed)
    for _ in range(count // 2):
        kept, spoiled = keep(rng), (spoil if rng.random() < 0.9 else other_unit)(rng)
        for (reply, gold), right in ((kept, True), (spoiled, False)):
            if grade_reply(reply, gold, "math").verdict.right is not right:
                return [(reply, gold)]
    return []


@pytest.mark.parametrize("seed", range(4))
def test_rewrites_that_keep_the_meaning_stay_right_and_those_that_spoil_it_are_wrong(seed, monkeypatch):
    monkeypatch.setattr(math_pool, "shared", NoAlgebra)
    assert misjudged(500, seed) == []


@pytest.mark.slow
def test_two_hundred_thousand_random_rewrites(monkeypatch):
    monkeypatch.setattr(math_pool, "shared", NoAlgebra)
    assert misjudged(200_000, random.randrange(1 << 30)) == []


@pytest.mark.slow
def test_algebra_accepts_no_spoiled_answer_by_accident():
    rng = random.Random(random.randrange(1 << 30))
    for _ in range(1_000):
        answer, gold = spoil(rng)
        assert grade_reply(answer, gold, "math").verdict.right is False, (answer, gold)


@pytest.mark.parametrize(("answer", "share"), [("A, C", 1.0), ("A", 0.5), ("A, B", 0.0), ("", 0.0), ("A, B, C", 0.0)])
def test_several_letters_have_partial_credit_as_an_option(answer, share):
    verdict = grade_choices(answer, "AC", partial=True)
    assert (verdict.value, verdict.right) == (share, share == 1.0)
    assert grade_choices(answer, "AC").value == float(share == 1.0)


@pytest.mark.parametrize(
    ("answer", "gold", "rules", "right"),
    [
        ("0.333", "1/3", {"digits": 3}, True),
        ("0.333", "1/3", {"digits": 4}, False),
        ("3.5", "3.464", {"gold_decimals": 1}, False),
        ("\\sqrt{12}", "3.5", {"gold_decimals": 1}, True),
        ("\\sqrt{12}", "3.46", {"gold_decimals": 3}, False),
        ("12", "12 cm", {"units": "required"}, False),
        ("120 mm", "12 cm", {"units": "required"}, True),
        ("12 m", "12 cm", {"units": "ignored"}, True),
        ("(2,1)", "(1,2)", {"order": "any"}, True),
        ("2, 1", "1, 2", {"order": "strict"}, False),
        ("{2, 1}", "\\{1, 2\\}", {"order": "strict"}, True),
        ("3.0001", "3", {"digits": 1, "gold_decimals": 0}, False),
    ],
)
def test_the_rules_in_force_are_an_option(answer, gold, rules, right, monkeypatch):
    monkeypatch.setattr(math_pool, "shared", NoAlgebra)
    assert grade_math(answer, gold, MathRules(**rules)).right is right
