"""Filters that need only the texts of a draft. Each accepts any text and returns a countable reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from saccade.coldstart.filter_options import (
    ContradictionOptions,
    LanguageOptions,
    LeakageOptions,
    LengthOptions,
    RepetitionOptions,
)
from saccade.coldstart.polish import references
from saccade.data.preflight import PLACEHOLDERS
from saccade.data.records import MARKER
from saccade.grading.answers import fold
from saccade.grading.choice import letters_for
from saccade.parsing import read_choice, read_number, read_reply, read_yes_no
from saccade.rewards.penalties import repetition
from saccade.rewards.words import language_consistency
from saccade.runs.drafts import Chain, ChainCheck, Draft, Rejection
from saccade.types import Completion, Sample

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
SHOWN = 90
"""Characters of text quoted by a rejection."""


def quote(text: str, start: int, end: int) -> str:
    """A span of the text with some context, on one line."""
    spare = max(0, SHOWN - (end - start)) // 2
    return " ".join(text[max(0, start - spare) : end + spare].split())[: SHOWN + 20]


# ----------------------------------------------------------------------------------------------------- answer and form


def answer_agrees(draft: Draft, chain: Chain) -> Rejection | None:
    """Rejects by the verdict of the task's grader, stored in the chain."""
    if chain.right:
        return None
    if chain.right is None:
        return Rejection("answer", "cannot be graded", chain.route)
    return Rejection("answer", "no answer" if chain.answer is None else "another answer", (chain.answer or "")[:SHOWN])


def has_form(draft: Draft, chain: Chain) -> Rejection | None:
    """Requires a thought that was not truncated, is not empty and contains no tags; neither it nor the answer contains
    tokens of models, which training refuses, or control characters."""
    if chain.finish_reason == "length":
        return Rejection("format", "cut off", chain.text[-SHOWN:])
    if chain.answer is None:
        return Rejection("format", "no answer", chain.text[-SHOWN:])
    whole = f"<think>{chain.words}</think><answer>{chain.answer}</answer>"
    for token in (MARKER, *PLACEHOLDERS):
        if (at := whole.find(token)) >= 0:
            return Rejection("format", "a token of models", quote(whole, at, at + len(token)))
    if control := _CONTROL.search(whole):
        return Rejection("format", "control characters", quote(whole, *control.span()))
    reply = read_reply(whole)
    return None if reply.strict else Rejection("format", reply.reason or "not strict", chain.words[:SHOWN])


# ------------------------------------------------------------------------------------------------------------- leakage

_STATED = re.compile(
    r"\b(?:the|correct|right|final|true|expected) (?:correct |right |final |true |expected )?"
    r"(?:answer|option|choice) (?:is|was|would be|should be|must be|:)|\b(?:final |correct )?answer\s*[:=]\s*\S"
    r"|\b(?:option|choice) [\"'(]?[A-J]\b[\"')]? is (?:correct|right|the answer)\b|<answer>|\\boxed",
    re.IGNORECASE,
)
_BETRAYED = re.compile(
    r"\b(?:answer|result|solution|option|choice) (?:that (?:is|was) |which (?:is|was) |I was |we were )?"
    r"(?:given|provided|stated|supplied|told|shown)\b(?! by\b| (?:in|above) terms)"
    r"|\b(?:given|provided|stated|supplied|reference|official|expected|ground[- ]truth|gold) (?:answer|solution)\b"
    r"|\b(?:answer key|ground truth)\b"
    r"|\b(?:answer|result) is (?:supposed|said|known|expected) to be\b"
    r"|\b(?:I was|I am|I'm|we were|we are|been) told (?:that )?(?:the )?(?:correct |right )?(?:answer|option)\b"
    r"|\b(?:match(?:es|ing)?|agrees? with|consistent with) the (?:given|provided|stated|correct|expected) answer\b",
    re.IGNORECASE,
)


def leakage(options: LeakageOptions) -> ChainCheck:
    """The description states the answer, or the thought mentions a given answer."""
    custom = [re.compile(re.escape(phrase), re.IGNORECASE) for phrase in options.phrases]

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        texts = (
            (draft.description or "", _STATED, "the description states the answer"),
            (draft.description or "", _BETRAYED, "the description speaks of a given answer"),
            (chain.words, _BETRAYED, "the thought speaks of a given answer"),
            *(
                (text, one, "a phrase of the recipe")
                for text in (draft.description or "", chain.words)
                for one in custom
            ),
        )
        for text, pattern, reason in texts:
            found = pattern.search(text)
            if found:
                return Rejection("leakage", reason, quote(text, *found.span()))
        return None

    return check


def left_references(draft: Draft, chain: Chain) -> Rejection | None:
    """References that polish could not rewrite or, without polish, any reference."""
    found = references(chain.words)
    return Rejection("references", "speaks of a description", found[0][: SHOWN + 20]) if found else None


