"""Readers are total and linear: any string gives a value of the right kind, and hostile ones give it quickly."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples

from saccade.parsing import (
    LabelledBox,
    parse_boxed,
    parse_choice,
    parse_choices,
    parse_detections,
    parse_final,
    parse_number,
    parse_yes_no,
    read_all_boxed,
    read_boxed,
    read_boxes,
    read_choice,
    read_detections,
    read_final,
    read_number,
    read_quantity,
    read_reply,
    read_yes_no,
)
from saccade.parsing.claims import read_claim

READERS = {
    "reply": read_reply,
    "final": read_final,
    "boxed": read_boxed,
    "all boxed": read_all_boxed,
    "quantity": read_quantity,
    "boxes": read_boxes,
    "detections": read_detections,
    "choice": lambda text: read_choice(text, "ABCD", ("red", "blue", "1", "")),
    "number": read_number,
    "yes_no": read_yes_no,
    "choices": parse_choices,
    "claim": read_claim,
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


PIECES += [
    *(
        "< think >",
        "</ Answer >",
        "Final Answer:",
        "<loc0001>",
        "<box>",
        "<ref>",
        "option ",
        "A is correct",
        "not ",
        "&",
    ),
    *(
        "1½",
        "⁵",
        "10^",
        "百",
        "负",
        "一",
        "点",
        "minus ",
        "twenty-",
        "million",
        " cm",
        "平方",
        "°",
        ":",
        "\u202e",
        "\u2028",
    ),
]
PARSERS = (
    *(parse_boxed, parse_detections, parse_final, parse_number, parse_yes_no),
    lambda text: parse_choice(text, "ABCD", ("red", "blue", "1", "")),
    parse_choices,
)


@given(ANYTHING)
@settings(max_examples=examples(2_000, random=20_000))
def test_any_string_gives_a_value_of_the_right_kind(text):
    for parse in PARSERS:
        reading = parse(text)
        assert (reading.value is None) == bool(reading.reason) and (reading.value is not None) == bool(reading.how)
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


HOSTILE |= {
    "loose tags": "<  /  think " * 4_000,
    "final answers": "Final Answer:" * 4_000,
    "hashes": "# " * 25_000,
    "references": "<ref>a" * 8_000,
    "bins": "<loc0001>" * 5_000,
    "a box of spaces": "<box>" + " " * 50_000,
    "options": "option A " * 5_000,
    "is correct": "A is the correct or " * 2_500,
    "so": "so A " * 10_000,
    "Chinese digits": "一百" * 25_000,
    "number words": "one " * 12_000,
    "square": "5 square " * 6_000,
    "mixed": "1\\frac12" * 6_000,
    "powers of ten": "2x10^3 " * 7_000,
    "minus": "- - " * 12_000,
    "raised": "⁵" * 50_000,
    "vulgar fractions": "1½" * 25_000,
    "JSON in prose": "[1] " * 12_000,
    "JSON lines": '{"bbox":[1,2,3,4]}\n' * 2_500,
    "claims": "The answer is 5. " * 3_000,
    "Chinese claims": "答案是" * 15_000,
    "assignments": "x = 1, " * 7_000,
    "formulas": "$1$, " * 10_000,
    "open formulas": "\\(" * 25_000,
    "units in a row": "5 m s kg " * 5_000,
    "right to left": "\u202e\u0661\u05d0" * 16_000,
}


def seconds(reader, text):
    """The least of three readings, in CPU time."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        reader(text)
        taken.append(time.process_time() - start)
    return min(taken)


def is_linear(reader, text):
    once = seconds(reader, text)
    return once < 0.25 and seconds(reader, text * 2) <= 2.5 * once + 0.005


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_fifty_kilobytes_of_anything_are_read_in_a_blink_and_twice_as_much_takes_about_twice_as_long(text):
    for name, reader in READERS.items():
        # a busy machine can spoil a reading, but what takes four times as long does so in each of them
        assert any(is_linear(reader, text) for _ in range(6)), name
