"""A cold start whose teacher is hostile: each row is done or left out with a reason, and the run ends well."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from saccade.coldstart.images import place_image
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.run import run
from saccade.coldstart.store import NAME, Store
from saccade.config import load
from saccade.data.images import ImageError
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
        return load(tmp_path / "r.yaml", ColdStartRecipe)

    return made


def _a_link(place: Path, to: str) -> None:
    (place.parent / "secret.png").write_bytes(b"\x89PNG secret")
    place.symlink_to(to)


def _holes(place: Path) -> None:
    place.touch()
    os.truncate(place, 1 << 40)


CHANGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda place: None, "there is no such image file"),
    "a folder": (lambda place: place.mkdir(), "is no regular file"),
    "a pipe": (os.mkfifo, "is no regular file"),
    "a terabyte of holes": (_holes, "has 1,099,511,627,776 bytes"),
    "a link to a device": (lambda place: _a_link(place, "/dev/zero"), "is no regular file"),
    "a link to nowhere": (lambda place: _a_link(place, "/nowhere.png"), "there is no such image file"),
    "a link to another file": (lambda place: _a_link(place, "secret.png"), r"was changed .*set another 'out'"),
    "another picture": (lambda place: Image.new("RGB", (9, 9)).save(place), r"was changed .*set another 'out'"),
}
"""What an image is replaced by after its row was ingested -> the reason."""


@pytest.mark.parametrize(("before", "images"), [("the texts", "copy"), ("the set", "path")])
@pytest.mark.parametrize("name", CHANGED)
def test_an_image_that_changed_costs_its_row_until_it_is_back(
    tmp_path: Path, recipe: Callable[..., ColdStartRecipe], name: str, before: str, images: str
) -> None:
    change, why = CHANGED[name]
    sent, down = [], [True]

    def answer(number: int, request: dict[str, Any]) -> Answer:
        content = request["messages"][0]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        if "Row 0" in text and not isinstance(content, str):
            sent.append(base64.b64decode(content[0]["image_url"]["url"].split(",")[1]))
        return Answer(status=400 if down[0] and "Row" in text else 200, raw=reply())

    with chat_server(answer) as server:
        made = recipe(server.url, ["r0", "r1"]).model_copy(update={"images": images})
        rows, image = tmp_path / "rows.jsonl", tmp_path / "r0.png"
        Image.new("RGB", (9, 9), (200, 9, 9)).save(image)
        rows.write_text(rows.read_text().replace("a.png", "r0.png", 1))
        down[0] = before == "the texts"
        run(made)
        with Store(tmp_path / "set" / NAME) as store:
            store._db.execute("UPDATE rows SET retriable = 1")  # as if the server had not answered in time
        kept, down[0] = image.read_bytes(), False
        image.unlink()
        shutil.rmtree(tmp_path / "set" / "images", ignore_errors=True)
        change(image)
        assert (summary := run(made))["left_out"] == {"bad image": 1} and summary["written"]["written"] == 1
        (row,) = map(json.loads, (tmp_path / "set" / "left_out.jsonl").read_text().splitlines())
        assert re.search(rf"r0\.png: {why}", row["detail"]) and set(sent) <= {kept}, "nothing else is sent"
        image.rmdir() if image.is_dir() else image.unlink(missing_ok=True)
        image.write_bytes(kept)
        assert run(made)["written"]["in the set"] == 2


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000])
@pytest.mark.parametrize("how", ["path", "copy"])
def test_a_name_that_no_file_can_have_is_a_bad_image(tmp_path: Path, name: str, how: str) -> None:
    for path in (name, str(tmp_path / name)):
        with pytest.raises(ImageError):
            place_image(path, "0" * 64, tmp_path, how)
    with pytest.raises(ImageError):
        place_image("a.png", name, tmp_path, how)


def test_a_hard_link_in_the_set_whose_original_changed_is_no_image_of_it(
    tmp_path: Path, recipe: Callable[..., ColdStartRecipe]
) -> None:
    with chat_server(lambda number, request: Answer(raw=reply())) as server:
        made = recipe(server.url, ["r0"])
        assert run(made)["written"]["in the set"] == 1
        kept = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(b"x" * 99)
        assert run(made)["left_out"] == {"bad image": 1}
        (tmp_path / "b.png").write_bytes(kept)
        (tmp_path / "a.png").unlink()
        (tmp_path / "a.png").symlink_to("b.png")  # the data were moved: the content counts, not the place
        assert run(made)["written"]["in the set"] == 1
    (image,) = (tmp_path / "set" / "images").iterdir()
    assert image.read_bytes() == kept and not image.is_symlink()


DAMAGE: dict[str, tuple[str, str]] = {
    "no state": ("UPDATE rows SET state = 'x' WHERE number = 1", ""),
    "no steps": ("DELETE FROM steps WHERE number = 1", ""),
    "no reason": ("UPDATE rows SET state = 'failed', retriable = 0 WHERE number = 1", "unknown"),
    "a lock that is no text": ("INSERT INTO facts VALUES ('writing the set', '5')", ""),
    "a lock of nobody": ("INSERT INTO facts VALUES ('writing the set', '[\"zz\", 1e400]')", ""),
    "an empty draft": ("UPDATE rows SET draft = '{}' WHERE number = 1", r"row 1: its draft cannot.*another 'out'"),
    "an open list": ("UPDATE rows SET draft = '[', state = 'open' WHERE number = 1", "row 1: its draft cannot be read"),
    "bytes": ("UPDATE rows SET draft = x'ff00' WHERE number = 1", "row 1: its draft cannot be read"),
    "no task": (
        "UPDATE rows SET draft = json_set(draft, '$.task', 'zz') WHERE number = 1",
        "task is 'zz', expected one of",
    ),
    "no hashes": ("UPDATE rows SET draft = json_set(draft, '$.image_shas', json('[]')) WHERE number = 1", "as many"),
    "a step of another name": (
        "UPDATE steps SET step = 'zz' WHERE number = 1 AND step = 'description'",
        r"row 1: step 'zz' cannot be read \(KeyError: 'chain'\); to have .*DELETE FROM steps WHERE number = 1",
    ),
    "a step that is a number": ("UPDATE steps SET body = '5' WHERE number = 1", "row 1: step 'description' cannot"),
    "a count that is none": (
        "UPDATE steps SET body = json_set(body, '$.record.tokens_in', 'zz') WHERE number = 1",
        "tokens_in is 'zz', expected int",
    ),
    "a text that is none": (
        "UPDATE steps SET body = json_set(body, '$.text', 5) WHERE number = 1 AND step = 'description'",
        "text is 5, expected str",
    ),
}
"""What is done to the file of rows -> the detail of the row that is left out, none where it is made again."""


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_row_of_the_store_costs_itself_in_one_line(
    tmp_path: Path, recipe: Callable[..., ColdStartRecipe], name: str
) -> None:
    damage, why = DAMAGE[name]
    with chat_server(lambda number, request: Answer(raw=reply())) as server:
        made = recipe(server.url, ["r0", "r1"])
        run(made)
        with Store(tmp_path / "set" / NAME) as store:
            store._db.execute(damage)
        summary = run(made)
        assert summary["rows"]["all"] == 2 and summary["written"]["in the set"] == 2 - bool(why)
        left = (tmp_path / "set" / "left_out.jsonl").read_text()
        assert len(left.splitlines()) == bool(why) and (re.search(why, left) or why in summary["left_out"])
        if "DELETE FROM steps" in left:  # the way out
            with Store(tmp_path / "set" / NAME) as store:
                store._db.execute("DELETE FROM steps WHERE number = 1")
            assert run(made)["written"]["in the set"] == 2


@pytest.mark.parametrize("value", ["5", "{"])
def test_damaged_settings_of_the_store_are_one_line(
    tmp_path: Path, recipe: Callable[..., ColdStartRecipe], value: str
) -> None:
    made = recipe("http://127.0.0.1:9", ["r0"])
    with Store(made.out / NAME) as store:
        store._db.execute("INSERT INTO facts VALUES ('making', ?)", (value,))
    with pytest.raises(OSError, match=rf"rows\.sqlite: fact 'making' is '{value}', expected a dict; .* another 'out'"):
        run(made)


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


@pytest.mark.parametrize("end", ["x" * 215, "png\n", "PNG ", "jpg" * 9])
def test_what_follows_the_last_dot_of_an_image_is_in_no_name_of_the_set(
    tmp_path: Path, recipe: Callable[..., ColdStartRecipe], end: str
) -> None:
    """Its format is: a long name plus a hash is longer than a name may be."""
    with chat_server(lambda number, request: Answer(raw=reply())) as server:
        made = recipe(server.url, ["r0"])
        lines = (tmp_path / "rows.jsonl").read_text().replace('"a.png"', json.dumps(f"b.{end}"))
        (tmp_path / "rows.jsonl").write_text(lines)
        (tmp_path / "a.png").rename(tmp_path / f"b.{end}")
        assert run(made)["written"]["in the set"] == 1
    (image,) = (tmp_path / "set" / "images").iterdir()
    assert image.suffix == ".png"
