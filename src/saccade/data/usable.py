"""Which samples can be trained on and recorded, whatever format they were read from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from saccade.faults import shown
from saccade.types import Sample

DEEPEST = 64
"""Levels of nested lists and objects in a row."""
LARGEST_ROW = 16 << 20
"""Maximum bytes of a row as JSON."""
MOST_LETTERS = 4 << 20
"""Maximum characters of text in a row as JSON: a million tokens, more than the context of any model."""
LONG = 1 << 12
"""Characters of a text beyond which those count that JSON writes with six."""
MOST_ANSWERS = 2_000
"""Maximum entries of an answer that is a list: each box of a reply is compared with each gold box."""
LONGEST_NAME = 300
"""Maximum characters of an id and of a label, which several samples may have."""


def refuse_unusable(sample: Sample) -> None:
    """ValueError for a sample that cannot be trained on or recorded: text that UTF-8 cannot write, a gold answer that
    is not finite, keys of `meta` in another form than they are read in."""
    for name in ("id", "question", "task"):
        if not isinstance(value := getattr(sample, name), str):
            raise ValueError(f"{name} is {shown(value)}, expected a text")
    if len(sample.id) > LONGEST_NAME:
        raise ValueError(f"id {shown(sample.id)} has {len(sample.id):,} characters, expected {LONGEST_NAME:,} at most")
    if _length((sample.id, sample.question, sample.answer, sample.task, sample.meta), 0) > MOST_LETTERS:
        raise ValueError(f"the row has more than {MOST_LETTERS >> 20} million characters of text; shorten it")
    if isinstance(sample.answer, list | tuple) and len(sample.answer) > MOST_ANSWERS:
        raise ValueError(f"the answer has {len(sample.answer):,} entries, expected {MOST_ANSWERS:,} at most")
    if _not_finite(sample.answer):
        raise ValueError(f"answer {shown(sample.answer)}: not a finite number in the range of 64-bit floating point")
    _refuse_meta(sample)


def _refuse_meta(sample: Sample) -> None:
    """ValueError for what the code reads from `Sample.meta`, and a row may have written in another form."""
    from saccade.tasks.conversation import later_turns, turns_before  # a recipe needs no task

    meta = sample.meta
    options, index, size = meta.get("options"), meta.get("image_index"), meta.get("annotated_size")
    if options is not None and not (isinstance(options, list | tuple) and all(isinstance(o, str) for o in options)):
        raise ValueError(f"meta.options is {shown(options)}, expected a list of texts")
    if index is not None and not (type(index) is int and 0 <= index < max(1, len(sample.images))):
        raise ValueError(
            f"meta.image_index is {shown(index)}, expected a number below {len(sample.images)}, its images"
        )
    pair = isinstance(size, list | tuple) and len(size) == 2 and all(type(one) is int for one in size)
    if size is not None and not pair:
        raise ValueError(f"meta.annotated_size is {shown(size)}, expected [width, height] in pixels")
    turns_before(sample)
    later_turns(sample)


def _length(value: Any, depth: int) -> int:
    """Characters of all texts in a value as JSON, keys too. ValueError when it is nested too deeply or not UTF-8."""
    if isinstance(value, str):
        if not value.isascii() and not _is_utf8(value):
            raise ValueError(
                f"not UTF-8 text: {shown(value)} has half of a surrogate pair or a byte of another encoding; "
                "save the file as UTF-8"
            )
        return len(value) if len(value) < LONG else len(json.dumps(value))  # six for a control character
    if value is None or isinstance(value, int | float):
        return 0
    if not isinstance(value, Mapping | list | tuple):
        raise ValueError(f"{shown(value)} is of the type {type(value).__name__}, expected a text or a number")
    if depth > DEEPEST:
        raise ValueError(f"the row is nested more than {DEEPEST} levels deep")
    inner = (*value, *value.values()) if isinstance(value, Mapping) else value
    return sum([_length(one, depth + 1) for one in inner])


def weight_of(value: Any) -> int:
    """About as many bytes as a row's value takes in memory."""
    if isinstance(value, str | bytes):
        return len(value)
    pairs = (*value, *value.values()) if isinstance(value, Mapping) else ()
    return 100 + sum([weight_of(one) for one in (value if isinstance(value, list | tuple) else pairs)])


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_finite(number: int | float) -> bool:
    """Also False for an integer beyond the range of floating point."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _not_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_not_finite, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_not_finite, value))
    return isinstance(value, int | float) and not is_finite(value)
