"""Rows that cannot be used: refused before step 1 with file and line, or skipped and counted; the others keep their
places, and an epoch shows each of them once."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_rows import AT_ITS_TURN, KNOWN_BEFORE, LINES, good, turns, write_model, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from property_search import examples
from training_runs import REWARD

from saccade.data import DataConfig, Mixture, Source, open_source
from saccade.data import roots as recorded_roots
from saccade.data.convert import convert
from saccade.data.files import table_rows
from saccade.data.json_stream import elements
from saccade.data.order import EpochOrder
from saccade.data.records import Reading
from saccade.models.config import ModelConfig
from saccade.models.policy import load_adapter, load_policy
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import PromptLimits, prepare
from saccade.training import rl, sft
from saccade.training.config import EvalConfig, ExampleConfig, RLRecipe, SFTRecipe
from saccade.training.example_feed import screened
from saccade.training.examples import Example, encode_usable, read_examples
from saccade.training.heldout import build_heldout
from saccade.training.resuming import Resume
from saccade.types import Sample

BAD = [*KNOWN_BEFORE, *LINES]
BY_THE_MODEL = ("thin", "a reserved token", "over the budget")


# --------------------------------------------------------------------------------------------------------------- order


@settings(max_examples=examples(60))
@given(size=st.integers(2, 12), seed=st.integers(0, 99), stop=st.integers(0, 40), data=st.data())
def test_an_epoch_has_each_usable_row_once_and_a_skipped_one_shifts_no_other(size, seed, stop, data) -> None:
    bad = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))

    def permutation(epoch: int) -> list[int]:
        return Random(f"{seed}/{epoch}").sample(range(size), size)

    def walk(order: EpochOrder, counts: range) -> list[int]:
        found = []
        for count in counts:
            while order[count] in bad:
                order.skip(count)
            found.append(order[count])
        return found

    whole = walk(EpochOrder(size, permutation), range(60))
    first = whole[: size - len(bad)]
    assert sorted(first) == sorted(set(range(size)) - bad)
    for place, row in enumerate(permutation(0)[: len(first)]):
        assert row in bad or first[place] == row
    usable = size - len(bad)
    later = whole[usable : len(whole) // usable * usable]
    assert all(sorted(later[i : i + usable]) == sorted(first) for i in range(0, len(later), usable))
    begun = EpochOrder(size, permutation)
    walk(begun, range(stop))
    resumed = EpochOrder(size, permutation, [one for one in begun.skipped if one[0] < stop])
    assert walk(resumed, range(stop, 60)) == whole[stop:]


def test_no_row_is_seen_twice_before_all_were_seen_once_however_many_a_step_draws() -> None:
    """Dynamic sampling, stages of other sizes, several sources, and rows skipped at their turn."""
    sources = [
        Source(name, lambda i, name=name: Sample(f"{name}/{i}", (), "?", i, "count"), size, on_bad="skip")
        for name, size in (("a", 600), ("b", 400))
    ]
    mixture, position, seen = Mixture(sources, [3, 2], seed=5), 0, Counter[str]()
    bad = {f"a/{i}" for i in range(0, 600, 50)}
    sizes = Random(0)
    while len(seen) < 980:
        for _ in range(sizes.choice([8, 8, 24, 3])):
            (sample,) = mixture.draw(position, 1)
            while sample.id in bad:
                mixture.skip(position)
                (sample,) = mixture.draw(position, 1)
            seen[sample.id] += 1
            position += 1
        if position == 960:
            mixture.restore(mixture.skipped(position))
    assert not bad & seen.keys() and max(seen.values()) <= 2
    assert sum(seen.values()) < 1010, "almost no row came twice while others had not come at all"


def test_a_source_without_a_usable_row_is_named() -> None:
    mixture = Mixture([Source("few", lambda i: Sample(str(i), (), "?", i, "count"), 2, on_bad="skip")])
    mixture.skip(0)
    with pytest.raises(ValueError, match="'few': none of its 2 rows is usable"):
        mixture.skip(0)


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", [name for name in BAD if name not in BY_THE_MODEL])
def test_an_unusable_row_is_named_with_file_and_line_or_skipped_and_counted(tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path, [name], rows=3)
    with pytest.raises(ValueError, match=r"^train\.jsonl:2: ") as error:
        open_source(DataConfig(source="vlm_r1", path=path))
    assert len(str(error.value)) < 1000 and str(error.value).isprintable()
    source = open_source(DataConfig(source="vlm_r1", path=path, on_bad="skip"))
    assert (len(source), source.skipped) == (3, 1) and source.first_skipped == str(error.value)


def test_image_files_outside_the_folders_of_the_data_need_the_users_word(tmp_path: Path) -> None:
    path = write_rows(tmp_path, ["outside"], rows=1)
    link = path.with_name("link.png")
    link.symlink_to(tmp_path / "outside.png")
    entry = {"source": "vlm_r1", "path": path}
    with pytest.raises(ValueError, match=r"outside the folders of its data.*data_root: /"):
        open_source(DataConfig(**entry))
    for allowed in ({"allow_outside": True}, {"data_root": tmp_path}):
        assert len(open_source(DataConfig(**entry, **allowed))) == 2
    path.write_text(json.dumps({"id": 1, "image": "link.png", "conversations": turns("?", "1")}))
    with pytest.raises(ValueError, match="outside the folders of its data"):
        open_source(DataConfig(**entry))
    with pytest.raises(ValueError, match="has no effect with allow_outside"):
        DataConfig(**entry, allow_outside=True, data_root=tmp_path)


def test_what_convert_wrote_is_read_from_where_it_was_but_nobody_else_can_name_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_roots, "KEY", tmp_path / "key")
    path = write_rows(tmp_path, [], rows=2)
    convert([DataConfig(source="vlm_r1", path=path)], tmp_path / "out", "jsonl")
    entry = DataConfig(source="saccade", path=tmp_path / "out")
    assert len(open_source(entry)) == 2
    record = tmp_path / "out" / recorded_roots.ROOTS
    for forged in ({**json.loads(record.read_text()), "roots": ["/"]}, {"roots": [str(tmp_path)]}, [], "x"):
        record.write_text(json.dumps(forged))
        with pytest.raises(ValueError, match="outside the folders of its data"):
            open_source(entry)


def test_a_limit_of_ones_own_takes_larger_and_smaller_images(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [], rows=1)
    Image.new("1", (6000, 6000)).save(path.with_name("ok.png"))
    with pytest.raises(ValueError, match=r"6000 x 6000 pixels, expected 25,000,000 at most; .* raise max_image_pixels"):
        open_source(DataConfig(source="vlm_r1", path=path))
    assert len(open_source(DataConfig(source="vlm_r1", path=path, max_image_pixels=36_000_000))) == 1


def repeated(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def nothings(rows: int) -> pa.Array:
    return pa.ListArray.from_arrays([0, rows], pa.nulls(rows, pa.int8()))


BOMBS: dict[str, Any] = {
    "a long text in a dictionary that no reader wants": lambda: {
        "junk": repeated("a" * 9_000_000, 99),
        "id": ["x"] * 99,
    },
    "one in a column that is read": lambda: {"problem": repeated("a" * 9_000_000, 99)},
    "a text of 80 MB": lambda: {"problem": ["a" * 80_000_000]},
    "a long list of nothing": lambda: {"options": nothings(4_000_000)},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "is read" in name else ()) for name in BOMBS]
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_small_file_of_gigabytes_is_read_or_refused_in_less_than_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.parquet"
    table = pa.table(BOMBS[name]())
    pq.write_table(table, path, compression="zstd", write_statistics=False, store_schema=False)
    assert path.stat().st_size < 10_000
    code = (
        "import sys\nfrom pathlib import Path\nfrom saccade.data import DataConfig\n"
        "from saccade.data.sources import items\n"
        "found = list(items(DataConfig(source='easy_r1', path=Path(sys.argv[1]))))\n"
        "assert found and all(isinstance(item, ValueError) for _, item in found), found\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 600_000, f"peak of {done.stdout} kB"


BAD_ELEMENTS = {
    "a bare word": '{"n": oops}',
    "single quotes": "{'n': 1}",
    "an integer of 5,000 digits": '{"n": ' + "9" * 5000 + "}",
    "nested too deeply": '{"n": ' + "[" * 5000 + "]" * 5000 + "}",
    "a stray escape": '{"n": "\\q", "m": "]"}',
    "a comma too many": '{"n": 1,}',
    "a text that never closes": '{"n": "x}',
    "an object that never closes": '{"n": [1, 2',
    "a bracket too many": '{"n": [1]]',
    "a line break in a text": '{"n": "a\nb"}',
    "bytes of another encoding": '{"n": "\udce9"}',
}


@pytest.mark.parametrize("bad", BAD_ELEMENTS.values(), ids=BAD_ELEMENTS)
@pytest.mark.parametrize("window", [5, 1 << 20])
def test_a_json_list_continues_behind_an_element_that_is_not_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str, window: int
) -> None:
    monkeypatch.setattr("saccade.data.json_stream.WINDOW", window)
    rows = ['{"id": 0}', bad, '{"id": 2}', bad, '{"id": 4}']
    (tmp_path / "a.json").write_bytes(f"[{','.join(chr(10) + row for row in rows)}\n]".encode(errors="surrogateescape"))
    found = list(elements(tmp_path / "a.json"))
    assert [value["id"] for _, _, value in found if isinstance(value, dict) and "id" in value] == [0, 2, 4]
    assert len([value for _, _, value in found if isinstance(value, ValueError) or "n" in value]) >= 2


CLOSED_BY_THE_LIST = BAD_ELEMENTS["an object that never closes"]
"""In an object it is an element that holds the rest."""
METADATA = [
    '[{"a": 1, "a": 2}]',
    "9" * 5000,
    '{"a": "x}',
    '{"a": 1}}',
    "oops",
    '"x" "y"',
    "[1, 2,]",
    "[1]]",
    "{'a': 1}",
]


@pytest.mark.parametrize(
    "bad", [*sorted({*BAD_ELEMENTS.values()} - {CLOSED_BY_THE_LIST}), '{"n": 1', '{"n": 1}}', '{"n: 1}']
)
def test_a_list_in_an_object_loses_no_more_to_a_fault_than_a_list(tmp_path: Path, bad: str) -> None:
    rows = ",\n".join(['{"id": 0}', '{"id": 1}', bad, '{"id": 3}', '{"id": 4}'])
    texts = [f"[\n{rows}\n]", f'{{"data": [\n{rows}\n]}}', f'{{"info": {{"a": 1}},\n"data": [\n{rows}\n],\n"v": 1}}']
    for text in texts:
        (tmp_path / "a.json").write_bytes(text.encode(errors="surrogateescape"))
        found = [row for _, row in table_rows(Reading(tmp_path / "a.json", tmp_path))]
        assert [row["id"] for row in found if isinstance(row, dict) and "id" in row] == [0, 1, 3, 4]
        assert len(found) <= 6 and not any("lists under" in str(row) for row in found)


@pytest.mark.parametrize("bad", METADATA)
def test_a_fault_in_what_is_around_a_list_costs_none_of_its_rows(tmp_path: Path, bad: str) -> None:
    (tmp_path / "a.json").write_text(f'{{\n"info": {bad},\n"data": [\n{{"id": 0}},\n{{"id": 1}}\n]}}')
    found = [row for _, row in table_rows(Reading(tmp_path / "a.json", tmp_path))]
    assert [row for row in found if isinstance(row, dict)] == [{"id": 0}, {"id": 1}]
    assert 1 <= sum(isinstance(row, ValueError) for row in found) <= 2


# ------------------------------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "rewards.py").write_text(REWARD)
    return write_model(folder)


def rl_of(model: Path, path: Path, **changes: Any) -> RLRecipe:
    entry = {"source": "vlm_r1", "path": str(path), "on_bad": changes.pop("on_bad", "skip")}
    base: dict[str, Any] = {
        "model": {"path": str(model), "device": "cpu"},
        "data": [entry],
        "rubrics": {"test": {"parts": [{"name": f"{model.parent / 'rewards.py'}:even_tokens"}], "truncated": "as_is"}},
        "stages": [
            {"name": "a", "max_new_tokens": 4, "group_size": 2, "rubric": "test", "until": {"step": 1}},
            {"name": "b", "max_new_tokens": 5, "group_size": 2, "rubric": "test", "prompts_per_step": 2},
        ],
        "num_steps": 3,
        "prompts_per_step": 3,
        "optim": {"lr": 1e-3},
        "checkpoint": {"every": 1, "keep": 3},
        "images_per_step": 0,
    }
    return RLRecipe.model_validate(base | changes)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stopped(policy: Any, engine: Any, step: int) -> dict[str, float]:
    """An evaluation in which a run is stopped."""
    if step == 2:
        raise KeyboardInterrupt
    return {"score": 0.0}


def test_a_run_skips_them_counts_them_and_resumes_as_if_it_had_never_stopped(model: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path, [*BY_THE_MODEL, "a surrogate in the id", *AT_ITS_TURN], rows=6)
    recipe = rl_of(model, path)
    rl.train(recipe, tmp_path / "run")
    seen = [row["sample_id"] for row in lines(tmp_path / "run" / "rollouts.jsonl") if row["index"] == 0]
    assert len(seen) == 7 and sorted(seen[:6]) == [f"good{i}" for i in range(6)], "each once before any twice"
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["data/position"] for row in metrics] == [3, 5, 7] and metrics[-1]["data/skipped"] == 6

    recipe = rl_of(model, path, eval={"every": 1})
    with pytest.raises(KeyboardInterrupt):
        rl.train(recipe, tmp_path / "cut", evaluate=stopped)
    rl.train(recipe, tmp_path / "cut", evaluate=lambda policy, engine, step: {"score": 0.0}, resume=True)
    assert [row["sample_id"] for row in lines(tmp_path / "cut" / "rollouts.jsonl") if row["index"] == 0] == seen


def test_a_run_whose_images_went_away_does_not_go_on_in_another_order_unasked(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_rows(tmp_path, ["thin", *AT_ITS_TURN], rows=5)
    last = json.loads(path.read_text().splitlines()[-1]) | {"id": "last", "image": "own.png"}
    (path.parent / "own.png").write_bytes((path.parent / "ok.png").read_bytes())
    path.write_text(path.read_text() + json.dumps(last) + "\n")

    recipe = rl_of(model, path, eval={"every": 1})
    with pytest.raises(KeyboardInterrupt):
        rl.train(recipe, tmp_path / "run", evaluate=stopped)
    (path.parent / "own.png").rename(path.parent / "away.png")
    with pytest.raises(ValueError, match=r"its images changed \(5 -> 4.*--accept"):
        rl.train(recipe, tmp_path / "run", evaluate=lambda *_: {"score": 0.0}, resume=True)
    with caplog.at_level("WARNING"):
        rl.train(recipe, tmp_path / "run", evaluate=lambda *_: {"score": 0.0}, resume=Resume(accept_changes=True))
    assert "usable rows of the data were 'train' 8, they are 'train' 7 now" in caplog.text
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == 4, "with the start"


CHANGES = {
    "grown beyond the limit of pixels": lambda path: Image.new("1", (8000, 8000)).save(path),
    "a folder now": lambda path: (path.unlink(), path.mkdir()),
    "a pipe now": lambda path: (path.unlink(), os.mkfifo(path)),
    "too thin now": lambda path: Image.new("RGB", (300, 1)).save(path),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("kind", ["rl", "sft"])
def test_images_that_change_while_a_run_is_alive_cost_their_rows_only(model: Path, tmp_path: Path, kind: str) -> None:
    path = write_rows(tmp_path, [], rows=3)
    spoiled = [good(10 + i) | {"image": f"{i}.png", "task": "count"} for i in range(len(CHANGES))]
    for row in spoiled:
        (path.parent / row["image"]).write_bytes((path.parent / "ok.png").read_bytes())
    path.write_text("\n".join([*map(json.dumps, spoiled), path.read_text()]))

    def change(*_: Any) -> dict[str, float]:
        """The first evaluation, after all rows were checked and before any is drawn."""
        for row, spoil in zip(spoiled, CHANGES.values(), strict=True):
            if (path.parent / row["image"]).is_file():  # another evaluation ends the run
                spoil(path.parent / row["image"])
        return {"score": 0.0}

    recipe = rl_of(model, path, eval={"every": 9}, num_steps=2)
    if kind == "rl":
        rl.train(recipe, tmp_path / "run", evaluate=change)
        seen = [row["sample_id"] for row in lines(tmp_path / "run" / "rollouts.jsonl") if row["index"] == 0]
        assert sorted(seen[:3]) == ["good0", "good1", "good2"]
    else:
        entry = {"source": "vlm_r1", "path": str(path), "reply": "gold", "on_bad": "skip"}
        keys = {"model": recipe.model, "data": [entry], "prompts_per_step": 3, "num_steps": 1, "eval": {"every": 9}}
        sft.train(SFTRecipe.model_validate({**keys, "optim": {"lr": 1e-3}}), tmp_path / "run", evaluate=change)
        metrics = lines(tmp_path / "run" / "metrics.jsonl")[-1]
        assert metrics["examples/prompts"] == 3 and metrics["data/skipped"] > 0


def test_a_prompt_that_grew_beyond_the_context_is_refused_at_its_turn_by_its_place(model: Path, tmp_path: Path) -> None:
    source = open_source(DataConfig(source="vlm_r1", path=write_rows(tmp_path, [], rows=1)))
    adapter, pixels = load_adapter(ModelConfig(path=str(model))), 1 << 20
    tokens = len(prepare(adapter, source[0], limits=PromptLimits(1 << 20, pixels)).encoded)
    prepare(adapter, source[0], limits=PromptLimits(tokens, pixels))
    with pytest.raises(ValueError, match=rf"^train\.jsonl:1: .*has {tokens} tokens now, expected {tokens - 1} at most"):
        prepare(adapter, source[0], limits=PromptLimits(tokens - 1, pixels))


@pytest.mark.parametrize("name", BY_THE_MODEL)
def test_what_the_model_cannot_read_is_refused_before_anything_is_written(
    model: Path, tmp_path: Path, name: str
) -> None:
    path = write_rows(tmp_path, [name], rows=3)
    with pytest.raises(ValueError, match=r"^train\.jsonl:2: .*on_bad: skip"):
        rl.train(rl_of(model, path, on_bad="error"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_shows_at_its_turn_ends_a_run_that_may_not_skip_naming_file_line_and_image(
    model: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path, ["cut off"], rows=1)
    with pytest.raises(ValueError, match=r"^train\.jsonl:2: sample 'good100': .*cut\.jpg: the image is truncated"):
        rl.train(rl_of(model, path, on_bad="error"), tmp_path / "run")


def test_held_out_rows_that_cannot_be_asked_cost_themselves_or_are_named_before_the_first_step(
    model: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path, [*AT_ITS_TURN, *BY_THE_MODEL], rows=2)
    policy = load_policy(str(model))
    engine = open_engine(policy)

    def evaluation(on_bad: str) -> Any:
        entry = {"source": "vlm_r1", "path": str(path), "on_bad": on_bad}
        config = EvalConfig.model_validate({"every": 1, "data": [entry], "decoding": {"max_new_tokens": 2}})
        evaluate = build_heldout(config, None, tmp_path / on_bad)
        assert evaluate is not None
        return lambda step: evaluate(policy, engine, step)

    assert evaluation("skip")(0)["n"] == 2
    with pytest.raises(ValueError, match=r"^eval\.data: train\.jsonl:2: sample 'good100': .*on_bad: skip"):
        evaluation("error")(0)
    assert evaluation("error")(7)["n"] == 2, "a run goes on"
    examples = read_examples(ExampleConfig(source="vlm_r1", path=path, reply="gold", on_bad="skip"))
    assert len(encode_usable(policy.adapter, examples).units) == 2
    strict = read_examples(ExampleConfig(source="vlm_r1", path=path, reply="gold"))
    with pytest.raises(ValueError, match=r"^train\.jsonl:2: example 'good100': .*truncated"):
        encode_usable(policy.adapter, strict)
    assert len(encode_usable(policy.adapter, strict, skip=True).units) == 2
    asked = {on_bad: evaluation(on_bad) for on_bad in ("skip", "error")}
    for image in path.parent.glob("*.*g"):
        image.unlink()
    for evaluate in asked.values():
        assert math.isnan(evaluate(7)["score"]), "a run goes on without any of its images"
        with pytest.raises(ValueError, match=r"eval\.data: "):
            evaluate(0)


def test_supervised_training_skips_and_counts_them_too(model: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path, [*BY_THE_MODEL, "a giant integer in a box", *AT_ITS_TURN], rows=4)
    entry = {"source": "vlm_r1", "path": str(path), "reply": "gold", "on_bad": "skip"}
    base = {"model": {"path": str(model), "device": "cpu"}, "prompts_per_step": 2, "optim": {"lr": 1e-3}}
    recipe = SFTRecipe.model_validate({**base, "data": [entry], "num_steps": 4})
    sft.train(recipe, tmp_path / "run")
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert metrics[-1]["data/skipped"] == 5 and all(row["examples/prompts"] == 2 for row in metrics)
    strict = SFTRecipe.model_validate({**base, "data": [{**entry, "on_bad": "error"}], "num_steps": 4})
    with pytest.raises(ValueError, match=r"^train\.jsonl:\d+: "):
        sft.train(strict, tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


REPLIES = {
    "half a surrogate pair in the prompt": {"prompt": "x\ud800"},
    "half a surrogate pair in the question": {"question": "x\ud800"},
    "a video marker": {"question": "<video>how?"},
    "an audio column": {"audio": "a.wav"},
    "tools": {"tools": [{"name": "f"}]},
    "a marker too many": {"prompt": "<image> and <image>?"},
    "no text": {"prompt": None},
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_row_of_replies_is_refused_for_what_rows_of_other_formats_are(tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path, [], rows=1)
    plain = {"id": "a", "image": "ok.png", "task": "count", "question": "<image1> how?", "response": "1"}
    path.write_text("\n".join(json.dumps(row) for row in (plain, plain | REPLIES[name])) + "\n")
    (example,) = read_examples(ExampleConfig(path=path, on_bad="skip"))
    assert "<image> how?" in example.prompt, "markers are read as elsewhere"
    with pytest.raises(ValueError, match=r"^train\.jsonl:2: "):
        read_examples(ExampleConfig(path=path))


@pytest.mark.parametrize(("later", "said"), [(["q", " "], "reply 2 .* is empty"), (["q", "r"] * 500, "501 replies")])
def test_every_reply_of_a_conversation_must_be_one_to_learn(tmp_path: Path, later: list[str], said: str) -> None:
    path = write_rows(tmp_path, [], rows=1)
    first = turns("<image>How many?", "1")
    more = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(later)]
    path.write_text(json.dumps({"id": "a", "image": "ok.png", "conversations": [*first, *more]}) + "\n")
    with pytest.raises(ValueError, match=said):
        read_examples(ExampleConfig(source="llava", path=path))


def test_golds_and_replies_beyond_the_context_are_known_before_the_first_step_by_their_own_line(
    model: Path, tmp_path: Path
) -> None:
    path, adapter = write_rows(tmp_path, [], rows=2), load_adapter(ModelConfig(path=str(model)))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    prompt = {"image": rows[0]["image"], "conversations": turns(rows[0]["conversations"][0]["value"], "a " * 9_000)}
    path.write_text("\n".join(map(json.dumps, [*rows, rows[0] | prompt | {"id": "long", "task": "text"}])) + "\n")
    config = ExampleConfig.model_validate({"source": "vlm_r1", "path": str(path), "reply": "gold", "task": "text"})
    with pytest.raises(ValueError, match=r"^train\.jsonl:3: example 'long': "):
        screened(adapter, read_examples(config, None))
    assert screened(adapter, read_examples(config, None), 99).unusable == []
    context = adapter.context_length
    wide = Example("wide", "word " * (context * 4 // 5), (), "one two three " * (context // 20), None)
    assert screened(adapter, [wide]).unusable == []  # its bytes alone would leave too little room
