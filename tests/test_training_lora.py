"""Runs that train adapters: resuming, the reference, rollouts, dropout, rates by part, and the verbs that read them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_training_rl import Killed, killed_at, rows, score_by_step, timeless
from training_runs import rl_recipe, write_world
from transformers import AutoModelForImageTextToText

import saccade.training.step as step_module
from saccade.cli import main
from saccade.models.forward import branch_logprobs
from saccade.models.policy import Policy, load_policy
from saccade.training.config import RLRecipe, SFTRecipe
from saccade.training.rl import train
from saccade.training.sft import train as train_sft

LORA: dict[str, Any] = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def recipe_of(world: Path, model: dict[str, Any] | None = None, **changes: Any) -> RLRecipe:
    return rl_recipe(
        world, model={"path": str(world / "model"), "device": "cpu", "lora": LORA} | (model or {}), **changes
    )


def sft_of(world: Path, model: dict[str, Any] | None = None, **changes: Any) -> SFTRecipe:
    base = {"path": str(world / "model"), "device": "cpu", "lora": LORA}
    source = {"source": "vlm_r1", "path": str(world / "data.jsonl"), "reply": "gold"}
    keys = {"seed": 3, "model": base | (model or {}), "data": [source], "num_steps": 3, "prompts_per_step": 3}
    return SFTRecipe.model_validate(keys | {"optim": {"lr": 1e-2}, "checkpoint": {"every": 1, "keep": 9}} | changes)


def adapters(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


VISION_TOO = {"lora": LORA | {"targets": ["vision", "projector", "language"]}}
HALF = {"dtype": "bfloat16"}
KINDS = {"all parts": VISION_TOO, "bfloat16": HALF, "nf4": HALF | {"quantize": "nf4"}}


@pytest.mark.parametrize("kind", [pytest.param(one, marks=[pytest.mark.slow] * (one != "nf4")) for one in KINDS])
def test_a_run_killed_and_resumed_equals_one_that_never_stopped(world, tmp_path, kind) -> None:
    recipe = recipe_of(world, KINDS[kind], loss={"kl_coef": 0.1}, num_steps=3, eval={"every": 1})
    train(recipe, tmp_path / "whole", evaluate=score_by_step)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "cut", evaluate=killed_at(2))
    train(recipe, tmp_path / "cut", evaluate=score_by_step, resume=True)
    assert equal(adapters(tmp_path / "whole", 3), adapters(tmp_path / "cut", 3))
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert timeless(tmp_path / "whole" / name) == timeless(tmp_path / "cut" / name), name
    metrics = rows(tmp_path / "whole" / "metrics.jsonl")[1:]
    assert metrics[0]["policy/kl"] == 0.0 and metrics[2]["policy/kl"] > 0.0, "the reference is the base, not the policy"


def test_sft_with_dropout_killed_and_resumed_equals_one_that_never_stopped(world, tmp_path) -> None:
    recipe = sft_of(world, {"lora": LORA | {"dropout": 0.5}}, eval={"every": 1})
    train_sft(recipe, tmp_path / "whole", evaluate=score_by_step)
    with pytest.raises(Killed):
        train_sft(recipe, tmp_path / "cut", evaluate=killed_at(2))
    train_sft(recipe, tmp_path / "cut", evaluate=score_by_step, resume=True)
    assert equal(adapters(tmp_path / "whole", 3), adapters(tmp_path / "cut", 3))
    train_sft(sft_of(world), tmp_path / "without")
    assert not equal(adapters(tmp_path / "whole", 3), adapters(tmp_path / "without", 3)), "dropout did nothing"


def test_the_engine_samples_from_the_adapted_model(world, tmp_path) -> None:
    recipe = recipe_of(world, num_steps=4, loss={"kl_coef": 0.01}, optim={"lr": 3e-2}, checkpoint={"every": 99})
    train(recipe, tmp_path / "run")
    last = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["policy/kl"] > 0.05, "the adapters moved the policy far from its base"
    assert last["sampler/gap_max"] < 1e-4


@pytest.mark.slow
def test_replies_are_learned_by_adapters_alone(world, tmp_path) -> None:
    train_sft(sft_of(world, num_steps=12, prompts_per_step=6, checkpoint={"every": 99}), tmp_path / "run")
    losses = [row["loss/train"] for row in rows(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]


def test_adapters_in_a_frozen_model_are_all_that_a_step_moves_and_a_checkpoint_holds(world, tmp_path) -> None:
    outcome = train(recipe_of(world, num_steps=1, optim={"lr": 1e-2}), tmp_path / "run")
    base = dict(load_policy(str(world / "model")).model.named_parameters())
    for name, parameter in outcome.policy.model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name
    last = tmp_path / "run" / "checkpoints" / "last"
    size = sum(path.stat().st_size for path in last.iterdir())
    assert size < (world / "model" / "model.safetensors").stat().st_size / 3
    model = AutoModelForImageTextToText.from_pretrained(world / "model")
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        theirs = PeftModel.from_pretrained(model, last)
    loaded = {name for name, p in theirs.named_parameters() if "lora_B" in name and p.any()}
    assert len(loaded) == 14


def test_the_frozen_tower_runs_once_a_step_for_policy_and_reference(world, tmp_path, monkeypatch) -> None:
    calls: list[bool] = []

    def counted(policy: Policy, packed: Any, features: Any, *rest: Any) -> Any:
        calls.append(features is not None)
        return branch_logprobs(policy, packed, features, *rest)

    monkeypatch.setattr(step_module, "branch_logprobs", counted)
    train(recipe_of(world, num_steps=2, loss={"kl_coef": 0.1}), tmp_path / "shared")
    assert calls and all(calls)
    calls.clear()
    train(recipe_of(world, VISION_TOO, num_steps=2, loss={"kl_coef": 0.1}), tmp_path / "own")
    assert calls and not any(calls), "an adapted tower has other features than its base"


def test_the_start_of_a_run_says_what_trains_by_part(world, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "saccade")
    model = {"lora": LORA | {"targets": ["language", "projector"]}, "quantize": "nf4"}
    optim = {"lr": 1e-3, "lr_of": {"projector": 2e-5}}
    outcome = train(recipe_of(world, model, num_steps=1, optim=optim), tmp_path / "run")
    parts = {part: [p for _, p in named] for part, named in outcome.policy.parameters_by_part().items()}
    moving = {part: sum(p.numel() for p in some if p.requires_grad) for part, some in parts.items()}
    table = next(text for text in caplog.messages if text.startswith("part"))
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert lines["vision"].split()[2:] == ["0", "float32", "frozen"]
    assert lines["projector"].split()[2:] == [f"{moving['projector']:,}", "float32", "2e-05"]
    assert lines["language"].split()[2:] == [f"{moving['language']:,}", "float32", "on", "float32,", "nf4", "0.001"]
    whole = sum(p.numel() for _, p in load_policy(str(world / "model")).parameters_by_part()["language"])
    assert lines["language"].split()[1] == f"{whole + moving['language']:,}"


@pytest.mark.parametrize("model", [{"lora": None, "train": ["vision", "language"]}, VISION_TOO], ids=["full", "lora"])
def test_a_part_with_its_own_rate_moves_in_proportion_to_it(world, tmp_path, model) -> None:
    """The first step of Adam moves every weight by about its rate."""
    optim = {"lr": 1e-3, "lr_of": {"vision": 1e-5}}
    recipe = recipe_of(world, model, num_steps=1, optim=optim)
    before = load_policy(recipe.model, recipe.seed)
    start = {name: p.clone() for name, p in before.trainable()}
    after = train(recipe, tmp_path / "run").policy
    most = {
        part: max(float((p - start[name]).detach().abs().max()) for name, p in named if name in start)
        for part, named in after.parameters_by_part().items()
        if any(name in start for name, _ in named)
    }
    assert most["vision"] == pytest.approx(1e-5, rel=0.02) and most["language"] == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    "model, changes, words",
    [
        ({"lora": LORA | {"dropout": 0.1}}, {}, "model.lora.dropout: got 0.1, but the policy samples without"),
        ({}, {"optim": {"lr": 1e-3, "lr_of": {"vision": 1e-5}}}, "vision does not train.*model.lora.targets"),
        ({"lora": None}, {"optim": {"lr": 1e-3, "lr_of": {"vision": 1e-5}}}, "vision does not train.*model.train"),
        ({"lora": None, "quantize": "nf4"}, {}, "4-bit weights cannot train"),
    ],
)
def test_keys_that_contradict_each_other_are_refused_before_anything_is_loaded(world, model, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        recipe_of(world, model, **changes)


def test_a_rate_of_a_part_that_no_pattern_adapts_is_refused_before_anything_is_written(world, tmp_path) -> None:
    model = {"lora": LORA | {"targets": [".*q_proj"]}}
    recipe = recipe_of(world, model, optim={"lr": 1e-3, "lr_of": {"projector": 1e-5}})
    with pytest.raises(ValueError, match="projector does not train"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_predict_eval_and_report_read_a_run_of_adapters(world, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    held_out = {"every": 2, "data": [{"source": "vlm_r1", "path": str(world / "data.jsonl")}]}
    train(recipe_of(world, num_steps=2, eval=held_out | {"decoding": {"max_new_tokens": 4}}), tmp_path / "run")
    best = str(tmp_path / "run" / "checkpoints" / "last")
    with pytest.raises(SystemExit) as done:
        main(["predict", str(world / "0.png"), "How many?", "--model", best, "--max-new-tokens", "3"])
    assert done.value.code == 0 and "tokens:" in capsys.readouterr().out
    data = ["data=[{source: vlm_r1, path: " + str(world / "data.jsonl") + "}]", "decoding.max_new_tokens=4"]
    with pytest.raises(SystemExit) as done:
        main(["eval", f"model={best}", *data, "--out", str(tmp_path / "scores")])
    assert done.value.code == 0
    recorded = json.loads((tmp_path / "scores" / "environment.json").read_text())
    assert recorded["model"] == best and recorded["packages"]["peft"]
    with pytest.raises(SystemExit) as done:
        main(["report", str(tmp_path / "run")])
    assert done.value.code == 0
