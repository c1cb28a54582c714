"""`saccade export`: a run's model as an ordinary directory, the same as the trained policy and with all its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from test_cli_verbs import run
from test_training_lora import LORA, recipe_of, sft_of
from training_runs import write_world
from transformers import AutoModelForImageTextToText, AutoTokenizer

from saccade.export import export as exporting
from saccade.export import model_card
from saccade.export.export import Exported, logits_of
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.training.rl import train
from saccade.training.sft import train as train_sft

EXTRA = {"generation_config.json": '{"temperature": 0.7}', "processor_config.json": '{"processor_class": "P"}'}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_world(tmp_path_factory.mktemp("world"))
    for name, text in EXTRA.items():
        (folder / "model" / name).write_text(text)
    return folder


def trained(world: Path, out: Path, model: dict[str, Any] | None = None) -> Path:
    """A run of three steps with a rate that moves the model far, evaluated at start and end."""
    data = [{"source": "vlm_r1", "path": str(world / "data.jsonl")}]
    held_out = {"every": 3, "data": data, "decoding": {"max_new_tokens": 4}}
    train(recipe_of(world, model, num_steps=3, optim={"lr": 3e-2}, eval=held_out), out)
    return out


@pytest.fixture(scope="module")
def lora_run(world, tmp_path_factory) -> Path:
    return trained(world, tmp_path_factory.mktemp("runs") / "lora")


def test_a_run_of_adapters_becomes_an_ordinary_directory_of_the_same_model(world, lora_run, tmp_path, capsys) -> None:
    assert run("export", lora_run, "--out", tmp_path / "merged") == 0
    assert "logits differ from the trained policy's by" in capsys.readouterr().out
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    assert not any("lora" in name for name, _ in model.named_parameters())
    policy = load_policy(str(world / "model"))
    ids_1P = torch.tensor([[5, 6, 7, 8]])
    adapted = load_policy(ModelConfig(path=str(world / "model")), adapters=lora_run / "checkpoints" / "last")
    with torch.no_grad():
        ours, theirs, before = (one(input_ids=ids_1P).logits for one in (model, adapted.model, policy.model))
    assert (ours - theirs).abs().max() < 1e-4 < 0.01 < (ours - before).abs().max()
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == policy.adapter.tokenizer.chat_template
    here = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {path.name for path in (world / "model").iterdir()} | {"README.md"} <= here
    assert not here & {"trainer.pt", "state.json", "adapter_config.json", "base.json"}
    assert json.loads((tmp_path / "merged" / "processor_config.json").read_text()) == {"processor_class": "P"}


def test_the_model_card_has_recipe_data_and_results_with_intervals(lora_run, tmp_path) -> None:
    assert run("export", lora_run / "checkpoints" / "last", "--out", tmp_path / "merged") == 0
    card = (tmp_path / "merged" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "image-text-to-text" and front["tags"] == ["saccade", "rl"]
    assert (lora_run / "config.yaml").read_text().strip() in card
    facts = json.loads((lora_run / "environment.json").read_text())
    assert all(value in card for value in facts["data_hash"].values()) and facts["model_hash"] in card
    for step in (0, 3):
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {step} | all |")]
        assert row.split("|")[3].strip() == "6" and " to " in row.split("|")[5]


def test_names_of_data_stay_texts_in_the_model_card() -> None:
    odd = "a|b\x1b[2J<b>`\n# [x](y).jsonl"
    run = SimpleNamespace(
        environment={"data_hash": {odd: odd}, "commit": odd, "device": odd, "packages": {"torch": odd}}
    )
    lines = list(model_card._facts(run))
    (row,) = [line for line in lines if line.startswith("| a")]
    for nothing in ([], None, 5, "x"):
        assert list(model_card._facts(SimpleNamespace(environment={"data_hash": nothing, "packages": nothing})))
    assert row.count("|") == 3 and not set("\x1b\n<") & set("".join(lines)) and "[x](" not in "".join(lines)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_after_qlora_the_adapters_are_merged_into_the_unquantized_base(world, tmp_path, dtype, capsys) -> None:
    folder = trained(world, tmp_path / "run", {"quantize": "nf4", "lora": LORA | {"rslora": True}})
    assert run("export", folder, "--out", tmp_path / "merged", "--dtype", dtype) == 0
    assert "4-bit weights" in capsys.readouterr().out
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert merged.dtype == getattr(torch, dtype) and not getattr(merged.config, "quantization_config", None)
    base = load_policy(str(world / "model"))
    for (name, ours), (_, theirs) in zip(merged.named_parameters(), base.model.named_parameters(), strict=True):
        if "visual" in name or "embed" in name:
            assert torch.equal(ours, theirs.to(ours.dtype)), name


def test_a_run_without_adapters_exports_too_in_another_precision(world, tmp_path) -> None:
    train_sft(sft_of(world, {"lora": None}), tmp_path / "run")
    assert run("export", tmp_path / "run", "--out", tmp_path / "out", "--dtype", "bfloat16") == 0
    whole = load_policy(str(tmp_path / "run" / "checkpoints" / "last")).model.state_dict()
    ours = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, whole[name].bfloat16()) for name, value in ours.items())
    assert "held-out" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_directory_of_adapters_outside_a_run_exports(lora_run, tmp_path) -> None:
    shutil.copytree(lora_run / "checkpoints" / "last", tmp_path / "alone", symlinks=False)
    assert run("export", tmp_path / "alone", "--out", tmp_path / "out") == 0
    assert "## Recipe" not in (tmp_path / "out" / "README.md").read_text()
    assert logits_of(ModelConfig(path=str(tmp_path / "out")))[0].isfinite().all()


def test_a_wrong_merge_is_noticed_and_leaves_nothing(lora_run, tmp_path, capsys, monkeypatch) -> None:
    from saccade.models import lora

    def half(model: Any, directory: Path, base: str) -> None:
        adapters = lora.read(model, directory, base, trainable=False)
        for layer in adapters._layers():
            layer.scaling["default"] *= 0.5
        adapters.peft.merge_and_unload()

    monkeypatch.setattr(lora, "merge", half)
    assert run("export", lora_run, "--out", tmp_path / "out") == 2
    assert "differ from the trained policy's by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_before_anything_is_loaded(lora_run, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *a, **k: pytest.fail("read weights"))
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([tmp_path / "empty", "--out", tmp_path / "out"], "neither a run"),
        ([lora_run, "--out", tmp_path / "empty"], "exists; choose another"),
        ([lora_run, "--out", tmp_path / "out", "--push", "no name"], "expected owner/name"),
    ):
        assert run("export", *words) == 2
        assert message in capsys.readouterr().err


def test_pushing_needs_a_token_and_a_hub_that_answers(lora_run, tmp_path, capsys, monkeypatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    argv = ("export", lora_run, "--out", tmp_path / "out", "--push", "me/model")
    assert run(*argv) == 2
    assert "hf auth login" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_wrong")

    def unreachable(self: Any) -> None:
        raise huggingface_hub.errors.OfflineModeIsEnabled("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", unreachable)
    assert run(*argv) == 2
    assert "cannot be reached or refuses the token (no network); nothing was exported" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_push_uploads_the_finished_directory_as_private(lora_run, tmp_path, capsys, monkeypatch) -> None:
    import huggingface_hub

    def quickly(source: Any, out: Path, dtype: Any) -> Exported:
        out.mkdir()
        (out / "README.md").write_text("the finished directory")
        return Exported(out, "float32", 0.0, 1e-4, None)

    monkeypatch.setattr(exporting, "export", quickly)
    calls: list[tuple[str, Any]] = []
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", lambda self: {"name": "me"})
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, name, **k: calls.append((name, k)))
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "upload_folder",
        lambda self, repo_id, folder_path: calls.append((repo_id, sorted(p.name for p in Path(folder_path).iterdir()))),
    )
    assert run("export", lora_run, "--out", tmp_path / "out", "--push", "me/model") == 0
    assert "https://huggingface.co/me/model" in capsys.readouterr().out
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert calls[1] == ("me/model", ["README.md"])
