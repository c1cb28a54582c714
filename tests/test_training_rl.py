"""The RL loop on the tiny model: resuming, freezing, records, refusals, and steps from which nothing can be learned."""

from __future__ import annotations

import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import rl_recipe, write_world

from saccade.cli.runs import print_result
from saccade.data import Mixture, open_source
from saccade.models.policy import Policy, load_policy
from saccade.rollout.collect import RewardsFailed
from saccade.rollout.engine import Engine
from saccade.rollout.prompts import prepare
from saccade.training.checkpoint import latest
from saccade.training.config import RLRecipe
from saccade.training.optim import TrainingStopped
from saccade.training.prompt_feed import PromptFeed
from saccade.training.rl import train

TIMES = ("time/", "tokens/per_s", "memory/")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(path: Path) -> list[dict[str, Any]]:
    """The rows without what a clock wrote, and without the run's name."""
    return [{k: v for k, v in row.items() if not k.startswith(TIMES) and k != "run"} for row in rows(path)]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


class Killed(BaseException):
    """A kill that none of our handlers may catch."""


def killed_at(step: int) -> Any:
    """An evaluation that ends the process, as it were, after some rows of the step are written."""

    def evaluate(policy: Policy, engine: Engine, now: int) -> dict[str, float]:
        if now == step:
            raise Killed
        return {"score": float(now)}

    return evaluate


def score_by_step(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
    torch.rand(3)  # an evaluation that draws random numbers must not move the training
    return {"score": float(step)}


STAGES = [
    {"name": "a", "max_new_tokens": 4, "group_size": 4, "rubric": "test", "until": {"step": 2}},
    {"name": "b", "max_new_tokens": 6, "group_size": 3, "rubric": "test", "prompts_per_step": 2}
    | {"sampling": {"temperature": 0.9}},
]


def test_a_run_killed_and_resumed_equals_one_that_never_stopped(world: Path, tmp_path: Path) -> None:
    recipe = rl_recipe(
        world,
        stages=STAGES,
        loss={"kl_coef": 0.1},
        eval={"every": 1},
        checkpoint={"every": 2, "keep": 9},
        rollout={"resample_rounds": 1},
    )
    train(recipe, tmp_path / "whole", evaluate=score_by_step)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "cut", evaluate=killed_at(3))
    assert rows(tmp_path / "cut" / "rollouts.jsonl")[-1]["step"] == 3, "step 3 left rows that have to be cut back"
    train(recipe, tmp_path / "cut", evaluate=score_by_step, resume=True)
    for step in (2, 4):
        whole, cut = weights(tmp_path / "whole", step), weights(tmp_path / "cut", step)
        assert all(torch.equal(whole[name], cut[name]) for name in whole), f"weights differ at step {step}"
    for name in ("metrics.jsonl", "rollouts.jsonl", "groups.jsonl"):
        assert timeless(tmp_path / "whole" / name) == timeless(tmp_path / "cut" / name), name


def test_the_policy_learns_what_is_rewarded(world: Path, tmp_path: Path) -> None:
    stages = [{"max_new_tokens": 3, "group_size": 8, "rubric": "test"}]
    optim, checkpoint = {"lr": 2e-2}, {"every": 99}
    train(rl_recipe(world, num_steps=20, stages=stages, optim=optim, checkpoint=checkpoint), tmp_path / "run")
    rewards = [row["reward/total"] for row in rows(tmp_path / "run" / "metrics.jsonl")]
    assert sum(rewards[:3]) / 3 < 0.6
    assert sum(rewards[-3:]) / 3 > 0.9


