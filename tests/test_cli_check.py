"""`saccade convert` and `saccade check`: planted faults are found with their lines, and clean data passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from saccade import cli


def run(*argv: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def turns(question: str, answer: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def picture(path: Path, seed: int, size: tuple[int, int] = (80, 60)) -> str:
    noise = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path.name


def row(number: int, image: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image": image,
        "conversations": turns(f"<image>Where is cup {number}?", [1, 2, 30, 40]),
    } | more


@pytest.fixture
def clean(tmp_path: Path) -> list[dict[str, Any]]:
    """Six rows that nothing is wrong with, on lines 1 to 6."""
    return [row(k, picture(tmp_path / f"{k}.png", k)) for k in range(6)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path


def test_clean_data_is_safe_to_train_on(tmp_path: Path, clean: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "t.jsonl", clean)
    assert run("check", path, "--from", "vlm_r1", "--model", "base", "--json", tmp_path / "r.json") == 0
    out = capsys.readouterr().out
    assert "6 rows: refer 6" in out
    assert "visual tokens of an image:" in out
    assert out.rstrip().endswith("safe to train")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["safe"], report["samples"], report["counts"]) == (True, 6, {})
    assert sum(report["prompt_tokens"].values()) == 6


FAULTS: dict[str, tuple[Any, str]] = {
    "row": ("{", "not JSON"),
    "image": (row(7, "gone.png"), "gone.png: there is no such image file"),
    "box": (row(7, "0.png", conversations=turns("?", [30, 2, 1, 40])), "has x1 > x2"),
    "box outside": (row(7, "0.png", conversations=turns("?", [1, 2, 81, 40])), "is not inside its image"),
    "duplicate id": (row(0, "1.png"), "id '0' was used before"),
    "duplicate row": (row(0, "0.png", id=7), "has the images, question and answer of t.jsonl:1"),
    "two answers": (row(0, "0.png", id=7, conversations=turns("<image>Where is cup 0?", [1, 2, 3, 4])), "earlier row"),
    "gold": (row(7, "0.png", task="count", answer="many"), "the gold 'many' scores 0"),
    "placeholder": (row(7, "0.png", conversations=turns("<|vision_start|>?", [1, 2, 3, 4])), "<|vision_start|>"),
    "task": (row(7, "0.png", task="dance", answer="x"), "unknown task 'dance'"),
    "prompt over budget": (row(7, "0.png", conversations=turns("why " * 500, [1, 2, 3, 4])), "expected 400 at most"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_planted_fault_is_found_at_its_line(
    tmp_path: Path, clean: list[Any], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fault, words = FAULTS[kind]
    path = write(tmp_path / "t.jsonl", [*clean, fault])
    out = tmp_path / "r.json"
    assert run("check", path, "--from", "vlm_r1", "--model", "base", "--budget", 400, "--json", out) == 1
    report = json.loads(out.read_text())
    assert report["counts"].get(kind) == 1
    assert any(line.startswith("t.jsonl:7: ") and words in line for line in report["findings"])
    assert f"1 x {kind}" in capsys.readouterr().out.splitlines()[-1]


def test_a_cut_off_image_is_found_although_its_header_is_whole(tmp_path: Path, clean: list[Any]) -> None:
    whole = (tmp_path / "5.png").read_bytes()
    (tmp_path / "5.png").write_bytes(whole[: len(whole) // 2])
    path = write(tmp_path / "t.jsonl", clean)
    out = tmp_path / "r.json"
    assert run("check", path, "--from", "vlm_r1", "--json", out) == 1
    report = json.loads(out.read_text())
    assert report["counts"] == {"image": 1}
    assert "5.png: the image is truncated or damaged" in report["findings"][0]


def test_training_rows_that_an_evaluation_asks_are_found(tmp_path: Path, clean: list[Any]) -> None:
    Image.open(tmp_path / "2.png").convert("RGB").save(tmp_path / "copy.jpg", quality=90)
    held_out = write(tmp_path / "e.jsonl", [row(2, "copy.jpg"), row(9, picture(tmp_path / "9.png", 9))])
    path = write(tmp_path / "t.jsonl", clean)
    out = tmp_path / "r.json"
    assert run("check", path, "--from", "vlm_r1", "--eval", held_out, "--json", out) == 1
    report = json.loads(out.read_text())
    assert report["counts"] == {"in the evaluation": 1}
    assert report["findings"][0].startswith("t.jsonl:3: the same question about the same picture is in e.jsonl:1")


def test_a_recipe_is_checked_with_its_own_data_model_and_memory(
    tmp_path: Path, clean: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.jsonl", [*clean, "{"])
    recipe = {
        "kind": "rl",
        "model": {"path": "base"},
        "data": [{"source": "vlm_r1", "path": str(path)}, {"source": "world", "task": "count"}],
        "stages": [{"max_new_tokens": 64, "group_size": 4}],
        "num_steps": 3,
        "optim": {"lr": 1e-3},
        "eval": {"data": [{"source": "world", "task": "count", "split": "test", "limit": 20}]},
    }
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "r.json"
    assert run("check", tmp_path / "rl.yaml", "--json", out) == 1
    assert json.loads(out.read_text())["counts"] == {"row": 1}
    assert run("check", tmp_path / "rl.yaml", "data.0.on_bad=skip", "--json", out) == 0
    report = json.loads(out.read_text())
    assert report["samples"] == 6 + 200 + 20
    assert report["budget"] == report["context"] - 64
    (stage,) = report["stages"]
    assert stage["tokens_per_step"] > 16 * 4 * 64
    assert 0 < stage["peak_gb"] < 10
    assert any("1 rows are skipped (on_bad: skip)" in note for note in report["notes"])
    assert run("check", tmp_path / "rl.yaml", "data.0.on_bad=skip", "--memory", "0.01") == 1
    assert "needs more memory than 0.01 GB" in capsys.readouterr().out
    assert run("check", tmp_path / "rl.yaml", "stages.0.max_new_tokens=9000") == 2
    assert "leave no space for a prompt" in capsys.readouterr().err
    path.write_text('{"id": 1}\n')
    recipe |= {"data": [{"source": "vlm_r1", "path": str(path), "on_bad": "skip"}], "eval": {}}
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(recipe))
    assert run("check", tmp_path / "rl.yaml") == 2
    assert f"nothing to check: {path}: 1 rows are skipped (on_bad: skip); {path.name}:1: " in capsys.readouterr().err


def test_a_recipe_of_supervised_fine_tuning_is_checked_with_its_replies(tmp_path: Path, clean: list[Any]) -> None:
    replies = [
        {"id": str(k), "image": f"{k}.png", "task": "count", "question": f"How many {k}?", "response": reply}
        for k, reply in enumerate(["<answer>3</answer>", "two <|im_end|>", "<answer>5</answer>"])
    ]
    write(tmp_path / "r.jsonl", replies)
    write(tmp_path / "t.jsonl", clean)
    recipe = {
        "kind": "sft",
        "model": {"path": "base"},
        "data": [
            {"path": str(tmp_path / "r.jsonl")},
            {"source": "vlm_r1", "path": str(tmp_path / "t.jsonl"), "reply": "gold"},
        ],
        "epochs": 1,
        "optim": {"lr": 1e-3},
    }
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "r.json"
    assert run("check", tmp_path / "sft.yaml", "--json", out) == 1
    report = json.loads(out.read_text())
    assert report["samples"] == 9
    assert report["findings"][0].startswith("r.jsonl:2: the text contains <|im_end|>")
    assert sum(report["reply_tokens"].values()) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rows.jsonl"], "expected a recipe (.yaml), or a data set with --from"),
        (["gone.jsonl", "--from", "vlm_r1"], "there is no such file"),
        (["gone.yaml"], "gone.yaml"),
        (["gone.jsonl", "--from", "vlmr1"], "source is 'vlmr1', expected one of vlm_r1"),
        (["gone.jsonl", "a=b", "--from", "vlm_r1"], "KEY=VALUE applies to recipes"),
        (["gone.jsonl", "--from", "vlm_r1", "--budget", "9"], "give --model"),
        (["gone.jsonl", "--from", "vlm_r1", "--model", "no/where/at-all"], "model.path"),
        (["a/b", "--hub", "--from", "coco"], "'hub' is not an option of source 'coco'"),
        (["real_images", "--hub"], "--hub applies to a data set"),
        (["demo"], "kind is 'demo', expected rl, sft or eval"),
        (["real_images", "--task", "count"], "--task applies to a data set"),
        (["gone.jsonl", "--from", "vlm_r1", "--json", "no/such/folder/r.json"], "there is no folder"),
    ],
)
def test_wrong_input_ends_with_2_and_one_clear_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", *argv) == 2
    captured = capsys.readouterr().err.strip()
    assert message in captured
    assert "Traceback" not in captured


def test_real_data_is_safe_to_train_on_and_its_splits_do_not_overlap(real_data: Path, tmp_path: Path) -> None:
    folder, out = real_data / "math_vision", tmp_path / "r.json"
    argv = [folder / "train.jsonl", "--from", "math_vision", "--model", "base", "--eval", folder / "testmini.jsonl"]
    assert run("check", *argv, "--json", out) == 0
    assert json.loads(out.read_text())["samples"] == 560
    assert run("check", real_data / "geometry3k", "--from", "geometry3k", "--model", "base") == 0


def test_an_export_of_the_world_is_safe_to_train_on(tmp_path: Path) -> None:
    assert run("world", "make", tmp_path / "set", "-n", "3") == 0
    assert run("check", tmp_path / "set/train.jsonl", "--from", "vlm_r1", "--model", "base") == 0


def test_convert_writes_lists_what_it_skipped_and_refuses_to_write_twice(
    tmp_path: Path, clean: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.jsonl", [*clean, "{"])
    assert run("convert", path, tmp_path / "out", "--from", "vlm_r1", "--images", "hash") == 0
    captured = capsys.readouterr()
    assert "6 rows (refer 6), 6 images hash" in captured.out
    assert "t.jsonl:7: not JSON" in captured.err
    assert run("check", tmp_path / "out") == 0
    assert run("convert", path, tmp_path / "out", "--from", "vlm_r1") == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert run("convert", path, tmp_path / "no", "--from", "vlm_r1", "--strict") == 2
    assert not (tmp_path / "no").exists()
    assert run("convert", path, tmp_path / "no", "--from", "vlm_r1", "--negatives", "2") == 2
    assert "'negatives' is not an option of source 'vlm_r1'" in capsys.readouterr().err
    assert run("convert", path, path, tmp_path / "two", "--from", "vlm_r1", "--image-folder", tmp_path) == 0
    assert run("convert", path, path, path, tmp_path / "x", "--from", "vlm_r1", *["--image-folder", "."] * 2) == 2


# -------------------------------------------------------------------------------------------------------------- memory


def rows_of(path: Path, number: int, images: int) -> Path:
    """Many rows, each image on several of them."""
    for k in range(images):
        picture(path.parent / f"{k}.png", k)
    with path.open("w") as file:
        for k in range(number):
            file.write(json.dumps(row(k, f"{k * images // number}.png")) + "\n")
    return path


PROGRAM = """
import resource, sys
from pathlib import Path
from saccade.data import DataConfig
from saccade.data.convert import convert
from saccade.data.preflight import preflight
from saccade.data.sources import items
from saccade.models.counting import TokenCounter
from saccade.models.policy import load_adapter

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

