"""Supervised fine-tuning on the tiny model: the loss, its independence of how a step is cut, resuming, bad input."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from training_runs import write_world

from saccade.config import load
from saccade.geometry import from_original
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, load_policy
from saccade.rollout.engine import Engine
from saccade.training.config import ExampleConfig, OptimConfig, SFTRecipe
from saccade.training.example_feed import ExampleFeed, screened
from saccade.training.examples import Example, by_prompt, draw_from, encode_step, read_examples
from saccade.training.optim import GuardedOptimizer
from saccade.training.resuming import Resume
from saccade.training.sft import sft_step, train, units_of
from saccade.training.step import MicroBatch, StepRunner

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


class Still(GuardedOptimizer):
    """Leaves the weights and the gradients of a step as they are."""

    def step(self, lr: float, loss: float, keep: Any = None) -> tuple[float, bool]:
        return 0.0, False


def runner_of(
    policy: Policy, tokens_per_micro_batch: int = 8192, shared_prefix: Any = "auto"
) -> StepRunner[MicroBatch]:
    optimizer = Still(torch.optim.SGD([p for _, p in policy.trainable()]), OptimConfig(lr=1.0))
    return StepRunner(policy, optimizer, tokens_per_micro_batch, shared_prefix)


def accumulate(policy: Policy, units: Any, **options: Any) -> float:
    """The loss of a step whose gradients stay in the parameters."""
    return sft_step(runner_of(policy, **options), units, 0.0)["loss/train"]


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
    units = encode_step(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl"))).units
    whole_loss = accumulate(policy, units, tokens_per_micro_batch=100_000)
    whole = gradients(policy)
    loss = accumulate(policy, units, **changes)
    assert loss == pytest.approx(whole_loss, rel=1e-9)
    assert float((gradients(policy) - whole).norm() / whole.norm()) < 1e-6


def test_the_loss_is_that_of_transformers_with_labels_on_the_reply_only(world: Path, policy: Policy) -> None:
    unit = encode_step(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl", limit=1))).units[0]
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
    assert accumulate(policy, [unit]) == pytest.approx(float(expected.detach()), rel=1e-6)
    policy.model.zero_grad(set_to_none=True)


def test_replies_about_one_prompt_share_it(world: Path, policy: Policy) -> None:
    units = encode_step(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl"))).units
    assert [len(unit.replies) for unit in units] == [2] * 6
    stop = policy.adapter.stop_ids[0]
    assert all(reply[-1] == stop for unit in units for reply in unit.replies)


@pytest.mark.parametrize("wrong", ["word " * 9000, "<|im_end|> 3"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_reply_that_cannot_be_learned_costs_no_other_about_its_prompt(
    policy: Policy, wrong: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    picture = (Image.new("RGB", (56, 56)),)
    replies = ["one", "two"]
    replies.insert(place, wrong)
    rows = [
        Example(f"e{line}", "<image>How many?", picture, reply, place=f"t.jsonl:{line}", on_bad="skip")
        for line, reply in enumerate(replies, 1)
    ]
    (unit,) = ExampleFeed(screened(policy.adapter, rows), seed=0, n=1)(0).units
    assert len(unit.replies) == 2
    assert f"1 examples skipped (0 of 1 prompts), the first: t.jsonl:{place + 1}: " in caplog.text
    strict = [replace(row, on_bad="error") for row in rows]
    with pytest.raises(ValueError, match=f"^t.jsonl:{place + 1}: example"):
        screened(policy.adapter, strict)


def test_every_epoch_shows_each_prompt_once_in_another_order(world: Path) -> None:
    examples = read_examples(ExampleConfig(path=world / "cold.jsonl"))
    draw, num_prompts = draw_from(examples, seed=0)
    assert num_prompts == 6
    epochs = [[one.id for step in (2 * e, 2 * e + 1) for one in draw(step, 3)] for e in range(3)]
    assert all(sorted(epoch) == sorted(one.id for one in examples) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_run_says_at_its_start_how_much_it_learns_from(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "saccade")
    train(recipe_of(world, epochs=None, num_steps=1, checkpoint={"every": 9}), tmp_path / "run")
    assert "12 replies to 6 prompts, 4 prompts a step: 0.667 epochs, 1 updates" in caplog.messages


def test_a_run_killed_and_resumed_equals_one_that_never_stopped_and_the_loss_falls(world: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def killed(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        if step == 2:
            raise Killed
        return {"accuracy": 0.5, "score": 0.0}

    def alive(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
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


def test_an_epoch_has_each_prompt_once_also_when_steps_change_their_size(
    world: Path, policy: Policy, tmp_path: Path
) -> None:
    before, after, steps, seen = 4, 1, 3, Counter[str]()
    recipe = recipe_of(world, prompts_per_step=before, epochs=before / 6)
    train(recipe, tmp_path / "run")
    recipe = recipe_of(world, prompts_per_step=after, epochs=1)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"prompts_per_step": after, "epochs": 1.0}))
    assert train(recipe, tmp_path / "run", resume=Resume(accept_changes=True)).step == steps
    metrics = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["examples/prompts"] for row in metrics] == [before, *[after] * (steps - 1)]
    state = json.loads((tmp_path / "run" / f"checkpoints/step-{steps:06d}" / "state.json").read_text())
    assert state["loop"]["position"] == 6
    examples = read_examples(ExampleConfig(path=world / "cold.jsonl"))
    known = screened(policy.adapter, examples)
    first = ExampleFeed(known, seed=0, n=before)
    then = ExampleFeed(known, seed=0, n=after, state={"step": 1, "position": before})
    for step in range(steps):
        seen.update(unit.prompt.prompt_id for unit in (then if step else first)(step).units)
    assert set(seen.values()) == {1} and len(seen) == 6


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
        ({"image": "0.png", "prompt": "<image><image>x", "response": "y"}, "has 2 <image> markers for 1 images"),
        ({"image": "0.png", "prompt": "x", "response": "  "}, "is empty"),
    ],
)
def test_an_invalid_row_is_named_with_its_line(world: Path, tmp_path: Path, row: dict[str, Any], message: str) -> None:
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
    text = "<think>Here.</think><answer>5</answer>"
    turns = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": text}]
    box = [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": [20, 10, 120, 90]}]
    (tmp_path / "l.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    (tmp_path / "v.jsonl").write_text(json.dumps({"image": "a.png", "conversations": box}))
    (reply,) = read_examples(ExampleConfig(source="llava", path=tmp_path / "l.json"))
    assert reply.reply == text
    gold = read_examples(ExampleConfig(source="vlm_r1", path=tmp_path / "v.jsonl", reply="gold"))
    (unit,) = encode_step(policy.adapter, gold).units
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
        ({"path": "a", "reply": "gold"}, "'reply' is not an option of source 'replies'; remove it"),
    ],
)
def test_keys_that_do_not_fit_the_source_of_examples_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExampleConfig(**keys)


# ------------------------------------------------------------------------------------------------ packing and freezing


def test_another_prompt_in_the_same_row_changes_nothing(world: Path, policy: Policy) -> None:
    """Packed rows of several prompts: each sees its own image, prompt and reply alone, wherever it is in the row."""
    units = encode_step(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl"))).units
    runner = runner_of(policy, tokens_per_micro_batch=100_000)
    assert runner.choose(units_of(units)).path == "packed"

    def logprobs(*chosen: int) -> list[torch.Tensor]:
        (batch,) = runner.cut(units_of([units[i] for i in chosen]))
        whole = runner.logprobs(batch)[0].detach()
        return list(whole.split([units[i].reply_tokens for i in chosen]))

    alone = logprobs(0)[0]
    for neighbors, place in (((0, 1), 0), ((3, 0), 1), ((2, 5, 0, 4), 2), ((0, 0), 1)):
        assert torch.allclose(logprobs(*neighbors)[place], alone, atol=1e-9, rtol=0), neighbors
    assert not torch.allclose(logprobs(2)[0][: len(alone)], alone[: units[2].reply_tokens], atol=1e-3), "else all agree"


def test_a_neighbor_does_not_change_the_gradient_of_a_row(world: Path, policy: Policy) -> None:
    """The gradient of two prompts in one row is the sum of their own."""
    units = encode_step(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl"))).units[:2]
    tokens = [unit.reply_tokens for unit in units]
    alone = []
    for unit in units:
        accumulate(policy, [unit], tokens_per_micro_batch=100_000)
        alone.append(gradients(policy))
    accumulate(policy, units, tokens_per_micro_batch=100_000)
    together = gradients(policy)
    expected = (alone[0] * tokens[0] + alone[1] * tokens[1]) / sum(tokens)
    assert float((together - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("trained", [["vision"], ["projector"], ["language"], ["vision", "language"]])
def test_exactly_the_parts_that_train_move(world: Path, tmp_path: Path, trained: list[str]) -> None:
    model = {"path": str(world / "model"), "device": "cpu", "train": trained}
    recipe = recipe_of(world, model=model, epochs=None, num_steps=1, optim={"lr": 1e-2})
    outcome = train(recipe, tmp_path / "run")
    before = dict(load_policy(recipe.model).model.named_parameters())
    parts = outcome.policy.parameters_by_part()
    moved = {part: {name for name, p in own if not torch.equal(before[name], p)} for part, own in parts.items()}
    for part, own in parts.items():
        if part in trained:
            assert len(moved[part]) > 0.9 * len(own), f"{part} trains"
        else:
            assert moved[part] == set(), f"{part} is frozen"


# ------------------------------------------------------------------------------------------------------------- cut-off


def lengths_of(world: Path, policy: Policy) -> list[int]:
    units = encode_step(policy.adapter, read_examples(ExampleConfig(path=world / "cold.jsonl"))).units
    return sorted(len(unit.prompt) + len(reply) for unit in units for reply in unit.replies)


def test_examples_over_the_cutoff_are_skipped_and_counted(world: Path, policy: Policy, tmp_path: Path) -> None:
    lengths = lengths_of(world, policy)
    cutoff = lengths[len(lengths) // 2]
    over = sum(length > cutoff for length in lengths)
    assert 0 < over < len(lengths)
    examples = read_examples(ExampleConfig(path=world / "cold.jsonl"))
    whole, cut = encode_step(policy.adapter, examples), encode_step(policy.adapter, examples, cutoff)
    assert len(cut.over_cutoff) == over and whole.over_cutoff == ()
    kept = {reply for unit in whole.units for reply in unit.replies}
    assert all(reply in kept for unit in cut.units for reply in unit.replies), "nothing is cut short"
    assert all(len(unit.prompt) + len(reply) <= cutoff for unit in cut.units for reply in unit.replies)
    train(recipe_of(world, epochs=1, prompts_per_step=2, cutoff_len=cutoff), tmp_path / "run")
    metrics = rows(tmp_path / "run" / "metrics.jsonl")
    assert sum(row.get("examples/over_cutoff", 0.0) for row in metrics) == over
    assert sum(row.get("examples/replies", 0.0) for row in metrics) == len(lengths) - over


def test_a_step_without_any_example_short_enough_moves_nothing(world: Path, tmp_path: Path) -> None:
    outcome = train(recipe_of(world, epochs=None, num_steps=1, cutoff_len=3), tmp_path / "run")
    (row,) = [row for row in rows(tmp_path / "run" / "metrics.jsonl") if row["step"] == 1]
    assert row["update/skipped"] == 1.0 and row["examples/over_cutoff"] > 0 and "loss/train" not in row
    before = dict(load_policy(ModelConfig(path=str(world / "model"), device="cpu")).model.named_parameters())
    assert all(torch.equal(before[name], p) for name, p in outcome.policy.model.named_parameters())


def test_over_the_cutoff_may_stop_the_run_by_name(world: Path, tmp_path: Path) -> None:
    stop = recipe_of(world, cutoff_len=3, over_cutoff="error")
    with pytest.raises(ValueError, match=r"step 1: longer than cutoff_len 3: 'e\d+'.*raise cutoff_len"):
        train(stop, tmp_path / "run")
    held = recipe_of(world, cutoff_len=3, heldout=[{"path": str(world / "cold.jsonl")}], eval={"every": 1})
    with pytest.raises(ValueError, match="heldout: all 12 examples are longer than cutoff_len 3"):
        train(held, tmp_path / "held")
    with pytest.raises(ValueError, match="over_cutoff: got 'error' without a cutoff_len"):
        recipe_of(world, over_cutoff="error")


def test_the_packaged_recipe_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load("vision_r1_7b_sft", SFTRecipe, variables={"SACCADE_DATA": "/data"})
    optim = recipe.optim
    assert (recipe.epochs, recipe.prompts_per_step, recipe.cutoff_len) == (2, 32, 16_384)
    assert (optim.lr, optim.decay, optim.warmup_ratio, optim.weight_decay) == (5e-6, "cosine", 0.05, 0.0)
    assert recipe.model.train == ("language",)
    assert optim.warmup(12_500) == 625
