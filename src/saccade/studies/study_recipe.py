"""The recipe of a study: a claim, the runs that test it, and the rule of its verdict. Nothing here imports torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from saccade.config import Config, FolderName, load, merged, packaged
from saccade.studies.measures import MEASURES
from saccade.world.chains import HabitWeights

FOLDER = "studies/"
"""Where the packaged studies are among the recipes."""
BASE = "base"
"""The name of the untrained model among the arms."""


class ChainsConfig(Config):
    """Examples of the world with their chains of thought; none is repeated."""

    tasks: tuple[str, ...] = Field(min_length=1)
    habits: HabitWeights
    """Relative weights of the ways to answer. All of them end in the true answer."""
    split: str = "train"


class SFTArm(Config):
    """Supervised fine-tuning."""

    kind: Literal["sft"] = "sft"
    start: str = BASE
    """The arm whose model it continues."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Keys of an SFT recipe. In its texts `{arms}` is the folder of the seed's arms, `{data}` that of the data sets: a
    recipe is the same on all machines. The study sets `model.path` and `seed`."""
    chains: ChainsConfig | None = None
    """In place of the recipe's `data`."""
    match: str | None = None
    """In place of `num_steps`: the arm whose CPU seconds it may use, at the measured speed of the SFT arm above it;
    both start from the same model."""


class RLArm(Config):
    """Reinforcement learning."""

    kind: Literal["rl"] = "rl"
    start: str = BASE
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Keys of an RL recipe, see SFTArm. The seed of a world source is shifted by the study's."""
    match: str | None = None
    """In place of `num_steps`: the RL arm whose number of sampled tokens it may use. Both start from the same model."""


class BaseArm(Config):
    """A tiny base made anew, in place of the packaged one."""

    kind: Literal["pretrain"] = "pretrain"
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Keys of a recipe of `saccade world pretrain`; the study sets `out` and `seed`."""


class ColdStartArm(Config):
    """A set by modality bridging, for the `data` of SFT arms: `{arms}/<name>/train.jsonl`."""

    kind: Literal["coldstart"] = "coldstart"
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Keys of a cold-start recipe, see RLArm."""


Where = dict[Literal["decoding", "split", "task"], str]
"""Fields of items and the values that are meant."""
Verdict = Literal["reproduced", "not_reproduced", "inconclusive"]
Arm = Annotated[SFTArm | RLArm | ColdStartArm | BaseArm, Field(discriminator="kind")]


class Measured(Config):
    """Questions that arms answer once they are trained."""

    arms: tuple[str, ...] = Field(min_length=1)
    """Names of arms; `rl@25%` is the arm `rl` after the first quarter of its steps, for a curve over the training."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Keys of an evaluation recipe. Each seed has its own questions: `world.seed` is shifted by the study's seed, so
    that the interval over seeds holds the chance of the questions too."""


class Hypothesis(Config):
    """A contrast of arms, and what it must reach."""

    name: str
    measure: str
    """What is averaged over the items, see `saccade.studies.measures`."""
    contrast: dict[str, float] = Field(min_length=1)
    """`evaluation/arm` -> weight: {home/rl: 1, home/sft: -1} is the difference of two arms."""
    where: Where = Field(default_factory=dict)
    """Only items with these: {decoding: greedy, split: test}."""
    above: float
    """The smallest effect that counts, in units of the measure. Reproduced: the interval over seeds is above it. Not
    reproduced: it is below. Else inconclusive."""
    primary: bool = True
    """Decides the verdict; others are secondary."""


