"""Reading the frame of a reply: what was thought, what was answered, and whether the form is strict."""

from __future__ import annotations

import re
from dataclasses import dataclass

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True, slots=True)
class Reply:
    """The parts of a reply. `think` and `answer` are stripped, and None when there is no such complete block."""

    think: str | None
    answer: str | None
    strict: bool
    """The whole text is one non-empty think block, optional white space, one non-empty answer block, nothing else."""
    reason: str | None
    """Why it is not strict, in words that can be counted."""
    rest: str
    """What follows the last block of thought: where an answer without tags would stand. Empty when none ends."""


def read_reply(text: str) -> Reply:
    """Splits a reply into its blocks: the first complete think block, and the last answer block after all thought.

    Takes any string; linear in its length.
    """
    reason = _fault(text)
    spoken = text[text.rfind("</think>") + 1 :] if "</think>" in text else text
    think, answer = _block(text, "think", last=False), _block(spoken, "answer", last=True)
    return Reply(think, answer, reason is None, reason, _rest(text))


def _block(text: str, name: str, last: bool) -> str | None:
    """Inside of the first (or last) complete `<name>..</name>`; of nested openings, the innermost."""
    opening, closing = f"<{name}>", f"</{name}>"
    end = text.rfind(closing) if last else text.find(closing)
    start = text.rfind(opening, 0, end) if end >= 0 else -1
    return text[start + len(opening) : end].strip() if start >= 0 else None


def _fault(text: str) -> str | None:
    """The first way in which `text` is not strict, or None."""
    found = re.findall("|".join(TAGS), text)
    for tag in TAGS:
        if tag not in found:
            return f"no {tag}"
        if found.count(tag) > 1:
            return f"more than one {tag}"
    if found != list(TAGS):
        return "tags out of order"
    before, think, between, answer, after = re.split("|".join(TAGS), text)
    if before or after:
        return "text outside the tags"
    if between.strip():
        return "text between the blocks"
    if not think.strip():
        return "empty think"
    return None if answer.strip() else "empty answer"


def _rest(text: str) -> str:
    closing = "</think>"
    if closing in text:
        return text[text.rfind(closing) + len(closing) :].strip()
    return "" if "<think>" in text else text.strip()


def read_boxed(text: str) -> str | None:
    r"""Inside of the last `\boxed{...}` whose braces balance; of nested ones, the innermost. Or None."""
    opening = re.compile(r"\\f?boxed\s{0,3}\{|\\.|[{}]", re.DOTALL)
    open_braces: list[int] = []  # where the inside of a box starts, -1 for any other brace
    start, end = -1, -1
    for token in opening.finditer(text):
        if token[0] == "}":
            inside = open_braces.pop() if open_braces else -1
            if inside > start:
                start, end = inside, token.start()
        elif token[0].endswith("{") and len(token[0]) != 2:
            open_braces.append(token.end() if "boxed" in token[0] else -1)
    return text[start:end].strip() if start >= 0 else None


def read_final(text: str) -> str | None:
    r"""Where a lenient reader looks for the answer: the last answer block, else the last `\boxed`, else the rest.

    What stands inside a block of thought is never an answer. None when the reply stopped before it answered.
    """
    reply = read_reply(text)
    if reply.answer is not None:
        return reply.answer
    boxed = read_boxed(reply.rest)
    return boxed if boxed is not None else (reply.rest or None)
