"""Rows leave and enter: no reply changes, nothing runs twice, no row runs for nothing, memory follows the replies."""

from __future__ import annotations

import random

import pytest
import torch
from ragged import LONGEST as T
from ragged import ragged_lengths, ragged_prompts
from replies import builtin, generate

from saccade.base.tiny import write_checkpoint
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs, vision_features
from saccade.models.packing import Branch, pack
from saccade.models.policy import load_policy
from saccade.rollout import prompt_attention, slots
from saccade.rollout.config import Sampling


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), "S", seed=4)


@pytest.fixture(scope="module")
def policy(directory):
    return load_policy(ModelConfig(path=str(directory)))


@pytest.fixture(scope="module")
def prompts(policy):
    return ragged_prompts(policy)


@pytest.fixture(scope="module")
def ragged():
    return ragged_lengths()


def ids(replies):
    return [[reply.token_ids for reply in group] for group in replies]


def logprobs_R(replies):
    return torch.tensor([lp for group in replies for reply in group for lp in reply.logprobs], dtype=torch.float64)


@pytest.mark.parametrize("max_rows", [1, 3, 5, 12, 29])
def test_ragged_replies_cost_the_ideal_number_of_row_steps_and_one_prefill_per_prompt(
    policy, prompts, ragged, max_rows
):
    wide, narrow = builtin(policy), builtin(policy, max_rows=max_rows)
    sampling = Sampling(max_new_tokens=T)
    expected = generate(wide, prompts, sampling, n=5, seed=8, lengths=ragged)
    replies = generate(narrow, prompts, sampling, n=5, seed=8, lengths=ragged)
    assert ids(replies) == ids(expected)
    assert (logprobs_R(replies) - logprobs_R(expected)).abs().max() < 2e-5
    ideal = sum(length - 1 for group in ragged for length in group)
    for stats in (wide.stats, narrow.stats):
        assert (stats.row_steps, stats.ideal_row_steps) == (ideal, ideal)
        assert (stats.prefills, stats.vision_passes) == (6, 5)
    assert narrow.stats.most_rows <= max_rows
    assert narrow.stats.steps <= ideal / max_rows + T + sum(map(max, ragged)) / max(1, max_rows // 5)


def test_slots_are_refilled_instead_of_waiting_for_the_longest(policy, prompts, ragged):
    engine = builtin(policy, max_rows=10)
    generate(engine, prompts, Sampling(max_new_tokens=T), n=5, seed=8, lengths=ragged)
    in_batches = sum(max(max(one) for one in ragged[i : i + 2]) - 1 for i in range(0, len(ragged), 2))
    assert engine.stats.steps < 0.8 * in_batches


def test_slots_are_refilled_by_siblings_when_a_group_is_larger_than_the_slots(policy, prompts):
    engine, draw = builtin(policy, max_rows=8), random.Random(1)
    lengths = [[draw.randint(2, T) for _ in range(40)]]
    generate(engine, prompts[:1], Sampling(max_new_tokens=T), n=40, seed=8, lengths=lengths)
    assert engine.stats.prefills == 1
    assert engine.stats.steps < 1.25 * engine.stats.ideal_row_steps / 8 + T / 2


def test_stopped_replies_cost_the_ideal_number_of_row_steps_too(policy, prompts):
    engine = builtin(policy, max_rows=8)
    head = policy.model.lm_head
    bias_V = torch.zeros(head.weight.shape[0])
    bias_V[policy.adapter.stop_ids[0]] = 5.5  # about one token in ten ends a turn
    head.bias = torch.nn.Parameter(bias_V)
    try:
        replies = generate(engine, prompts, Sampling(max_new_tokens=T), n=5, seed=3)
    finally:
        head.bias = None
    lengths = [len(reply.token_ids) for group in replies for reply in group]
    assert len(set(lengths)) > 5
    assert engine.stats.row_steps == engine.stats.ideal_row_steps == sum(lengths) - len(lengths)


def test_float64_log_probs_equal_the_trainers_to_its_round_off(directory, prompts, ragged):
    policy = load_policy(ModelConfig(path=str(directory), dtype="float64"))
    exact = [policy.adapter.encode("Tell me." + " word" * i, []) for i in range(6)]
    replies = generate(builtin(policy, max_rows=7), exact, Sampling(max_new_tokens=T), 5, 8, lengths=ragged)
    packed = pack([(p, [Branch(r.token_ids) for r in group]) for p, group in zip(exact, replies, strict=True)])
    with torch.no_grad():
        trainer_R, _ = branch_logprobs(policy, packed, path="plain")
    assert (trainer_R - logprobs_R(replies)).abs().max() < 1e-11


def test_bfloat16_log_probs_are_as_near_to_the_truth_as_the_trainers(directory, policy, prompts, ragged):
    half = load_policy(ModelConfig(path=str(directory), dtype="bfloat16"))
    replies = generate(builtin(half, max_rows=7), prompts, Sampling(max_new_tokens=T), 5, 8, lengths=ragged)
    packed = pack([(p, [Branch(r.token_ids) for r in group]) for p, group in zip(prompts, replies, strict=True)])
    with torch.no_grad():
        truth_R, _ = branch_logprobs(policy, packed)
        trainer_R, _ = branch_logprobs(half, packed, path="plain")
    ours, theirs = (logprobs_R(replies) - truth_R).abs().mean(), (trainer_R - truth_R).abs().mean()
    assert ours < 1.2 * theirs


def test_features_that_are_handed_in_spare_the_vision_tower(policy, prompts):
    engine, sampling = builtin(policy), Sampling(max_new_tokens=5)
    expected = generate(engine, prompts, sampling, n=2, seed=1)
    features = vision_features(policy, prompts)
    assert ids(generate(engine, prompts, sampling, n=2, seed=1, features=features)) == ids(expected)
    assert engine.stats.vision_passes == 0
    with pytest.raises(ValueError, match="image tokens"):
        generate(engine, prompts, sampling, n=2, seed=1, features=[features[i] for i in (0, 1, 2, 3, 4, 3)])


def test_a_reply_does_not_depend_on_how_many_siblings_it_has(policy, prompts):
    engine, sampling = builtin(policy), Sampling(max_new_tokens=8)
    few, many = (ids(generate(engine, prompts, sampling, n=n, seed=5)) for n in (2, 6))
    assert few == [group[:2] for group in many]


def test_a_seed_for_each_prompt_makes_replies_independent_of_the_place_in_the_call(policy, prompts):
    engine, sampling = builtin(policy), Sampling(max_new_tokens=8)
    first = ids(generate(engine, prompts[:3], sampling, n=2, seed=[11, 12, 13]))
    turned = ids(generate(engine, [prompts[2], prompts[0]], sampling, n=2, seed=[13, 11]))
    assert turned == [first[2], first[0]]
    assert first != ids(generate(engine, prompts[:3], sampling, n=2, seed=[21, 22, 23]))
    with pytest.raises(ValueError, match="got 2 seeds for 3 prompts"):
        generate(engine, prompts[:3], sampling, n=2, seed=[1, 2])


def test_forced_lengths_must_be_one_for_each_reply_and_possible(policy, prompts):
    for lengths in ([[2, 2]], [[2, 2], [2]], [[2, 2], [2, 9]], [[2, 2], [2, 0]]):
        with pytest.raises(ValueError, match="got lengths for"):
            generate(builtin(policy), prompts[:2], Sampling(max_new_tokens=8), n=2, seed=1, lengths=lengths)


def test_logits_that_are_no_numbers_name_the_prompt_and_the_weights(directory, prompts):
    broken = load_policy(ModelConfig(path=str(directory)))
    engine = builtin(broken)
    broken.version = 7
    engine.sync(broken)
    with torch.no_grad():
        broken.model.model.language_model.layers[-1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=rf"{prompts[0].prompt_id}.*weights version 7"):
        generate(engine, prompts[:2], Sampling(max_new_tokens=4, greedy=True), n=2, seed=0)


def test_memory_of_own_keys_follows_the_replies_not_the_limit(policy, prompts, monkeypatch):
    held = []
    step = slots.Slots.step

    def watched(self, tokens, ages):
        hidden_ND = step(self, tokens, ages)
        held.append(sum(cohort.store[0].shape[1] * cohort.store[0].shape[3] for cohort in self.cohorts))
        return hidden_ND

    monkeypatch.setattr(slots.Slots, "step", watched)
    lengths = [[10] * 4 for _ in prompts]
    generate(builtin(policy), prompts, Sampling(max_new_tokens=2000), n=4, seed=0, lengths=lengths)
    assert max(held) == 6 * 4 * slots.BLOCK


def test_attention_by_matrix_products_equals_the_flash_kernel():
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, heads, t, 16, generator=draw) for heads, t in ((6, 5), (2, 40), (2, 40)))
    plain, fast = prompt_attention.plain_attention, prompt_attention.attention
    for ours, flash in zip(plain(query, key, value, 0.3), fast(query, key, value, 0.3), strict=True):
        torch.testing.assert_close(ours, flash, rtol=1e-5, atol=1e-5)


