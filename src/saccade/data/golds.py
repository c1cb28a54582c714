"""Gold answers in the forms in which rows hold them: letters, option texts, boxes as text.

Every format whose rows are questions with answers makes its samples with `pose`.
"""

from __future__ import annotations

import ast
import json
import re
import tokenize
from collections.abc import Sequence
from decimal import Decimal
from io import StringIO
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from saccade.data import records
from saccade.data.json_stream import decoded
from saccade.data.questions import ONE_BOX, listed_options
from saccade.parsing import parse_choice, read_entries
from saccade.parsing.boxes import BOX_KEYS, CORNERS, LABEL_KEYS
from saccade.parsing.option_texts import own_text
from saccade.types import Box, ImageSource, Sample

UNKNOWN_OPTIONS = tuple("ABCDE")
"""Options of a choice whose question lists none: they may be in the image."""
LONGEST_GOLD = 200
"""Characters of a gold in which the letter may stand among words."""
LONGEST_LITERAL = 1 << 16
"""Characters of a text that may hold a list."""
SEVERAL = ("choices", "ocr")
"""Tasks whose gold may be a list of texts."""
YES_NO = ("yes", "no", "true", "false")
_SEVERAL = re.compile(r"\W*[A-J](?:[\s,;/&、，()\[\]]*+(?:and[\s()\[\]]*+)?[A-J])+\W*")
_FENCE = re.compile(r"^```(?:json)?|```$")
_MARKUP = re.compile(r"<\|box_start\|>|<\|box_end\|>|</?box>|[\s,;()\[\]]|[-+]?\d+(?:\.\d*)?")


def pose(
    name: str,
    images: tuple[ImageSource, ...],
    question: str,
    answer: Any,
    task: str | None,
    meta: dict[str, Any],
    options: Any = (),
) -> Sample:
    """The sample of a question with its gold in any form; without a `task` it is inferred.

    With options, given or listed in the question, a letter or the text of one is a `choice` and several letters are
    `choices`; options that the question lists are not written into the prompt again. A text that is nothing but a box
    (or labeled boxes) is `refer` (or `detect`), yes or no is `yes_no`, all else `free_form`. ValueError for an empty
    answer, and for an answer that names none of the given options.
    """
    given, listed = option_texts(options), listed_options(question)
    texts, answer = given or listed, _alone(answer)
    kind = task or _infer(answer, texts, given=bool(given), pictured=bool(images))
    if kind in ("choice", "choices"):
        letters = list(gold_letters(answer, texts or UNKNOWN_OPTIONS))
        if kind == "choice" and len(letters) > 1:
            raise ValueError(f"answer {records.shown(answer)} names {len(letters)} options; set task: choices")
        answer = letters[0] if kind == "choice" else letters
        meta = meta | {"options": texts or list(UNKNOWN_OPTIONS)}
        if not given or _same_options(given, listed):
            meta["options_listed"] = True
    return Sample(name, images, question, typed(kind, answer), kind, meta)


def option_texts(options: Any) -> list[str]:
    """Options as texts, without the empty ones behind the last, which tables have where a row has fewer. ValueError for
    an empty one before another, since the letters of those behind it would shift, and for what is no text or number."""
    if not isinstance(options, list | tuple):
        raise ValueError(f"options are {records.shown(options)}, expected a list of texts")
    texts = ["" if one is None or one != one else one for one in options]
    while texts and texts[-1] == "":
        texts.pop()
    if len(texts) > len(ascii_uppercase):
        raise ValueError(f"there are {len(texts)} options, expected {len(ascii_uppercase)} at most, a letter for each")
    for letter, text in zip(ascii_uppercase, texts, strict=False):
        if text == "":
            raise ValueError(f"option {letter} is empty, and a later one is not; expected a text for each letter")
        if not isinstance(text, str | int | float | Decimal):
            raise ValueError(f"option {letter} is {records.shown(text)}, expected a text")
    return [str(one) for one in texts]


def _alone(answer: Any) -> Any:
    """The one text of a list that has no other; all other answers unchanged."""
    if not isinstance(answer, list | tuple) or not all(isinstance(one, str) for one in answer):
        return answer
    return answer[0] if len({one.strip() for one in answer}) == 1 else answer


