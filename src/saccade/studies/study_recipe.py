"""The recipe of a study: a claim, the runs that test it, and the rule of its verdict. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from saccade.config import Config, load, merged, packaged
from saccade.evaluation.measures import MEASURES
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


class Match(Config):
    """The length of a run by the cost of another arm of the same seed."""

    arm: str
    by: Literal["cpu", "tokens"] = "cpu"
    """cpu: CPU seconds of training; tokens: sampled tokens (RL only)."""


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
    match: Match | None = None
    """In place of `num_steps`: as many steps as cost what another arm cost, at the measured speed of the SFT arm before
    it."""


class RLArm(Config):
    """Reinforcement learning."""

    kind: Literal["rl"] = "rl"
    start: str = BASE
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Keys of an RL recipe, see SFTArm. The seed of a world source is shifted by the study's."""
    match: Match | None = None
    """In place of `num_steps`: ends once it has cost what another arm cost."""


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


Verdict = Literal["reproduced", "not_reproduced", "inconclusive"]
Arm = Annotated[SFTArm | RLArm | ColdStartArm | BaseArm, Field(discriminator="kind")]


class Measured(Config):
    """Questions that arms answer once they are trained."""

    arms: tuple[str, ...] = Field(min_length=1)
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Keys of an evaluation recipe. Each seed has its own questions: `world.seed` is shifted by the study's seed, so
    that the interval over seeds holds the chance of the questions too."""


class Hypothesis(Config):
    """A contrast of arms, and what it must reach."""

    name: str
    measure: str
    """What is averaged over the items, see `saccade.evaluation.measures`."""
    contrast: dict[str, float] = Field(min_length=1)
    """`evaluation/arm` -> weight: {home/rl: 1, home/sft: -1} is the difference of two arms."""
    where: dict[str, str] = Field(default_factory=dict)
    """Only items with these fields: {decoding: greedy, split: test}."""
    above: float
    """The smallest effect that counts, in units of the measure. Reproduced: the interval over seeds is above it. Not
    reproduced: it is below. Else inconclusive."""
    primary: bool = True
    """Decides the verdict; others are printed beside it."""


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
    development_seeds: tuple[int, ...] = (101, 102)
    cpu_minutes_per_seed: float = Field(gt=0)
    """Cost of one seed as measured on a development seed, for the estimate before a run."""
    shared: dict[Literal["sft", "rl", "coldstart", "pretrain", "eval"], dict[str, Any]] = Field(default_factory=dict)
    """Keys of the recipes of all arms of a kind, and of all evaluations; their own come on top."""
    arms: dict[str, Arm] = Field(min_length=1)
    evaluations: dict[str, Measured] = Field(min_length=1)
    hypotheses: tuple[Hypothesis, ...] = Field(min_length=1)
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
            for key, other in _named_by(arm):
                if other not in seen and not (key == "start" and other == BASE):
                    raise ValueError(f"arms.{name}.{key}: got '{other}'; expected an arm above it: {', '.join(seen)}")
                if key == "start" and other != BASE and self.arms[other].kind == "coldstart":
                    raise ValueError(f"arms.{name}.start: '{other}' makes data and no model")
            if arm.kind == "sft" and arm.match and (arm.start == BASE or self.arms[arm.start].kind != "sft"):
                raise ValueError(
                    f"arms.{name}.match: the steps follow from the measured speed of the SFT before it, but it starts "
                    f"from '{arm.start}'; start it from an SFT arm"
                )
            seen.append(name)
        models = {BASE} | {name for name, arm in self.arms.items() if arm.kind != "coldstart"}
        for name, measured in self.evaluations.items():
            if unknown := set(measured.arms) - models:
                raise ValueError(f"evaluations.{name}.arms: got {sorted(unknown)}; expected some of {sorted(models)}")
        return self

    @model_validator(mode="after")
    def _hypotheses_can_be_measured(self) -> StudyRecipe:
        known = {f"{name}/{arm}" for name, measured in self.evaluations.items() for arm in measured.arms}
        for number, one in enumerate(self.hypotheses):
            if one.measure not in MEASURES:
                raise ValueError(f"hypotheses.{number}.measure: got '{one.measure}'; expected {', '.join(MEASURES)}")
            if unknown := set(one.contrast) - known:
                raise ValueError(
                    f"hypotheses.{number}.contrast: got {sorted(unknown)}; expected some of {', '.join(sorted(known))}"
                )
        if missing := set(get_args(Verdict)) - set(self.verdict):
            raise ValueError(f"verdict: no sentence for {', '.join(sorted(missing))}")
        if not any(one.primary for one in self.hypotheses):
            raise ValueError("hypotheses: none is primary, so that nothing decides the verdict")
        if both := set(self.seeds) & set(self.development_seeds):
            raise ValueError(f"development_seeds: {sorted(both)} are seeds of the recorded run; choose others")
        return self


def _named_by(arm: Arm) -> Iterator[tuple[str, str]]:
    """(key, name) of the arms that this one needs."""
    if isinstance(arm, ColdStartArm | BaseArm):
        return
    yield "start", arm.start
    if arm.match is not None:
        yield "match.arm", arm.match.arm


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
    read = [other for other in recipe.arms if f"{{arms}}/{other}/" in str(keys_of(recipe, name))]
    return tuple(dict.fromkeys([*(other for _, other in _named_by(arm) if other != BASE), *read]))
