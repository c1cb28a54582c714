"""The verbs that train and predict: their files, their output, and how a run resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.cli.options import load_recipe
from saccade.cli.predict import boxes, draw_boxes
from saccade.cli.predict import report as lines_of
from saccade.config import dump, kind, packaged
from saccade.training.checkpoint import latest
from saccade.types import Completion, Frame


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, data, a recipe of RL and one of SFT."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    (folder / "rl.yaml").write_text(dump(rl_recipe(folder, num_steps=2)))
    rows = [
        {"image": f"{i}.png", "task": "count", "question": "How many?", "response": f"<answer>{i}</answer>"}
        for i in range(4)
    ]
    (folder / "replies.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    sft = {
        "kind": "sft",
        "model": {"path": str(folder / "model"), "device": "cpu"},
        "data": [{"path": str(folder / "replies.jsonl")}],
        "prompts_per_step": 2,
        "num_steps": 2,
        "optim": {"lr": 1e-3},
    }
    (folder / "sft.yaml").write_text(yaml.safe_dump(sft))
    return folder


def test_rl_takes_the_users_own_reward_and_the_run_resumes_with_it(world: Path, tmp_path: Path, capsys) -> None:
    out, own = tmp_path / "run", f"{world / 'rewards.py'}:even_tokens"
    assert run("rl", world / "rl.yaml", "--out", out, "--reward", own, "--deadline", "9", "num_steps=1") == 0
    rows = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert {tuple(row["parts"]) for row in rows} == {(own,)}
    config = load_recipe(str(out / "config.yaml"))
    (part,) = config.rubrics["own"].parts
    assert (part.name, part.deadline_s) == (own, 9.0)
    for words in (("--reward", "rewards.py"), ("--deadline", "3"), ("--reward", f"{world}/none.py:f")):
        assert run("rl", world / "rl.yaml", "--out", tmp_path / "other", *words) == 2
    assert "expected FILE.py:FUNCTION" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_rl_writes_a_run_that_reports_and_is_not_overwritten(world: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert run("rl", world / "rl.yaml", "--out", out) == 0
    assert f"{out}: 2 steps done" in capsys.readouterr().out
    assert run("report", out) == 0
    assert (out / "report.html").is_file()
    before = (out / "metrics.jsonl").read_bytes()
    assert run("rl", world / "rl.yaml", "--out", out) == 2
    assert f"resume it with: saccade resume {out}" in capsys.readouterr().err
    assert (out / "metrics.jsonl").read_bytes() == before


def test_steps_that_move_nothing_are_named(world: Path, tmp_path: Path, capsys) -> None:
    reward = json.dumps([{"name": f"{world / 'rewards.py'}:nothing"}])
    assert run("rl", world / "rl.yaml", "--out", tmp_path / "run", f"rubrics.test.parts={reward}") == 0
    assert "no update in 2 of 2 steps: 1, 2" in capsys.readouterr().out


def test_sft_writes_a_checkpoint_that_predict_loads(world: Path, tmp_path: Path, capsys) -> None:
    assert run("sft", world / "sft.yaml", "--out", tmp_path / "run") == 0
    model = tmp_path / "run" / "checkpoints" / "last"
    argv = ("predict", "--model", model, "--max-new-tokens", "3", "--draw", tmp_path / "p.png")
    assert run(*argv, world / "0.png", "How many?") == 0
    out = capsys.readouterr().out
    assert "tokens: 3 (cut off by --max-new-tokens)" in out
    assert "seconds: " in out


def test_resume_finds_the_kind_and_reaches_the_same_end(world: Path, tmp_path: Path, capsys) -> None:
    for verb in ("rl", "sft"):
        whole = tmp_path / verb
        assert run(verb, world / f"{verb}.yaml", "--out", whole, "checkpoint.every=1") == 0
        first = (whole / "metrics.jsonl").read_text().splitlines()
        last = latest(whole)
        assert last is not None and last.step == 2
        for file in last.path.iterdir():
            file.unlink()
        last.path.rmdir()  # as if the run had been killed before its last checkpoint
        assert run("resume", whole) == 0
        assert "2 steps done" in capsys.readouterr().out
        again = (whole / "metrics.jsonl").read_text().splitlines()
        losses = [[json.loads(line).get("policy/grad_norm") for line in lines] for lines in (first, again)]
        assert losses[0] == losses[1]


def test_a_run_of_earlier_keys_reports_and_resumes_once_they_are_renamed(world: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "old"
    assert run("rl", world / "rl.yaml", "--out", out) == 0
    now = yaml.safe_load((out / "config.yaml").read_text())
    sampling, engine = now["rollout"].pop("sampling"), now["rollout"].pop("engine")
    then = now | {
        "rollout": now["rollout"] | {"temperature": sampling["temperature"], "max_rows": engine["max_rows"]},
        "loss": now["loss"] | {"surrogate": "clipped", "clip_low": 0.2},
        "stages": [stage | {"top_p": None} for stage in now["stages"]],
    }
    (out / "config.yaml").write_text(yaml.safe_dump(then))
    capsys.readouterr()
    assert run("report", out) == 0
    assert run("resume", out) == 2
    err = capsys.readouterr().err
    lines = (out / "config.yaml").read_text().splitlines()
    places = {line.split(":")[0].strip(" -"): number for number, line in enumerate(lines, 1)}
    for key, way_out in {
        "rollout.temperature": "it is now 'rollout.sampling.temperature'",
        "rollout.max_rows": "it is now 'rollout.engine.max_rows'",
        "loss.clip_low": "it is now 'loss.surrogate.low'",
        "stages.0.top_p": "remove it",
    }.items():
        assert f"{out}/config.yaml:{places[key.split('.')[-1]]}: unknown key '{key}'; {way_out}\n" in err
    assert (
        "'loss.surrogate': got 'clipped', expected a section with kind: clipped, kind: cispo, kind: reinforce, " in err
    )
    renamed = now | {"loss": now["loss"] | {"surrogate": {"kind": "clipped"}}}
    (out / "config.yaml").write_text(yaml.safe_dump(renamed))
    assert run("resume", out) == 0, "what it leaves to the defaults is as it was"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_predict_takes_an_image_of_any_mode_and_size(world: Path, tmp_path: Path, capsys, mode: str) -> None:
    size = (5, 900) if mode == "L" else (1300, 40)
    path = tmp_path / ("i.tiff" if mode in ("CMYK", "I;16") else "i.png")
    Image.new(mode, size).save(path)
    argv = ("predict", "--model", world / "model", "--max-new-tokens", "1", "--draw", tmp_path / "p.png")
    assert run(*argv, path, "What is it?") == 0
    assert "tokens: 1" in capsys.readouterr().out


def test_predict_takes_several_images_in_order(world: Path, capsys, tmp_path: Path) -> None:
    argv = ("predict", "--model", world / "model", "--max-new-tokens", "1", "--draw", tmp_path / "p.png")
    assert run(*argv, world / "0.png", world / "1.png", "<image> or <image>?") == 0
    assert run(*argv, world / "0.png", "<image> or <image>?") == 2
    assert "got 2 <image> markers for 1 images" in capsys.readouterr().err


def test_a_predicted_box_is_drawn_in_pixels_of_the_image() -> None:
    frame = Frame("pixels_resized", size_original=(200, 100), size_input=(100, 50))
    reply = Completion('<think>left</think><answer>{"bbox_2d": [10, 20, 30, 40]}</answer>', (1, 2), frames=(frame,))
    assert boxes(reply) == [(20.0, 40.0, 60.0, 80.0)]
    assert lines_of(reply) == [
        "think: left",
        'answer: {"bbox_2d": [10, 20, 30, 40]}',
        "box: 20.0, 40.0, 60.0, 80.0 (x1, y1, x2, y2 in pixels)",
        "tokens: 2",
    ]
    drawn = draw_boxes(Image.new("RGB", (200, 100), "white"), boxes(reply))
    assert drawn.size == (200, 100)
    marked = [(x, y) for x in range(200) for y in range(100) if drawn.getpixel((x, y)) != (255, 255, 255)]
    assert (min(marked), max(marked)) == ((20, 40), (60, 80))
    assert drawn.getpixel((40, 60)) == (255, 255, 255), "only the outline is drawn"


def test_boxes_outside_or_turned_around_or_unreadable_do_not_stop_the_drawing() -> None:
    picture = Image.new("RGB", (20, 10), "white")
    assert draw_boxes(picture, [(30.0, 5.0, -4.0, 900.0)]).getpixel((0, 7)) != (255, 255, 255)
    frame = Frame("thousand", (20, 10), (28, 28))
    assert boxes(Completion('<answer>[{"bbox_2d": "here"}]</answer>', frames=(frame,))) == []


VERBS_OF = {"pretrain": ("world", "pretrain"), "rl": ("rl",), "sft": ("sft",), "eval": ("eval",)}
PRESET = "presets/"
COMPLETED = ["model.path=base", "data=[{source: world, task: count}]", "optim.lr=1e-6"]
"""What a preset leaves to the recipe that extends it."""
STAGES = ["stages=[{max_new_tokens: 8, group_size: 2}]", "num_steps=600"]
"""What a preset of only a loss leaves too."""


@pytest.mark.parametrize("name", [name for name, file in packaged().items() if kind(file) in VERBS_OF])
def test_print_config_prints_what_loads_again(name: str, tmp_path: Path, capsys) -> None:
    more = COMPLETED if name.startswith(PRESET) else []
    more = [*more, "num_steps=600"] if name in ("presets/grpo", "presets/dapo", "presets/vlm_r1") else more
    more = [*more, *STAGES] if name.startswith(PRESET) and "stages:" not in packaged()[name].read_text() else more
    assert run(*VERBS_OF[kind(packaged()[name])], name, *more, "--print-config") == 0
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed)
    assert dump(load_recipe(str(tmp_path / "again.yaml"))) == printed