def _same_options(given: Sequence[str], listed: Sequence[str]) -> bool:
    """Whether a question lists the given options itself; words may follow the last. ValueError for another order."""
    if not listed or _only_letters(given):
        return False
    texts = [own_text(letter, one).strip() for letter, one in zip(ascii_uppercase, given, strict=False)]
    if [*texts[:-1], listed[-1][: len(texts[-1])]] == [*listed[:-1], texts[-1]]:
        return True
    if sorted(texts) == sorted(listed):
        raise ValueError(
            f"the question lists the options {records.shown(list(listed))}, the row {records.shown(list(given))}; "
            "expected one order"
        )
    return False


def _infer(answer: Any, options: Sequence[str], given: bool, pictured: bool) -> str:
    if options:
        try:
            return "choice" if len(gold_letters(answer, options)) == 1 else "choices"
        except ValueError:
            if given:
                raise
    if isinstance(answer, list | tuple) and all(isinstance(one, str) for one in answer):
        what = f"is a list of {len(answer)} texts" if answer else "is empty"
        raise ValueError(
            f"answer {records.shown(answer)} {what}; expected one text, or set task: ocr, where any of a list is right"
        )
    if isinstance(answer, list | tuple | dict):
        return "detect" if _is_labeled(answer) else "refer"
    if pictured and (boxes := boxes_of(answer)) is not None:
        return "refer" if isinstance(boxes, tuple) else "detect"
    if isinstance(answer, bool) or (isinstance(answer, str) and answer.strip().rstrip(".").lower() in YES_NO):
        return "yes_no"
    return "free_form"


def gold_letters(answer: Any, options: Sequence[str]) -> tuple[str, ...]:
    """The letters, upper case, of the options that a gold names: by letter, by text, or by both ('A. red').

    ValueError when it names none, or is a number that is not the text of an option.
    """
    letters = ascii_uppercase[: len(options)]
    expected = f"expected one of {', '.join(letters)}" + ("" if _only_letters(options) else " or the text of one")
    if isinstance(answer, list | tuple) and answer:
        return tuple(dict.fromkeys(letter for one in answer for letter in gold_letters(one, options)))
    text = str(answer).strip() if isinstance(answer, str | int | float) else ""
    if text[:1] == "[" and isinstance(several := parse_literal(text), list) and len(several) > 1:
        return gold_letters(several, options)
    if not text:
        raise ValueError(f"answer {records.shown(answer)} names no option; {expected}")
    alone = text.strip("()[]{}.:,*$\"' ").upper()
    owners = [
        letter
        for letter, one in zip(letters, options, strict=True)
        if text in (one.strip(), own_text(letter, one).strip())
    ]
    if len(alone) == 1 and alone in letters:
        if owners and owners != [alone]:
            raise ValueError(
                f"answer {records.shown(answer)} is the letter of option {alone} and the text of option {owners[0]}; "
                f"write both, such as '{alone}. {options[letters.index(alone)]}'"
            )
        return (alone,)
    if len(owners) == 1:
        return (owners[0],)
    if owners:
        raise ValueError(f"answer {records.shown(answer)} is the text of options {', '.join(owners)}; write the letter")
    if isinstance(answer, str):
        if (
            len(text) <= LONGEST_GOLD
            and _SEVERAL.fullmatch(text)
            and (said := re.findall("[A-J]", re.sub("and", " ", text)))
        ):
            if set(said) <= set(letters) and len(set(said)) == len(said):
                return tuple(said)
        elif len(text) <= LONGEST_GOLD and (picked := parse_choice(text, letters, options).value):
            return (picked,)
    hint = "; a number is not read as an index, write the letter" if text.isdigit() else ""
    raise ValueError(f"answer {records.shown(answer)} names none of {len(options)} options; {expected}{hint}")


def _only_letters(options: Sequence[str]) -> bool:
    return list(options) == list(ascii_uppercase[: len(options)])


def boxes_of(answer: Any) -> Box | list[dict[str, Any]] | None:
    """The box, or the labeled boxes, of an answer that is nothing else; None for other answers and invalid boxes."""
    try:
        value = _json(answer) if isinstance(answer, str) else answer
    except ValueError:
        return None
    if isinstance(value, dict | list | tuple):
        try:
            if _is_labeled(value):
                return as_detections(value)
            return as_one_box(value)
        except ValueError:
            return None
    if isinstance(answer, str) and ("(" in answer or "box" in answer) and not _MARKUP.sub("", answer):
        try:
            return as_one_box(answer)
        except ValueError:
            return None
    return None


def _is_labeled(value: Any) -> bool:
    entries = value if isinstance(value, list | tuple) else [value]
    return bool(entries) and all(isinstance(one, dict) and any(key in one for key in LABEL_KEYS) for one in entries)


