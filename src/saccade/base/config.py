"""The recipe of pre-training on the world; nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from saccade.config import Config, FolderName
from saccade.models.config import LoraConfig
from saccade.world import WorldConfig
from saccade.world.chains import HabitWeights


class PretrainMixture(Config):
    """What a stage trains on. Shares are relative weights."""

    scenes: dict[str, float] = Field(default_factory=lambda: {"shapes": 1.0, "digits": 0.5})
    """Weights of scene kinds; 'pair' shows a scene and its changed copy (the difference task)."""
    tasks: dict[str, float] = Field(default_factory=dict)
    """Weights of tasks, among those a scene allows; empty: equal weights."""
    habits: HabitWeights = Field(default_factory=lambda: {"terse": 1.0, "enumerate": 1.0})
    questions: int = Field(default=4, ge=0)
    """Questions per picture."""
    drills: int = Field(default=0, ge=0)
    """Read-outs per picture of shapes or digits, see `drill_forms`."""
    drill_forms: dict[Literal["read", "point", "box", "describe"], float] = Field(
        default_factory=lambda: {"read": 2.0, "point": 1.0, "box": 1.0}
    )
    """Relative weights: the content of a cell, the cell of an object, the box of an object, all objects in reading
    order with their cells."""

    @model_validator(mode="after")
    def _pictures_are_asked_about(self) -> PretrainMixture:
        if self.questions == 0 and (self.drills == 0 or not set(self.scenes) <= {"shapes", "digits"}):
            raise ValueError(
                "questions: 0 leaves pictures that nothing is asked about; give drills, and only scenes of shapes or "
                "digits, which have them"
            )
        return self


class PretrainStage(Config):
    """One stage. The learning rate warms up, stays constant, and decays linearly over the last `decay` share."""

    name: FolderName
    loss: Literal["perception", "language"] = "language"
    steps: int = Field(ge=1)
    rows: int = Field(default=16, ge=1)
    """Pictures per step, of each process in a language stage; perception trains in the first process alone."""
    lr: float = Field(default=1e-3, gt=0)
    vision_lr: float = Field(default=0.3, ge=0)
    """Learning rate of vision encoder and projector as a share of `lr`; 0 freezes them."""
    language_lr: float = Field(default=1.0, ge=0)
    """The same for the language model; perception never trains it."""
    lora: LoraConfig | None = None
    """A language stage trains adapters in place of the weights, at `lr`; they are merged at its end."""
    likeness: float = Field(default=0.0, ge=0)
    """Perception: weight of the squared distance of a visual token to the embeddings of the words for its content. A
    language model that is frozen reads only what is like its words."""
    warmup: int = Field(default=30, ge=1)
    decay: float = Field(default=0.0, ge=0, le=1)
    mixture: PretrainMixture = PretrainMixture()

    @model_validator(mode="after")
    def _something_trains(self) -> PretrainStage:
        if self.lora is not None and self.loss == "perception":
            raise ValueError("lora: perception trains the vision encoder itself; remove lora, or set loss: language")
        if self.loss == "language" and self.likeness > 0:
            raise ValueError("likeness: a key of perception; remove it, or set loss: perception")
        if self.loss == "language" and self.lora is None and self.vision_lr == self.language_lr == 0:
            raise ValueError("vision_lr and language_lr are both 0, so that nothing trains; raise one of them")
        return self


class PretrainRecipe(Config):
    """`saccade world pretrain RECIPE`."""

    kind: Literal["pretrain"] = "pretrain"
    out: str = "runs/base"
    start: str | None = None
    """A checkpoint directory of any family to start from; null makes a new tiny model of `size`."""
    size: Literal["S", "SM", "M", "L"] = "M"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the language stages; the optimizer updates float32 weights either way."""
    seed: int = 0
    world: WorldConfig = WorldConfig()
    larger_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of pictures with one more cell per side, so that the model has seen positions beyond the demo size."""
    weight_decay: float = Field(default=0.01, ge=0)
    log_every: int = Field(default=20, ge=1)
    save_every: int = Field(default=200, ge=1)
    scores: int = Field(default=100, ge=0)
    """Questions of each task for the scores of all habits at the end; 0 measures none."""
    stages: tuple[PretrainStage, ...] = Field(min_length=1)
