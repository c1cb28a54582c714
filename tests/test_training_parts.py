"""Parts of training: the policy step, micro-batches, learning rates, presets, checkpoints and records."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from policy_groups import OPTIM, Recorded, gradient, group_of, learner_of, moved_copy
from presets import PRESETS
from rich.console import Console
from training_runs import rl_recipe, write_world

from saccade.algorithm import LossConfig, build_advantages
from saccade.config import find, load
from saccade.models.adapter import EncodedPrompt
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy, load_policy
from saccade.rewards import RubricConfig, score_all
from saccade.rollout.collect import center, collect, rubrics_of
from saccade.rollout.config import Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt, prepare
from saccade.rollout.seeds import derive_seed
from saccade.rollout.stages import Stage
from saccade.runs.progress import progress
from saccade.runs.records import Run
from saccade.tasks import TASKS
from saccade.training import checkpoint
from saccade.training import step as step_file
from saccade.training.batching import Cost, PackPlan, micro_batches, repeated_cost, rows, shared_cost
from saccade.training.before_update import count_denominators, cut
from saccade.training.config import OptimConfig, RLRecipe
from saccade.training.group_metrics import group_metrics
from saccade.training.learner import Learner
from saccade.training.optim import GuardedOptimizer, build_optimizer, learning_rate
from saccade.training.policy_step import policy_step
from saccade.types import Completion, Sample, Score

EMPTY = EncodedPrompt(torch.tensor([1]), torch.zeros(3, 1), 1, {}, (), (), "empty")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def policy(world: Path) -> Policy:
    return load_policy(ModelConfig(path=str(world / "model"), device="cpu", dtype="float64"))


@pytest.fixture(scope="module")
def groups(policy: Policy) -> list[Group]:
    return [
        group_of(policy, 1, [3, 9, 4], [1.0, 0.0, None]),
        group_of(policy, 2, [5, 2, 7], [0.5, 0.5, 0.5]),
        group_of(policy, 3, [6, 6, 1], [0.0, 0.0, 1.0]),
    ]


# ------------------------------------------------------------------------------------------------------- policy step


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo", "gspo_token", "cispo", "vision_r1", "gmpo", "neutral"])
@pytest.mark.parametrize(
    "changes", [{"tokens_per_micro_batch": 1}, {"tokens_per_micro_batch": 60}, {"shared_prefix": "off"}]
)
def test_how_a_step_is_cut_never_changes_its_gradient(
    policy: Policy, groups: list[Group], name: str, changes: dict[str, Any]
) -> None:
    loss = PRESETS.get(name, LossConfig())
    whole = gradient(policy, groups, loss, tokens_per_micro_batch=10_000)
    assert float(whole.norm()) > 0
    assert float((gradient(policy, groups, loss, **changes) - whole).norm() / whole.norm()) < 1e-6


@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("shared_prefix", ["auto", "off"])
def test_a_micro_batch_without_memory_is_cut_and_the_update_is_the_same(
    policy: Policy, groups: list[Group], when: str, shared_prefix: Any, monkeypatch: Any, caplog: Any
) -> None:
    loss = LossConfig(kl_coef=0.1)
    config: dict[str, Any] = {"tokens_per_micro_batch": 10_000, "shared_prefix": shared_prefix}

    def run() -> tuple[torch.Tensor, dict[str, float], Learner]:
        learner = learner_of(policy, loss, moved_copy(policy), **config)
        learner.runner.optimizer = recorded = Recorded(learner.runner.optimizer.optimizer, OPTIM)
        metrics = policy_step(learner, groups, temperature=0.8, max_length=9, lr=0.0)
        return recorded.seen, metrics, learner

    whole, expected, _ = run()
    computed, failures = step_file.branch_logprobs, list[int]()

    def limited(policy: Policy, packed: Any, *args: Any) -> Any:
        """Replies to one prompt alone find room, at most two of them; a backward pass fails after some gradients."""
        too_large = packed.num_branches > 2
        if too_large and (when == "forward" or not torch.is_grad_enabled()):
            failures.append(packed.num_branches)
            raise torch.OutOfMemoryError("injected")
        state["fail"] = too_large
        return computed(policy, packed, *args)

    state = {"fail": False}

    def hook(parameter: torch.Tensor) -> None:
        if state["fail"]:
            failures.append(0)
            raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(step_file, "branch_logprobs", limited)
    handles = [p.register_post_accumulate_grad_hook(hook) for _, p in policy.trainable()[-20:-10]]
    try:
        found, metrics, learner = run()
    finally:
        for handle in handles:
            handle.remove()
    assert failures
    assert float((found - whole).norm() / whole.norm()) < 1e-6
    assert metrics.pop("update/micro_batches") > expected.pop("update/micro_batches")
    assert {k: v for k, v in metrics.items() if k != "update/saving"} == pytest.approx(
        {k: v for k, v in expected.items() if k != "update/saving"}, rel=1e-6, abs=1e-12
    )
    assert "out of memory in a micro-batch of" in caplog.text and learner.runner.tokens_per_micro_batch < 1000


def test_a_single_reply_without_memory_ends_the_step(policy: Policy, groups: list[Group], monkeypatch: Any) -> None:
    def never(*args: Any) -> Any:
        raise torch.OutOfMemoryError("injected")

    learner = learner_of(policy, LossConfig())
    cut(groups, learner)  # makes the choice about shared prompts
    monkeypatch.setattr(step_file, "branch_logprobs", never)
    with pytest.raises(torch.OutOfMemoryError):
        policy_step(learner, groups, temperature=1.0, max_length=9, lr=0.0)


def test_the_gradient_is_that_of_the_formula_over_every_rollout_that_counts(
    policy: Policy, groups: list[Group]
) -> None:
    # the whole objective written out, the group without signal and its tokens in the denominator included
    loss, tokens = torch.zeros((), dtype=torch.float64), 0
    for group in groups:
        for rollout in group.rollouts:
            if rollout.score.masked is not None:
                continue
            logprobs, _ = branch_logprobs(
                policy, pack([(group.prompt.encoded, [Branch(rollout.completion.token_ids)])]), None, 0.8
            )
            ratio = (logprobs - torch.tensor(rollout.completion.logprobs)).exp()
            bounded = torch.minimum(ratio * rollout.advantage, ratio.clamp(0.8, 1.2) * rollout.advantage)
            loss, tokens = loss - bounded.sum(), tokens + len(logprobs)
    expected = torch.autograd.grad(loss / tokens, [p for _, p in policy.trainable()], allow_unused=True)
    flat = torch.cat([one.flatten() for one in expected if one is not None])
    assert tokens == 3 + 9 + 5 + 2 + 7 + 6 + 6 + 1
    got = gradient(policy, groups, LossConfig())
    assert float((got - flat).norm() / flat.norm()) < 1e-6


def test_masked_rollouts_are_not_in_the_denominators_and_equal_groups_stay_in_them(
    policy: Policy, groups: list[Group]
) -> None:
    found = count_denominators(groups, 9, learner_of(policy, LossConfig()))
    assert found is not None and (found.tokens, found.sequences, found.max_length) == (39, 8, 9)


def test_rollouts_that_move_nothing_cost_no_pass_unless_a_kl_is_charged(policy: Policy, groups: list[Group]) -> None:
    plain = cut(groups, learner_of(policy, LossConfig()))
    charged = cut(groups, learner_of(policy, LossConfig(kl_coef=0.1), reference=policy))
    assert sum(batch.packed.num_tokens for batch in plain) == 3 + 9 + 6 + 6 + 1
    assert sum(batch.packed.num_tokens for batch in charged) == 39


def test_recomputed_log_probs_make_the_first_ratio_exactly_one(policy: Policy, groups: list[Group]) -> None:
    learner = learner_of(policy, LossConfig(), old_logprobs="recompute")
    metrics = policy_step(learner, groups, temperature=0.8, max_length=9, lr=0.0)
    assert metrics["policy/ratio_mean"] == 1.0
    assert metrics["policy/clip_fraction"] == 0.0
    sampled = policy_step(learner_of(policy, LossConfig()), groups, temperature=0.8, max_length=9, lr=0.0)
    assert sampled["policy/clip_fraction"] > 0.0
    assert sampled["sampler/gap_max"] > 0.1


def test_several_updates_on_one_rollout_keep_the_old_log_probs(world: Path) -> None:
    policy = load_policy(ModelConfig(path=str(world / "model"), device="cpu", dtype="float64"))
    batch = [group_of(policy, 1, [4, 4], [1.0, 0.0])]
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), OPTIM), OPTIM)
    learner = learner_of(policy, LossConfig(), updates_per_rollout=3, old_logprobs="recompute")
    learner.runner.optimizer = optimizer
    metrics = policy_step(learner, batch, temperature=1.0, max_length=4, lr=1e-3)
    assert metrics["policy/ratio_mean"] != 1.0, "the last update sees a policy that has moved away"
    assert policy.version == 3


# ------------------------------------------------------------------------------------------------------------- parts


STEPS = st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), max_size=5)), max_size=8)


@given(STEPS, st.integers(1, 90), st.sampled_from([shared_cost, repeated_cost]))
def test_every_reply_is_in_exactly_one_row_and_only_single_replies_break_the_budget(
    prompts: list[tuple[int, list[int]]], budget: int, cost: Cost
) -> None:
    found: list[PackPlan] = []
    for i, (length, replies) in enumerate(prompts):
        found += rows(i, length, list(enumerate(replies)), budget, cost)
    batches = micro_batches(found, budget)
    members = sorted((row.prompt, k) for batch in batches for row in batch for k in row.replies)
    assert members == sorted((i, k) for i, (_, replies) in enumerate(prompts) for k in range(len(replies)))
    for batch in batches:
        if sum(row.cost for row in batch) > budget:
            assert len(batch) == 1 and len(batch[0].replies) == 1
    for row in found:
        assert row.cost == cost(prompts[row.prompt][0], [prompts[row.prompt][1][k] for k in row.replies])


def test_micro_batches_are_of_nearly_equal_cost() -> None:
    lengths = [40, 31, 30, 22, 20, 18, 16, 12, 8, 3]
    batches = micro_batches([PackPlan(i, (0,), n) for i, n in enumerate(lengths)], budget=110)
    loads = [sum(row.cost for row in batch) for batch in batches]
    assert sorted(loads) == [99, 101]


def test_a_group_too_long_for_the_budget_repeats_its_prompt_and_loses_nothing() -> None:
    found = rows(0, 100, [(k, 30) for k in range(8)], budget=200)
    assert [row.replies for row in found] == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert sum(row.cost for row in found) == 3 * 100 + 8 * 30


def test_the_learning_rate_warms_up_and_decays_as_literals_say() -> None:
    cosine = OptimConfig(lr=1.0, warmup_steps=2, decay="cosine", final_lr_ratio=0.5)
    assert [round(learning_rate(cosine, step, 6), 4) for step in range(1, 7)] == [0.5, 1.0, 1.0, 0.9268, 0.75, 0.5732]
    linear = OptimConfig(lr=1.0, decay="linear")
    assert [learning_rate(linear, step, 4) for step in range(1, 5)] == [1.0, 0.75, 0.5, 0.25]
    assert learning_rate(OptimConfig(lr=2.0), 99, 100) == 2.0
    share = OptimConfig(lr=1.0, warmup_ratio=0.3, decay="cosine")
    same = OptimConfig(lr=1.0, warmup_steps=2, decay="cosine")
    assert [learning_rate(share, step, 6) for step in range(1, 7)] == [learning_rate(same, s, 6) for s in range(1, 7)]
    assert [OptimConfig(lr=1.0, warmup_ratio=0.05).warmup(n) for n in (1, 20, 21, 100)] == [1, 1, 2, 5]
    with pytest.raises(ValueError, match="both warmup_steps and warmup_ratio"):
        OptimConfig(lr=1.0, warmup_steps=2, warmup_ratio=0.1)


CAPS = {
    "grpo": [(1024, 64)],
    "dapo": [(20480, 16)],
    "vlm_r1": [(2048, 8)],
    "vision_r1": [(4096, 16), (8192, 8)],
}
"""Stages of the presets that have some; the others are only losses."""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_extends_to_a_recipe_with_the_loss_of_the_same_name(world: Path, tmp_path: Path, name: str) -> None:
    preset = Path(str(resources.files("saccade"))) / "recipes" / "presets" / f"{name}.yaml"
    lines = [
        f"extends: {preset}",
        f"model: {{path: {world / 'model'}}}",
        f"data: [{{source: vlm_r1, path: {world / 'data.jsonl'}}}]",
        *([] if name in CAPS else ["stages: [{max_new_tokens: 16, group_size: 4}]"]),
        *([] if name in ("grpo", "dapo", "vlm_r1") else ["optim: {lr: 1e-6}"]),
        *([] if name == "vision_r1" else ["num_steps: 500"]),
    ]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    recipe = load(tmp_path / "mine.yaml", RLRecipe)
    assert recipe.loss == PRESETS[name]
    assert [(stage.max_new_tokens, stage.group_size) for stage in recipe.stages] == CAPS.get(name, [(16, 4)])
    for stage in recipe.stages:
        rubrics_of(stage, TASKS, recipe.rubrics)("count")


def test_a_reply_at_the_cap_loses_half_under_dapo_and_nothing_before_the_buffer() -> None:
    rubrics = yaml.safe_load(find("presets/dapo").read_text())["rubrics"]
    rubric = RubricConfig.model_validate(rubrics["dapo"]).build()
    sample = Sample("s", (), "1 + 1?", 2, "math")
    replies = [
        Completion("<think>.</think><answer>2</answer>", (7,) * n, finish_reason=reason)
        for n, reason in ((16384, "stop"), (18432, "stop"), (20480, "length"))
    ]
    assert [score.value for score in score_all([(rubric, one, sample) for one in replies])] == [1.0, 0.75, 0.5]


def test_a_stage_overrides_sampling_rubric_and_truncation(world: Path) -> None:
    stage = Stage(max_new_tokens=5, group_size=2, sampling={"temperature": 0.5}, rubric="mine", truncated="mask")
    of_the_recipe = {"top_p": 0.9, "min_p": 0.1, "stop_strings": ("x",), "repetition_stop": 3}
    sampling = stage.sampling_from(Sampling.model_validate(of_the_recipe))
    assert sampling == Sampling.model_validate({"max_new_tokens": 5, "temperature": 0.5, **of_the_recipe})
    own = {"mine": RubricConfig.model_validate({"parts": [{"name": "format"}]})}
    rubric = rubrics_of(stage, TASKS, own)("count")
    assert [part.name for part in rubric.parts] == ["format"]
    sample = Sample("s", (), "How many?", 1, "count")
    assert rubric(Completion("<think>", finish_reason="length"), sample) == Score(
        0.0, "truncated", masked="truncated", truncated=True
    )


def test_a_rubric_that_raises_or_gives_no_number_masks(caplog: pytest.LogCaptureFixture) -> None:
    def raises(completion: Completion, sample: Sample) -> Score:
        raise OSError("disk gone")

    sample = Sample("s", (), "?", 1, "count")
    assert score_all([(raises, Completion(""), sample)])[0].masked == "OSError: disk gone"
    assert "sample s" in caplog.text
    assert score_all([(lambda c, s: Score(float("nan")), Completion(""), sample)])[0].masked == "the reward is nan"


def test_collected_groups_hold_scored_siblings_with_centered_advantages_and_repeat_with_the_seed(world: Path) -> None:
    recipe = rl_recipe(world)
    policy = load_policy(recipe.model)
    image = Image.new("RGB", (56, 56), (1, 2, 3))
    prompts = tuple(prepare(policy.adapter, Sample(f"s{i}", (image,), f"{i}?", i, "count")) for i in range(3))
    stage = recipe.stages[0]

    def once(seed: int) -> list[Group]:
        scored = collect(
            open_engine(policy),
            rubrics_of(stage, TASKS, recipe.rubrics),
            "7.0",
            prompts,
            sampling=stage.sampling_from(recipe.rollout.sampling),
            group_size=stage.group_size,
            seed=seed,
        )
        return center(scored, build_advantages(recipe.loss.advantage))

    first = once(derive_seed(3, 7))
    assert [group.id for group in first] == ["7.0-0", "7.0-1", "7.0-2"]
    assert all(len(group.rollouts) == 4 for group in first)
    assert any(group.has_signal for group in first)
    assert all(abs(sum(r.advantage for r in group.rollouts)) < 1e-6 for group in first)
    assert [g.rollouts for g in once(derive_seed(3, 7))] == [g.rollouts for g in first]
    assert [g.rollouts for g in once(derive_seed(3, 8))] != [g.rollouts for g in first]


def test_group_metrics_equal_literals() -> None:
    sample = Sample("s", (), "?", 1, "count", {"source": "web"})

    def group(name: str, *rollouts: Rollout) -> Group:
        return Group(name, Prompt(sample, EMPTY), rollouts)

    def rollout(value: float, length: int, masked: str | None = None, cut: bool = False) -> Rollout:
        completion = Completion("", (1,) * length, finish_reason="length" if cut else "stop")
        return Rollout(completion, Score(value, parts={"a/b.py:f": value}, masked=masked), advantage=value - 0.5)

    groups = [
        group("a", rollout(1.0, 2), rollout(0.0, 6, cut=True), rollout(0.0, 4, masked="x")),
        group("b", replace(rollout(1.0, 2), advantage=0.0)),
    ]
    metrics = group_metrics(
        groups, lambda completion, _: None if len(completion.token_ids) == 4 else len(completion.token_ids) < 4
    )
    assert metrics == pytest.approx(
        {
            "reward/total": 2 / 3,
            "reward/b.py:f": 2 / 3,
            "length/mean": 3.5,
            "length/right": 2.0,
            "length/wrong": 6.0,
            "format/strict": 0.0,
            "truncated/share": 0.25,
            "replies/repetition": 0.0,
            "groups/count": 2.0,
            "groups/zero_variance": 0.5,
            "rollouts/masked": 0.25,
            "rollouts/failed": 0.25,
            "accuracy/count": 2 / 3,
            "source/web/accuracy": 2 / 3,
            "source/web/reward": 2 / 3,
        }
    )


def test_a_checkpoint_is_complete_or_absent_and_the_links_follow_it(world: Path, tmp_path: Path) -> None:
    policy = load_policy(rl_recipe(world).model)
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), OPTIM), OPTIM)
    for step in (9, 10, 11):
        checkpoint.save(tmp_path, policy, optimizer, {"step": step})
    (tmp_path / "checkpoints" / ".step-000012.partial").mkdir()  # a kill in the middle of writing
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 11
    checkpoint.relink(tmp_path, last=11, best=9)
    checkpoint.prune(tmp_path, keep=1)
    left = {path.name for path in (tmp_path / "checkpoints").glob("step-*")}
    assert left == {"step-000009", "step-000011"}
    load_policy(ModelConfig(path=str(tmp_path / "checkpoints" / "last"), device="cpu"))
    other = load_policy(ModelConfig(path=str(found.path), device="cpu", train=("projector",)))
    with pytest.raises(ValueError, match="the trained parameters differ"):
        checkpoint.restore(found, other, GuardedOptimizer(build_optimizer(other.trainable(), OPTIM), OPTIM))


def test_a_lack_of_memory_is_no_fault_of_a_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(rl_recipe(world).model)
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), OPTIM), OPTIM)
    checkpoint.save(tmp_path, policy, optimizer, {"step": 1})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    for error, seen in ((torch.OutOfMemoryError("full"), torch.OutOfMemoryError), (RuntimeError("odd"), ValueError)):
        monkeypatch.setattr(optimizer.optimizer, "load_state_dict", Mock(side_effect=error))
        with pytest.raises(seen, match=r"full|not the state of this run's optimizer"):
            checkpoint.restore(found, policy, optimizer)


@pytest.mark.parametrize("names", [None, 5, True, float("inf"), [1, 2], torch.zeros(2), {"a": 1}, "vision"])
def test_names_of_parameters_that_are_none_are_one_line(world: Path, tmp_path: Path, names: Any) -> None:
    policy = load_policy(rl_recipe(world).model)
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), OPTIM), OPTIM)
    path = checkpoint.save(tmp_path, policy, optimizer, {"step": 1}) / checkpoint.TRAINER_FILE
    found = checkpoint.latest(tmp_path)
    assert found is not None
    torch.save({**torch.load(path, weights_only=True), "parameters": names}, path)
    with pytest.raises(ValueError, match=r"trainer\.pt: not the state of this run's .*its 'parameters' are no names"):
        checkpoint.restore(found, policy, optimizer)


def test_records_are_cut_back_to_the_checkpoint_and_missing_rows_are_reported(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.create(tmp_path / "run", rl_recipe(world))
    run.metrics(1, {"a": float("nan"), "b": float("inf"), "c": 0.5})
    sizes = run.sizes()
    run.metrics(2, {"a": 1.0})
    run.cut_back(sizes, 1)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "a": None, "b": None, "c": 0.5}]
    (tmp_path / "own").write_text("precious")
    run.cut_back({"metrics.jsonl": sizes["metrics.jsonl"] + 1, "../own": 0}, 1)
    assert (tmp_path / "own").read_text() == "precious"
    assert "rows were lost" in caplog.text
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() == lines


def test_progress_is_one_live_line_on_a_terminal_and_log_lines_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    terminal = Console(force_terminal=True, record=True, width=100)
    with progress("rl", 2, terminal) as report:
        report(2, {"reward": 0.25})
    assert "reward 0.25" in terminal.export_text()
    with caplog.at_level("INFO"), progress("rl", 2, Console(force_terminal=False)) as report:
        report(1, {"reward": 0.5})
        report(2, {"reward": 0.75})
    assert "rl 2/2  reward 0.75" in caplog.text
