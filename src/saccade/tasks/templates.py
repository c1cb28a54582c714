"""Prompt templates. The text of a template id never changes: a new wording gets a new id.

SFT, RL, evaluation and served models all get their prompt from `write_prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from saccade.parsing.option_texts import own_text
from saccade.types import Sample

IMAGE = "<image>"
"""Marker of one image in a prompt; the adapter replaces it with the image's tokens."""


@dataclass(frozen=True, slots=True)
class Template:
    """A wording around the question, which replaces `{question}`."""

    id: str
    """Name and version, recorded with results."""
    text: str
    source: str = ""
    """Source of the wording, which is byte-identical."""


_TAGS = (
    "{question} First output the thinking process in <think> </think> tags and then output the final answer in "
    "<answer> </answer> tags."
)
_MIND = (
    "irst thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think><answer> {}answer here </answer>"
)
_VLM_R1, _R1_ZERO = "VLM-R1, question template", "DeepSeek-R1 (arXiv 2501.12948), table 1"

_CURRENT = (
    Template("bare.v1", "{question}"),
    Template("vlm_r1.v2", _TAGS, f"{_VLM_R1} 'default'"),
    Template("vlm_r1_json.v2", _TAGS + " Output the final answer in JSON format.", f"{_VLM_R1} 'rec'"),
    Template("vlm_r1_od_length.v1", "F" + _MIND.format("") + "\n{question}", f"{_VLM_R1} 'odLength'"),
    Template("vlm_r1_ic.v1", "{question} F" + _MIND.format("json format "), f"{_VLM_R1} 'ic'"),
    Template("vision_r1.v1", "{question}", "Vision-R1: neither its data nor its RL add an instruction"),
    Template(
        "vision_r1_zero.v1",
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant f" + _MIND.format("").replace("</think><answer>", "</think> <answer>") + ".\n{question}",
        f"{_R1_ZERO}, which Vision-R1's Zero follows; theirs is a system prompt and not published",
    ),
)
_EARLIER = (
    Template(
        "vlm_r1.v1",
        "{question} First think it through in <think> </think> tags, "
        "then give the final answer in <answer> </answer> tags.",
    ),
    Template(
        "vlm_r1_json.v1",
        "{question} First think it through in <think> </think> tags, "
        "then give the final answer in <answer> </answer> tags. "
        "Write the final answer in JSON.",
    ),
)
TEMPLATES: dict[str, Template] = {
    **{template.id.rpartition(".")[0]: template for template in _CURRENT},
    **{template.id: template for template in _EARLIER},
}
"""By name, in the newest version; earlier versions by id, so that old results can be reproduced."""

QUESTIONS: dict[str, Template] = {
    "refer": Template(
        "vlm_r1_refer.v1",
        "Please provide the bounding box coordinate of the region this sentence describes: {expression}.",
        "VLM-R1, REC data",
    ),
    "detect": Template(
        "vlm_r1_detect.v1",
        "Please carefully check the image and detect the following objects: {labels}. "
        "Output each detected target's bbox coordinates in JSON format. The format of the bbox coordinates is:\n"
        "```json\n[\n"
        '    {"bbox_2d": [x1, y1, x2, y2], "label": "target name"},\n'
        '    {"bbox_2d": [x1, y1, x2, y2], "label": "target name"}\n'
        "]\n```\nIf there are no such targets in the image, simply respond with None.",
        "VLM-R1, OVD data",
    ),
}
"""Question texts for data without them: `{expression}` is a sentence, `{labels}` a comma-separated list."""


def write_question(name: str, **fields: str) -> str:
    """The question from `QUESTIONS` about an expression or labels. KeyError for a missing field."""
    return re.sub(r"\{(expression|labels)\}", lambda match: fields[match[1]], QUESTIONS[name].text)


def find_template(name: str) -> Template:
    """The template of that name or id; ValueError with the nearest name when there is none."""
    found = TEMPLATES.get(name) or next((one for one in TEMPLATES.values() if one.id == name), None)
    if found is None:
        close = get_close_matches(name, TEMPLATES, n=1, cutoff=0.5)
        hint = f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(TEMPLATES)}"
        raise ValueError(f"unknown template '{name}'{hint}")
    return found


def write_prompt(sample: Sample, template: str) -> str:
    """The user's turn: exactly one `<image>` marker per image, the question, its options, the template's text.

    A question without markers gets its images at the beginning, and leading markers stay at the beginning. Options that
    the question lists itself (`meta.options_listed`) are not written again. ValueError when the numbers of markers and
    images differ, or for an unknown template.
    """
    wording = find_template(template).text
    listed = sample.meta.get("options_listed") is True
    question = sample.question + ("" if listed else write_options(sample.meta.get("options") or ()))
    if IMAGE not in question:
        question = IMAGE * len(sample.images) + question
    if question.count(IMAGE) != len(sample.images):
        raise ValueError(
            f"sample {sample.id!r}: got {question.count(IMAGE)} {IMAGE} markers for {len(sample.images)} images; "
            "expected one per image, or none"
        )
    in_front = re.match(f"(?:{IMAGE}\\s*)*", question)
    shown = in_front[0] if in_front is not None else ""
    return shown + wording.replace("{question}", question[len(shown) :])


def write_options(options: Sequence[str]) -> str:
    """The options of a choice question, one per line: 'A) red', also for 'A. red'. Empty when they are only letters."""
    letters = [chr(ord("A") + i) for i in range(len(options))]
    if list(options) == letters:
        return ""
    return "".join(f"\n{letter}) {own_text(letter, option)}" for letter, option in zip(letters, options, strict=True))
