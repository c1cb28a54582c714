"""Decoding in limited memory: the same replies, never more bytes than allowed, and an error before long work."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from pictures import noise_image
from ragged import LONGEST as T
from ragged import ragged_lengths, ragged_prompts
from replies import builtin, generate
from torch import Tensor

from saccade.base.tiny import write_checkpoint
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout import builtin as engine_file
from saccade.rollout import call, fixed_slots, slots
from saccade.rollout.cached import Cached, _bytes_of
from saccade.rollout.config import Sampling
from saccade.rollout.fixed_slots import FixedSlots
from saccade.rollout.kv_memory import token_bytes
from saccade.rollout.slots import Slots


class Direct:
    """Runs every step as it is."""

    def run(self, shape: Any, step: Callable[[], Tensor]) -> Tensor:
        return step()

    def reset(self) -> None:
        pass


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(ModelConfig(path=str(write_checkpoint(tmp_path_factory.mktemp("tiny"), "S", seed=4))))


def held(decoder: Any) -> int:
    """Bytes of keys and values that really exist."""
    if isinstance(decoder, Slots):
        prompts = [x for one in decoder.prefixes.values() for x in (*one.keys, *one.values)]
        return sum(x.nbytes for x in (*prompts, *(own for cohort in decoder.cohorts for own in cohort.store)))
    if isinstance(decoder, Cached):
        return _bytes_of(decoder._read) + _bytes_of(decoder._cache)
    return sum(x.nbytes for x in (*decoder._own, *decoder._prompts))


def limited(monkeypatch: Any, limit: int) -> None:
    monkeypatch.setattr(engine_file, "memory_limit", lambda *_: limit)


def watch(monkeypatch: Any, kind: type) -> list[int]:
    """The bytes after every step of such a decoder."""
    seen, step = [], kind.step

    def watched(self: Any, tokens: Any, lengths: Any) -> Any:
        out = step(self, tokens, lengths)
        seen.append(held(self))
        return out

    monkeypatch.setattr(kind, "step", watched)
    return seen


def check_same(replies: Any, expected: Any, apart: float = 2e-5) -> None:
    flat, wanted = ([reply for group in of for reply in group] for of in (replies, expected))
    assert [reply.token_ids for reply in flat] == [reply.token_ids for reply in wanted]
    assert [reply.finish_reason for reply in flat] == [reply.finish_reason for reply in wanted]
    gaps = [abs(a - b) for x, y in zip(flat, wanted, strict=True) for a, b in zip(x.logprobs, y.logprobs, strict=True)]
    assert max(gaps) < apart


@pytest.mark.parametrize(("fixed", "tokens"), [(False, 130), (False, 700), (True, 200), (True, 500)])
def test_replies_in_limited_memory_are_those_with_everything_resident(policy, fixed, tokens, monkeypatch):
    monkeypatch.setattr(fixed_slots, "ROOM", 8)
    monkeypatch.setattr(call, "GROWTH", 2)  # more rows enter than can stay
    prompts, lengths, sampling = ragged_prompts(policy), ragged_lengths(), Sampling(max_new_tokens=T, greedy=fixed)
    expected = generate(builtin(policy), prompts, sampling, n=5, seed=8, lengths=lengths)
    limit = tokens * token_bytes(policy)
    limited(monkeypatch, limit)
    seen = watch(monkeypatch, FixedSlots if fixed else Slots)
    engine = builtin(policy, runner=Direct() if fixed else None)
    check_same(generate(engine, prompts, sampling, n=5, seed=8, lengths=lengths), expected)
    assert max(seen) <= engine.stats.kv_bytes <= limit
    assert max(seen) > 0.4 * limit  # what is allowed is used
    assert engine.stats.sent_back > 0
    assert engine.stats.row_steps <= 1.5 * engine.stats.ideal_row_steps  # what was sent back is not drawn again


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=() if one in ("qwen2_5_vl", "gemma3") else pytest.mark.slow) for one in FAMILIES]
)
def test_every_family_s_replies_are_the_same_in_limited_memory(name, tmp_path, monkeypatch):
    policy = load_policy(ModelConfig(path=str(family(name).write(tmp_path, seed=2))))
    random_VD = torch.randn(policy.model.lm_head.weight.shape, generator=torch.Generator().manual_seed(5))
    policy.model.lm_head.weight = torch.nn.Parameter(0.1 * random_VD)
    encode = policy.adapter.encode
    prompts = [encode("Say something of some length.", []), encode("<image>How many?", [noise_image(100, 60, 1)])]
    sampling, lengths = Sampling(max_new_tokens=14), [[14, 12, 14], [9, 14, 13]]
    expected = generate(builtin(policy), prompts, sampling, 3, 1, lengths=lengths)
    monkeypatch.setattr(slots, "BLOCK", 4)
    kind = Slots if policy.adapter.sharing == "attention" else Cached
    whole = watch(monkeypatch, kind)
    generate(builtin(policy), prompts, sampling, 3, 1, lengths=lengths)
    most = max(whole)
    whole.clear()
    monkeypatch.setattr(call, "GROWTH", 1)
    limited(monkeypatch, int(0.8 * most))
    engine = builtin(policy)
    check_same(generate(engine, prompts, sampling, 3, 1, lengths=lengths), expected, 1e-4)
    assert max(whole) <= engine.stats.kv_bytes <= 0.8 * most
    if kind is Slots:
        assert engine.stats.sent_back > 0


def test_a_long_cap_takes_no_more_memory_than_the_replies_need(policy, monkeypatch):
    seen = watch(monkeypatch, FixedSlots)
    limited(monkeypatch, 4 * 1024 * token_bytes(policy))
    engine, prompts = builtin(policy, runner=Direct()), ragged_prompts(policy)
    generate(engine, prompts, Sampling(max_new_tokens=600), n=4, seed=0, lengths=[[10, 20, 30, 40]] * 6)
    assert engine.stats.most_rows > 4  # with room for the longest reply there would be place for four at most
    assert max(seen) <= 4 * 1024 * token_bytes(policy)


def test_too_little_memory_for_one_reply_is_an_error_before_any_pass(policy, monkeypatch):
    engine, prompts = builtin(policy, memory_mb=1), ragged_prompts(policy)
    monkeypatch.setattr(Slots, "prefill", None)
    with pytest.raises(ValueError, match=r"memory_mb: got 1\.0 MiB .* one reply of 9,000 takes 9\.\d MiB; raise it"):
        generate(engine, prompts, Sampling(max_new_tokens=9000), 2, 1)


@pytest.mark.parametrize(
    ("fixed", "place"),
    [(False, "step"), (True, "step"), (True, "prefill"), (False, "add_rows"), (True, "restore_rows")],
)
def test_replies_survive_an_allocator_without_memory(policy, fixed, place, monkeypatch, caplog):
    prompts, lengths, sampling = ragged_prompts(policy), ragged_lengths(), Sampling(max_new_tokens=T)
    expected = generate(builtin(policy), prompts, sampling, n=5, seed=8, lengths=lengths)
    kind = FixedSlots if fixed else Slots
    for name, times in {"step": (3, 9), place: (3, 9) if place == "step" else (2,)}.items():
        monkeypatch.setattr(kind, name, failing(getattr(kind, name), times))
    engine = builtin(policy, max_rows=16, runner=Direct() if fixed else None)
    with caplog.at_level(logging.WARNING):
        check_same(generate(engine, prompts, sampling, n=5, seed=8, lengths=lengths), expected)
    assert re.search(r"out of memory with \d+ replies being decoded; at most \d at once until the end of", caplog.text)


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5"])
def test_a_family_s_own_cache_starts_again_after_an_allocator_without_memory(name, tmp_path, monkeypatch):
    policy = load_policy(ModelConfig(path=str(family(name).write(tmp_path, seed=2))))
    prompts = [policy.adapter.encode("<image>How many?", [noise_image(100, 60, 1)])]
    sampling = Sampling(max_new_tokens=9, min_new_tokens=9)
    expected = generate(builtin(policy), prompts, sampling, 4, 1)
    monkeypatch.setattr(Cached, "step", failing(Cached.step, (4,)))
    check_same(generate(builtin(policy), prompts, sampling, 4, 1), expected, 1e-4)


def failing(method: Any, times: tuple[int, ...]) -> Any:
    """The method, which runs out of memory after its work in these calls of it."""
    count = 0

    def called(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count in times and method.__name__ != "step":
            raise torch.OutOfMemoryError("injected")
        out = method(self, *args, **options)
        if count in times:
            raise torch.OutOfMemoryError("injected")
        return out

    called.__name__ = method.__name__
    return called
