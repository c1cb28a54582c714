"""Runs on what people bring: thinking templates, system turns and conversations reach rewards and weights, or are said
to be unused; a run's checkpoint is asked as the run asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.base.tokenizer import CHAT_TEMPLATE
from saccade.models import chat
from saccade.models.adapter import FarTooLong
from saccade.models.config import ModelConfig
from saccade.models.policy import load_adapter, resolve_path
from saccade.training.config import ExampleConfig, RLRecipe, SFTRecipe
from saccade.training.example_feed import ExampleFeed, screened
from saccade.training.examples import encode_step, read_examples
from saccade.training.rl import train as train_rl
from saccade.training.sft import train as train_sft

THINKS = CHAT_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def thinking_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged base behind a template that opens the thought."""
    folder = tmp_path_factory.mktemp("thinking") / "base"
    shutil.copytree(resolve_path("base"), folder)
    (folder / "chat_template.jinja").write_text(THINKS)
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*words: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return int(ended.value.code or 0)


def strict_recipe(model: Path) -> dict[str, Any]:
    return {
        "kind": "rl",
        "model": {"path": str(model), "device": "cpu"},
        "data": [{"source": "world", "task": "compare"}],
        "stages": [{"max_new_tokens": 48, "group_size": 4, "rubric": "hard"}],
        "prompts_per_step": 4,
        "num_steps": 1,
        "optim": {"lr": 1e-5},
    }


def test_strict_rewards_are_earned_behind_a_template_that_opens_the_thought(thinking_base, tmp_path, capsys):
    path = tmp_path / "think.yaml"
    path.write_text(yaml.safe_dump(strict_recipe(thinking_base)))
    assert run("check", path) == 0
    assert "safe to train" in capsys.readouterr().out
    train_rl(RLRecipe.model_validate(strict_recipe(thinking_base)), tmp_path / "run")
    replies = rows(tmp_path / "run" / "rollouts.jsonl")
    assert all(reply["text"].startswith("<think>") for reply in replies)
    assert any(reply["reward"] == 1.0 for reply in replies)


def conversation(folder: Path, name: str, *values: str, **more: Any) -> Path:
    """One row, with roles in turn."""
    Image.new("RGB", (56, 56), (200, 30, 30)).save(folder / "red.png")
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    path = folder / f"{name}.jsonl"
    path.write_text(json.dumps({"id": "r", "image": "red.png", "conversations": turns, **more}) + "\n")
    return path


def learned(world: Path, out: Path, data: Path, **more: Any) -> dict[str, torch.Tensor]:
    recipe = {
        "model": {"path": str(world / "model"), "device": "cpu"},
        "data": [{"source": "llava", "path": str(data), **more.pop("data", {})}],
        "num_steps": 1,
        "optim": {"lr": 1e-2},
        **more,
    }
    train_sft(SFTRecipe.model_validate(recipe), out)
    return load_file(out / "checkpoints" / "last" / "model.safetensors")


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[key], value) for key, value in right.items())


def test_system_turns_and_later_turns_change_what_is_learned(world: Path, tmp_path: Path) -> None:
    pairs = ("<image>How many?", "<answer>1</answer>", "Sure?", "Yes.")
    first = conversation(tmp_path, "first", *pairs[:2])
    both = conversation(tmp_path, "both", *pairs)
    french = conversation(tmp_path, "french", *pairs[:2], system="Answer in French only.")
    plain = learned(world, tmp_path / "1", first)
    assert not equal(plain, learned(world, tmp_path / "2", both))
    assert not equal(plain, learned(world, tmp_path / "3", french))
    told = learned(world, tmp_path / "4", first, system_prompt="Answer in French only.")
    assert equal(told, learned(world, tmp_path / "5", french))


def test_rl_prompts_have_their_system_turn_and_unused_replies_are_said(world: Path, tmp_path: Path, caplog) -> None:
    def prompts(name: str, **more: Any) -> list[str]:
        pairs = ("<image>How many?", "1", "Sure?", "Yes.")
        data = conversation(world, name, *pairs[: more.pop("turns", 2)], task="count", **more.pop("row", {}))
        recipe = rl_recipe(world, data=[{"source": "vlm_r1", "path": str(data)}], num_steps=1, **more)
        train_rl(recipe, tmp_path / name)
        return sorted({row["prompt_id"] for row in rows(tmp_path / name / "rollouts.jsonl")})

    plain = prompts("plain")
    assert "later turns" not in caplog.text
    assert prompts("later", turns=4) == plain
    assert "1 replies of later turns are not used: RL asks the first question" in caplog.text
    french = prompts("french", row={"system": "Answer in French only."})
    assert french != plain and prompts("told", system_prompt="Answer in French only.") == french
    assert "the system turns of" not in caplog.text
    assert prompts("own", row={"system": "Answer in French only."}, system_prompt="Answer in Greek.") == french
    assert "the system turns of 1 rows replace system_prompt" in caplog.text


