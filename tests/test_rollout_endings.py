"""How a reply ends: stop tokens, stop strings, repetition, length; and what may not come before."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from replies import builtin, generate

from saccade.base.tiny import write_checkpoint
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.config import Sampling
from saccade.rollout.replies import DecodingRow, StopRules


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(ModelConfig(path=str(write_checkpoint(tmp_path_factory.mktemp("tiny"), "S", seed=4))))


def said(tokens, sampling, stops=(0,), decode=lambda ids: "".join(chr(96 + i) for i in ids)) -> DecodingRow:
    """The row that takes these tokens one by one until one ends it."""
    row, stop_rules = DecodingRow(0, 0, numpy.zeros(0), 0, sampling.max_new_tokens), StopRules(sampling, stops, decode)
    for token in tokens:
        if stop_rules.append(row, token, -1.0):
            return row
    return row


@pytest.mark.parametrize(
    ("times", "tokens", "length"),
    [
        (3, [5, 5, 5, 5], 3),
        (3, [1, 2, 1, 2, 1, 2, 1], 6),
        (2, [9, 1, 2, 3, 1, 2, 3, 4], 7),
        (2, [9, *range(100, 164), *range(100, 164)], 129),  # a run of 64, the longest that is seen
    ],
)
def test_a_run_said_so_many_times_in_a_row_ends_the_reply(times, tokens, length):
    row = said(tokens, Sampling(max_new_tokens=200, repetition_stop=times))
    assert (row.reason, len(row.tokens)) == ("repetition", length)


@pytest.mark.parametrize(
    ("times", "tokens"),
    [
        (3, [5, 5, 6, 5, 5, 6, 5, 5]),  # two whole runs and a piece
        (2, [1, 2, 3, 1, 2, 4, 1, 2, 5]),
        (2, [*range(100, 165), *range(100, 165)]),  # longer than what is looked for
        (0, [5] * 100),
    ],
)
def test_fewer_repetitions_do_not_end_it(times, tokens):
    assert said(tokens, Sampling(max_new_tokens=200, repetition_stop=times)).reason is None


def test_a_stop_string_ends_the_reply_with_the_token_that_completes_it():
    sampling = Sampling(max_new_tokens=9, stop_strings=("xyz", "cd"))
    row = said([1, 2, 3, 4, 5], sampling)
    assert (row.reason, row.tokens) == ("stop_string", [1, 2, 3, 4])


def test_a_stop_string_is_found_far_into_a_reply_and_when_a_token_is_half_of_it():
    pieces = {1: "word ", 2: "</ans", 3: "wer> and more"}
    row = said(
        [*[1] * 300, 2, 3, 1],
        Sampling(max_new_tokens=400, stop_strings=("</answer>",)),
        decode=lambda ids: "".join(pieces[i] for i in ids),
    )
    assert (row.reason, len(row.tokens)) == ("stop_string", 302)


def test_a_reply_is_decoded_only_when_a_token_may_complete_a_stop_string():
    draw, calls = random.Random(0), []

    def decode(ids):
        calls.append(len(ids))
        return "".join(chr(97 + i) for i in ids)

    for _ in range(40):
        tokens = [draw.randrange(12) for _ in range(200)]
        whole = "".join(chr(97 + i) for i in tokens)
        expected = min((whole.find(one) + len(one) for one in ("abc", "lk") if one in whole), default=200)
        row = said(tokens, Sampling(max_new_tokens=200, stop_strings=("abc", "lk")), stops=(), decode=decode)
        assert len(row.tokens) == expected
    assert sum(n > 1 for n in calls) < 40 * 200 / 4, "two of twelve tokens may complete one"


def test_a_stop_string_of_many_tokens_is_found():
    sampling = Sampling(max_new_tokens=99, stop_strings=("abcdefghijklmnopqrst",))
    row = said([*[26] * 50, *range(1, 27)], sampling)
    assert (row.reason, len(row.tokens)) == ("stop_string", 70)


def test_a_stop_token_goes_before_the_limit():
    assert said([3, 0], Sampling(max_new_tokens=2)).reason == "stop"
    assert said([3, 4], Sampling(max_new_tokens=2)).reason == "length"


def test_the_engines_replies_keep_the_stop_string_and_are_beginnings_of_the_unstopped_ones(policy):
    prompt, engine = policy.adapter.encode("Say something.", []), builtin(policy)
    (free,) = generate(engine, [prompt], Sampling(max_new_tokens=30, min_new_tokens=30), n=4, seed=2)
    string = policy.adapter.decode(free[1].token_ids[9:11])
    sampling = Sampling(max_new_tokens=30, min_new_tokens=30, stop_strings=(string,))
    (stopped,) = generate(engine, [prompt], sampling, n=4, seed=2)
    assert stopped[1].finish_reason == "stop_string"
    assert stopped[1].text.count(string) == 1
    assert len(stopped[1].token_ids) <= 11
    for long, short in zip(free, stopped, strict=True):
        assert short.token_ids == long.token_ids[: len(short.token_ids)]
        assert (short.finish_reason == "stop_string") == (string in short.text)


def test_a_model_that_says_one_thing_for_ever_is_stopped(policy):
    prompt, engine = policy.adapter.encode("Say something.", []), builtin(policy)
    greedy = {"max_new_tokens": 40, "min_new_tokens": 40, "greedy": True}
    ((free,),) = generate(engine, [prompt], Sampling(**greedy), n=1, seed=0)
    ((stopped,),) = generate(engine, [prompt], Sampling(**greedy, repetition_stop=4), n=1, seed=0)
    assert (free.finish_reason, len(free.token_ids)) == ("length", 40)
    assert stopped.finish_reason == "repetition"
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


def test_no_stop_token_comes_before_min_new_tokens_and_the_first_that_may_ends_the_reply(policy):
    engine, prompts = builtin(policy), [policy.adapter.encode(text, []) for text in ("One?", "Two or three?")]
    head = policy.model.lm_head
    stop = policy.adapter.stop_ids[0]
    bias_V = torch.zeros(head.weight.shape[0])
    bias_V[stop] = 100.0
    head.bias = torch.nn.Parameter(bias_V)
    try:
        at_once = generate(engine, prompts, Sampling(max_new_tokens=9), n=2, seed=1)
        later = generate(engine, prompts, Sampling(max_new_tokens=9, min_new_tokens=5), n=2, seed=1)
    finally:
        head.bias = None
    assert [reply.token_ids for group in at_once for reply in group] == [(stop,)] * 4
    for reply in (reply for group in later for reply in group):
        assert reply.finish_reason == "stop"
        assert [token == stop for token in reply.token_ids] == [False] * 5 + [True]
        assert max(reply.logprobs[:5]) < -50, "the log-prob is that of the whole distribution"
