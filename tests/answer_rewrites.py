"""Random rewrites of right answers: those that keep the meaning, and those that must not stay right by accident."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Rewrite = Callable[[random.Random, str], str]

SENTENCES = (
    "The answer is {}.",
    "So the answer is {}",
    "Final answer: {}",
    "**Final Answer:** {}",
    "Therefore, the value is {}.",
    "Hence we get {}.",
    "The result equals {}. I am confident.",
    "Answer: {}\n\nHope this helps!",
    "It is {}, as was to be shown.",
    "答案是{}",
    "After some work we obtain {}.",
    "<answer>{}</answer>",
    "<think>5, or 7?</think><answer>The answer is {}.</answer>",
    "<think>It may be 12.</think> The final answer is \\boxed{{{}}}.",
    "\\boxed{{{}}}",
    "**{}**",
    " {} ",
    "{}.",
    "\\[{}\\]",
    "\\({}\\)",
    "i.e. {}",
    "La respuesta es {}.",
    "The value is {}, attained at x = 3.",
    "The first value is {}, while the second is 30.",
)


def number(rng: random.Random) -> tuple[str, list[str], str]:
    """A number as (gold, equal forms, its text for arithmetic)."""
    gold, others = rng.choice((whole, fraction, decimal, root, scientific, multiple_of_pi))(rng)
    return gold, [gold, *others], gold if "\\frac" not in gold else others[-1]


def whole(rng: random.Random) -> tuple[str, list[str]]:
    n = rng.choice([rng.randint(2, 99), rng.randint(1000, 9_999_999)])
    spaced = f"{n:,}"
    return f"{n}", [spaced, f"{n}.0", f"${n}$", spaced.replace(",", "{,}"), spaced.replace(",", ",\\!")]


def fraction(rng: random.Random) -> tuple[str, list[str]]:
    a, b = rng.randint(1, 40), rng.choice([3, 7, 9, 11, 13])
    a += a % b == 0
    forms = [
        f"\\dfrac{{{a}}}{{{b}}}",
        f"{{{2 * a} \\over {2 * b}}}",
        f"\\frac{{{3 * a}}}{{{3 * b}}}",
        f"{a} / {b}",
        f"{a}/{b}",
    ]
    return rng.choice([f"{a}/{b}", f"\\frac{{{a}}}{{{b}}}"]), forms


def decimal(rng: random.Random) -> tuple[str, list[str]]:
    x = rng.randint(1, 99_999) / rng.choice([10, 100, 1000])
    x += x == int(x)
    thousandfold = round(x * 1000)
    return f"{x}", [f"{x}0", f"${x}$", f"{thousandfold} \\times 10^{{-3}}", f"\\frac{{{thousandfold}}}{{1000}}"]


def root(rng: random.Random) -> tuple[str, list[str]]:
    a, b = rng.randint(2, 12), rng.choice([2, 3, 5, 7])
    forms = [f"{a}\\sqrt{b}", f"\\sqrt{{{a * a * b}}}", f"{a}*sqrt({b})", f"{a}√{b}", f"{a} \\cdot \\sqrt{{{b}}}"]
    return f"{a}\\sqrt{{{b}}}", forms


def scientific(rng: random.Random) -> tuple[str, list[str]]:
    a, power = rng.choice([n for n in range(11, 100) if n % 10]), rng.choice([-12, -7, -3, 2, 5, 9, 23])
    x = f"{a / 10}"
    return f"{x}e{power}", [f"{x} \\times 10^{{{power}}}", f"{a}e{power - 1}", f"{x}\\cdot 10^{{{power}}}"]


def multiple_of_pi(rng: random.Random) -> tuple[str, list[str]]:
    a, b = rng.randint(2, 9), rng.randint(2, 12)
    return f"\\frac{{{a}\\pi}}{{{b}}}", [f"{a}π/{b}", f"\\frac{{{a}}}{{{b}}}\\pi", f"{a}\\pi/{b}"]


def keep(rng: random.Random) -> tuple[str, str]:
    """(reply, gold): the gold in another form and frame."""
    if rng.random() < 0.65:
        gold, forms, _ = number(rng)
        said = rng.choice(forms)
    else:
        gold, said = several(rng)
    sentence = rng.choice(SENTENCES)
    if any(mark in sentence for mark in ("\\[", "\\(", "boxed")):
        said = said.strip("$")
    elif "\\" in said and not said.startswith("$") and rng.random() < 0.5:
        said = f"${said}$"
    return sentence.format(said), gold


def several(rng: random.Random) -> tuple[str, str]:
    """Tuples, sets, intervals and quantities as (gold, another form)."""
    a, b = sorted(rng.sample(range(-50, 900), 2))
    n = b + 60
    forms = (
        (f"({b}, {a})", [f"({b},{a})", f"\\left({b}, {a}\\right)", f"( {b} , {a} )", f"(x,y)=({b},{a})"]),
        (f"\\{{{a}, {b}\\}}", [f"{a}, {b}", f"{b}, {a}", f"{{{b}, {a}}}", f"\\left\\{{{b}, {a}\\right\\}}"]),
        (f"[{a}, {b})", [f"[{a},{b})", f"{a} \\le x < {b}", f"\\left[{a}, {b}\\right)", f"{b} > x \\geq {a}"]),
        (f"x={a}, y={b}", [f"x = {a}, y = {b}", f"y={b}, x={a}", f"({a},{b})"]),
        (f"{n} cm", [f"{n}", f"{n}\\text{{ cm}}", f"{n * 10} mm", f"{n} centimeters", f"{n / 100} m"]),
        (f"{n}^\\circ", [f"{n}", f"{n}°", f"{n} degrees", f"{n}^{{\\circ}}"]),
    )
    gold, others = rng.choice(forms)
    return gold, rng.choice(others)


def spoil(rng: random.Random) -> tuple[str, str]:
    """(answer, gold): a right answer with a hedge, a second answer, a correction, a sign, a factor or another unit."""
    gold, forms, base = number(rng)
    said = rng.choice(forms).strip("$")
    other = f"{rng.randint(2, 9)}{rng.randint(11, 99)}"
    if re.fullmatch(r"[\d.e+-]+", gold) and float(gold) == float(other):
        other = f"{other}0"  # by chance it was the right one
    spoiled = rng.choice(
        [
            *(f"{said} or {other}", f"{said} (or {other})", f"either {other} or {said}", f"{said}, {other}"),
            *(f"{said}; maybe {other}", f"{said}. Wait, it is {other}.", f"{said} ... {other}", f"{said} \\to {other}"),
            *(f"-({said})", f"-{base}", f"({said}, {other})", f"{base} x", f"not {base}", f"{base} + {other}"),
            *(f"It cannot be {base}.", f"before {base}", f"page {base}", f"{base} more than y"),
            f"We ask if it is {base}.",
            *(f"{base} minus the rest", f"{base} times the width", f"The value is {other}, while {base} is the first."),
            *(f"{said} = {other}", f"at least {base}", f"less than {base}", f"{said}, but {other} is possible too"),
            f"-{base}" if "/" in said or "," in said else f"1.5 \\cdot {said}",
            f"-{base}" if "/" in base else f"\\frac{{3}}{{2}} \\cdot {base}",
            f"<answer>{other}. No, it is {said}</answer>",  # in prose the last claim would hold
        ]
    )
    return rng.choice(["{}", "<answer>{}</answer>", "\\boxed{{{}}}"]).format(spoiled), gold


def other_unit(rng: random.Random) -> tuple[str, str]:
    """(answer, gold): the right number with a unit that is not the gold's."""
    n = rng.randint(2, 900)
    mine, gold = rng.sample(["cm", "m", "kg", "s", "cm^2", "m/s", "N", "J", "°", "dollars", "L"], 2)
    return f"{n} {mine}", f"{n} {gold}"
