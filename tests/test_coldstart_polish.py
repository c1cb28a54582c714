"""The polisher on handwritten sentences: meaning, grammar, and what it must not change."""

from __future__ import annotations

import re
import time

import pytest
from coldstart_sentences import ALL, MENDED, UNMENDABLE, UNTOUCHED
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples

from saccade.coldstart.polish import polish, references

VERBS = r"(?:shows|depicts|displays|illustrates|portrays|represents|says|states|mentions|show|showed|shown|showing)"
ARTICLES = r"(?:a|an|the|this|that)"
_OWN_WORDS = """the a an this that these those image images picture pictures of see saw seen have show shows showed
shown showing sign in as it at look looks looked looking again depicted depicts has contains nothing no"""
OWN_WORDS = set(_OWN_WORDS.split())


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def check_grammar(before: str, after: str) -> None:
    assert not re.search(rf"\b{VERBS} {VERBS}\b", after, re.IGNORECASE), f"doubled verb: {after}"
    assert not re.search(rf"\b(?:a|an|the) {ARTICLES}\b", after, re.IGNORECASE), f"doubled article: {after}"
    assert not re.search(r"\b(\w+) \1\b", after.replace("that that", "")), f"doubled word: {after}"
    assert not re.search(r"\ba image|\ban picture|\ban given|  |\s[.,;!?]", after), f"article or spaces: {after}"
    starts = [s[0] for s in re.split(r"(?<=[.?!])\s+", after) if s and s[0].isalpha()]
    kept = [s[0] for s in re.split(r"(?<=[.?!])\s+", before) if s and s[0].isalpha()]
    assert [s.isupper() for s in starts] == [s.isupper() for s in kept], f"capitals: {after}"
    assert words(after) <= words(before) | OWN_WORDS, f"a word from nowhere: {words(after) - words(before)} in {after}"


@pytest.mark.parametrize(("before", "after"), MENDED)
def test_a_sentence_is_rewritten_as_seen(before: str, after: str) -> None:
    polished = polish(before)
    assert polished.text == after
    assert polished.left == ()
    check_grammar(before, polished.text)


@pytest.mark.parametrize("sentence", UNTOUCHED)
def test_descriptions_of_other_things_are_unchanged(sentence: str) -> None:
    polished = polish(sentence)
    assert (polished.text, polished.changes, polished.left) == (sentence, (), ())


@pytest.mark.parametrize("sentence", UNMENDABLE)
def test_what_cannot_be_rewritten_is_reported(sentence: str) -> None:
    assert polish(sentence).left


FORMULAS = (
    r"\[ A = \text{the image description states that } 3 \\[2pt] b = 4 \]",
    r"\( a \\(the caption) \)",
    r"\\\(the caption\)",
    r"\\[ A = \\text{the image description states that } 3 \\]",
    r"\\(the caption\\)",
)


@pytest.mark.parametrize("formula", FORMULAS)
def test_line_breaks_in_a_formula_open_no_other(formula: str) -> None:
    assert polish(f"We get {formula} so 3.").text == f"We get {formula} so 3."


def test_there_are_two_hundred_distinct_sentences() -> None:
    assert len(ALL) >= 200
    assert len(set(ALL)) == len(ALL)


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=6), st.sampled_from([" ", "\n", "\n\n"]))
@settings(max_examples=examples(300))
def test_polish_is_idempotent_and_sentences_are_independent(chosen: list[str], gap: str) -> None:
    text = gap.join(chosen)
    once = polish(text)
    twice = polish(once.text)
    assert twice.text == once.text
    assert twice.left == once.left
    assert once.left == references(once.text)


_OWN = "the a description caption image says shows described as in of that it is , . I told read mention no and per"
PIECES = st.sampled_from([*_OWN.split(), "5", "$x$", "figure"])


@given(st.lists(PIECES, max_size=25))
@settings(max_examples=examples(600))
def test_polish_is_idempotent_on_any_order_of_its_own_words(pieces: list[str]) -> None:
    once = polish(" ".join(pieces))
    assert polish(once.text).text == once.text


@given(st.text(max_size=300))
@settings(max_examples=examples(300))
def test_text_without_a_description_is_never_changed(text: str) -> None:
    if not re.search(r"descri|caption|told|mention|says|shows|displays|depicts", text, re.IGNORECASE):
        assert polish(text).text == text


KEPT = ["[12, 40, 180, 220]", "3.14159", "$\\frac{1}{2}$", "`says(x)`", "\\(a+b\\)", "-17", "1,204", "(3, 4)"]
KEPT += ["$$the description$$"]


@given(st.lists(st.sampled_from(KEPT), min_size=1, max_size=3), st.sampled_from([one for one, _ in MENDED]))
@settings(max_examples=examples(200))
def test_numbers_boxes_code_and_formulas_are_preserved(kept: list[str], sentence: str) -> None:
    text = f"{sentence} It holds {' and '.join(kept)} here. {sentence}"
    after = polish(text).text
    position = -1
    for one in kept:
        position = after.find(one, position + 1)
        assert position >= 0
    digits = re.compile(r"\d+")
    assert digits.findall(after) == digits.findall(text)


@pytest.mark.parametrize(
    "piece", ["The description says that the ball is red. $x = 5$. ", "\\(", "\\[a ", "the description of the "]
)
def test_polish_is_linear_in_the_length_of_a_chain(piece: str) -> None:
    began = time.process_time()
    polish(piece * (40_000 // len(piece)))
    assert time.process_time() - began < 3.0
