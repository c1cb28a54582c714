"""Filters that need nothing but the texts of a draft. Each takes any text, and tells a reason that can be counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from saccade.coldstart.drafts import Chain, Check, Draft, Rejection
from saccade.coldstart.filter_options import (
    ContradictionOptions,
    LanguageOptions,
    LeakageOptions,
    LengthOptions,
    RepetitionOptions,
)
from saccade.coldstart.polish import references
from saccade.grading.answers import fold
from saccade.grading.choice import letters_for
from saccade.parsing import read_choice, read_number, read_reply, read_yes_no
from saccade.rewards.penalties import repetition
from saccade.rewards.words import language_consistency
from saccade.types import Completion, Sample

SHOWN = 90
"""Characters of text that a rejection quotes."""


def quote(text: str, start: int, end: int) -> str:
    """The place in a text with some words around it, on one line."""
    spare = max(0, SHOWN - (end - start)) // 2
    return " ".join(text[max(0, start - spare) : end + spare].split())[: SHOWN + 20]


# ----------------------------------------------------------------------------------------------------- answer and form


def answer_agrees(draft: Draft, chain: Chain) -> Rejection | None:
    """By the verdict of the task's own grader, which the draft holds."""
    if chain.right:
        return None
    if chain.right is None:
        return Rejection("answer", "cannot be graded", chain.route)
    return Rejection("answer", "no answer" if chain.answer is None else "another answer", (chain.answer or "")[:SHOWN])


def has_form(draft: Draft, chain: Chain) -> Rejection | None:
    """A thought that ended by itself, is not empty, and holds no tags of its own."""
    if chain.finish_reason == "length":
        return Rejection("format", "cut off", chain.text[-SHOWN:])
    if chain.answer is None:
        return Rejection("format", "no answer", chain.text[-SHOWN:])
    reply = read_reply(f"<think>{chain.words}</think><answer>{chain.answer}</answer>")
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


def leakage(options: LeakageOptions) -> Check:
    """The description states the answer, or the thought speaks of an answer that it was given."""
    own = [re.compile(re.escape(phrase), re.IGNORECASE) for phrase in options.phrases]

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        texts = (
            (draft.description or "", _STATED, "the description states the answer"),
            (draft.description or "", _BETRAYED, "the description speaks of a given answer"),
            (chain.words, _BETRAYED, "the thought speaks of a given answer"),
            *((text, one, "a phrase of the recipe") for text in (draft.description or "", chain.words) for one in own),
        )
        for text, pattern, reason in texts:
            found = pattern.search(text)
            if found:
                return Rejection("leakage", reason, quote(text, *found.span()))
        return None

    return check


def left_references(draft: Draft, chain: Chain) -> Rejection | None:
    """What polish could not mend, or, without polish, any reference at all."""
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


def contradiction(options: ContradictionOptions) -> Check:
    """Two answers after the last doubt, or a thought that ends in another answer than the reply.

    An answer that was doubted afterwards may differ: taking back is what a long thought is for.
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
        for start, said in stated[:-1]:
            if _differ(said, last, draft) and not doubt.search(text, start, last_start):
                return Rejection("contradiction", "two final answers", f"{said} / {last}")
        return None

    return check


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """(place, answer) of each short answer that the text states; longer ones are prose and not compared."""
    for match in _STATEMENT.finditer(text):
        name = "said" if match["said"] is not None else "boxed"
        said = match[name]
        if name == "said":
            cut = _CUT.search(said)
            said = said[: cut.start()] if cut else said
        said = said.strip(" .*_$")
        if said and len(said.split()) <= _READABLE_WORDS:
            yield match.start(name), said


def _differ(first: str, second: str, draft: Draft) -> bool:
    """True when both can be read in the same way and read differently; what cannot be compared does not differ."""
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


def loops(options: RepetitionOptions) -> Check:
    """A sentence again and again, or too many pieces that were there before."""

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        text = chain.words
        sentence, times = _longest_run([" ".join(one.split()) for one in re.split(r"[.!?\n]+", text)])
        if times >= options.sentence_times:
            return Rejection("repetition", "a sentence again and again", f"{times} times: {sentence[:SHOWN]}")
        plain = Sample(draft.id, (), draft.question, None, draft.task)
        share = -repetition(Completion(text), plain, ngram=options.ngram).value
        if share > options.most:
            return Rejection("repetition", "most of it was there before", f"{share:.0%} of {options.ngram}-word pieces")
        return None

    return check


def _longest_run(sentences: Sequence[str]) -> tuple[str, int]:
    """The sentence that stands most often in a row, and how often; of one word only when it has letters or digits."""
    best, times, count, last = "", 0, 0, ""
    for sentence in sentences:
        if not any(letter.isalnum() for letter in sentence):
            continue
        count = count + 1 if sentence == last else 1
        last = sentence
        if count > times:
            best, times = sentence, count
    return best, times


def language(options: LanguageOptions) -> Check:
    """Letters of another script than the question's."""

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        if not any(letter.isalpha() for letter in chain.words):
            return None
        question = Sample(draft.id, (), draft.question, draft.answer, draft.task, draft.meta)
        inner = chain.words.replace("<", " ")  # a tag in the thought would end it; the filter of forms tells
        score = language_consistency(Completion(f"<think>{inner}</think>"), question, options.script)
        if score.masked is None and score.value < options.least:
            foreign = re.search(r"[\u0370-\uffff]{1,40}", chain.words)
            return Rejection("language", "letters of another script", foreign[0] if foreign else chain.words[:SHOWN])
        return None

    return check


def length(options: LengthOptions) -> Check:
    """Too short to have thought, or longer than anyone would read."""

    def check(draft: Draft, chain: Chain) -> Rejection | None:
        words = len(chain.words.split())
        if words < options.least_words:
            return Rejection("length", "too short", f"{words} words")
        return Rejection("length", "too long", f"{words} words") if words > options.most_words else None

    return check
