"""A cold start whose teacher is hostile: each row is done or left out with a reason, and the run ends well."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.run import run
from saccade.schemas import load_recipe
from tests.chat_server import Answer, chat_server

KEY = "sk-teacher-9f27aa51cc0e"
SAID = "<think>The number is 7. I look once more, and it is 7 again.</think><answer>7</answer>"


def reply(content: Any = SAID, reason: Any = "stop", **more: Any) -> bytes:
    message = {"role": "assistant", "content": content} | more
    return json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode()


def with_usage(usage: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": SAID}, "finish_reason": "stop"}], "usage": usage}).encode()


FINE: dict[str, Callable[[], bytes]] = {
    "an absurd count": lambda: with_usage({"prompt_tokens": -5, "completion_tokens": 10**30}),
    "counts that are none": lambda: with_usage([1]),
    "a reason not known": lambda: reply(reason="eaten by a grue"),
    "a reason that is no word": lambda: reply(reason={"why": 1}),
    "half a surrogate pair": lambda: reply(SAID.replace("7.", "7 \ud83d.")),
    "a second choice before the first": lambda: json.dumps(
        {"choices": [{"index": 1, "message": {"content": "?"}}, {"index": 0, "message": {"content": SAID}}]}
    ).encode(),
    "the key, hidden": lambda: reply(SAID.replace("7.", f"7 {KEY[::-1]} {' '.join(KEY)}.")),
}
"""What a teacher replies -> the reply is learned."""
DROPPED: dict[str, Callable[[], bytes]] = {
    "the end of a turn": lambda: reply(SAID.replace("I look", "<|im_end|> I look")),
    "the mark of an image": lambda: reply(SAID.replace("I look", "<image> I look")),
    "a token in the answer": lambda: reply(SAID.replace("</answer>", "<|endoftext|></answer>")),
    "commands to a terminal": lambda: reply(SAID.replace("I look", "\x1b]0;x\x07 I look")),
    "another form": lambda: reply(json.dumps({"thought": "seven", "answer": 7})),
    "the same to everything": lambda: reply("I am a language model."),
    "one sentence without end": lambda: reply(SAID.replace("I look", "It is one. " * 900)),
    "thousands of tags": lambda: reply("<answer>" * 9_000 + "</answer>" * 9_000),
    "formulas in formulas": lambda: reply(SAID.replace(">7<", ">" + "\\frac{1}{" * 900 + "}" * 900 + "<")),
}
"""The reply is kept in the store and not learned."""
LEFT_OUT: dict[str, Callable[[], bytes]] = {
    "JSON 10,000 deep": lambda: b"[" * 10_000 + b"]" * 10_000,
    "a page": lambda: b"<html>Hello</html>",
    "nothing": lambda: b"",
    "no choices": lambda: b'{"choices": []}',
    "choices that are none": lambda: b'{"choices": {"0": 1}}',
    "a tool call": lambda: reply(None, "tool_calls", tool_calls=[{"function": {"name": "rm"}}]),
    "parts instead of text": lambda: reply([{"type": "text", "text": SAID}]),
    "a stream": lambda: b'data: {"choices": []}\n\ndata: [DONE]\n',
    "a number of 5,000 digits": lambda: reply().replace(b'"stop"', b"9" * 5_000),
    "two megabytes": lambda: reply("a " * 1_000_000),
}
"""No reply that can be used: the row is left out with a reason."""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., ColdStartRecipe]:
    def made(url: str, names: list[str]) -> ColdStartRecipe:
        Image.new("RGB", (32, 32), (9, 99, 199)).save(tmp_path / "a.png")
        with (tmp_path / "rows.jsonl").open("w") as lines:
            for i, name in enumerate(names):
                turns = [{"from": "human", "value": f"Row {i}: which number?"}, {"from": "gpt", "value": "7"}]
                lines.write(json.dumps({"id": name, "image": "a.png", "task": "count", "conversations": turns}) + "\n")
        teacher = {"teacher": "endpoint", "url": url, "model": "m", "retries": 2, "backoff_s": 0.01}
        teacher |= {"timeout_s": 30.0, "concurrency": 4}
        data = [{"source": "vlm_r1", "path": str(tmp_path / "rows.jsonl")}]
        found = {"kind": "coldstart", "out": str(tmp_path / "set"), "data": data, "vision": teacher}
        options = {"reasoner": teacher, "samples": 1, "attempts": 1, "filters": ["answer", "format", "repetition"]}
        tokens = {stage: {"max_new_tokens": 2048} for stage in ("pseudo_cot", "description", "reasoning")}
        (tmp_path / "r.yaml").write_text(json.dumps(found | options | {"sampling": tokens, "stop_after": 99}))
        return load_recipe(str(tmp_path / "r.yaml"))

    return made


def test_a_hostile_teacher_costs_its_own_rows_and_never_the_run(
    tmp_path: Path, recipe: Callable[..., ColdStartRecipe]
) -> None:
    replies = {"fine": reply} | FINE | DROPPED | LEFT_OUT
    names = list(replies)

    def answer(number: int, request: dict[str, Any]) -> Answer:
        content = request["messages"][0]["content"]
        row = re.search(r"Row (\d+)", content if isinstance(content, str) else content[-1]["text"])
        if row is None or not isinstance(content, str):  # the check before the run, and the vision teacher
            return Answer("There is one number in the picture, in black.")
        return Answer(raw=replies[names[int(row[1])]]())

    with chat_server(answer) as server:
        summary = run(recipe(server.url, names), {"OPENAI_API_KEY": KEY})
    out = tmp_path / "set"
    learned = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert [row["id"] for row in learned] == ["fine", *FINE]
    drafts = [json.loads(line) for line in (out / "drafts.jsonl").read_text().splitlines()]
    assert [draft["id"] for draft in drafts] == ["fine", *FINE, *DROPPED], "no row twice, none lost"
    assert all(draft["chains"][0]["rejections"] for draft in drafts if draft["id"] in DROPPED)
    left = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert len(left) == len(LEFT_OUT) == summary["rows"]["failed"] and all(row["reason"] for row in left)
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not any(
        KEY.encode() in content or KEY[::-1].encode() in content or " ".join(KEY).encode() in content
        for content in written
    )
