"""Decoding in fixed memory by recorded steps: the replies of the slots, for every family, and no host in between."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from pictures import noise_image
from ragged import LONGEST as T
from ragged import ragged_lengths, ragged_prompts
from replies import builtin, generate
from tape import record
from torch import Tensor

from saccade.base.tiny import write_checkpoint
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import load_policy
from saccade.rollout import fixed_slots, graphs
from saccade.rollout.config import Sampling
from saccade.rollout.fixed_slots import FixedSlots, Shape, rounded_rows
from saccade.rollout.graphs import Graphs


class Direct:
    """Runs every step as it is, and notes its shape."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []

    def run(self, shape: Shape, step: Callable[[], Tensor]) -> Tensor:
        self.shapes.append(shape)
        return step()

    def reset(self) -> None:
        pass


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


@pytest.fixture(scope="module")
def expected(policy, prompts, ragged):
    return generate(builtin(policy), prompts, Sampling(max_new_tokens=T), n=5, seed=8, lengths=ragged)


def check_same(replies: Any, expected: Any) -> None:
    flat, wanted = ([reply for group in of for reply in group] for of in (replies, expected))
    assert [reply.token_ids for reply in flat] == [reply.token_ids for reply in wanted]
    apart = [abs(a - b) for x, y in zip(flat, wanted, strict=True) for a, b in zip(x.logprobs, y.logprobs, strict=True)]
    assert max(apart) < 2e-5


@pytest.mark.parametrize("max_rows", [1, 3, 7, 12, 512])
@pytest.mark.parametrize("recorded", [False, True])
def test_ragged_replies_are_those_of_the_slots(policy, prompts, ragged, expected, max_rows, recorded, monkeypatch):
    monkeypatch.setattr(fixed_slots, "ROOM", 32)  # so that it is used up
    runner = Graphs(record) if recorded else Direct()
    engine = builtin(policy, max_rows, runner=runner)
    check_same(generate(engine, prompts, Sampling(max_new_tokens=T), n=5, seed=8, lengths=ragged), expected)
    assert engine.stats.decoder == "fixed_slots" and engine.stats.prefills == 6
    assert engine.stats.most_rows <= max_rows
    if isinstance(runner, Graphs):
        assert runner.failure is None
        assert runner.recorded > 0 and runner.replayed > 0


def test_rounding_up_costs_few_rows_and_there_are_few_shapes(policy, prompts, ragged):
    runner = Direct()
    engine = builtin(policy, 12, runner=runner)
    generate(engine, prompts, Sampling(max_new_tokens=T), n=5, seed=8, lengths=ragged)
    assert engine.stats.row_steps < 1.3 * engine.stats.ideal_row_steps
    assert len(set(runner.shapes)) < len(runner.shapes) / 3