class StudyRecipe(Config):
    """`saccade study NAME`. Everything is fixed before the recorded run, which uses `seeds`; choices are made on
    `development_seeds`."""

    kind: Literal["study"] = "study"
    title: str
    paper: str
    """Where the claim is."""
    claim: str
    question: str
    """What this study asks of a tiny model."""
    limits: str
    """What a miniature can and cannot say about it."""
    base: str = "base"
    """The model that arms start from: the packaged one, or a checkpoint directory."""
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=2)
    development_seeds: tuple[int, ...] = Field(default=(101, 102), min_length=2)
    cpu_minutes_per_seed: float = Field(gt=0)
    """Cost of one seed as measured on a development seed, for the estimate before a run."""
    shared: dict[Literal["sft", "rl", "coldstart", "pretrain", "eval"], dict[str, Any]] = Field(default_factory=dict)
    """Keys of the recipes of all arms of a kind, and of all evaluations; their own come on top."""
    arms: dict[FolderName, Arm] = Field(min_length=1)
    evaluations: dict[FolderName, Measured] = Field(min_length=1)
    hypotheses: tuple[Hypothesis, ...] = Field(min_length=1)
    also: tuple[str, ...] = ()
    """Further measures of the table of all arms."""
    verdict: dict[Verdict, str]
    """The sentence that each verdict prints."""
    parallel: int = Field(default=2, ge=1)
    """Parallel processes, one thread each."""

    @model_validator(mode="after")
    def _arms_exist(self) -> StudyRecipe:
        seen: list[str] = []
        for name, arm in self.arms.items():
            if name == BASE:
                raise ValueError(f"arms: '{BASE}' is the untrained model; choose another name")
            if unknown := set(needs(self, name)) - set(seen):
                raise ValueError(f"arms.{name}: got {sorted(unknown)}; expected arms above it: {', '.join(seen)}")
            if isinstance(arm, SFTArm | RLArm):
                if arm.start != BASE and self.arms[arm.start].kind == "coldstart":
                    raise ValueError(f"arms.{name}.start: '{arm.start}' makes data and no model")
                self._matches(name, arm)
            seen.append(name)
        models = {BASE} | {name for name, arm in self.arms.items() if arm.kind != "coldstart"}
        for name, measured in self.evaluations.items():
            if unknown := {part_of(one)[0] for one in measured.arms} - models:
                raise ValueError(f"evaluations.{name}.arms: got {sorted(unknown)}; expected some of {sorted(models)}")
            for one in measured.arms:
                arm, percent = part_of(one)
                if percent < 100 and (why := self._without_parts(arm)):
                    raise ValueError(f"evaluations.{name}.arms: got '{one}'; {why}")
        return self

    def _without_parts(self, name: str) -> str | None:
        """Why an arm has no checkpoints at shares of its steps, if so."""
        arm = self.arms.get(name)
        if not isinstance(arm, SFTArm | RLArm) or (isinstance(arm, RLArm) and arm.match is not None):
            return "only an SFT arm, or an RL arm without 'match', has checkpoints at shares of its steps"
        keys = keys_of(self, name)
        if arm.match is None and keys.get("num_steps") is None:
            return f"its steps are not known before it starts: give arms.{name}.recipe a 'num_steps'"
        if "checkpoint" in keys:
            return f"the study sets when checkpoints are saved: remove 'checkpoint' from the recipe of arms.{name}"
        return None

    def _matches(self, name: str, arm: SFTArm | RLArm) -> None:
        """ValueError when the cost of another arm cannot set the length of this one."""
        if arm.match is None:
            return
        other = self.arms[arm.match]
        if not isinstance(other, RLArm if arm.kind == "rl" else SFTArm | RLArm) or other.start != arm.start:
            raise ValueError(
                f"arms.{name}.match: got '{arm.match}'; expected {'an RL arm' if arm.kind == 'rl' else 'an arm'} that "
                f"starts from '{arm.start}' too, so that equal cost means an equal budget"
            )
        if arm.kind == "sft" and speed_of(self, name) is None:
            raise ValueError(f"arms.{name}.match: no SFT arm above it, whose measured speed would give its steps")
        if "num_steps" in keys_of(self, name):
            raise ValueError(f"arms.{name}: got num_steps and match; expected one of them")

    @model_validator(mode="after")
    def _hypotheses_can_be_measured(self) -> StudyRecipe:
        known = {f"{name}/{arm}" for name, measured in self.evaluations.items() for arm in measured.arms}
        for where, measure in [
            *((f"hypotheses.{number}.measure", one.measure) for number, one in enumerate(self.hypotheses)),
            *((f"also.{number}", measure) for number, measure in enumerate(self.also)),
        ]:
            if measure not in MEASURES:
                raise ValueError(f"{where}: got '{measure}'; expected one of {', '.join(MEASURES)}")
        for number, one in enumerate(self.hypotheses):
            if unknown := set(one.contrast) - known:
                raise ValueError(
                    f"hypotheses.{number}.contrast: got {sorted(unknown)}; expected some of {', '.join(sorted(known))}"
                )
        if missing := set(get_args(Verdict)) - set(self.verdict):
            raise ValueError(f"verdict: no sentence for {', '.join(sorted(missing))}")
        if not any(one.primary for one in self.hypotheses):
            raise ValueError("hypotheses: none is primary, so that nothing decides the verdict")
        for key, seeds in (("seeds", self.seeds), ("development_seeds", self.development_seeds)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{key}: got {list(seeds)}; expected each seed once")
        if both := set(self.seeds) & set(self.development_seeds):
            raise ValueError(f"development_seeds: {sorted(both)} are seeds of the recorded run; choose others")
        return self


def part_of(name: str) -> tuple[str, int]:
    """`rl@25%` -> ("rl", 25): an arm after a percentage of its steps; `rl` -> ("rl", 100). ValueError for others."""
    if (found := re.fullmatch(r"([^@]+)(?:@([1-9][0-9]?)%)?", name)) is None:
        raise ValueError(f"got '{name}'; expected the name of an arm, or of a part of its steps, such as rl@25%")
    return found[1], int(found[2] or 100)


def parts_of(recipe: StudyRecipe, name: str) -> int:
    """Percentage of an arm's steps between its checkpoints: such that each part that is evaluated has one."""
    return math.gcd(
        100, *(percent for one in recipe.evaluations.values() for arm, percent in map(part_of, one.arms) if arm == name)
    )


def speed_of(recipe: StudyRecipe, name: str) -> str | None:
    """The SFT arm whose measured speed gives the steps of the matched SFT arm `name`: the last one above it."""
    above = list(recipe.arms)[: list(recipe.arms).index(name)]
    found = [one for one in above if isinstance(arm := recipe.arms[one], SFTArm) and arm.match is None]
    return found[-1] if found else None


def load_study(name: str, overrides: Sequence[str] = ()) -> StudyRecipe:
    """A packaged study by name, or a YAML file. ConfigError and FileNotFoundError as `load`."""
    return load(FOLDER + name if FOLDER + name in packaged() else name, StudyRecipe, overrides)


def keys_of(recipe: StudyRecipe, name: str) -> dict[str, Any]:
    """The keys of an arm's recipe, the shared ones included."""
    return merged(recipe.shared.get(recipe.arms[name].kind, {}), recipe.arms[name].recipe)


def evaluation_keys(recipe: StudyRecipe, name: str) -> dict[str, Any]:
    """The keys of an evaluation's recipe, the shared ones included."""
    return merged(recipe.shared.get("eval", {}), recipe.evaluations[name].recipe)


def needs(recipe: StudyRecipe, name: str) -> tuple[str, ...]:
    """The arms that must be finished before this one, those whose files its recipe reads included."""
    arm = recipe.arms[name]
    named: list[str | None] = []
    if isinstance(arm, SFTArm | RLArm):
        named = [arm.start, arm.match]
        if isinstance(arm, SFTArm) and arm.match:
            named.append(speed_of(recipe, name))
    return tuple(
        dict.fromkeys([*(one for one in named if one and one != BASE), *read_by(recipe, keys_of(recipe, name))])
    )


def read_by(recipe: StudyRecipe, keys: Mapping[str, Any]) -> list[str]:
    """The arms whose files a recipe reads."""
    return [other for other in recipe.arms if f"{{arms}}/{other}/" in str(keys)]
