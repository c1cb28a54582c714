"""The recipe of the demo: models, data, training and comparison."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from saccade.algorithm.config import LossConfig
from saccade.config import Config
from saccade.rollout.stages import Stage
from saccade.training.config import OptimConfig, SFTOptimConfig
from saccade.world.chains import HabitWeights


class DemoRecipe(Config):
    """`saccade demo`. Lengths are in tokens, budgets in steps; the machine's speed affects only the duration."""

    kind: Literal["demo"] = "demo"
    base: str = "base"
    """The model to start from: the packaged tiny base, or a checkpoint directory of any supported family."""
    tasks: tuple[str, ...] = Field(default=("arithmetic", "compare", "refer"), min_length=1)
    splits: tuple[str, ...] = Field(default=("test", "ood_larger"), min_length=1)
    n: int = Field(default=100, ge=10)
    """Held-out questions per split and task."""
    benchmark_seed: int = 1
    """Seed of the held-out questions, in a separate namespace from training seeds."""
    max_new_tokens: int = Field(default=128, ge=8)
    """Token cap of every evaluation."""
    habits: HabitWeights
    """Relative weights of the answering styles in the cold-start set. All of them end in the true answer."""
    cold_start_rows: int = Field(ge=50)
    sft_steps: int = Field(ge=1)
    sft_prompts: int = Field(default=16, ge=1)
    """Examples per SFT step."""
    sft_optim: SFTOptimConfig
    rl_stages: tuple[Stage, Stage]
    """Progressive thinking suppression: a short cap with large groups, then a longer one with smaller groups."""
    rl_prompts: int = Field(default=12, ge=1)
    """Groups per RL step, unless a stage overrides it."""
    rl_loss: LossConfig = LossConfig()
    rl_optim: OptimConfig
    forced: str = "<think>scan"
    """Forced start of the reply in the control where every model uses the same habit."""
    rejection_k: int = Field(default=8, ge=2)
    """Replies per prompt of the rejection-sampling control."""
    rejection_sampling_share: float = Field(default=0.4, gt=0, lt=1)
    """Share of that control's compute spent on sampling; the rest is training."""
    parallel: int = Field(default=2, ge=1)
    """Parallel processes, one thread each."""

    @field_validator("rl_stages")
    @classmethod
    def _both_end(cls, value: tuple[Stage, Stage]) -> tuple[Stage, Stage]:
        if any(stage.until is None or stage.until.step is None for stage in value):
            raise ValueError("both stages need 'until: {step: n}', so that the controls know the compute to match")
        return value

    @property
    def stage_ends(self) -> tuple[int, int]:
        first, second = (stage.until.step for stage in self.rl_stages if stage.until and stage.until.step)
        return first, second
