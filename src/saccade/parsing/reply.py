"""Reading the frame of a reply: what was thought, what was answered, and whether the form is strict."""

from __future__ import annotations

import re
from dataclasses import dataclass

from saccade.parsing.claims import last_claim
from saccade.parsing.numbers import read_number
from saccade.parsing.reading import Reading, found

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True, slots=True)
class Reply:
    """The parts of a reply. `think` and `answer` are stripped, and None when there is no such complete block."""

    think: str | None
    answer: str | None
    """Without a leading 'Final Answer:'."""
    strict: bool
    """The whole text is one non-empty think block, optional white space, one non-empty answer block, nothing else."""
    reason: str | None
    """Why it is not strict, in words that can be counted."""
    rest: str
    """What follows the last block of thought: where an answer without tags would stand. Empty when none ends."""


def read_reply(text: str) -> Reply:
    """Splits a reply into its blocks: the first complete think block, and the last answer block after all thought.

    Tags with spaces or capitals inside (`< think >`) mark blocks too, but are never strict. Takes any string; linear in
    its length.
    """
    reason = _fault(text)
    if reason is not None and "<" in text:
        text = _LOOSE_TAG.sub(_tight, text)
    spoken = text[text.rfind("</think>") + 1 :] if "</think>" in text else text
    think, answer = _block(text, "think", last=False), _block(spoken, "answer", last=True)
    if answer is not None:
        answer = _BOX_TOKENS.sub(r"\1", answer).strip() if "_of_box" in answer else answer
        first = _FINAL_FIRST.match(answer)
        answer = answer[first.end() :].strip() if first else answer
    return Reply(think, answer, reason is None, reason, _rest(text))


_LOOSE_TAG = re.compile(r"<[ \t]{0,3}(/?)[ \t]{0,3}(think|answer)[ \t]{0,3}>", re.IGNORECASE)
_FINAL = re.compile(r"\bfinal\sanswer[*_\s]{0,4}(?:is[*_\s]{0,4})?[:：][*_ \t]{0,4}", re.IGNORECASE)
_FINAL_FIRST = re.compile(rf"[#*_\s]{{0,8}}(?:the\s)?{_FINAL.pattern}", re.IGNORECASE)
"""'Final Answer:' with the stars and hashes of markdown around it."""


def _tight(tag: re.Match[str]) -> str:
    return f"<{tag[1]}{tag[2].lower()}>"


def _block(text: str, name: str, last: bool) -> str | None:
    """Inside of the first (or last) complete `<name>..</name>`; of nested ones, the innermost."""
    opening, closing = f"<{name}>", f"</{name}>"
    end = text.rfind(closing) if last else text.find(closing)
    start = text.rfind(opening, 0, end) if end >= 0 else -1
    return text[start + len(opening) : end].partition(closing)[0].strip() if start >= 0 else None


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


_BOX_TOKEN = re.compile(r"\\f?boxed\s{0,3}\{|\\.|[{}]", re.DOTALL)


def read_boxed(text: str) -> str | None:
    r"""Inside of the last `\boxed{...}` whose braces balance; of nested ones, the innermost. Or None."""
    last = (-1, -1)
    for span in _boxed_spans(text):
        last = max(last, span)
    return text[last[0] : last[1]].strip() if last[0] >= 0 else None


def read_all_boxed(text: str) -> list[str]:
    r"""Insides of all `\boxed{...}` that hold no other one, in order. Linear in the length of the text."""
    return [text[start:end].strip() for start, end in _inner_spans(text)]


def _inner_spans(text: str) -> list[tuple[int, int]]:
    spans = sorted(_boxed_spans(text))
    starts = [start for start, _ in spans[1:]] + [len(text)]
    return [span for span, following in zip(spans, starts, strict=True) if following >= span[1]] if spans else []


def _joined_boxes(text: str) -> str | None:
    r"""As `read_boxed`, with the boxes in front that 'or', 'and', a comma or a slash joins to the last one."""
    spans = _inner_spans(text)
    if not spans:
        return None
    first, gaps = len(spans) - 1, []
    while first > 0:
        gap = text[spans[first - 1][1] : text.rindex("\\", 0, spans[first][0])]
        if len(gap) > 60 or not _BOX_JOIN.fullmatch(gap) or not re.search("[a-z,;/]", gap):
            break
        first -= 1
        gaps.append(gap)
    values = [text[start:end].strip() for start, end in spans[first:]]
    numbers = {read_number(value) for value in values}
    if len(set(values)) == 1 or (len(numbers) == 1 and None not in numbers):
        return values[-1]
    either = re.search("or|maybe|perhaps|possibly|alternatively|/", " ".join(gaps))
    return (" or " if either else ", ").join(values)


