"""The built-in engine: cached equals uncached, its log-probs are the trainer's, seeds and limits hold."""

from __future__ import annotations

import pytest
import torch
from pictures import noise_image
from replies import builtin, generate
from transformers import GenerationConfig

from saccade.base.tiny import write_checkpoint
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import load_policy
from saccade.rollout.config import Sampling


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    directory = write_checkpoint(tmp_path_factory.mktemp("tiny"), "S", seed=4)
    return load_policy(ModelConfig(path=str(directory)))


@pytest.fixture(scope="module")
def prompts(policy):
    encode = policy.adapter.encode
    return [
        encode("<image>How many?", [noise_image(112, 112, 1)]),
        encode(
            "<image><image>What changed between the two images?", [noise_image(56, 112, 2), noise_image(140, 84, 3)]
        ),
        encode("Say something.", []),
    ]


def test_greedy_tokens_equal_those_of_generate_without_our_cache(policy, prompts):
    ours = generate(builtin(policy), prompts, Sampling(max_new_tokens=12, greedy=True), n=1, seed=0)
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        inputs = dict(prompt.pixels, input_ids=prompt.ids_P[None])
        if prompt.pixels:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == policy.adapter.image_ids[0]).int()
        theirs = policy.model.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            generation_config=GenerationConfig(
                max_new_tokens=12,
                do_sample=False,
                use_cache=False,
                eos_token_id=list(policy.adapter.stop_ids),
                pad_token_id=0,
                suppress_tokens=list(policy.adapter.banned_ids),
            ),
        )[0, len(prompt) :]
        assert list(completion.token_ids) == theirs.tolist()


def test_rollout_log_probs_equal_the_trainers(policy, prompts):
    completions = generate(builtin(policy), prompts, Sampling(max_new_tokens=20, temperature=0.8), n=4, seed=7)
    packed = pack([(p, [Branch(c.token_ids) for c in group]) for p, group in zip(prompts, completions, strict=True)])
    with torch.no_grad():
        trainer_R, _ = branch_logprobs(policy, packed, temperature=0.8)
    sampler_R = torch.tensor([lp for group in completions for c in group for lp in c.logprobs])
    assert (trainer_R - sampler_R).abs().max() < 2e-5


def test_same_seed_same_replies_and_siblings_differ(policy, prompts):
    engine, sampling = builtin(policy), Sampling(max_new_tokens=10)
    first = generate(engine, prompts, sampling, n=3, seed=5)
    assert first == generate(engine, prompts, sampling, n=3, seed=5)
    assert first != generate(engine, prompts, sampling, n=3, seed=6)
    assert len({c.token_ids for c in first[0]}) == 3


def test_batch_limits_do_not_change_the_replies(policy, prompts):
    sampling = Sampling(max_new_tokens=10)
    whole = generate(builtin(policy), prompts, sampling, n=2, seed=5)
    split = generate(builtin(policy, max_rows=2), prompts, sampling, n=2, seed=5)
    assert [[c.token_ids for c in g] for g in whole] == [[c.token_ids for c in g] for g in split]


def test_banned_placeholders_are_never_sampled_and_length_is_respected(policy, prompts):
    groups = generate(builtin(policy), prompts, Sampling(max_new_tokens=40, temperature=5.0), n=16, seed=1)
    for completion in (c for g in groups for c in g):
        assert not set(completion.token_ids) & set(policy.adapter.banned_ids)
        assert len(completion.token_ids) == len(completion.logprobs) <= 40
        ended = completion.token_ids[-1] in policy.adapter.stop_ids
        assert ended == (completion.finish_reason == "stop")
        assert ended or len(completion.token_ids) == 40


def test_top_k_of_one_is_greedy_and_a_small_top_p_is_too(policy, prompts):
    engine = builtin(policy)
    greedy = generate(engine, prompts, Sampling(max_new_tokens=8, greedy=True), n=1, seed=0)
    for cut in (Sampling(max_new_tokens=8, top_k=1), Sampling(max_new_tokens=8, top_p=1e-6)):
        assert [g[0].token_ids for g in generate(engine, prompts, cut, n=1, seed=3)] == [g[0].token_ids for g in greedy]
