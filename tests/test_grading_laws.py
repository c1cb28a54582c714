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


@pytest.mark.parametrize("seed", range(3))
def test_a_number_with_a_decimal_comma_or_indian_groups_is_that_number_and_no_other(seed):
    rng = random.Random(seed)
    for _ in range(100):
        whole, cents = rng.randrange(10 ** rng.randint(1, 9)), rng.randrange(1, 100)
        value = f"{whole}.{cents:02d}"
        european = f"{whole:,}".replace(",", rng.choice(". ")) + f",{cents:02d}"
        head, tail = f"{whole}"[:-3], f"{whole}"[-3:]
        groups = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)][::-1]
        for kind in ("number", "math"):
            for form in ("{}", "{} €", "\\boxed{{{}}}"):
                assert grade_reply(form.format(european), value, kind).verdict.right, european
                assert not grade_reply(form.format(european), f"{whole + 1}.{cents:02d}", kind).verdict.right, european
                assert not grade_reply(form.format(european), f"{whole}{cents:02d}", kind).verdict.right, european
            assert grade_reply(",".join([*groups, tail]), f"{whole}", kind).verdict.right, groups


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("2,5", "2, 5", True),
        ("2,5", "(2, 5)", True),
        ("160 minutes (2 hours 40 minutes)", "160", True),
        ("160 minutes (2 hours 50 minutes)", "160", False),
        ("She sold 72 clips altogether.", "72", True),
        ("She never sold 72 clips.", "72", False),
        ("8 km/h", "8 m/s", False),
        ("28.8 km/h", "8 m/s", True),
        ("\\textcolor{red}{\\underline{42}}", "42", True),
        ("42+", "42", False),
        ("24 square units", "24 cm^2", True),
        ("24 cubic units", "24 cm^2", False),
    ],
)
def test_what_is_said_beside_the_value_does_not_change_it(answer, gold, right, monkeypatch):
    monkeypatch.setattr(math_pool, "shared", NoAlgebra)
    assert grade_math(answer, gold).right is right


CASES = ("x & x\\ge 0", "-x & x<0", "2x & \\text{if } x = 7")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_function_by_cases_has_its_cases_in_any_order_and_no_others(order, monkeypatch):
    monkeypatch.setattr(math_pool, "shared", NoAlgebra)
    gold = "f(x)=\\begin{cases}" + "\\\\".join(CASES) + "\\end{cases}"
    said = "\\\\".join(CASES[place] for place in order)
    assert grade_math(f"\\begin{{cases}}{said}\\end{{cases}}", gold).right
    assert not grade_math(f"\\begin{{cases}}{said.replace('x<0', 'x<1')}\\end{{cases}}", gold).right
    assert not grade_math("\\begin{cases}" + CASES[0] + "\\end{cases}", gold).right and not grade_math("x", gold).right


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