_BOX_JOIN = re.compile(r"(?:[}$ \t()\[\]\\.,;/*]|\b(?:or|and|else|either|maybe|perhaps|possibly|alternatively)\b)*")


def _boxed_spans(text: str) -> list[tuple[int, int]]:
    if "boxed" not in text:
        return []
    spans: list[tuple[int, int]] = []
    open_braces: list[int] = []  # where the inside of a box starts, -1 for any other brace
    for token in _BOX_TOKEN.finditer(text):
        if token[0] == "}":
            inside = open_braces.pop() if open_braces else -1
            if inside >= 0:
                spans.append((inside, token.start()))
        elif token[0].endswith("{") and len(token[0]) != 2:
            open_braces.append(token.end() if "boxed" in token[0] else -1)
    return spans


def parse_boxed(text: str) -> Reading[str]:
    """As `read_boxed`, with the reason."""
    inside = read_boxed(text)
    if inside is None:
        return Reading(None, reason="a box that never closes" if "boxed" in text else "no box")
    return found(inside, "boxed") if inside else Reading(None, reason="an empty box")


def read_final(text: str) -> str | None:
    """The answer, where a lenient reader looks for it (`parse_final`); None when the reply stopped before it."""
    return parse_final(text).value


def parse_final(text: str) -> Reading[str]:
    r"""The answer of a reply in any form, by which rule; or the reason why there is none.

    The last answer block, else the last `\boxed` or what follows the last 'Final Answer:', else the rest. What stands
    inside a block of thought is never an answer; an answer tag without its partner is passed over.
    """
    reply = read_reply(text)
    if reply.answer is not None:
        return found(_unwrapped(reply.answer), "answer block")
    rest = _ANSWER_TAG.sub(" ", reply.rest).strip() if "answer>" in reply.rest else reply.rest
    rest = _BOX_TOKENS.sub(r"\\boxed{\1}", rest) if "_of_box" in rest else rest
    if not rest:
        return Reading(None, reason="thought never ends" if "<think>" in text and "</think>" not in text else "nothing")
    if (marked := _HASHES.search(rest)) is not None:
        return found(marked[1].rstrip(), "final answer line")
    said = rest
    cues = [cue.end() for cue in _FINAL.finditer(rest)] if "final" in rest.lower() else []
    if cues:
        said = rest[cues[-1] :].strip() or rest
    boxed = read_boxed(said)
    if boxed is None and said is not rest:
        return found(said if said[0] in "`[{" else said.partition("\n\n")[0].strip("* "), "final answer line")
    boxed = _joined_boxes(said if boxed is not None else rest)
    return found(boxed, "boxed") if boxed is not None else found(_unwrapped(last_claim(rest)), "rest")


_HASHES = re.compile(r"(?:\A|\n)####[ \t]{1,9}([^\s#][^\n]*+)\s*+\Z")
"""GSM8K's last line."""
_OBJECT = re.compile(
    r"\s{0,9}(?:```[a-zA-Z]{0,9}\s{0,9})?\{.{0,2000}[\"'](?:final[_ ]?)?answer[\"']\s{0,9}:\s{0,9}"
    r"(?:\"([^\"\n]{1,500})\"|'([^'\n]{1,500})'|(-?\d[\d./]{0,30}|true|false))\s{0,9}(?:,.{0,2000})?\}\s{0,9}(?:```)?\s{0,9}",
    re.DOTALL | re.IGNORECASE,
)


def _unwrapped(answer: str) -> str:
    """The value of the last key 'answer' of an object that is the whole answer."""
    found = _OBJECT.fullmatch(answer) if "answer" in answer.lower() and len(answer) < 3_000 else None
    if found is None:
        return answer
    return (found[1] or found[2] or found[3]).replace("\\\\", "\\")


_BOX_TOKENS = re.compile(r"<\|begin_of_box\|>((?:(?!<\|begin_of_box\|>)[^{}])*?)<\|end_of_box\|>")
"""GLM's frame of an answer."""
_ANSWER_TAG = re.compile(r"</?answer>")