def parse_literal(cell: Any) -> Any:
    """A text that is a list or mapping (JSON, Python, or a list of texts as numpy prints it) as such; all other values
    unchanged. ValueError for an object with a key twice."""
    if not isinstance(cell, str) or cell.strip()[:1] not in ("[", "{") or len(cell) > LONGEST_LITERAL:
        return cell
    try:
        return decoded(cell.strip())
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        value = ast.literal_eval(cell.strip())
        tokens = [one for one in tokenize.generate_tokens(StringIO(cell.strip()).readline) if one.type != tokenize.NL]
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return cell
    if any(one.type == two.type == tokenize.STRING for one, two in pairwise(tokens)):  # one text for Python
        return [ast.literal_eval(one.string) for one in tokens if one.type == tokenize.STRING]
    return value


def _json(text: str) -> Any:
    """The list or mapping that is the whole text, fenced or not; None for all other texts."""
    bare = _FENCE.sub("", text.strip()).strip()
    if bare[:1] not in ("[", "{"):
        return None
    value = parse_literal(bare)
    return None if isinstance(value, str) else value


def typed(task: str, answer: Any) -> Any:
    """The gold answer in the format of its task. ValueError when it is empty or not a box."""
    if task in ONE_BOX:
        return as_one_box(answer)
    if task == "detect":
        return as_detections(answer)
    if isinstance(answer, str | Decimal):
        answer = str(answer).strip()
    if task == "yes_no" and str(answer) in ("0", "1"):
        answer = str(answer) == "1"
    if answer in ("", None):
        raise ValueError("the answer is empty; there is nothing to grade against")
    texts = task in SEVERAL and isinstance(answer, list | tuple) and all(isinstance(one, str) for one in answer)
    if isinstance(answer, dict | list | tuple) and not (texts and answer):
        kinds = "a text or a list of texts" if task in SEVERAL else "a text or a number"
        raise ValueError(f"answer {records.shown(answer)} is none for task '{task}'; expected {kinds}")
    return answer


def as_one_box(answer: Any) -> Box:
    """One box from four numbers, from an object with one, or from text in any notation of replies. Raises BoxError."""
    value: Any = _json(answer) if isinstance(answer, str) else answer
    if value is None and isinstance(answer, str):
        (box, _), *more = read_entries(answer) or [(None, "")]
        value = answer if box is None or more else box
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], dict | list | tuple):
        value = value[0]
    if isinstance(value, dict):
        value = _box_of(value)
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, list | tuple) and len(v) == 2 for v in value)
    ):
        value = [*value[0], *value[1]]
    return records.as_box(value)


def _box_of(entry: dict[str, Any]) -> Any:
    if "box_2d" in entry:
        raise records.BoxError(
            "'box_2d' is the name of boxes that are [y1, x1, y2, x2] in thousandths; convert them to [x1, y1, x2, y2] "
            "in image pixels and call them 'bbox_2d'"
        )
    for corners in CORNERS:
        if all(key in entry for key in corners):
            return [entry[key] for key in corners]
    return next((entry[key] for key in BOX_KEYS if key in entry), entry)


def as_detections(answer: Any) -> list[dict[str, Any]]:
    """Labeled boxes, as a list, one object, or the text of either (fenced or not; 'None' means no boxes)."""
    value = answer
    if isinstance(value, str):
        text = _FENCE.sub("", value.strip()).strip()
        value = [] if text.lower() in ("none", "null") else _json(text)
        if value is None:
            raise ValueError(f"answer {records.shown(answer)} is not a JSON list of {{'bbox_2d', 'label'}}")
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(one, dict) for one in value):
        raise ValueError(
            f"answer {records.shown(answer)}: expected a list of {{'bbox_2d': [x1, y1, x2, y2], 'label': str}}"
        )
    return [_detection(one, answer) for one in value]


def _detection(entry: dict[str, Any], answer: Any) -> dict[str, Any]:
    label = next((entry[key] for key in LABEL_KEYS if key in entry), None)
    if label is None or not any(key in entry for key in (*BOX_KEYS, "box_2d", *(corners[0] for corners in CORNERS))):
        raise ValueError(
            f"answer {records.shown(answer)}: expected a list of {{'bbox_2d': [x1, y1, x2, y2], 'label': str}}"
        )
    return {"bbox_2d": list(records.as_box(_box_of(entry))), "label": str(label)}
