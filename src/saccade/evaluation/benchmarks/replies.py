"""How all modes parse a reply, and the graders of the strict mode, which are those of training."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from saccade import grading
from saccade.evaluation.benchmarks.benchmark import BenchmarkJudge, Grade, Mode, ParsedReply
from saccade.grading import Verdict, math_pool
from saccade.parsing import parse_final, read_reply
from saccade.types import Frame, Sample

THOUGHT = "Thought is stripped first (up to the last </think>), then the inside of the last <answer> block is taken, \
else the whole remainder; a reply that ends inside its thought has no answer."
"""The step before the rules of every official mode here: the originals predate reasoning models."""
STRICT_RULE = "The last <answer> block after all thought, else the last \\boxed, else what follows 'final answer', \
else the whole rest."

LONGEST = 500
"""Maximum characters of an answer for a symbolic check."""
_TAG = re.compile(r"</?answer>")


def read(text: str, frames: Sequence[Frame] = ()) -> ParsedReply:
    """The reply as protocols read it."""
    reply = read_reply(text)
    answer_text = reply.answer if reply.answer is not None else _TAG.sub(" ", reply.rest).strip()
    unended = reply.answer is None and not answer_text and "<think>" in text and "</think>" not in text
    how = "answer block" if reply.answer is not None else "after thought" if "</think>" in text else "whole reply"
    return ParsedReply(text, None if unended else answer_text, tuple(frames), how)


NO_ANSWER = Grade(False, "no answer", detail="the reply ends inside its thought, or is empty")

VerdictRule = Callable[[str, Sample], Verdict]
"""Answer text and sample -> verdict."""


def strict_mode(rule: VerdictRule, says: Sequence[str]) -> Mode:
    """Rules only, no network: the answer read as in training, graded by `rule`, which `says` describes."""

    def grade(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
        return strict_grade(reply, sample, rule)

    return Mode("strict", "this project's graders", (STRICT_RULE, *says), grade, reason="this project's own")


def strict_grade(reply: ParsedReply, sample: Sample, rule: VerdictRule) -> Grade:
    """The grade of a reply by a grader of `saccade.grading`."""
    final = parse_final(reply.text)
    if final.value is None:
        return Grade(False, "no answer", detail=final.reason or "")
    verdict = rule(final.value, sample)
    return Grade(verdict.right, f"{final.how}: {verdict.route}", final.value, verdict.detail, verdict.value)


def choice(answer: str, sample: Sample) -> Verdict:
    """By letter or by the text of exactly one option."""
    return grading.grade_choice(answer, sample.answer, tuple(sample.meta.get("options") or ()))


def math(answer: str, sample: Sample) -> Verdict:
    return grading.grade_math(answer, sample.answer)


def by_task(answer: str, sample: Sample) -> Verdict:
    """A choice as a choice, all else as mathematics."""
    return choice(answer, sample) if sample.task == "choice" else math(answer, sample)


def symbolic(answer: str, gold: str) -> bool:
    """Whether math-verify, in a process that can be killed, finds two normal forms equal; a long text is never
    equal."""
    return len(answer) <= LONGEST and math_pool.shared().verify(gold, answer).right is True
