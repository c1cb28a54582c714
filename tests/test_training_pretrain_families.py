"""Pre-training of a model that is given: any family with a visual token for each cell learns to see, and then to
answer with its language frozen or adapted."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from families import smolvlm
from pydantic import ValidationError
from safetensors.torch import load_file

from saccade.base import pretrain
from saccade.base.config import PretrainMixture, PretrainRecipe
from saccade.base.curriculum import drill, row
from saccade.base.perception import EMPTY, IGNORE, WORD_HEADS, Readouts, token_targets
from saccade.base.pretrain import language_step, train
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, load_policy
from saccade.training.config import OptimConfig
from saccade.training.master_weights import MasterAdamW
from saccade.training.optim import GuardedOptimizer
from saccade.training.ranks import ONE
from saccade.training.step import MicroBatch, StepRunner
from saccade.world import World
from saccade.world.config import WorldConfig

CELLS = {"cells": 2, "cell_px": 32, "objects_min": 2, "objects_max": 3, "count_max": 3, "compare_max": 2}
MIXTURE = {"scenes": {"shapes": 1.0}, "tasks": {"count": 1.0}, "habits": {"terse": 1.0}, "questions": 2, "drills": 1}
LORA = {"rank": 2, "alpha": 4}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SmolVLM whose images are one tile of 2 x 2 visual tokens."""
    written = smolvlm.write(tmp_path_factory.mktemp("start") / "smolvlm")
    settings = written / "preprocessor_config.json"
    changed = json.loads(settings.read_text()) | {"size": {"longest_edge": 64}}
    settings.write_text(json.dumps(changed))
    return written


@pytest.fixture(scope="module")
def policy(start: Path) -> Policy:
    return load_policy(str(start))


def recipe(out: Path, start: Path, stages: list[dict[str, Any]], **keys: Any) -> PretrainRecipe:
    stages = [{"steps": 3, "rows": 2, "warmup": 1, "mixture": MIXTURE} | stage for stage in stages]
    fixed = {"out": str(out), "start": str(start), "world": CELLS, "larger_share": 0.0, "log_every": 1, "save_every": 2}
    return PretrainRecipe.model_validate(fixed | keys | {"stages": stages})


STAGES = [
    {"name": "see", "loss": "perception"},
    {"name": "align", "vision_lr": 1.0, "language_lr": 0.0},
    {"name": "adapt", "vision_lr": 0.0, "lora": LORA},
]


def part_of(name: str) -> str:
    return "vision" if "vision_model" in name else "projector" if "connector" in name else "language"


