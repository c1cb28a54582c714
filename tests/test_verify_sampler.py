"""The distance between sampler and trainer, its likely cause, and the checks of another engine."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from replies import builtin
from vllm_stand_in import MISTAKES, mistaken, stand_in

from saccade.models.chat_template import MARKER
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, load_policy
from saccade.rollout.config import Sampling, VllmServerConfig
from saccade.rollout.prompts import Prompt
from saccade.rollout.vllm_nccl import check_backend, check_nccl, within
from saccade.types import Completion
from saccade.verify.causes import likely_causes, parity
from saccade.verify.sampler import sampler
from saccade.verify.subject import subject_of

T = 0.7


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(ModelConfig(path="base", train=("vision", "projector", "language")))


@pytest.fixture(scope="module")
def sampled(policy: Policy) -> tuple[Prompt, Completion]:
    image = Image.new("RGB", (140, 112), "white")
    pen = ImageDraw.Draw(image)
    for place in ((10, 10, 40, 40), (60, 20, 90, 50), (100, 60, 130, 100)):
        pen.rectangle(place, fill=(200, 30, 30))
    prompt = Prompt(None, policy.adapter.encode(f"{MARKER}How many red shapes are there?", [image]), (image,))
    ((reply,),) = builtin(policy).generate([prompt], Sampling(max_new_tokens=40, temperature=T), 1, [5])
    return prompt, reply


def test_the_distance_of_equal_log_probs_is_nothing_and_of_others_as_by_hand() -> None:
    ours = torch.tensor([-1.0, -2.0, -0.5])
    same = parity(ours, ours.clone())
    assert (same.mean, same.max, same.k3, same.ess, same.tokens) == (0, 0, 0, 1, 3)
    d = [0.2, -0.1]
    found = parity(ours, ours - torch.tensor([0.2, -0.1, math.nan]))
    assert found.tokens == 2 and found.mean == pytest.approx(0.15) and found.max == pytest.approx(0.2)
    assert found.k3 == pytest.approx(sum(math.exp(one) - 1 - one for one in d) / 2, rel=1e-4)
    w = [math.exp(one) for one in d]
    assert found.ess == pytest.approx(sum(w) ** 2 / (2 * sum(one**2 for one in w)), rel=1e-4)
    with pytest.raises(ValueError, match="no token has a log-prob"):
        parity(ours, torch.full((3,), math.nan))


def test_each_mistake_of_a_sampler_is_named(policy: Policy, sampled: tuple[Prompt, Completion]) -> None:
    prompt, reply = sampled
    replies = [mistaken(policy, name, prompt.encoded, reply, T) for name in MISTAKES]
    found = [cause for cause, _ in likely_causes(policy, prompt.encoded, replies, T)]
    assert found == [*MISTAKES]


def test_the_picture_of_another_prompt_is_named_when_it_may_have_been_taken(
    policy: Policy, sampled: tuple[Prompt, Completion]
) -> None:
    prompt, reply = sampled
    other = policy.adapter.encode(f"{MARKER}How many red shapes are there?", [Image.new("RGB", (140, 112), "red")])
    swapped = mistaken(policy, "other", replace(prompt.encoded, pixels=other.pixels), reply, T)
    ((cause, mean),) = likely_causes(policy, prompt.encoded, [swapped], T, [prompt.encoded, other])
    assert cause == "pixels" and mean > 0.05


def test_the_checks_of_another_engine_hold_for_one_that_is_right(policy: Policy) -> None:
    before = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
    with stand_in() as server:
        checks = sampler(subject_of(policy), VllmServerConfig(urls=(server.url,), start_s=0.2, deadline_s=20))
    assert [check.held for check in checks] == [True] * 4, checks
    assert all((parameter == before[name]).all() for name, parameter in policy.model.named_parameters())


def test_the_checks_of_another_engine_fail_for_one_that_is_wrong(policy: Policy) -> None:
    with stand_in(logprobs_mode="raw_logprobs") as server:
        (check,) = sampler(subject_of(policy), VllmServerConfig(urls=(server.url,), start_s=0.2, deadline_s=20))
    assert check.held is False and "--logprobs-mode" in check.detail

    def later(answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            for one in choice["logprobs"]["content"]:
                one["logprob"] -= 0.002 if len(answer["choices"]) == 1 else 0.5
        return answer

    with stand_in(change=later) as server:
        checks = sampler(subject_of(policy), VllmServerConfig(urls=(server.url,), start_s=0.2, deadline_s=20))
    assert [check.held for check in checks] == [True, True, False, False]
    assert "likely cause: weights" in checks[2].detail and checks[2].measured == pytest.approx(0.5, abs=0.01)


def test_a_transfer_that_hangs_ends_at_its_deadline_and_errors_come_through(policy: Policy) -> None:
    assert within(5, "adding", lambda: 1 + 1) == 2
    with pytest.raises(TimeoutError, match=r"sending took longer than 0\.05 s; restart the servers"):
        within(0.05, "sending", lambda: time.sleep(2))
    with pytest.raises(KeyError):
        within(5, "looking", lambda: {}["x"])
    with pytest.raises(
        ValueError, match=r"needs the model on a GPU, and it is on cpu; set rollout\.engine\.weights: file"
    ):
        check_nccl(policy)
    with pytest.raises(ValueError, match="got the weight transfer backend None, expected nccl"):
        check_backend({"weight_transfer_config": None}, "http://127.0.0.1:1")