path, limit = Path(sys.argv[1]), int(sys.argv[2])
counter = TokenCounter(load_adapter("base"))
entry = DataConfig(source="vlm_r1", path=path)
warm = entry.model_copy(update={"limit": 500})
preflight(items(warm), counter, 4000)
convert([warm], path.parent / "warm")
before = peak()
report = preflight(items(entry.model_copy(update={"limit": limit})), counter, 4000)
assert report.ok and report.samples == limit, report.findings
checked = peak()
convert([entry.model_copy(update={"limit": limit})], path.parent / "out")
print(before, checked, peak())
"""


def peaks(path: Path, number: int) -> tuple[float, float, float]:
    """MB: before, after checking, after converting that many rows."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(number)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    before, checked, converted = map(float, done.stdout.split())
    return before, checked, converted


def test_memory_stays_bounded_over_thousands_of_rows(tmp_path: Path) -> None:
    before, checked, converted = peaks(rows_of(tmp_path / "t.jsonl", 4_000, 40), 4_000)
    assert checked - before < 40
    assert converted - before < 60


@pytest.mark.slow
def test_memory_stays_bounded_over_100_000_rows(tmp_path: Path) -> None:
    before, checked, converted = peaks(rows_of(tmp_path / "t.jsonl", 100_000, 1_000), 100_000)
    assert checked - before < 150
    assert converted - before < 200


def test_images_that_lie_elsewhere_are_checked_and_converted_with_their_folder(tmp_path: Path, capsys) -> None:
    (rows := tmp_path / "rows" / "train.jsonl").parent.mkdir()
    picture(tmp_path / "a.png", 1)
    rows.write_text(json.dumps(row(1, "../a.png")) + "\n")
    for verb in (["check", rows], ["convert", rows, tmp_path / "out"]):
        assert run(*verb, "--from", "vlm_r1") > 0
        told = capsys.readouterr()
        assert "set image_folder or data_root to the folder that holds it" in told.out + told.err
        assert run(*verb, "--from", "vlm_r1", "--data-root", tmp_path) == 0