def test_prompts_in_one_padded_batch_give_the_same_replies(policy, prompts, ragged, monkeypatch):
    """The way of devices without the CPU's flash kernel."""
    sampling = Sampling(max_new_tokens=T)
    expected = generate(builtin(policy), prompts, sampling, n=5, seed=8, lengths=ragged)
    monkeypatch.setattr(slots, "prompt_attention_for", prompt_attention.BatchedPromptAttention)
    monkeypatch.setattr(slots, "attention", prompt_attention.plain_attention)
    for max_rows in (7, 512):
        replies = generate(builtin(policy, max_rows), prompts, sampling, n=5, seed=8, lengths=ragged)
        assert ids(replies) == ids(expected)
        assert (logprobs_R(replies) - logprobs_R(expected)).abs().max() < 2e-5


def test_a_prompt_that_left_gives_its_memory_back(policy, prompts, monkeypatch):
    made = []
    batched = prompt_attention.BatchedPromptAttention
    monkeypatch.setattr(slots, "prompt_attention_for", lambda device: made.append(batched(device)) or made[-1])
    lengths = [[2 + 4 * i] for i in range(6)]
    held = []
    step = slots.Slots.step

    def watched(self, tokens, ages):
        held.append((sorted(self.prefixes), list(made[0].places)))
        return step(self, tokens, ages)

    monkeypatch.setattr(slots.Slots, "step", watched)
    generate(builtin(policy), prompts, Sampling(max_new_tokens=T), n=1, seed=0, lengths=lengths)
    assert held[0] == ([0, 1, 2, 3, 4, 5],) * 2
    assert held[-1] == ([5],) * 2


def test_a_prompt_that_left_is_gone_before_the_rest_is_arranged_anew(policy, prompts, monkeypatch):
    """Its keys and values are views of those of all prompts, which would then be there twice."""
    decoders, kept = [], []
    made, stack = slots.Slots.__init__, prompt_attention.BatchedPromptAttention._stack

    def init(self, *args):
        made(self, *args)
        decoders.append(self)

    def watched(self, those):
        kept.append((len(those), len(decoders[0].prefixes)))
        return stack(self, those)

    monkeypatch.setattr(slots, "prompt_attention_for", prompt_attention.BatchedPromptAttention)
    monkeypatch.setattr(slots.Slots, "__init__", init)
    monkeypatch.setattr(prompt_attention.BatchedPromptAttention, "_stack", watched)
    lengths = [[2 + 4 * i] * 2 for i in range(6)]
    generate(builtin(policy), prompts, Sampling(max_new_tokens=T), n=2, seed=0, lengths=lengths)
    assert kept == [(n, n) for n in (6, 5, 4, 3, 2, 1, 0)]