def test_check_counts_what_is_not_used_and_names_what_the_template_cannot_do(
    world: Path, tmp_path: Path, capsys
) -> None:
    data = conversation(tmp_path, "talk", "<image>How many?", "<answer>1</answer>", "Sure?", "Yes.")
    assert run("check", data, "--from", "llava", "--model", world / "model") == 0
    assert "replies of later turns, which are not used: only the first question is asked: 1" in capsys.readouterr().out
    model = shutil.copytree(world / "model", tmp_path / "model")
    (model / "chat_template.jinja").write_text(THINKS)
    recipe = {"kind": "sft", "model": {"path": str(model)}, "data": [{"source": "llava", "path": str(data)}]}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(recipe | {"num_steps": 1, "optim": {"lr": 1e-3}}))
    assert run("check", tmp_path / "sft.yaml") == 1
    out = capsys.readouterr().out
    assert "opens <think>, and the reply has no thought to close it" in out and "not safe to train" in out
    assert run("sft", tmp_path / "sft.yaml", "--out", tmp_path / "run") == 2
    assert not (tmp_path / "run").exists() and "no thought to close it" in capsys.readouterr().err


def test_a_run_s_checkpoint_is_asked_as_the_run_asked_and_that_is_said(world: Path, tmp_path: Path, capsys) -> None:
    recipe = rl_recipe(world, num_steps=1, template="vlm_r1", system_prompt="Look first.")
    train_rl(recipe, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "last"
    capsys.readouterr()
    said = f"as in the run {tmp_path / 'run'}: template vlm_r1, its system prompt"
    picture = world / "0.png"
    assert run("predict", "--model", checkpoint, "--max-new-tokens", 2, "--draw", tmp_path / "d.png", picture, "?") == 0
    assert said in capsys.readouterr().err
    words = (f"model={checkpoint}", "data=[{source: vlm_r1, path: " + str(world / "data.jsonl") + "}]")
    assert run("eval", *words, f"out={tmp_path / 'eval'}", "decoding.max_new_tokens=2") == 0
    assert said in capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "eval" / "config.yaml").read_text())
    assert (written["template"], written["system_prompt"]) == ("vlm_r1", "Look first.")
    assert run("eval", *words, f"out={tmp_path / 'bare'}", "decoding.max_new_tokens=2", "template=bare") == 0
    assert "as in the run" not in capsys.readouterr().err


@pytest.mark.parametrize(("cutoff", "pictures"), [(None, 0), (3_000, 1)])
def test_what_continues_a_conversation_that_is_too_long_is_not_encoded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cutoff: int | None, pictures: int
) -> None:
    later = [text for i in range(12) for text in ("<image>" * pictures + f"{i} " + "word " * 900, "two")]
    path = conversation(tmp_path, "long", "<image>How many?", "1", *later, image=["red.png"] * (1 + 12 * pictures))
    entry = {"source": "llava", "path": str(path), "on_bad": "skip"}
    examples = read_examples(ExampleConfig.model_validate(entry))
    adapter = load_adapter(ModelConfig(path=str(world / "model")))
    limit, fit, over = cutoff or adapter.context_length, list[str](), list[str]()
    for one in examples:  # each alone
        try:
            found = encode_step(adapter, [one], cutoff)
        except ValueError:
            assert cutoff is None
            continue
        fit, over = fit + [unit.prompt.prompt_id for unit in found.units], [*over, *found.over_cutoff]
    assert 2 < len(fit) < 10
    encode, lengths = type(adapter).encode, list[int]()

    def counted(*given: Any, **more: Any) -> Any:
        lengths.append(len(prompt := encode(*given, **more)))
        return prompt

    monkeypatch.setattr(type(adapter), "encode", counted)
    feed = ExampleFeed(screened(adapter, examples, cutoff), seed=0, n=1)
    steps = [feed(step) for step in range(feed.prompts)]
    assert sorted(fit) == sorted(unit.prompt.prompt_id for step in steps for unit in step.units)
    assert sorted(over) == sorted(one for step in steps for one in step.over_cutoff)
    assert 1 <= sum(length > limit for length in lengths) <= 2


@pytest.mark.parametrize("cutoff_len", [None, 64])
def test_a_text_far_beyond_the_context_is_not_tokenized_whole(
    cutoff_len: int | None, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter: Any = load_adapter(ModelConfig(path=str(world / "model"), device="cpu"))
    monkeypatch.setattr(chat, "LONG_TEXT", 1000)
    monkeypatch.setattr(adapter.config.get_text_config(), "max_position_embeddings", 2000)
    text, texts, kind = "word and " * 300, list[str](), type(adapter.tokenizer)
    whole, tokenize = adapter.tokenizer(text, add_special_tokens=False).input_ids, kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, one, **more: texts.append(one) or tokenize(self, one, **more))
    assert adapter.encode_reply(text)[:-1] == whole
    texts.clear()
    with pytest.raises(FarTooLong, match=r"has more than 2,\d+ tokens, the model's context holds 2,000"):
        adapter.encode_reply("a " * 1_000_000)
    with pytest.raises(FarTooLong):
        adapter.encode("\0" * 1_000_000, [])
    assert sum(map(len, texts)) < 30_000
    asked = {"image": "0.png", "task": "count", "question": "How many?", "on_bad": "skip"}
    path = tmp_path / "far.jsonl"
    replies = [{**asked, "id": "a", "response": "a " * 1_000_000}, {**asked, "id": "b", "response": "3"}]
    replies.append({**asked, "id": "c", "question": "b " * 1_000_000, "response": "3"})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in replies))
    examples = read_examples(ExampleConfig(path=path, image_folder=world, on_bad="skip"))
    feed = ExampleFeed(screened(adapter, examples, cutoff_len), 0, 2)
    assert feed.prompts == (1 if cutoff_len is None else 2)
    if cutoff_len is not None:
        found = encode_step(adapter, examples, cutoff_len)
        assert [len(unit.replies) for unit in found.units] == [1] and sorted(found.over_cutoff) == ["a", "c"]
