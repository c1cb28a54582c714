"""One step ahead, replay, refreshed references and KL in the reward: in the loop, its records and its checkpoints."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_engine import CopyEngine
from safetensors.torch import load_file
from training_runs import rl_recipe, write_world

from saccade.cli.check import of_recipe
from saccade.config import dump
from saccade.models.adapter import EncodedPrompt
from saccade.models.policy import Policy, load_policy
from saccade.rollout.engine import Engine
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt
from saccade.runs.stopping import RunStopped, Stop
from saccade.training.config import RLRecipe
from saccade.training.optim import GuardedOptimizer
from saccade.training.replay import Replay
from saccade.training.resuming import Resume
from saccade.training.rl import train
from saccade.training.update_config import ReplayConfig
from saccade.types import Completion, Sample, Score

TIMES = ("time/", "tokens/per_s", "memory/")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(TIMES) and k != "run"} for row in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def same_runs(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("metrics.jsonl", "rollouts.jsonl", "groups.jsonl"):
        assert rows(one, name) == rows(other, name), name


class Killed(BaseException):
    """A kill that none of our handlers may catch."""


def killed_at(step: int) -> Any:
    def evaluate(policy: Policy, engine: Engine, now: int) -> dict[str, float]:
        if now == step:
            raise Killed
        return {"score": float(now)}

    return evaluate


def score_by_step(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
    return {"score": float(step)}


# --------------------------------------------------------------------------------------------------- one step ahead


def ahead(recipe: RLRecipe) -> RLRecipe:
    """The recipe one step ahead; the kind of the engine stays, since the tests bring their own."""
    return recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"staleness": 1})})


STAGES = [
    {"name": "a", "max_new_tokens": 4, "group_size": 4, "rubric": "test", "until": {"step": 2}},
    {"name": "b", "max_new_tokens": 6, "group_size": 3, "rubric": "test", "prompts_per_step": 2},
]


def test_staleness_zero_with_an_engine_of_its_own_equals_the_synchronous_run(world: Path, tmp_path: Path) -> None:
    recipe = rl_recipe(world, stages=STAGES)
    train(recipe, tmp_path / "builtin")
    engine = CopyEngine(load_policy(recipe.model))
    train(recipe, tmp_path / "copy", engine=engine)
    same_runs(tmp_path / "builtin", tmp_path / "copy")
    assert all(row["policy/lag"] == 0 for row in rows(tmp_path / "copy"))
    assert not [name for name in engine.threads if name.startswith("rollout")]


def test_one_step_ahead_each_step_trains_on_replies_of_the_policy_before(world: Path, tmp_path: Path) -> None:
    recipe = ahead(rl_recipe(world, stages=STAGES, eval={"every": 2}))
    engine = CopyEngine(load_policy(recipe.model))
    train(recipe, tmp_path / "run", engine=engine, evaluate=score_by_step)
    found = [row for row in rows(tmp_path / "run") if row["step"]]
    assert [row["policy/lag"] for row in found] == [0.0, 1.0, 1.0, 1.0]
    assert [row["stage"] for row in found] == ["a", "a", "b", "b"], "decided when the rollout begins"
    replies = rows(tmp_path / "run", "rollouts.jsonl")
    assert [{r["weights_version"] for r in replies if r["step"] == step} for step in (1, 2, 3, 4)] == [
        {0},
        {0},
        {1},
        {2},
    ]
    assert engine.threads == ["MainThread", *["rollout"] * 3]
    generated = [event for event in engine.events if event.startswith("generate")]
    assert generated == ["generate with 0", "generate with 0", "generate with 1", "generate with 2"]
    assert found[1]["policy/ratio_mean"] != 1.0, "against the policy that sampled, not the one that trains"


def test_a_run_one_step_ahead_that_is_killed_resumes_with_the_batch_in_flight(world: Path, tmp_path: Path) -> None:
    recipe = ahead(rl_recipe(world, stages=STAGES, eval={"every": 1}, checkpoint={"every": 2, "keep": 9}))
    train(recipe, tmp_path / "whole", engine=CopyEngine(load_policy(recipe.model)), evaluate=score_by_step)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "cut", engine=CopyEngine(load_policy(recipe.model)), evaluate=killed_at(3))
    engine = CopyEngine(load_policy(recipe.model))
    train(recipe, tmp_path / "cut", engine=engine, evaluate=score_by_step, resume=True)
    assert engine.events[:1] != ["generate with 2"], "step 3 was sampled before the kill"
    same_runs(tmp_path / "whole", tmp_path / "cut")


def test_later_rounds_of_a_step_ahead_have_the_current_weights_also_after_a_kill(world: Path, tmp_path: Path) -> None:
    stages = [{"name": "a", "max_new_tokens": 4, "group_size": 2, "rubric": "test"}]
    recipe = ahead(rl_recipe(world, stages=stages, eval={"every": 2}, checkpoint={"every": 1, "keep": 9}))
    recipe = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"resample_rounds": 2})})
    engine = CopyEngine(load_policy(recipe.model))
    train(recipe, tmp_path / "whole", engine=engine, evaluate=score_by_step)
    found = rows(tmp_path / "whole")
    assert all(row["rollout/rounds"] > 1 for row in found if row["step"])
    for row in rows(tmp_path / "whole", "rollouts.jsonl"):
        late = max(row["step"] - 2, 0) if row["group_id"].split("-")[0].endswith(".0") else row["step"] - 1
        assert row["weights_version"] == late
    with pytest.raises(Killed):
        train(recipe, tmp_path / "cut", engine=CopyEngine(load_policy(recipe.model)), evaluate=killed_at(2))
    train(recipe, tmp_path / "cut", engine=CopyEngine(load_policy(recipe.model)), evaluate=score_by_step, resume=True)
    same_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_failure_of_the_engine_ahead_ends_the_step_that_would_train_on_it(
    world: Path, tmp_path: Path, in_order: list[tuple[int, str]]
) -> None:
    class Failing(CopyEngine):
        def generate(self, *args: Any, **kwargs: Any) -> list[list[Completion]]:
            if len(self.threads) == 2:
                raise ConnectionError("the server is gone")
            return super().generate(*args, **kwargs)

    recipe = ahead(rl_recipe(world))
    with pytest.raises(ConnectionError, match="the server is gone"):
        train(recipe, tmp_path / "run", engine=Failing(load_policy(recipe.model)))
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]
    train(recipe, tmp_path / "run", engine=CopyEngine(load_policy(recipe.model)), resume=True)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    assert drawn(tmp_path / "run") == in_order


@pytest.fixture(scope="module")
def in_order(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """Step and sample of all groups of a run that nothing ended."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(rl_recipe(world), run)
    return drawn(run)


