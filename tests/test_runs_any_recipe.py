"""Whatever a recipe combines, and wherever its run is killed: resumed it is the run that nothing killed, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from copy_engine import CopyEngine
from pydantic import ValidationError
from test_training_ahead import Killed, ahead, rows
from training_runs import rl_recipe, write_world

from saccade.models.policy import load_policy
from saccade.runs.streams import STREAMS
from saccade.training.config import RLRecipe
from saccade.training.loop import Session
from saccade.training.resuming import Resume
from saccade.training.rl import Trainer, train

STEPS = 6
PLACES: tuple[tuple[type, str], ...] = (
    (Trainer, "collect"),
    (Trainer, "update"),
    (Trainer, "record"),
    (Session, "_evaluation"),
    (Session, "_save"),
)
KEPT = {"model", "data", "stages", "prompts_per_step", "checkpoint", "eval"}
"""Parts of a random recipe that go with all others."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and others of which some prove unusable at their turn."""
    folder = write_world(tmp_path_factory.mktemp("world"), rows=9)
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:-30])
    with (folder / "odd.jsonl").open("w") as file:
        for place, line in enumerate((folder / "data.jsonl").read_text().splitlines()):
            cut = {"image": "cut.png"} if place % 3 == 1 else {}
            file.write(json.dumps(json.loads(line) | {"id": f"x{place}"} | cut) + "\n")
    return folder


def recipe_of(world: Path, random: Random) -> tuple[RLRecipe, bool]:
    """A valid recipe, and whether it samples one step ahead."""
    some = random.random
    stages = [
        {
            "name": "a",
            "max_new_tokens": 4,
            "group_size": random.choice([2, 3]),
            "until": {"step": random.choice([2, 3])},
        },
        {"name": "b", "max_new_tokens": 6, "group_size": random.choice([2, 4]), "prompts_per_step": 3},
    ]
    data = [
        {"source": "vlm_r1", "path": str(world / "data.jsonl")},
        {"source": "vlm_r1", "path": str(world / "odd.jsonl"), "on_bad": "skip", "weight": random.choice([0.5, 2])},
        {"source": "world", "task": "count"},
    ]
    heldout = [{"source": "vlm_r1", "path": str(world / "data.jsonl"), "limit": 3}]
    kl = {"kl_coef": 0.05, "kl_in": random.choice(["loss", "reward"]), "reference_refresh": random.choice([None, 2])}
    advantage = {"advantage": {"kind": random.choice(["group", "gdpo", "rloo", "reinforce_pp", "maxrl"])}}
    update = {"updates_per_rollout": 2, "mini_batches": 2, "replay": {"size": random.choice([4, 64])}}
    given: dict[str, Any] = {
        "model": {"path": str(world / "model"), "device": "cpu"}
        | random.choice([{}, {"train": [], "lora": {"rank": 4, "alpha": 8}}, {"train": ["language", "projector"]}]),
        "data": random.sample(data, random.choice([1, 2, 3])),
        "stages": [stage | {"rubric": "test"} for stage in stages],
        "prompts_per_step": random.choice([2, 4]),
        "checkpoint": {"every": random.choice([1, 2, 3]), "keep": random.choice([1, 2])},
        "eval": {"every": random.choice([1, 2, 4]), "data": heldout, "decoding": {"max_new_tokens": 4}},
        "rollout": {"resample_rounds": random.choice([0, 2])},
        "loss": {**(kl if some() < 0.5 else {}), **(advantage if some() < 0.5 else {})},
        "update": {key: value for key, value in update.items() if some() < 0.4},
        "keep_tokens": random.choice([None, 0.5]),
    }
    while True:
        try:
            found = rl_recipe(world, num_steps=STEPS, **given)
            break
        except ValidationError:  # these options do not go together
            given.pop(random.choice([key for key in given if key not in KEPT]))
    one_ahead = found.model.lora is None and some() < 0.5
    return (ahead(found) if one_ahead else found), one_ahead


def killed_in(place: tuple[type, str], call: int, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills the run at this call of a method."""
    owner, name = place
    method: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        found = method(*given, **more)
        if calls == call:
            raise Killed
        return found

    monkeypatch.setattr(owner, name, deadly)


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.slow) if n not in (1, 2) else n for n in range(24)]
)
def test_a_run_of_any_recipe_killed_anywhere_is_resumed_bit_by_bit(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    random = Random(number)
    recipe, one_ahead = recipe_of(world, random)

    def run(name: str) -> None:
        engine = CopyEngine(load_policy(recipe.model)) if one_ahead else None
        directory = tmp_path / name
        anew = Resume("start") if (directory / "config.yaml").exists() else False
        train(recipe, directory, engine=engine, resume=Resume() if (directory / "checkpoints/last").exists() else anew)

    run("whole")
    for _ in range(2):
        with monkeypatch.context() as patch, suppress(Killed):
            killed_in(random.choice(PLACES), random.randint(2, STEPS), random.random() < 0.5, patch)
            run("cut")
    run("cut")
    for name in STREAMS:
        assert rows(tmp_path / "whole", name) == rows(tmp_path / "cut", name), name
    saved = [
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole/checkpoints/last").glob("*.safetensors")
    ]
    assert saved and all(
        (tmp_path / "whole" / one).read_bytes() == (tmp_path / "cut" / one).read_bytes() for one in saved
    )
