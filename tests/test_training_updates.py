"""Several updates on a rollout, tokens without a log-prob, corrections and entropy terms, in the step that trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_groups import OPTIM, gradient, group_of, learner_of, moved_copy
from training_runs import write_world

from saccade.algorithm import LossConfig
from saccade.algorithm.correction_config import NoCorrection, TokenTruncate
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy, load_policy
from saccade.rollout.config import check_staleness
from saccade.rollout.groups import Group
from saccade.training import changes
from saccade.training.before_update import choose_tokens, kl_in_reward, open_parts, parts_of
from saccade.training.config import RLRecipe
from saccade.training.optim import GuardedOptimizer
from saccade.training.policy_step import policy_step

TEMPERATURE = 0.8


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


def config(**options: Any) -> LossConfig:
    return LossConfig.model_validate(options)


def step(learner: Any, groups: Sequence[Group], lr: float = 0.0, **more: Any) -> dict[str, float]:
    return policy_step(learner, groups, temperature=TEMPERATURE, max_length=9, lr=lr, **more)


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((got - expected).norm() / expected.norm()) < 1e-6


# ------------------------------------------------------------------------------------------------------ mini-batches


def trained(world: Path, groups: Sequence[Group], steps: Sequence[Sequence[Group]] | None, **update: Any) -> Any:
    """Weights after updates: by mini-batches, or by one call for each of `steps`."""
    policy = load_policy(ModelConfig(path=str(world / "model"), device="cpu", dtype="float64"))
    learner = learner_of(policy, LossConfig(aggregation="sequence_mean"), **update)
    sgd = torch.optim.SGD([p for _, p in policy.trainable()], lr=0.0)
    learner.runner.optimizer = GuardedOptimizer(sgd, OPTIM)
    metrics = [step(learner, some, lr=0.5) for some in (steps or [groups])]
    return torch.cat([p.detach().flatten() for _, p in policy.trainable()]), metrics, policy.version


def test_mini_batches_are_updates_on_parts_of_the_rollout_one_after_the_other(world: Path, groups: list[Group]) -> None:
    signal = [groups[0], groups[2]]
    together, (metrics,), version = trained(world, signal, None, mini_batches=2)
    apart, each, _ = trained(world, signal, [signal[:1], signal[1:]])
    assert torch.equal(together, apart), "the same to the last bit: the sampler's log-probs do not move"
    assert version == 2
    assert metrics["update/trained_tokens"] == sum(one["update/trained_tokens"] for one in each)
    assert not torch.equal(together, trained(world, signal, None)[0]), "one update on everything is another one"
    assert trained(world, signal, None, mini_batches=2, updates_per_rollout=3)[2] == 6


def test_after_the_first_mini_batch_ratios_leave_one_and_clips_act(world: Path, groups: list[Group]) -> None:
    signal = [groups[0], groups[2]]
    _, (whole,), _ = trained(world, signal, None, old_logprobs="recompute")
    _, (parts,), _ = trained(world, signal, None, old_logprobs="recompute", mini_batches=2)
    assert (whole["policy/ratio_mean"], whole["policy/clip_fraction"]) == (1.0, 0.0)
    assert parts["policy/ratio_mean"] != 1.0
    assert parts["policy/clip_fraction"] > 0.0


def test_a_part_without_signal_makes_no_update(world: Path, groups: list[Group]) -> None:
    assert trained(world, groups, None, mini_batches=3)[2] == 2


def test_the_parts_do_not_depend_on_the_number_of_processes(groups: list[Group]) -> None:
    order = [group.id for group in groups] + ["g9"]
    whole = [[group.id for group in part] for part in parts_of(groups, 2, order)]
    mine, theirs = (parts_of(some, 2, order) for some in (groups[:1], groups[1:]))
    assert [[g.id for g in (*a, *b)] for a, b in zip(mine, theirs, strict=True)] == whole == [["g1", "g2"], ["g3"]]


# ---------------------------------------------------------------------------------------- missing log-probs, masks


def without(groups: Sequence[Group], missing: dict[tuple[str, int], list[int]]) -> list[Group]:
    """The groups without the log-probs of some tokens, by (group, rollout)."""

    def cut(group: Group) -> Group:
        rollouts = []
        for k, rollout in enumerate(group.rollouts):
            places = missing.get((group.id, k), [])
            logprobs = tuple(math.nan if t in places else one for t, one in enumerate(rollout.completion.logprobs))
            rollouts.append(replace(rollout, completion=replace(rollout.completion, logprobs=logprobs)))
        return replace(group, rollouts=tuple(rollouts))

    return [cut(group) for group in groups]


def written_out(policy: Policy, groups: Sequence[Group], term: Any) -> torch.Tensor:
    """The gradient of sum over replies of term(log p, log p_sampler, A) -> (loss, tokens, replies), over the sums."""
    loss, tokens = torch.zeros((), dtype=torch.float64), 0
    for group in groups:
        for rollout in group.rollouts:
            if rollout.score.masked is None:
                packed = pack([(group.prompt.encoded, [Branch(rollout.completion.token_ids)])])
                logprobs, entropy = branch_logprobs(policy, packed, None, TEMPERATURE, "gradient")
                sampler = torch.tensor(rollout.completion.logprobs, dtype=torch.float64)
                value, count = term(logprobs, sampler, rollout.advantage, entropy)
                loss, tokens = loss + value, tokens + count
    found = torch.autograd.grad(loss / tokens, [p for _, p in policy.trainable()], allow_unused=True)
    return torch.cat([one.flatten() for one in found if one is not None])


def clip(ratio: torch.Tensor, advantage: float) -> torch.Tensor:
    return torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)


def test_a_token_without_a_log_prob_leaves_the_loss_and_the_denominators(
    policy: Policy, groups: list[Group], caplog: pytest.LogCaptureFixture
) -> None:
    holes = without(groups, {("g1", 1): [0, 4, 8], ("g2", 0): [1], ("g3", 2): [0]})

    def term(logprobs: torch.Tensor, sampler: torch.Tensor, advantage: float, _: Any) -> Any:
        known = torch.isfinite(sampler)
        return -clip((logprobs[known] - sampler[known]).exp(), advantage).sum(), int(known.sum())

    expected = written_out(policy, holes, term)
    for micro in (10_000, 1):
        assert close(gradient(policy, holes, LossConfig(), tokens_per_micro_batch=micro), expected)
    metrics = step(learner_of(policy, LossConfig()), holes)
    assert metrics["sampler/missing"] == 5
    assert math.isfinite(metrics["sampler/gap_mean"])
    assert "no log-prob for 5 of 39 tokens: they leave the loss and its denominators" in caplog.text
    assert "sampler/missing" not in step(learner_of(policy, LossConfig()), groups)


def test_a_reply_without_any_log_prob_is_no_reply(policy: Policy, groups: list[Group]) -> None:
    holes = without(groups, {("g1", 1): list(range(9))})
    loss = config(ratio="sequence", surrogate={"low": 3e-4, "high": 4e-4}, aggregation="sequence_mean")
    masked = replace(holes[0].rollouts[1], score=replace(holes[0].rollouts[1].score, masked="failed"))
    gone = [replace(holes[0], rollouts=(holes[0].rollouts[0], masked, holes[0].rollouts[2])), *holes[1:]]
    assert close(gradient(policy, holes, loss), gradient(policy, gone, loss))


def test_an_engine_without_log_probs_ends_the_run_with_the_reason(policy: Policy, groups: list[Group]) -> None:
    every = {(group.id, k): list(range(9)) for group in groups for k in range(3)}
    with pytest.raises(ValueError, match="no log-prob for any of the 39 tokens of the step"):
        step(learner_of(policy, LossConfig()), without(groups, every))


@pytest.mark.parametrize("kind", ["token_truncate", "token_mask", "sequence_mask", "icepop"])
def test_a_correction_weighs_the_loss_by_recomputed_over_sampled(
    policy: Policy, groups: list[Group], kind: str
) -> None:
    limit = 1.1

    def term(logprobs: torch.Tensor, sampler: torch.Tensor, advantage: float, _: Any) -> Any:
        gap = logprobs.detach() - sampler
        ratio = (gap.sum() if kind == "sequence_mask" else gap).exp()
        inside = (ratio <= limit) & ((ratio >= 0.5) | torch.tensor(kind != "icepop"))
        weight = ratio.clamp(max=limit) if kind == "token_truncate" else ratio * inside
        return -(weight * clip((logprobs - logprobs.detach()).exp(), advantage)).sum(), len(gap)

    loss = config(correction={"kind": kind, "limit": limit})
    expected = written_out(policy, groups, term)
    for micro in (10_000, 1):
        assert close(gradient(policy, groups, loss, tokens_per_micro_batch=micro), expected)


def test_rejected_replies_leave_the_denominators_too(policy: Policy, groups: list[Group]) -> None:
    def term(logprobs: torch.Tensor, sampler: torch.Tensor, advantage: float, _: Any) -> Any:
        kept = 0.5 <= float((logprobs.detach() - sampler).sum().exp()) <= 2.0
        ratio = (logprobs - logprobs.detach()).exp()
        return -clip(ratio, advantage).sum() * kept, len(sampler) * kept

    loss = config(correction={"kind": "rejection"})
    parts = open_parts(learner_of(policy, loss), groups, TEMPERATURE, 9, None)
    assert 0 < parts[0].denominators.tokens < 39, "the case has replies on both sides"
    expected = written_out(policy, groups, term)
    for micro in (10_000, 1):
        assert close(gradient(policy, groups, loss, tokens_per_micro_batch=micro), expected)


# ------------------------------------------------------------------------------------------------ entropy, KL


def test_the_entropy_bonus_reaches_tokens_without_an_advantage(policy: Policy, groups: list[Group]) -> None:
    def term(logprobs: torch.Tensor, sampler: torch.Tensor, advantage: float, entropy: Any) -> Any:
        return -(clip((logprobs - sampler).exp(), advantage) + 0.1 * entropy).sum(), len(sampler)

    assert close(gradient(policy, groups, LossConfig(entropy_coef=0.1)), written_out(policy, groups, term))


@pytest.mark.parametrize("micro", [10_000, 1])
def test_the_tokens_of_highest_entropy_are_chosen_over_the_whole_step(
    policy: Policy, groups: list[Group], micro: int
) -> None:
    learner = learner_of(policy, LossConfig(top_entropy=0.25), tokens_per_micro_batch=micro)
    parts = open_parts(learner, groups, TEMPERATURE, 9, None)
    chosen = sum(int(batch.chosen_R.sum()) for part in parts for batch in part.batches if batch.chosen_R is not None)
    assert chosen == 10, "the upper quarter of 39 tokens"
    again = choose_tokens(learner, parts, TEMPERATURE)
    assert [batch.chosen_R.tolist() for batch in again[0].batches if batch.chosen_R is not None] == [
        batch.chosen_R.tolist() for batch in parts[0].batches if batch.chosen_R is not None
    ]


def test_a_kl_in_the_reward_is_charged_at_the_sampled_tokens(policy: Policy, groups: list[Group]) -> None:
    reference = moved_copy(policy)
    learner = learner_of(policy, config(kl="k1", kl_in="reward", kl_coef=0.5), reference)
    found = kl_in_reward(learner, groups, TEMPERATURE)
    for group in groups:
        for k, rollout in enumerate(group.rollouts):
            if rollout.score.masked is not None:
                assert found[group.id][k] == ()
                continue
            ids = rollout.completion.token_ids
            with torch.no_grad():
                ref, _ = branch_logprobs(reference, pack([(group.prompt.encoded, [Branch(ids)])]), None, TEMPERATURE)
            expected = 0.5 * (torch.tensor(rollout.completion.logprobs) - ref)
            assert found[group.id][k] == pytest.approx(expected.tolist(), abs=1e-5)


def test_credit_by_token_reaches_its_token(policy: Policy, groups: list[Group]) -> None:
    (group,) = groups[:1]
    credit = tuple(0.1 * t - 0.3 for t in range(9))
    by_token = replace(group.rollouts[1], token_advantages=credit, advantage=0.0)
    changed = replace(group, rollouts=(group.rollouts[0], by_token, group.rollouts[2]))
    values = iter([[group.rollouts[0].advantage] * 3, credit])

    def term(logprobs: torch.Tensor, sampler: torch.Tensor, advantage: float, _: Any) -> Any:
        A = torch.tensor(next(values), dtype=torch.float64)
        ratio = (logprobs - sampler).exp()
        return -torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A).sum(), len(sampler)

    assert close(gradient(policy, [changed], LossConfig()), written_out(policy, [changed], term))


# ---------------------------------------------------------------------------------------------------- refusals

SMALL: dict[str, Any] = {
    "model": {"path": "base"},
    "data": [{"source": "world", "task": "count"}],
    "stages": [{"max_new_tokens": 8, "group_size": 2}],
    "num_steps": 1,
    "optim": {"lr": 1e-3},
    "prompts_per_step": 4,
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": {"mini_batches": 5}}, "update.mini_batches: got 5, but a step has 4 groups"),
        (
            {"update": {"mini_batches": 2}, "loss": {"surrogate": {"kind": "reinforce"}}},
            "update.mini_batches: got 2, but loss.surrogate 'reinforce' has no ratio",
        ),
        (
            {"update": {"old_logprobs": "sampler"}, "loss": {"correction": {"kind": "token_truncate"}}},
            "contains that correction already; set recompute",
        ),
        (
            {"update": {"old_logprobs": "recompute"}, "rollout": {"staleness": 1}},
            "one step older than what would be recomputed; set sampler",
        ),
        ({"update": {"replay": {}, "old_logprobs": "recompute"}}, "update.replay: replies of earlier steps"),
        (
            {"update": {"replay": {}}, "loss": {"surrogate": {"kind": "reinforce"}}},
            "update.replay: got .*; set it to null",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused_with_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLRecipe.model_validate(SMALL | options)


def test_a_correction_makes_auto_recompute_what_it_compares_with() -> None:
    recipe = RLRecipe.model_validate(SMALL | {"loss": {"correction": {"kind": "icepop"}}})
    assert recipe.update.resolved(recipe.objective).old_logprobs == "recompute"
    assert recipe.update.resolved(LossConfig()).old_logprobs == "sampler"


def test_a_recipe_with_a_server_corrects_by_default_and_may_sample_ahead() -> None:
    engine = {"kind": "vllm_server", "urls": ["http://127.0.0.1:8100"]}
    recipe = RLRecipe.model_validate(SMALL | {"rollout": {"engine": engine}})
    assert recipe.objective.correction == TokenTruncate(limit=2.0)
    assert recipe.update.resolved(recipe.objective).old_logprobs == "recompute"
    ahead = RLRecipe.model_validate(SMALL | {"rollout": {"engine": engine, "staleness": 1}})
    check_staleness(ahead.rollout)
    assert ahead.objective.correction == NoCorrection()
    assert ahead.update.resolved(ahead.objective, 1).old_logprobs == "sampler"


def test_options_that_are_newer_than_a_checkpoint_are_no_change() -> None:
    recipe = RLRecipe.model_validate(SMALL)
    now = changes.facts(recipe.model_dump(mode="json"), {})
    old = copy.deepcopy(now["recipe"]) | {
        "loss": {"ratio": "token", "surrogate": {"kind": "clipped", "low": 0.2, "high": 0.2}}
    }
    del old["update"], old["rollout"]["staleness"]
    before = changes.completed({**now, "recipe": old}, RLRecipe)
    assert changes.compare(before, now).training == ()
    old["loss"]["surrogate"]["low"] = 0.1
    assert changes.compare(changes.completed({**now, "recipe": old}, RLRecipe), now).training == (
        "loss.surrogate.low: 0.1 -> 0.2",
    )
    assert changes.completed({"recipe": {"gone": 1}}, RLRecipe) == {"recipe": {"gone": 1}}


@pytest.mark.parametrize("cut", [{"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}, {"min_new_tokens": 4}])
def test_log_probs_after_a_cut_are_not_compared_with_those_of_the_whole_distribution(cut: dict[str, Any]) -> None:
    """vLLM gives those after the cut, the built-in engine those of the whole."""
    engine = {"kind": "vllm_server", "urls": ["http://127.0.0.1:8100"]}
    whole: dict[str, Any] = SMALL
    RLRecipe.model_validate(whole | {"rollout": {"sampling": cut}})
    RLRecipe.model_validate(whole | {"rollout": {"engine": engine}})
    with pytest.raises(ValueError, match=rf"rollout.sampling.{next(iter(cut))}: vLLM's log-probs.*recompute"):
        RLRecipe.model_validate(whole | {"rollout": {"engine": engine, "sampling": cut}})
    way_out = {"update": {"old_logprobs": "recompute"}, "loss": {"correction": {"kind": "none"}}}
    RLRecipe.model_validate(whole | way_out | {"rollout": {"engine": engine, "sampling": cut}})
    staged = [{"max_new_tokens": 8, "group_size": 2, "sampling": cut}]
    with pytest.raises(ValueError, match="vLLM's log-probs"):
        RLRecipe.model_validate(whole | {"stages": staged, "rollout": {"engine": engine}})
