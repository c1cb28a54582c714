"""Training a model under odd conditions: less memory, prompts of text alone, heads and replies that must be refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from replies import builtin, generate
from torch import Tensor
from training_runs import rl_recipe, write_world

from saccade.data import DataConfig
from saccade.evaluation.config import Decoding
from saccade.models.adapter import EncodedPrompt
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.logprobs import head_of
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import Policy, load_policy, resolve_device
from saccade.rollout.config import Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt
from saccade.training.config import EvalConfig
from saccade.training.heldout import build_heldout
from saccade.training.rl import why_no_update
from saccade.types import Completion, Sample, Score

IMAGE = Image.new("RGB", (112, 112), (9, 200, 30))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def policy_of(world: Path, **options: Any) -> Policy:
    return load_policy(ModelConfig(path=str(world / "model"), device="cpu", **options))


def packed_of(policy: Policy) -> Packed:
    prompt = policy.adapter.encode("<image>what?", [IMAGE])
    return pack([(prompt, [Branch(list(range(400, 430))), Branch([77])])])


def backward(policy: Policy) -> tuple[Tensor, int]:
    """The gradient, and the bytes that were kept for it."""
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logprobs_R, _ = branch_logprobs(policy, packed_of(policy))
    logprobs_R.sum().backward()
    return torch.cat([p.grad.flatten() for _, p in policy.trainable() if p.grad is not None]), kept


def test_gradient_checkpointing_keeps_less_and_changes_neither_gradients_nor_replies(world: Path) -> None:
    whole, thrifty = policy_of(world), policy_of(world, gradient_checkpointing=True)
    (expected, much), (gradient, little) = backward(whole), backward(thrifty)
    assert little < 0.7 * much
    assert torch.equal(gradient, expected)
    assert not any(module.training for module in thrifty.model.modules()), "dropout and the engine's cache depend on it"
    prompts = [whole.adapter.encode("<image>what?", [IMAGE]), whole.adapter.encode("2 + 2?", [])]
    sampling = Sampling(max_new_tokens=8, greedy=True)
    replies = [generate(builtin(policy), prompts, sampling, 1, 0) for policy in (whole, thrifty)]
    assert replies[0] == replies[1], "an engine whose cache was taken away would go on from the last token alone"


@pytest.mark.parametrize("train", [("vision", "projector", "language"), ("projector",)])
def test_prompts_of_text_alone_train_beside_a_vision_tower_that_trains(world: Path, train: tuple[str, ...]) -> None:
    policy = policy_of(world, train=train)
    packed = pack([(policy.adapter.encode("2 + 2?", []), [Branch([400, 401])])])
    logprobs_R, _ = branch_logprobs(policy, packed)
    assert logprobs_R.requires_grad == ("language" in train)


def test_a_reply_with_an_image_placeholder_is_refused(world: Path) -> None:
    with pytest.raises(ValueError, match=r"reserved token <\|image_pad\|>"):
        policy_of(world).adapter.encode_reply("look: <|image_pad|>")


def test_a_head_that_scales_its_logits_is_refused(world: Path) -> None:
    model = policy_of(world).model
    head_of(model)
    model.config.get_text_config().logits_scaling = 8.0
    with pytest.raises(ValueError, match=r"scales its logits by 8\.0"):
        head_of(model)


def test_a_device_that_there_is_not_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"model\.device: got 'gpu'"):
        resolve_device("gpu")


def test_replies_decoded_at_once_never_exceed_the_limit_and_are_the_same(world: Path) -> None:
    policy = policy_of(world)
    prompts = [policy.adapter.encode("<image>what?", [IMAGE]), policy.adapter.encode("2 + 2?", [])]

    sampling = Sampling(max_new_tokens=3)
    wide, narrow = builtin(policy), builtin(policy, max_rows=2)
    expected, replies = (generate(engine, prompts, sampling, 5, seed=4) for engine in (wide, narrow))
    assert (wide.stats.most_rows, narrow.stats.most_rows) == (10, 2)
    assert [[c.token_ids for c in group] for group in replies] == [[c.token_ids for c in group] for group in expected]


def test_an_evaluation_that_can_grade_nothing_says_so_instead_of_0(world: Path) -> None:
    policy = policy_of(world)
    turns = '[{"value": "<image>Which?"}, {"value": "\\\\sqrt{"}]'
    path = world / "ungradable.jsonl"
    path.write_text(f'{{"image": "0.png", "task": "free_form", "conversations": {turns}}}\n')
    config = EvalConfig(data=(DataConfig(source="vlm_r1", path=path),), decoding=Decoding(max_new_tokens=2))
    evaluate = build_heldout(config, None, world / "run")
    assert evaluate is not None
    policy.adapter.decode = lambda ids: "<think>x</think><answer>A</answer>"  # an answer, so that the gold is looked at
    with pytest.raises(ValueError, match="none of the 1 replies could be graded"):
        evaluate(policy, open_engine(policy), 0)
    found = evaluate(policy, open_engine(policy), 1)  # during a run it costs the score and not the run
    assert math.isnan(found["score"]) and found["n"] == 0.0


def test_a_step_without_an_update_does_not_call_failed_rewards_equal() -> None:
    done = {"update/nonfinite": 0.0}
    empty = EncodedPrompt(torch.tensor([1]), torch.zeros(3, 1), 1, {}, (), (), "empty")
    prompt = Prompt(Sample("s", (), "?", 1, "count"), empty)
    failed = Rollout(Completion(""), Score(0.0, masked="OSError: down"))
    fine = Rollout(Completion(""), Score(0.0))
    assert why_no_update([Group("g", prompt, (failed, failed))], done) == (
        "every rollout is masked, the first by: OSError: down"
    )
    assert why_no_update([Group("g", prompt, (failed, fine, fine))], done) == "all groups have equal rewards"


def test_a_file_of_rewards_is_run_once_for_all_steps(world: Path, tmp_path: Path) -> None:
    file, runs = tmp_path / "mine.py", tmp_path / "runs"
    file.write_text(f"open({str(runs)!r}, 'a').write('x')\ndef one(completion, sample):\n    return 1.0\n")
    recipe = rl_recipe(world, rubrics={"test": {"parts": [{"name": f"{file}:one"}]}})
    for _ in range(3):
        recipe.rubrics["test"].build()
    assert runs.read_text() == "x"
