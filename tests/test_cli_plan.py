"""`saccade plan`: what it prints, its status, and what it refuses before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_plan import qwen_config

from saccade import cli


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with config.json of the 3B model and nothing else."""
    folder = tmp_path_factory.mktemp("qwen")
    qwen_config("3B").save_pretrained(folder)
    return folder


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def test_the_command_reports_that_a_recipe_fits(qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    words = ("plan", "vlm_r1_rec_3b", f"model.path={qwen}", "--memory", 400, "--json", out, "--check")
    assert run(*words, "--completion-tokens", 256) == 0
    assert "fits: stage main needs" in capsys.readouterr().out
    data = json.loads(out.read_text())
    assert data["fits"] is True
    assert data["stages"][0]["peak"] < data["room"] == pytest.approx(360e9)


def test_a_recipe_that_does_not_fit_fails_only_when_checked(qwen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "vlm_r1_rec_3b", f"model.path={qwen}", "--memory", 24)
    assert run(*words) == 0
    captured = capsys.readouterr().out
    assert "does not fit: stage main needs" in captured
    assert "--gpus" not in captured
    assert run(*words, "--check") == 1


def test_several_gpus_share_what_one_cannot_hold(qwen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "vlm_r1_rec_3b", f"model.path={qwen}", "--completion-tokens", 256, "--check")
    assert run(*words) == 1
    capsys.readouterr()
    assert run(*words, "--gpus", 8) == 0
    captured = capsys.readouterr().out
    assert "8 GPUs, 8 to a node: every number is that of the busiest GPU" in captured
    assert "main: waiting for others" in captured


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--gpus", "64"), "prompts_per_step is 16, but there are 64 GPUs"),
        (("--gpus", "8", "shard.replicate=3"), "shard.replicate: got 3 for 8 GPUs"),
        (("--gpus", "8", "optim.kind=adamw_8bit"), "optim.kind 'adamw_8bit': its state is not sharded"),
        (("shard.cpu_offload=true",), "shard: got options for several GPUs, but --gpus is 1"),
    ],
)
def test_what_several_gpus_refuse_is_refused_by_the_plan(
    qwen: Path, words: tuple[str, ...], expected: str, capsys
) -> None:
    assert run("plan", "vlm_r1_rec_3b", f"model.path={qwen}", *words) == 2
    assert expected in capsys.readouterr().err


def test_a_recipe_is_read_before_anything_heavy_is_imported() -> None:
    """A wrong key, a missing file and --print-config import nothing heavy beyond what the recipe's schema imports."""
    program = """
import sys
import saccade.training.config
from saccade import cli
before = set(sys.modules)
for words in (["vlm_r1_rec_3b", "optim.lrr=1"], ["nowhere.yaml"], ["vlm_r1_rec_3b", "optim.lr=0.5", "--print-config"]):
    try:
        cli.main(["plan", *words])
    except SystemExit as ended:
        print("status", ended.code, flush=True)
assert not {"torch", "transformers", "saccade.planning.plan"} & (set(sys.modules) - before)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert [line for line in found.stdout.splitlines() if line.startswith("status")] == ["status 2"] * 2 + ["status 0"]
    assert "optim.lrr" in found.stderr and "nowhere.yaml" in found.stderr and "lr: 0.5" in found.stdout


def test_sft_has_a_plan_too(qwen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "vision_r1_7b_sft", f"model.path={qwen}") == 0
    assert "sft: training, packed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("demo",), "kind is 'demo', expected rl or sft"),
        (("vlm_r1_rec_3b", "--image", "big"), "expected WIDTHxHEIGHT in pixels, such as 1024x1024"),
        (("vlm_r1_rec_3b", "model.path=./nowhere"), "a plan needs only config.json"),
        (("vlm_r1_rec_3b", "--json", "/nowhere/at/all.json"), "there is no folder"),
    ],
)
def test_what_cannot_be_planned_is_reported(words: tuple[str, ...], expected: str, capsys) -> None:
    assert run("plan", *words) == 2
    assert expected in capsys.readouterr().err


def test_without_network_a_hub_name_asks_for_a_directory(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run("plan", "vlm_r1_rec_3b", "model.path=nobody/nothing-here") == 2
    assert "a plan needs only config.json: set model.path=DIR" in capsys.readouterr().err