@pytest.fixture(scope="module")
def trained(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "whole"
    train(recipe(out, start, STAGES))
    return out


def test_it_starts_from_the_given_weights_and_each_stage_moves_the_parts_that_it_trains(
    start: Path, trained: Path
) -> None:
    stages = [start, *(trained / name for name in ("start", "stage-1-see", "stage-2-align", "stage-3-adapt"))]
    weights = [load_file(one / "model.safetensors") for one in stages]
    moved = [{part_of(k) for k in old if not torch.equal(old[k], new[k])} for old, new in pairwise(weights)]
    assert moved == [set(), {"vision", "projector"}, {"vision", "projector"}, {"language"}]
    assert not list(trained.glob("**/adapter_config.json")), "adapters are merged"


def test_a_run_with_adapters_resumes_with_the_same_weights(
    start: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the last step of the last stage, after a save."""
    own, calls = pretrain.language_step, [0]

    def dies(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return own(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "language_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(tmp_path / "cut", start, STAGES))
    saved = [path.name for path in (tmp_path / "cut").glob("stage-3-adapt-unfinished/checkpoints/step-*")]
    assert len(saved) == 1
    again = load_file(train(recipe(tmp_path / "cut", start, STAGES)) / "model.safetensors")
    assert all(torch.equal(again[k], v) for k, v in load_file(trained / "model" / "model.safetensors").items())


def test_language_stages_can_compute_in_bfloat16(start: Path, tmp_path: Path) -> None:
    model = train(recipe(tmp_path / "half", start, STAGES[:2], dtype="bfloat16"))
    dtypes = {part_of(k): v.dtype for k, v in load_file(model / "model.safetensors").items()}
    assert dtypes == dict.fromkeys(("vision", "projector", "language"), torch.bfloat16)


def test_a_word_of_several_tokens_is_read_out_like_any_other(policy: Policy) -> None:
    tokenizer, table_VD = policy.processors[0], policy.model.get_input_embeddings().weight.detach()
    readouts = Readouts(policy.model, tokenizer)
    pieces = [tokenizer(f" {word}", add_special_tokens=False).input_ids for word in WORD_HEADS["cell"]]
    assert max(map(len, pieces)) > 1, "this tokenizer has no token for a cell"
    words_WD = torch.stack([table_VD[ids].mean(0) for ids in pieces])
    features_WD = words_WD - words_WD.mean(0)  # tokens that look exactly like the words
    _, accuracy = readouts(features_WD, {"cell": torch.arange(len(pieces))})
    assert accuracy["cell"] == 1.0
    own_W = (features_WD * readouts.words["cell"]).sum(1)
    assert float(own_W.mean()) == pytest.approx(1.0, abs=1e-4)
    assert torch.allclose(readouts.words["cell"].mean(0), torch.zeros(table_VD.shape[1]), atol=1e-5)


def test_the_words_of_a_cell_are_spread_over_its_visual_tokens_as_a_phrase() -> None:
    scene = World().scene(3, 0)
    whole, fine = token_targets(scene, 16), token_targets(scene, 64)
    for head, place in {"size": 0, "color": 1, "shape": 2, "cell": 3, "x1_tens": 3}.items():
        grid = fine[head].view(8, 8)
        row, column = divmod(place, 2)
        assert torch.equal(grid[row::2, column::2].flatten(), whole[head]), head
        elsewhere = grid.clone()
        elsewhere[row::2, column::2] = IGNORE
        empty = WORD_HEADS["color"].index(EMPTY)
        assert set(elsewhere.flatten().tolist()) <= {IGNORE, *([empty] if head == "color" else [])}, head
    said = (fine["color"] == WORD_HEADS["color"].index(EMPTY)).view(8, 8)
    assert torch.equal(said[0::2, 0::2], said[0::2, 1::2]), "an empty cell says so in place of a size too"


@pytest.mark.parametrize("tokens", [0, 8, 40, 63])
def test_a_scene_without_as_many_visual_tokens_for_each_cell_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"got {tokens} visual tokens for a scene of 4 x 4 cells; expected 1, 4 or"):
        token_targets(World().scene(0, 0), tokens)


def test_likeness_is_zero_for_tokens_that_are_the_words_and_one_for_tokens_that_are_nothing(policy: Policy) -> None:
    readouts = Readouts(policy.model, policy.processors[0])
    words_WD, targets = readouts.embeddings["color"], {"color": torch.arange(len(WORD_HEADS["color"]))}
    for features_WD, share in ((words_WD, 0.0), (torch.zeros_like(words_WD), 1.0)):
        plain, liked = (float(readouts(features_WD, targets, weight)[0]) for weight in (0.0, 2.0))
        assert liked - plain == pytest.approx(2.0 * share, abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"vision_lr": 0.0, "language_lr": 0.0}, "nothing trains"),
        ({"loss": "perception", "lora": LORA}, "perception trains the vision encoder itself"),
        ({"likeness": 1.0}, "a key of perception"),
    ],
)
def test_a_stage_that_cannot_train_as_asked_is_refused(
    tmp_path: Path, start: Path, stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(tmp_path, start, [{"name": "odd"} | stage])


def test_a_start_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone"):
        train(recipe(tmp_path / "out", tmp_path / "gone", STAGES))
    assert not (tmp_path / "out").exists()


def test_a_description_names_every_object_with_its_cell_in_reading_order() -> None:
    scene = World().scene(3, 0)
    _, text = drill(scene, "describe", Random(0))
    said = [words.split() for words in text.split(",")]
    assert [tuple(words) for words in said] == [(t.cell, t.size, t.color, t.shape) for t in scene.objects]
    assert [words[0] for words in said] == sorted((words[0] for words in said), key=lambda cell: cell[::-1])


def test_pictures_may_have_read_outs_alone_but_not_nothing(policy: Policy) -> None:
    mixture = {"scenes": {"shapes": 1.0}, "questions": 0, "drills": 2, "drill_forms": {"describe": 1.0}}
    world = World(WorldConfig.model_validate(CELLS))
    unit, names = row(world, policy.adapter, PretrainMixture.model_validate(mixture), Random(0), 0)
    assert (len(unit.branches), names) == (2, ["drill", "drill"])
    for changed in ({"drills": 0}, {"scenes": {"chart": 1.0}}):
        with pytest.raises(ValidationError, match="nothing is asked about"):
            PretrainMixture.model_validate(mixture | changed)


def test_the_probability_of_a_whole_reply_is_that_of_all_its_tokens(policy: Policy, start: Path) -> None:
    mixture = PretrainMixture.model_validate({"scenes": {"shapes": 1.0}, "questions": 0, "drills": 1})
    unit, names = row(World(WorldConfig.model_validate(CELLS)), policy.adapter, mixture, Random(0), 0)
    trains = load_policy(ModelConfig(path=str(start), device="cpu"))
    optimizer = GuardedOptimizer(MasterAdamW([{"params": [p for _, p in trains.trainable()]}]), OptimConfig(lr=1e-4))
    found = language_step(StepRunner[MicroBatch](trains, optimizer, 4096, "on", ONE), [(unit, names)], 1e-4)
    tokens = len(unit.branches[0].loss_places())
    assert found["whole/drill"] == pytest.approx(math.exp(-tokens * found["nll/drill"]), rel=1e-4)
    assert found["loss"] == pytest.approx(found["nll/drill"], rel=1e-5)