def test_exactly_the_trained_parts_move(world: Path, tmp_path: Path) -> None:
    recipe = rl_recipe(world, num_steps=1, optim={"lr": 1e-2})
    outcome = train(recipe, tmp_path / "run")
    before = dict(load_policy(recipe.model).model.named_parameters())
    after = dict(outcome.policy.model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trainable = {name for name, _ in outcome.policy.parameters_by_part()["language"]}
    frozen = {name for part in ("vision", "projector") for name, _ in outcome.policy.parameters_by_part()[part]}
    assert frozen and not moved & frozen
    assert trainable and trainable <= moved


def test_a_vision_tower_that_trains_gets_gradients(world: Path, tmp_path: Path) -> None:
    model = {"path": str(world / "model"), "device": "cpu", "train": ["vision", "projector", "language"]}
    update = {"updates_per_rollout": 2, "old_logprobs": "recompute"}
    train(rl_recipe(world, num_steps=1, optim={"lr": 1e-2}, model=model, update=update), tmp_path / "run")
    before, after = load_file(world / "model" / "model.safetensors"), weights(tmp_path / "run", 1)
    assert any("visual" in name and not torch.equal(before[name], after[name]) for name in before)


def test_rewards_that_are_all_equal_say_no_update_and_move_nothing(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(rl_recipe(world, reward="nothing", num_steps=2), tmp_path / "run")
    metrics = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["update/skipped"] for row in metrics] == [1.0, 1.0]
    assert "step 2: no update: all groups have equal rewards" in caplog.text
    assert [row["groups/zero_variance"] for row in metrics] == [1.0, 1.0]
    before, after = load_file(world / "model" / "model.safetensors"), weights(tmp_path / "run", 2)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_reward_that_fails_masks_its_rollouts_and_is_never_a_zero(world: Path, tmp_path: Path) -> None:
    rollout = {"max_failed_share": 1.0}
    train(rl_recipe(world, reward="broken", num_steps=1, rollout=rollout), tmp_path / "run")
    written = rows(tmp_path / "run" / "rollouts.jsonl")
    assert len(written) == 16
    assert all("reward server is down" in row["masked"] for row in written)
    metrics = rows(tmp_path / "run" / "metrics.jsonl")[0]
    assert metrics["rollouts/masked"] == metrics["rollouts/failed"] == 1.0
    assert "reward/total" not in metrics


def test_a_reward_that_fails_too_often_stops_the_run_with_the_reason(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardsFailed, match=r"16 of 16 replies.*max_failed_share 0.5.*reward server is down"):
        train(rl_recipe(world, reward="broken", num_steps=1), tmp_path / "run")


def test_dynamic_sampling_ends_after_its_rounds_and_keeps_what_it_set_aside(world: Path, tmp_path: Path) -> None:
    train(rl_recipe(world, reward="nothing", num_steps=1, rollout={"resample_rounds": 2}), tmp_path / "run")
    metrics = rows(tmp_path / "run" / "metrics.jsonl")[0]
    assert (metrics["rollout/rounds"], metrics["groups/set_aside"], metrics["update/skipped"]) == (3.0, 12.0, 1.0)
    assert len({row["group_id"] for row in rows(tmp_path / "run" / "rollouts.jsonl")}) == 12


def test_the_records_hold_every_field_that_others_read(world: Path, tmp_path: Path) -> None:
    train(rl_recipe(world, num_steps=2), tmp_path / "run", evaluate=score_by_step)
    row = rows(tmp_path / "run" / "rollouts.jsonl")[-1]
    assert set(row) >= {
        *("run", "step", "stage", "weights_version", "group_id", "index", "sample_id", "task", "image_sha"),
        *("size_original", "size_input", "frame", "prompt_id", "text", "token_ids", "logprobs", "finish_reason"),
        *("parts", "reward", "advantage", "masked"),
    }
    assert (row["run"], row["step"], row["weights_version"], row["stage"]) == ("run", 2, 1, "one")
    assert len(row["logprobs"]) == len(row["token_ids"]) > 0
    baseline, *steps = rows(tmp_path / "run" / "metrics.jsonl")
    assert (baseline["step"], baseline["eval/score"]) == (0, 0.0)
    names = set(steps[-1])
    assert names >= {
        *("reward/total", "accuracy/count", "length/mean", "length/wrong", "truncated/share"),
        *("groups/zero_variance", "policy/entropy", "policy/clip_fraction", "policy/grad_norm", "sampler/gap_mean"),
        *("sampler/gap_max", "time/rollout_s", "time/update_s", "tokens/per_s", "memory/peak_mb", "eval/score"),
        *("source/data/reward", "update/skipped"),
    }
    assert steps[-1]["sampler/gap_max"] < 1e-4
    groups = rows(tmp_path / "run" / "groups.jsonl")
    assert (tmp_path / "run" / groups[0]["image_files"][0]).is_file()
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    names = {"commit", "packages", "device", "dtype", "threads", "image_backend", "data_hash", "model_hash"}
    assert set(environment) >= names


def test_the_best_checkpoint_has_the_highest_score_and_outlives_newer_ones(world: Path, tmp_path: Path) -> None:
    def second_is_best(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        return {"score": -abs(step - 2.0)}

    recipe = rl_recipe(world, num_steps=5, eval={"every": 1}, checkpoint={"every": 1, "keep": 1})
    outcome = train(recipe, tmp_path / "run", evaluate=second_is_best)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert (outcome.best_step, outcome.best_score) == (2, 0.0)
    assert (checkpoints / "best").resolve().name == "step-000002"
    assert (checkpoints / "last").resolve().name == "step-000005"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best", "last", "step-000002", "step-000005"]


def test_a_run_that_only_harms_recommends_no_checkpoint_and_says_so(world: Path, tmp_path: Path, capsys) -> None:
    def falling(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        return {"score": 0.667 - 0.1 * step}

    recipe = rl_recipe(world, num_steps=2, eval={"every": 1}, checkpoint={"every": 1, "keep": 2})
    outcome = train(recipe, tmp_path / "run", evaluate=falling)
    assert (outcome.best_step, outcome.best_score) == (0, 0.667)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last", "step-000001", "step-000002"]
    print_result(outcome)
    assert "best: the starting model, score 0.667; no checkpoint was better" in capsys.readouterr().out
    shutil.rmtree(checkpoints / "step-000002")
    resumed = train(recipe, tmp_path / "run", evaluate=falling, resume=True)
    assert (resumed.step, resumed.best_step, resumed.best_score) == (2, 0, 0.667)


def test_a_directory_with_a_run_is_refused_and_a_changed_recipe_is_not_resumed(world: Path, tmp_path: Path) -> None:
    train(rl_recipe(world, num_steps=1), tmp_path / "run")
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(rl_recipe(world, num_steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match=r"config.yaml:\d+: the run has 'num_steps: 1' but the recipe 'num_steps: 2'"):
        train(rl_recipe(world, num_steps=2), tmp_path / "run", resume=True)
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        train(rl_recipe(world), tmp_path / "nowhere", resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"path": "./no/such/model"}}, "no config.json there"),
        ({"stages": [{"max_new_tokens": 4, "group_size": 2, "rubric": "hardd"}], "rubrics": {}}, "did you mean 'hard'"),
        ({"eval": {"data": [{"source": "vlm_r1", "path": "missing.jsonl"}]}}, "there is no such file"),
        ({"model": {"path": "WORLD", "train": []}}, "no parameter trains"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    world: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if changes.get("model", {}).get("path") == "WORLD":
        changes = {"model": {"path": str(world / "model"), "train": []}}
    with pytest.raises(ValueError, match=message):
        train(rl_recipe(world, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_disk_space_is_reported_before_anything_is_written(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    with pytest.raises(ValueError, match=r"lower checkpoint\.keep"):
        train(rl_recipe(world), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_gradients_that_stay_nonfinite_stop_the_run_with_the_last_finite_weights(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = rl_recipe(world, num_steps=9, optim={"lr": 1e-3, "max_nonfinite_in_row": 2}, checkpoint={"every": 1})
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.nan))
    with pytest.raises(TrainingStopped, match="not finite for 2 updates in a row"):
        train(recipe, tmp_path / "run")
    metrics = rows(tmp_path / "run" / "metrics.jsonl")
    assert metrics[-1]["update/nonfinite"] == 1.0
    assert metrics[-1]["update/skipped"] == 1.0
    found = latest(tmp_path / "run")
    assert found is not None and found.state["nonfinite_in_row"] == 1
    before, after = load_file(world / "model" / "model.safetensors"), weights(tmp_path / "run", 1)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_rubric_that_no_stage_uses_is_refused(world: Path) -> None:
    with pytest.raises(ValueError, match="no stage uses spare"):
        stages = [{"max_new_tokens": 2, "group_size": 2}]
        rl_recipe(world, rubrics={"spare": {"parts": [{"name": "format"}]}}, stages=stages)


def test_a_recipe_comes_back_from_its_resolved_form(world: Path) -> None:
    recipe = rl_recipe(world, stages=STAGES)
    assert RLRecipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_several_threads_prepare_the_prompts_of_a_step_at_once_and_in_order(world: Path) -> None:
    adapter, together = load_policy(rl_recipe(world).model).adapter, threading.Barrier(3, timeout=20)

    def mixture() -> Mixture:
        return Mixture([open_source(one) for one in rl_recipe(world).data], [1.0], seed=3)

    def waiting(sample: Any) -> Any:
        together.wait()  # breaks unless three run at the same time
        return prepare(adapter, sample, template=None)

    alone = PromptFeed(mixture(), lambda sample: prepare(adapter, sample, template=None))
    several = PromptFeed(mixture(), waiting, workers=3)
    expected = [prompt.name for more in (True, False) for prompt in alone(3, ahead=more)]
    assert [prompt.name for more in (True, False) for prompt in several(3, ahead=more)] == expected
    several.close()
    alone.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]