def test_rows_are_rounded_to_few_numbers_and_by_a_third_at_most_beyond_eight():
    rounded = [rounded_rows(n) for n in range(1, 1025)]
    assert all(n <= up for n, up in enumerate(rounded, 1))
    assert all(3 * up <= 4.5 * n for n, up in enumerate(rounded, 1) if n > 8)
    assert sorted(set(rounded))[:9] == [1, 2, 4, 8, 12, 16, 24, 32, 48]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_step_can_be_recorded_and_gives_the_same_replies(name, tmp_path):
    policy = load_policy(ModelConfig(path=str(family(name).write(tmp_path, seed=2))))
    random_VD = torch.randn(policy.model.lm_head.weight.shape, generator=torch.Generator().manual_seed(5))
    policy.model.lm_head.weight = torch.nn.Parameter(0.1 * random_VD)
    encode = policy.adapter.encode
    prompts = [encode("Say something of some length.", []), encode("<image>How many?", [noise_image(100, 60, 1)])]
    sampling = Sampling(max_new_tokens=14, min_new_tokens=14)
    runner = Graphs(record)
    engine = builtin(policy, runner=runner)
    check_same(generate(engine, prompts, sampling, 3, 1), generate(builtin(policy), prompts, sampling, 3, 1))
    assert runner.failure is None
    if policy.adapter.sharing == "attention":
        assert (engine.stats.decoder, engine.stats.steps) == ("fixed_slots", 13)
        assert (runner.recorded, runner.replayed) == (1, 13 - graphs.WARMUP_STEPS - 2)
    else:
        assert (engine.stats.decoder, runner.recorded) == ("cached", 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_precisions_are_as_near_as_the_trainer(directory, dtype):
    policy = load_policy(ModelConfig(path=str(directory), dtype=dtype))
    prompts = [policy.adapter.encode("Tell me." + " word" * i, []) for i in range(3)]
    replies = generate(builtin(policy, runner=Graphs(record)), prompts, Sampling(max_new_tokens=T), 4, 8)
    packed = pack([(p, [Branch(r.token_ids) for r in group]) for p, group in zip(prompts, replies, strict=True)])
    with torch.no_grad():
        trainer_R, _ = branch_logprobs(policy, packed, path="plain")
    sampler_R = torch.tensor([lp for group in replies for r in group for lp in r.logprobs], dtype=torch.float64)
    assert (trainer_R - sampler_R).abs().mean() < {"bfloat16": 0.02, "float64": 1e-11}[dtype]


def test_new_weights_between_two_calls_are_seen(directory, prompts):
    policy = load_policy(ModelConfig(path=str(directory)))
    engine, sampling = builtin(policy, runner=Graphs(record)), Sampling(max_new_tokens=16)
    before = generate(engine, prompts, sampling, n=2, seed=1)
    for parameter in policy.model.parameters():
        parameter.data = parameter.data * 1.1  # and at another address
    after = generate(engine, prompts, sampling, n=2, seed=1)
    check_same(after, generate(builtin(policy), prompts, sampling, n=2, seed=1))
    assert [g[0].token_ids for g in after] != [g[0].token_ids for g in before]


@pytest.mark.parametrize("keep_mb", [0, 64])
def test_recorded_steps_are_kept_for_calls_of_the_same_size_and_see_new_weights(directory, keep_mb):
    policy = load_policy(ModelConfig(path=str(directory)))
    runner = Graphs(record)
    engine, sampling = builtin(policy, runner=runner, keep_mb=keep_mb), Sampling(max_new_tokens=16, min_new_tokens=16)
    recorded, allocated = [], []
    for number in range(3):
        prompts = [policy.adapter.encode(f"Tell me{' more' * (number + i)}.", []) for i in range(3)]
        replies = generate(engine, prompts, sampling, n=2, seed=number)
        check_same(replies, generate(builtin(policy), prompts, sampling, n=2, seed=number))
        recorded.append(runner.recorded)
        allocated.append(0 if engine._kept is None else engine._kept.decoder.held())
        for parameter in policy.model.parameters():
            parameter.data.mul_(1.01)  # where it is, as an optimizer does
    assert recorded == ([1, 1, 1] if keep_mb else [1, 2, 3])
    assert len(set(allocated)) == 1 and (allocated[0] > 0) == (keep_mb > 0)
    assert runner.failure is None and runner.replayed > (20 if keep_mb else 0)
    engine.close()
    assert engine._kept is None and not runner._recordings


def wrong(step: Callable[[], Tensor], first: bool) -> Any:
    tape, out = record(step, first)
    tape.calls = tape.calls[: len(tape.calls) // 2]  # stopped halfway: the output is that of the recording
    out.mul_(1.5)
    return tape, out


def idle(step: Callable[[], Tensor], first: bool) -> Any:
    tape, out = record(step, first)
    tape.calls.clear()  # a replay leaves the output as it is
    return tape, out


def forgetful(step: Callable[[], Tensor], first: bool) -> Any:
    """A replay that gives what it gave when it was recorded, whatever the inputs are."""
    tape, out = record(step, first)
    kept = out.clone()
    tape.calls = [(torch.ops.aten.clone.default, (kept,), {}, out)]
    return tape, out


def failing(step: Callable[[], Tensor], first: bool) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (wrong, "of the largest value (limit"),
        (idle, "differed by inf of the largest value"),
        (failing, "stream is capturing"),
    ],
)
def test_a_recording_that_fails_or_differs_is_not_used_and_said_once(
    policy, prompts, ragged, expected, broken, reason, caplog
):
    runner = Graphs(broken)
    engine = builtin(policy, runner=runner)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            check_same(generate(engine, prompts, Sampling(max_new_tokens=T), n=5, seed=8, lengths=ragged), expected)
    assert (runner.recorded, runner.replayed) == (0, 0)
    assert len(caplog.records) == 1 and reason in caplog.text and "more of it" not in caplog.text
    insisting = builtin(policy, runner=Graphs(broken, required=True))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"cuda_graphs is on, but .*; use auto"):
            generate(insisting, prompts, Sampling(max_new_tokens=T), 5, 8)


def test_a_recording_that_is_right_on_its_own_inputs_alone_stops_the_call(policy, prompts):
    """It may have written anywhere, so nothing that follows could be believed."""
    runner = Graphs(forgetful)
    with pytest.raises(RuntimeError, match=r"on new inputs .* set rollout\.engine\.cuda_graphs: off"):
        generate(builtin(policy, runner=runner), prompts, Sampling(max_new_tokens=T), 5, 8)
    assert runner.replayed == 0


def test_a_step_that_asks_the_host_cannot_be_recorded():
    tensor = torch.zeros(3)
    with pytest.raises(RuntimeError, match="_local_scalar_dense"):
        record(lambda: tensor + float(tensor.sum()), True)
    with pytest.raises(RuntimeError, match="lift_fresh"):
        record(lambda: tensor + torch.tensor([1.0, 2.0, 3.0]), True)


def test_memory_of_own_keys_follows_the_replies_not_the_limit(policy, prompts, monkeypatch):
    rooms = []
    step = FixedSlots.step

    def watched(self, tokens, ages):
        hidden_ND = step(self, tokens, ages)
        rooms.append(self._own[0].shape[3])
        return hidden_ND

    monkeypatch.setattr(FixedSlots, "step", watched)
    engine = builtin(policy, runner=Direct())
    generate(engine, prompts, Sampling(max_new_tokens=300), n=2, seed=0, lengths=[[10, 140]] * 6)
    assert sorted(set(rooms)) == [128, 140]


def test_cuda_graphs_are_refused_where_there_is_no_gpu(policy):
    if policy.device.type == "cuda":
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=r"rollout\.engine\.cuda_graphs: on needs a GPU .* on cpu; use auto"):
        builtin(policy, cuda_graphs="on")
    assert builtin(policy).runner is None