def drawn(run: Path) -> list[tuple[int, str]]:
    """Step and sample of all groups."""
    return [(row["step"], row["sample_id"]) for row in rows(run, "groups.jsonl")]


class Hanging(CopyEngine):
    """Does not come back from the call of `generate` for the third step."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.began, self.over = threading.Event(), threading.Event()

    def generate(self, *args: Any, **kwargs: Any) -> list[list[Completion]]:
        if len(self.threads) == 2:
            self.began.set()
            self.over.wait(60)
        return super().generate(*args, **kwargs)


class Asked(Stop):
    """A stop that is asked for while the engine hangs: before the update of step 2, or after it is recorded."""

    def __init__(self, engine: Hanging, where: str) -> None:
        super().__init__(grace_s=0.2)
        self.engine, self.where, self.calls = engine, where, {"hold": 0, "release": 0}

    def hold(self) -> None:
        super().hold()
        self._ask("hold", 3)

    def release(self) -> None:
        super().release()
        self._ask("release", 2)

    def _ask(self, where: str, call: int) -> None:
        self.calls[where] += 1
        if (where, self.calls[where]) == (self.where, call):
            assert self.engine.began.wait(20)
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("where", ["hold", "release"])
def test_a_stop_does_not_wait_for_the_round_in_flight_whose_prompts_are_drawn_again(
    where: str, world: Path, tmp_path: Path, in_order: list[tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    recipe, out = ahead(rl_recipe(world, checkpoint={"every": 9})), tmp_path / "run"
    engine = Hanging(load_policy(recipe.model))
    began = time.monotonic()
    with Asked(engine, where).listening() as stop, pytest.raises(RunStopped, match="stopped after step 2;"):
        train(recipe, out, engine=engine, stop=stop)
    assert time.monotonic() - began < 30
    assert "the replies of step 3, sampled ahead, were not there after the 0.2 s of a stop" in caplog.text
    left = [one for one in threading.enumerate() if one.name == "rollout"]
    assert left and all(one.daemon for one in left), "the process can end"
    engine.over.set()
    train(recipe, out, engine=CopyEngine(load_policy(recipe.model)), resume=True)
    assert drawn(out) == in_order


def test_a_run_that_samples_ahead_no_more_draws_the_prompts_of_the_round_in_flight_again(
    world: Path, tmp_path: Path, in_order: list[tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    recipe, out = rl_recipe(world, eval={"every": 3}), tmp_path / "run"
    with pytest.raises(Killed):
        train(ahead(recipe), out, engine=CopyEngine(load_policy(recipe.model)), evaluate=killed_at(3))
    (out / "config.yaml").write_text(dump(recipe))
    train(recipe, out, evaluate=score_by_step, resume=Resume(accept_changes=True))
    assert "the replies that were sampled ahead are dropped: rollout.staleness is 0 now" in caplog.text
    assert drawn(out) == in_order


def test_the_built_in_engine_is_refused_one_step_ahead(world: Path, tmp_path: Path) -> None:
    recipe = rl_recipe(world, rollout={"staleness": 1})
    with pytest.raises(ValueError, match=r"shares the trainer's weights.*staleness: 0, or an engine with weights"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "r.yaml").write_text(dump(recipe))
    with pytest.raises(ValueError, match="shares the trainer's weights"):
        of_recipe(str(tmp_path / "r.yaml"), [], None)


# ---------------------------------------------------------------------------------------- updates of a rollout, resume

UPDATES: Mapping[str, Mapping[str, Any]] = {
    "mini-batches of all terms": {
        "update": {"mini_batches": 2, "updates_per_rollout": 2},
        "loss": {"correction": {"kind": "token_truncate"}, "kl_coef": 0.1, "kl": "k2", "reference_refresh": 1}
        | {"entropy_coef": 0.01, "top_entropy": 0.5, "advantage": {"kind": "gdpo"}},
    },
    "replay and KL in the reward": {
        "update": {"replay": {"size": 9}},
        "loss": {"kl": "k1", "kl_in": "reward", "kl_coef": 0.2, "advantage": {"kind": "reinforce_pp"}},
    },
}


@pytest.mark.parametrize("name", UPDATES)
def test_a_run_killed_between_updates_equals_one_that_never_stopped(name: str, world: Path, tmp_path: Path) -> None:
    recipe = rl_recipe(world, num_steps=3, eval={"every": 1}, checkpoint={"every": 2, "keep": 9}, **UPDATES[name])
    train(recipe, tmp_path / "whole", evaluate=score_by_step)
    with pytest.raises(Killed), killed_in_update(recipe, 3):
        train(recipe, tmp_path / "cut", evaluate=score_by_step)
    train(recipe, tmp_path / "cut", evaluate=score_by_step, resume=True)
    same_runs(tmp_path / "whole", tmp_path / "cut")


@contextmanager
def killed_in_update(recipe: RLRecipe, step: int) -> Iterator[None]:
    """Ends the process, as it were, before the last optimizer step of a step: with several, in the middle of them."""
    last, stepped, done = step * recipe.update.optimizer_steps, GuardedOptimizer.step, [0]

    def counted(self: GuardedOptimizer, *args: Any) -> Any:
        done[0] += 1
        if done[0] == last:
            raise Killed
        return stepped(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GuardedOptimizer, "step", counted)
        yield


def test_a_refreshed_reference_is_the_policy_of_that_step(world: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optim": {"lr": 1e-2}, "num_steps": 3, "checkpoint": {"every": 9}}
    train(rl_recipe(world, loss={"kl_coef": 0.2}, **options), tmp_path / "kept")
    train(rl_recipe(world, loss={"kl_coef": 0.2, "reference_refresh": 2}, **options), tmp_path / "refreshed")
    first, then = rows(tmp_path / "kept"), rows(tmp_path / "refreshed")
    assert [row["policy/kl"] for row in then[:2]] == [row["policy/kl"] for row in first[:2]]
    assert then[0]["policy/kl"] == pytest.approx(0.0, abs=1e-9)
    assert then[2]["policy/kl"] == pytest.approx(0.0, abs=1e-9), "step 3 begins with the policy as its own reference"
    assert first[2]["policy/kl"] > 1e-6
    last = tmp_path / "refreshed" / "checkpoints" / "last"
    saved, now = (load_file(path / "model.safetensors") for path in (last / "reference", last))
    assert any(not torch.equal(saved[name], now[name]) for name in saved)
    with pytest.raises(ValueError, match=r"reference_refresh: got 2 with model\.lora"):
        lora = {"path": str(world / "model"), "train": [], "lora": {"rank": 2, "alpha": 4}}
        rl_recipe(world, loss={"kl_coef": 0.2, "reference_refresh": 2}, model=lora)


def test_a_kl_in_the_reward_moves_groups_of_equal_rewards(world: Path, tmp_path: Path) -> None:
    loss = {"kl": "k1", "kl_in": "reward", "kl_coef": 0.5}
    recipe = rl_recipe(world, reward="nothing", num_steps=2, loss=loss, optim={"lr": 1e-2})
    train(recipe, tmp_path / "run")
    first, second = rows(tmp_path / "run")
    assert first["update/trained_tokens"] >= 0
    assert second["update/skipped"] == 0.0, "after a first update of round-off size the policies differ"
    assert second["reward/total"] == 0.0, "the records hold the task's rewards"


# ------------------------------------------------------------------------------------------------------------ replay


def made_up(name: str, advantages: list[float]) -> Group:
    encoded = EncodedPrompt(torch.tensor([1]), torch.zeros(3, 1), 1, {}, (), (), name)
    sample = Sample(name, (), "?", 1, "count")
    rollouts = [Rollout(Completion("", (5,), (-1.0,)), Score(0.0), one) for one in advantages]
    return Group(name, Prompt(sample, encoded), tuple(rollouts))


def test_replayed_replies_take_the_places_of_those_without_an_advantage() -> None:
    replay = Replay(ReplayConfig(size=3))
    fresh = [made_up("a", [1.0, -1.0, 0.0]), made_up("b", [0.0, 0.0])]
    assert replay.fill(fresh, seed=0) == (fresh, []), "nothing is kept yet"
    replay.add([made_up("c", [0.5, -2.0]), made_up("d", [0.0, 3.0, 4.0])], {"c": 1, "d": 2})
    assert [entry.rollout.advantage for entry in replay.entries] == [-2.0, 3.0, 4.0], "the newest three"
    updated, replayed = replay.fill(fresh, seed=0)
    assert [r.advantage for group in updated for r in group.rollouts] == [1.0, -1.0], "three places were free"
    assert sorted(r.advantage for group in replayed for r in group.rollouts) == [-2.0, 3.0, 4.0]
    assert replay.fill([made_up("e", [1.0])], seed=0)[1] == []


def test_replies_are_drawn_in_proportion_to_their_advantage() -> None:
    replay = Replay(ReplayConfig(alpha=2.0))
    replay.add([made_up("c", [1.0, -3.0])], {"c": 1})
    drawn = [replay.fill([made_up("e", [0.0])], seed)[1][0].rollouts[0].advantage for seed in range(2000)]
    share, expected = drawn.count(-3.0) / 2000, 9 / 10
    assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 2000)


def test_a_replayed_reply_is_compared_with_the_policy_that_sampled_it(world: Path, tmp_path: Path) -> None:
    recipe = rl_recipe(world, update={"replay": {}}, optim={"lr": 1e-2}, num_steps=6)
    train(recipe, tmp_path / "run")
    found = rows(tmp_path / "run")
    replayed = [row for row in found if row["replay/replies"]]
    assert replayed and found[0]["replay/replies"] == 0
    assert all(row["policy/ratio_mean"] != 1.0 for row in replayed)
