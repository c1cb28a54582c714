"""The arms of a study as jobs: ordinary runs in their own directories, `seed-S/NAME`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from saccade.base import pretrain
from saccade.base.config import PretrainRecipe
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.run import run as run_coldstart
from saccade.config import Config, checked, dump
from saccade.disk import write_text
from saccade.evaluation import benchmarking
from saccade.evaluation.config import EvalRecipe
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.runs.files import rows_of
from saccade.runs.records import CONFIG
from saccade.runs.safe_console import SafeConsole
from saccade.studies.chains import ChainSource
from saccade.studies.jobs import needed
from saccade.studies.study_recipe import (
    BASE,
    BaseArm,
    ChainsConfig,
    ColdStartArm,
    RLArm,
    SFTArm,
    StudyRecipe,
    evaluation_keys,
    keys_of,
    part_of,
    parts_of,
    speed_of,
)
from saccade.training import rl, sft
from saccade.training.config import RLRecipe, SFTRecipe
from saccade.training.examples import Draw
from saccade.training.loop import RunResult
from saccade.training.resuming import Resume
from saccade.world import World

JobResult = dict[str, Any]
R = TypeVar("R", bound=Config)

SEED_STEP = 1_000_003
"""Distance between the world seeds of a study's seeds, so that no two share a question."""
CHUNK = 10
"""Steps between two looks at the cost of a run that ends by another's."""


def run_arm(directory: Path, recipe: StudyRecipe, name: str, seed: int, data: str) -> JobResult:
    """Train an arm, or make its set. Of SFT and RL: steps, CPU seconds and sampled tokens."""
    arm, places = recipe.arms[name], Places(directory.parent, data)
    if isinstance(arm, ColdStartArm):
        return run_coldstart(coldstart_recipe(recipe, name, places, seed), console=SafeConsole(quiet=True))
    if isinstance(arm, BaseArm):
        pretrain.train(base_recipe(recipe, name, places, seed))
        return {}
    return _sft(recipe, arm, name, places, seed) if arm.kind == "sft" else _rl(recipe, arm, name, places, seed)


def run_evaluation(directory: Path, recipe: StudyRecipe, evaluation: str, name: str, seed: int, data: str) -> JobResult:
    """An arm on the questions of its seed."""
    places = Places(directory.parents[2], data)
    benchmarking.evaluate(evaluation_recipe(recipe, evaluation, name, places, seed))
    return {}


def evaluation_recipe(recipe: StudyRecipe, evaluation: str, name: str, places: Places, seed: int) -> EvalRecipe:
    """The complete recipe of an evaluation. ConfigError as for any recipe."""
    given = {"kept_images": 8, "batch_size": 100, **places.filled(evaluation_keys(recipe, evaluation))}
    if "data" in given:
        given["data"] = shifted(given["data"], seed)
    if "world" in given:
        given["world"] = _shifted(given["world"], seed)
    model = _with_keys(given.get("model", {}), path=model_path(recipe, name, places.arms), train=())
    given |= {"model": model, "label": name, "seed": seed}
    given["out"] = str(places.arms / "eval" / evaluation / name)
    return checked(EvalRecipe, given, {(): f"evaluations.{evaluation}.recipe"})


def model_path(recipe: StudyRecipe, name: str, arms: Path) -> str:
    """The trained model of an arm or of a part of its steps (`rl@25%`), or the base."""
    name, percent = part_of(name)
    if name == BASE:
        return recipe.base
    if percent < 100:
        parts, steps = parts_of(recipe, name), needed(arms / name)["steps"]
        return str(arms / name / f"checkpoints/step-{min(steps, _every(steps, parts) * percent // parts):06d}")
    return str(arms / name / ("model" if recipe.arms[name].kind == "pretrain" else "checkpoints/last"))


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of a seed."""

    arms: Path
    data: str

    def filled(self, value: Any) -> Any:
        """The recipe with `{arms}` and `{data}` replaced in its texts."""
        if isinstance(value, str):
            return value.replace("{arms}", str(self.arms)).replace("{data}", self.data)
        if isinstance(value, Mapping):
            return {key: self.filled(one) for key, one in value.items()}
        return [self.filled(one) for one in value] if isinstance(value, list | tuple) else value


def shifted(entries: Any, seed: int) -> Any:
    """Data entries with the seeds of the world's sources shifted."""
    if not isinstance(entries, list | tuple):
        return entries
    return [
        _shifted(one, seed) if isinstance(one, Mapping) and one.get("source") == "world" else one for one in entries
    ]


def _shifted(section: Any, seed: int) -> Any:
    before = section.get("seed", 0) if isinstance(section, Mapping) else None
    return _with_keys(section, seed=before + seed * SEED_STEP) if type(before) is int else section