# ------------------------------------------------------------------------------------------------------- contradiction

_STATEMENT = re.compile(
    r"\banswer(?: to (?:the|this) question)?(?: is| should be| must be| would be|:| =)\s*[*_\"'(]{0,3}"
    r"(?=(?P<said>[^\n]{1,60}))"
    r"|\\boxed\{(?P<boxed>[^{}\n]{1,40})\}",
    re.IGNORECASE,
)
_CUT = re.compile(r"[.;,!?](?:\s|$)|\s(?:because|since|as|so|but|which|for)\s|[*_)\"']", re.IGNORECASE)
_READABLE_WORDS = 3


def contradiction(options: ContradictionOptions) -> ChainCheck:
    """Two different answers after the last doubt, or a thought that ends in a different answer than the reply.

    An answer that is doubted later may differ: revising is the purpose of a long thought.
    """
    doubt = re.compile(
        r"\b(?:" + "|".join(map(re.escape, options.doubts)) + r")\b" if options.doubts else r"(?!)", re.I
    )

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        text = chain.words
        stated = list(_statements(text))
        if not stated:
            return None
        last_start, last = stated[-1]
        if chain.answer is not None and _differ(last, chain.answer, draft):
            detail = f"{quote(text, last_start, last_start + len(last))} / {chain.answer[:30]}"
            return Rejection("contradiction", "the thought ends in another answer", detail)
        for start, answer in stated[:-1]:
            if _differ(answer, last, draft) and not doubt.search(text, start, last_start):
                return Rejection("contradiction", "two final answers", f"{answer} / {last}")
        return None

    return check


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """(position, answer) of each short answer stated in the text; longer ones are prose and not compared."""
    for match in _STATEMENT.finditer(text):
        name = "said" if match["said"] is not None else "boxed"
        statement = match[name]
        if name == "said":
            cut = _CUT.search(statement)
            statement = statement[: cut.start()] if cut else statement
        statement = statement.strip(" .*_$")
        if statement and len(statement.split()) <= _READABLE_WORDS:
            yield match.start(name), statement


def _differ(first: str, second: str, draft: Draft) -> bool:
    """True when one parser reads both answers and gets different values; incomparable answers do not differ."""
    if fold(first) == fold(second):
        return False
    options = draft.meta.get("options")
    texts = [str(option) for option in options] if isinstance(options, list | tuple) else []
    letters = letters_for(texts)
    readers = (
        *((lambda text: read_choice(text, letters, texts),) if texts else ()),
        *((read_yes_no,) if draft.task == "yes_no" else ()),
        read_number,
    )
    for reader in readers:
        one, two = reader(first), reader(second)
        if one is not None and two is not None:
            return one != two
    return False


# ------------------------------------------------------------------------------------------ loops, language, length


def loops(options: RepetitionOptions) -> ChainCheck:
    """A repeated sentence, or too many repeated n-grams."""

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        text = chain.words
        sentence, times = _longest_run([" ".join(one.split()) for one in re.split(r"[.!?\n]+", text)])
        if times >= options.sentence_times:
            return Rejection("repetition", "repeated sentence", f"{times} times: {sentence[:SHOWN]}")
        plain = Sample(draft.id, (), draft.question, None, draft.task)
        share = -repetition(Completion(text), plain, ngram=options.ngram).value
        if share > options.most:
            return Rejection("repetition", "mostly repeated n-grams", f"{share:.0%} of {options.ngram}-word n-grams")
        return None

    return check


def _longest_run(sentences: Sequence[str]) -> tuple[str, int]:
    """The sentence with the longest run, and the length of the run; ignores those without letters and digits."""
    best, times, count, last = "", 0, 0, ""
    for sentence in sentences:
        if not any(letter.isalnum() for letter in sentence):
            continue
        count = count + 1 if sentence == last else 1
        last = sentence
        if count > times:
            best, times = sentence, count
    return best, times


def language(options: LanguageOptions) -> ChainCheck:
    """Letters of a script other than the question's."""

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        if not any(letter.isalpha() for letter in chain.words):
            return None
        question = Sample(draft.id, (), draft.question, draft.answer, draft.task, draft.meta)
        inner = chain.words.replace("<", " ")  # a tag would end the thought; the format filter reports it
        score = language_consistency(Completion(f"<think>{inner}</think>"), question, options.script)
        if score.masked is None and score.value < options.least:
            foreign = re.search(r"[\u0370-\uffff]{1,40}", chain.words)
            return Rejection("language", "letters of another script", foreign[0] if foreign else chain.words[:SHOWN])
        return None

    return check


def length(options: LengthOptions) -> ChainCheck:
    """Outside the allowed length."""

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        words = len(chain.words.split())
        if words < options.least_words:
            return Rejection("length", "too short", f"{words} words")
        return Rejection("length", "too long", f"{words} words") if words > options.most_words else None

    return check
