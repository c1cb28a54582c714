"""Supervised fine-tuning on the tiny model: the loss, its independence of how a step is cut, resuming, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_runs import write_world

from saccade.geometry import from_original
from saccade.models.policy import ModelConfig, Policy, load_policy
from saccade.training.examples import Example, ExampleConfig, by_prompt, draw_from, encode_units, read_examples
from saccade.training.sft import Passes, SFTRecipe, accumulate, train

REPLIES = ["scan one two", "looks like 3", "scan one two three. check one two three", "two"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_world(tmp_path_factory.mktemp("world"))
    lines = []
    for i in range(12):
        reply = f"<think>{REPLIES[i % 4]}</think><answer>{i % 5}</answer>"
        row: dict[str, Any] = {"id": f"e{i}", "image": f"{i // 2}.png", "response": reply, "task": "count", "meta": {}}
        lines.append(json.dumps(row | {"question": f"<image>How many are there in {i // 2}?"}))
    (folder / "cold.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def recipe_of(world: Path, **changes: Any) -> SFTRecipe:
    base: dict[str, Any] = {
        "model": {"path": str(world / "model"), "device": "cpu"},
        "data": [{"path": str(world / "cold.jsonl")}],
        "prompts_per_step": 4,
        "epochs": 2,
        "optim": {"lr": 3e-3, "warmup_steps": 1},
        "checkpoint": {"every": 1, "keep": 9},
    }
    return SFTRecipe.model_validate(base | changes)


def gradients(policy: Policy) -> torch.Tensor:
    """All gradients in one vector, which are then cleared."""
    flat = torch.cat([p.grad.flatten() for _, p in policy.trainable() if p.grad is not None])
    policy.model.zero_grad(set_to_none=True)
    return flat


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def policy(world: Path) -> Policy:
    return load_policy(ModelConfig(path=str(world / "model"), device="cpu", dtype="float64"))


@pytest.mark.parametrize(
    "changes", [{"tokens_per_micro_batch": 1}, {"tokens_per_micro_batch": 100}, {"shared_prefix": "off"}]
)
def test_how_a_step_is_cut_never_changes_its_gradient(world: Path, policy: Policy, changes: dict[str, Any]) -> None:
    units = encode_units(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl")))
    whole_loss = accumulate(policy, units, Passes(recipe_of(world, tokens_per_micro_batch=100_000)))
    whole = gradients(policy)
    loss = accumulate(policy, units, Passes(recipe_of(world, **changes)))
    assert loss == pytest.approx(whole_loss, rel=1e-9)
    assert float((gradients(policy) - whole).norm() / whole.norm()) < 1e-6


def test_the_loss_is_that_of_transformers_with_labels_on_the_reply_alone(world: Path, policy: Policy) -> None:
    unit = encode_units(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl", limit=1)))[0]
    reply = torch.tensor(unit.replies[0])
    ids = torch.cat([unit.prompt.ids_P, reply])[None]
    labels = ids.clone()
    labels[:, : len(unit.prompt)] = -100
    expected = policy.model(
        input_ids=ids,
        labels=labels,
        mm_token_type_ids=(ids == policy.model.config.image_token_id).int(),
        **unit.prompt.pixels,
    ).loss
    assert accumulate(policy, [unit], Passes(recipe_of(world))) == pytest.approx(float(expected.detach()), rel=1e-6)
    policy.model.zero_grad(set_to_none=True)


def test_replies_about_one_prompt_share_it(world: Path, policy: Policy) -> None:
    units = encode_units(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl")))
    assert [len(unit.replies) for unit in units] == [2] * 6
    stop = policy.adapter.stop_ids[0]
    assert all(reply[-1] == stop for unit in units for reply in unit.replies)


def test_every_epoch_shows_each_prompt_once_in_another_order(world: Path) -> None:
    examples = read_examples(ExampleConfig(path=world / "cold.jsonl"))
    draw, num_prompts = draw_from(examples, seed=0)
    assert num_prompts == 6
    epochs = [[one.id for step in (2 * e, 2 * e + 1) for one in draw(step, 3)] for e in range(3)]
    assert all(sorted(epoch) == sorted(one.id for one in examples) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_run_killed_and_resumed_equals_one_that_never_stopped_and_the_loss_falls(world: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def killed(policy: Policy, step: int) -> dict[str, float]:
        if step == 2:
            raise Killed
        return {"accuracy": 0.5, "score": 0.0}

    def alive(policy: Policy, step: int) -> dict[str, float]:
        torch.rand(2)
        return {"accuracy": 0.5, "score": 0.0}

    recipe = recipe_of(world, epochs=4, eval={"every": 1}, heldout=[{"path": str(world / "cold.jsonl"), "limit": 4}])
    outcome = train(recipe, tmp_path / "whole", evaluate=alive)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "cut", evaluate=killed)
    train(recipe, tmp_path / "cut", evaluate=alive, resume=True)
    for step in (3, outcome.step):
        name = f"checkpoints/step-{step:06d}/model.safetensors"
        whole, cut = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        assert all(torch.equal(whole[key], cut[key]) for key in whole)
    metrics = rows(tmp_path / "cut" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(outcome.step + 1))
    assert [row["eval/loss"] for row in metrics] == [row["eval/loss"] for row in rows(tmp_path / "whole/metrics.jsonl")]
    assert metrics[-1]["eval/loss"] < 0.8 * metrics[0]["eval/loss"]


def test_examples_may_come_from_a_function_and_the_best_checkpoint_then_has_the_lowest_heldout_loss(
    world: Path, tmp_path: Path
) -> None:
    image = Image.new("RGB", (56, 56), (9, 99, 200))

    def draw(step: int, n: int) -> list[Example]:
        return [Example(f"{step}/{i}", "<image>Say a word", (image,), f"scan {i}") for i in range(n)]

    recipe = recipe_of(world, data=[], epochs=None, num_steps=3, heldout=[{"path": str(world / "cold.jsonl")}])
    outcome = train(recipe, tmp_path / "run", draw=draw)
    metrics = rows(tmp_path / "run" / "metrics.jsonl")
    assert outcome.best_score == -metrics[-1]["eval/loss"]
    assert [row["examples/prompts"] for row in metrics[1:]] == [1.0] * 3, "one prompt, one image: one row"
    with pytest.raises(ValueError, match="from one place"):
        train(recipe_of(world), tmp_path / "both", draw=draw)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "0.png", "question": "How many?", "task": "count"}, r"cold.jsonl:1: field 'response' is missing"),
        ({"image": "no.png", "prompt": "x", "response": "y"}, r"cold.jsonl:1: .*no.png: there is no such image"),
        ({"image": "0.png", "question": "x", "task": "cuont", "response": "y"}, "got 'cuont', expected one of count"),
        ({"image": "0.png", "prompt": "<image><image>x", "response": "y"}, "holds 2 <image> markers for 1 images"),
        ({"image": "0.png", "prompt": "x", "response": "  "}, "is empty"),
    ],
)
def test_a_row_that_is_not_right_is_named_with_its_line(
    world: Path, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = tmp_path / "cold.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        read_examples(ExampleConfig(path=path, image_folder=world))


def test_a_prompt_without_markers_gets_its_images_first(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "cold.jsonl"
    path.write_text(json.dumps({"images": ["0.png", "1.png"], "prompt": "Compare.", "response": "same"}) + "\n")
    example = read_examples(ExampleConfig(path=path, image_folder=world))[0]
    assert example.prompt == "<image><image>Compare."
    assert by_prompt([example, example]) == [[example, example]]


def test_a_recipe_has_one_length(world: Path) -> None:
    with pytest.raises(ValueError, match="exactly one of epochs and num_steps"):
        recipe_of(world, num_steps=3)
    with pytest.raises(ValueError, match="no data to count them by"):
        recipe_of(world, data=[])


def test_a_format_is_learned_by_its_replies_or_by_its_gold_in_the_models_frame(policy, tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    said = "<think>Here.</think><answer>5</answer>"
    turns = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": said}]
    box = [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": [20, 10, 120, 90]}]
    (tmp_path / "l.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    (tmp_path / "v.jsonl").write_text(json.dumps({"image": "a.png", "conversations": box}))
    (reply,) = read_examples(ExampleConfig(source="llava", path=tmp_path / "l.json"))
    assert reply.reply == said
    gold = read_examples(ExampleConfig(source="vlm_r1", path=tmp_path / "v.jsonl", reply="gold"))
    (unit,) = encode_units(policy.adapter, gold)
    (frame,) = unit.prompt.frames
    written = policy.adapter.decode(unit.replies[0])
    assert json.dumps(list(from_original((20, 10, 120, 90), frame))) in written
    with pytest.raises(ValueError, match=r"^v\.jsonl:1: the row holds no reply to learn; give 'reply: gold'"):
        read_examples(ExampleConfig(source="vlm_r1", path=tmp_path / "v.jsonl"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "llama", "path": "a"}, "source is 'llama', expected one of replies, vlm_r1"),
        ({"source": "llava"}, "source 'llava' needs 'path'"),
        ({}, "source 'replies' needs 'path'"),
        ({"path": "a", "reply": "gold"}, "'reply' means nothing to source 'replies'"),
    ],
)
def test_keys_that_do_not_fit_the_source_of_examples_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExampleConfig(**keys)