def _with_keys(section: Any, **keys: Any) -> Any:
    """A section of a recipe with other values; what is none stays, for its schema to refuse."""
    return {**section, **keys} if isinstance(section, Mapping) else section


def arm_recipe(schema: type[R], recipe: StudyRecipe, name: str, places: Places, seed: int, steps: int | None) -> R:
    """The complete recipe of an SFT or RL arm. ValueError as for any recipe."""
    arm = recipe.arms[name]
    assert isinstance(arm, SFTArm | RLArm)
    given = places.filled(keys_of(recipe, name))
    if isinstance(arm, RLArm):
        given["data"] = shifted(given.get("data", ()), seed)
    if steps is not None:
        given["num_steps"] = steps
    last = number if type(number := given.get("num_steps")) is int and number > 0 else 10_000
    every = _every(last, parts_of(recipe, name))
    given.setdefault("checkpoint", {"every": every, "keep": last // every + 1})
    given["model"] = _with_keys(given.get("model", {}), path=model_path(recipe, arm.start, places.arms))
    return checked(schema, {**given, "seed": seed}, {(): f"arms.{name}.recipe"})


def _every(steps: int, percent: int) -> int:
    """Steps between checkpoints of a run that keeps one for each `percent` of its steps."""
    return max(1, steps * percent // 100)


def _sft(recipe: StudyRecipe, arm: SFTArm, name: str, places: Places, seed: int) -> JobResult:
    steps, arms = None, places.arms
    if arm.match is not None:
        before = needed(arms / str(speed_of(recipe, name)))
        steps = max(1, round(needed(arms / arm.match)["cpu"] / (before["cpu"] / before["steps"])))
    draw = None if arm.chains is None else _draw(recipe, arm.chains, seed, arm)
    began = time.process_time()
    done = whole(sft.train(arm_recipe(SFTRecipe, recipe, name, places, seed, steps), arms / name, draw))
    return {"steps": done.step, "cpu": time.process_time() - began, "tokens": 0.0}


def _rl(recipe: StudyRecipe, arm: RLArm, name: str, places: Places, seed: int) -> JobResult:
    """One run; with `match` in chunks, until it has sampled as many tokens as the other arm."""
    began, directory = time.process_time(), places.arms / name

    def train(steps: int | None, resume: bool) -> JobResult:
        given = arm_recipe(RLRecipe, recipe, name, places, seed, steps)
        if resume:
            write_text(directory / CONFIG, dump(given))  # a run is resumed with the number of steps that is there
        done = whole(rl.train(given, directory, resume=Resume(accept_changes=True) if resume else False))
        return {"steps": done.step, "cpu": time.process_time() - began, "tokens": sampled_tokens(directory)}

    if arm.match is None:
        return train(None, False)
    budget = needed(places.arms / arm.match)["tokens"]
    found = train(1, False)
    while found["tokens"] < budget:
        left = (budget - found["tokens"]) / (found["tokens"] / found["steps"])
        found = train(found["steps"] + min(CHUNK, max(1, round(left))), True)
    return found


def whole(result: RunResult) -> RunResult:
    """ValueError for a run that ended before its last step."""
    if result.stopped:
        raise ValueError(f"{result.directory}: {result.stopped}; an arm of a study is trained to its end")
    return result


def sampled_tokens(directory: Path) -> float:
    """Tokens of all replies that a run sampled."""
    return sum(float(row.get("tokens/count", 0.0)) for row in rows_of(directory / "metrics.jsonl", []))


def _draw(recipe: StudyRecipe, chains: ChainsConfig, seed: int, arm: SFTArm) -> Draw:
    adapter = load_policy(ModelConfig(path=recipe.base)).adapter
    apart = 1 + list(recipe.arms.values()).index(arm)  # arms that continue one another see new examples
    world_seed = apart * 500_000_000 + seed * SEED_STEP
    return ChainSource(World(), adapter, chains.tasks, chains.habits, world_seed, chains.split).draw()


def coldstart_recipe(recipe: StudyRecipe, name: str, places: Places, seed: int) -> ColdStartRecipe:
    """The complete recipe of a set. ConfigError as for any recipe."""
    given = places.filled(keys_of(recipe, name))
    given |= {"kind": "coldstart", "out": places.arms / name, "data": shifted(given.get("data", ()), seed)}
    return checked(ColdStartRecipe, given, {(): f"arms.{name}.recipe"})


def base_recipe(recipe: StudyRecipe, name: str, places: Places, seed: int) -> PretrainRecipe:
    """The complete recipe of a base. ConfigError as for any recipe."""
    given = {**keys_of(recipe, name), "out": str(places.arms / name), "seed": seed}
    return checked(PretrainRecipe, given, {(): f"arms.{name}.recipe"})
