"""The built-in engine on every model family: the tokens are those of `generate`, the log-probs those of the trainer."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, family
from pictures import noise_image
from replies import builtin, generate
from transformers import GenerationConfig

from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import load_policy
from saccade.rollout.config import Sampling

LENGTH = 14


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, tmp_path_factory):
    policy = load_policy(ModelConfig(path=str(family(request.param).write(tmp_path_factory.mktemp("tiny"), seed=2))))
    # an untrained model whose head is its embedding says one token for ever, which could not tell two engines apart
    random_VD = torch.randn(policy.model.lm_head.weight.shape, generator=torch.Generator().manual_seed(5))
    policy.model.lm_head.weight = torch.nn.Parameter(0.1 * random_VD)
    return policy


@pytest.fixture(scope="module")
def prompts(policy):
    encode = policy.adapter.encode
    two = encode("<image> and <image> what changed?", [noise_image(90, 150, 2), noise_image(200, 60, 3)])
    return [two, encode("Say something of some length.", []), encode("<image>How many?", [noise_image(100, 60, 1)])]


def generated(policy, prompt) -> list[int]:
    """Greedy tokens of transformers' own loop, of exactly LENGTH: neither stops nor placeholders can be chosen."""
    ids_1P = prompt.ids_P[None]
    out = policy.model.generate(
        input_ids=ids_1P,
        attention_mask=torch.ones_like(ids_1P),
        **policy.adapter.plain_inputs(prompt, ids_1P),
        generation_config=GenerationConfig(
            max_new_tokens=LENGTH,
            do_sample=False,
            pad_token_id=0,
            suppress_tokens=[*policy.adapter.banned_ids, *policy.adapter.stop_ids],
        ),
    )
    return out[0, len(prompt) :].tolist()


def test_greedy_tokens_equal_those_of_generate(policy, prompts):
    engine = builtin(policy)
    sampling = Sampling(max_new_tokens=LENGTH, min_new_tokens=LENGTH, greedy=True)
    ours = generate(engine, prompts, sampling, n=2, seed=0)
    for prompt, replies in zip(prompts, ours, strict=True):
        expected = generated(policy, prompt)
        assert len(set(expected)) > 3
        assert [list(reply.token_ids) for reply in replies] == [expected, expected]
    assert engine.stats.decoder == ("slots" if policy.adapter.sharing == "attention" else "cached")
    assert (engine.stats.prefills, engine.stats.vision_passes) == (3, 2)
    assert engine.stats.row_steps == engine.stats.ideal_row_steps == 3 * 2 * (LENGTH - 1)


def test_sampled_log_probs_are_the_trainers_and_refill_changes_no_reply(policy, prompts):
    lengths = [[9, 4, 12], [1, 14, 6], [7, 7, 2]]
    sampling = Sampling(max_new_tokens=LENGTH, temperature=0.7)
    wide, narrow = builtin(policy), builtin(policy, max_rows=2)
    replies = generate(wide, prompts, sampling, n=3, seed=3, lengths=lengths)
    assert [[len(reply.token_ids) for reply in group] for group in replies] == lengths
    packed = pack([(p, [Branch(r.token_ids) for r in group]) for p, group in zip(prompts, replies, strict=True)])
    with torch.no_grad():
        path = "plain" if policy.adapter.sharing == "none" else "packed"
        trainer_R, _ = branch_logprobs(policy, packed, temperature=0.7, path=path)
    sampler_R = torch.tensor([lp for group in replies for reply in group for lp in reply.logprobs])
    assert (trainer_R - sampler_R).abs().max() < 2e-5
    again = generate(narrow, prompts, sampling, n=3, seed=3, lengths=lengths)
    assert [[r.token_ids for r in group] for group in again] == [[r.token_ids for r in group] for group in replies]
    assert narrow.stats.most_rows == 2
    assert narrow.stats.prefills == 3
    assert narrow.stats.row_steps == narrow.stats.ideal_row_steps
