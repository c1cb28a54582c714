"""Readers are total and linear: any string gives a value of the right kind, and hostile ones give it quickly."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.parsing import (
    LabelledBox,
    read_boxed,
    read_boxes,
    read_choice,
    read_detections,
    read_final,
    read_number,
    read_reply,
    read_yes_no,
)

READERS = {
    "reply": read_reply,
    "final": read_final,
    "boxed": read_boxed,
    "boxes": read_boxes,
    "detections": read_detections,
    "choice": lambda text: read_choice(text, "ABCD", ("red", "blue", "1", "")),
    "number": read_number,
    "yes_no": read_yes_no,
}
PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "\\boxed{",
    "}",
    "{",
    "[",
    "]",
    "(",
    ")",
    ",",
    '"',
    "```json",
    "```",
]
PIECES += [
    '"bbox_2d":',
    '"label":',
    "1",
    "-2.5",
    "1e9",
    "NaN",
    "Infinity",
    "1,000",
    "/",
    "answer is ",
    "B",
    "or",
    "yes",
    "no",
]
PIECES += [
    "\\frac{",
    "\\text{",
    "**",
    "$",
    " ",
    "\n",
    "\ud800",
    "\0",
    "½",
    "ﷺ",
    "<|box_start|>",
    "<|box_end|>",
    "'",
    "\\",
]
ANYTHING = st.text() | st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@given(ANYTHING)
@settings(max_examples=300, deadline=None)
def test_any_string_gives_a_value_of_the_right_kind(text):
    reply = read_reply(text)
    assert reply.strict == (reply.reason is None)
    assert not reply.strict or (reply.think and reply.answer)
    for item in [*read_boxes(text), *(read_detections(text) or [])]:
        assert isinstance(item, LabelledBox) and len(item.box) == 4 and all(map(math.isfinite, item.box))
        assert isinstance(item.label, str)
    number = read_number(text)
    assert number is None or math.isfinite(number)
    assert READERS["choice"](text) in (None, "A", "B", "C", "D")
    assert read_yes_no(text) in (None, True, False)
    for reader in (read_boxed, read_final):
        assert reader(text) is None or isinstance(reader(text), str)


HOSTILE = {
    "brackets": "[" * 50_000,
    "closed brackets": "[" * 25_000 + "]" * 25_000,
    "braces": "{" * 50_000,
    "objects": '{"a":' * 10_000,
    "boxed": "\\boxed{" * 8_000,
    "half boxed": "\\boxed{" * 8_000 + "}" * 4_000,
    "text": "\\text{" * 8_000,
    "digits": "9" * 50_000,
    "digits in a list": "[" + "9" * 50_000,
    "thousands": "1,111" * 10_000 + "x",
    "commas": "[1,1,1,1" * 7_000,
    "spaces": "[" + " " * 50_000 + "1",
    "answer spaces": "answer" + " " * 50_000 + "x",
    "fences": "```" * 17_000,
    "tags": "<think>" * 7_000,
    "answers": "<answer>" * 3_000 + "</answer>" * 3_000,
    "quotes": '"label":' * 6_000,
    "labels in an object": "{" + '"label":"' * 5_000 + "}",
    "bold": "**a" * 16_000,
    "stars": "*" * 50_000,
    "is": "is " * 17_000,
    "yes": "yes " * 12_000,
    "surrogates": "\ud800" * 50_000,
    "ligatures": "ﷺ" * 50_000,
    "box tokens": "<|box_start|>(1,1),(" * 2_500,
    "fractions": "\\frac{1" * 8_000,
    "units": "1cm" * 17_000,
    "pairs of letters": "A) " * 17_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_fifty_kilobytes_of_anything_are_read_in_a_blink(text):
    for name, reader in READERS.items():
        start = time.process_time()
        reader(text)
        assert time.process_time() - start < 0.25, name
