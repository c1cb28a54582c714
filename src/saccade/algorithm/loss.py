"""The policy loss, composed once from its parts: aggregate(-surrogate(ratio, advantage) + kl_coef * kl).

R: packed tokens of a micro-batch; B: its completions (branches).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saccade.algorithm.advantages import AdvantageConfig
from saccade.algorithm.aggregate import AGGREGATES, Denominators
from saccade.algorithm.kl import DIVERGENCES
from saccade.algorithm.ratio import RATIOS
from saccade.algorithm.surrogate import SURROGATES
from saccade.config import Config


class LossConfig(Config):
    """The loss of a recipe. The defaults are the project's neutral set; `PRESETS` holds what the papers state."""

    ratio: str = "token"
    """token (GRPO) or sequence (GSPO; wants clips near 3e-4 and the sequence_mean aggregation)."""
    surrogate: str = "clipped"
    """clipped (PPO, GRPO, DAPO), cispo or reinforce."""
    clip_low: float = Field(default=0.2, ge=0.0, le=1.0)
    """Ratios below 1 - clip_low stop counting (clipped only)."""
    clip_high: float = Field(default=0.2, ge=0.0)
    """Ratios above 1 + clip_high stop counting (clipped), or are cut to it (cispo)."""
    kl: str = "k3"
    """k1, k2 or k3; measured and charged only when kl_coef > 0."""
    kl_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the KL to the reference model (the papers' beta); 0 loads no reference."""
    aggregation: str = "token_mean"
    """token_mean (DAPO), sequence_mean (GRPO) or constant (Dr.GRPO, by the stage's max_new_tokens)."""
    advantage: AdvantageConfig = AdvantageConfig()
    """How rewards are centred within a group."""

    @model_validator(mode="after")
    def _known_and_alive(self) -> LossConfig:
        tables = {"ratio": RATIOS, "surrogate": SURROGATES, "kl": DIVERGENCES, "aggregation": AGGREGATES}
        for key, table in tables.items():
            if getattr(self, key) not in table:
                raise ValueError(f"{key}: got {getattr(self, key)!r}; expected one of {', '.join(table)}")
        unused = {"clipped": (), "cispo": ("clip_low",), "reinforce": ("clip_low", "clip_high", "ratio")}
        for key in unused[self.surrogate]:
            if getattr(self, key) != LossConfig.model_fields[key].default:
                raise ValueError(
                    f"{key}: got {getattr(self, key)!r}, but surrogate '{self.surrogate}' does not use it; remove it"
                )
        if self.kl_coef == 0 and self.kl != LossConfig.model_fields["kl"].default:
            raise ValueError(f"kl: got {self.kl!r}, but kl_coef is 0; set kl_coef > 0 or remove kl")
        return self


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a micro-batch brings. Only `logprobs_R` carries a gradient."""

    logprobs_R: Tensor
    """Of the policy being trained, under the sampling temperature."""
    old_logprobs_R: Tensor
    """Of the policy that sampled, under the same temperature."""
    advantages_B: Tensor
    branch_index_R: Tensor
    """Which branch a token belongs to, 0..B-1."""
    ref_logprobs_R: Tensor | None = None
    """Of the reference model; needed when kl_coef > 0."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """The micro-batch's share of the step's loss, and sums over its tokens for the metrics (divide by tokens)."""

    loss: Tensor
    metrics: Mapping[str, Tensor]
    """Detached sums over tokens: `policy/clip_fraction`, `policy/ratio_mean`, `policy/kl` (with a reference)."""


Loss = Callable[[LossInputs, Denominators], LossOutput]


def build_loss(config: LossConfig) -> Loss:
    """Looks the parts up once and returns the loss as a function of data alone."""
    ratio, surrogate = RATIOS[config.ratio], SURROGATES[config.surrogate]
    divergence, aggregate = DIVERGENCES[config.kl], AGGREGATES[config.aggregation]
    low, high, kl_coef = config.clip_low, config.clip_high, config.kl_coef

    def loss(inputs: LossInputs, over: Denominators) -> LossOutput:
        index_R, num_branches = inputs.branch_index_R, len(inputs.advantages_B)
        log_ratio_R = inputs.logprobs_R - inputs.old_logprobs_R.detach()
        ratio_R = ratio(log_ratio_R, index_R, num_branches)
        objective_R, cut_R = surrogate(ratio_R, inputs.logprobs_R, inputs.advantages_B[index_R], low, high)
        metrics = {"policy/clip_fraction": cut_R.sum(), "policy/ratio_mean": ratio_R.detach().sum()}
        values_R = -objective_R
        if kl_coef > 0:
            if inputs.ref_logprobs_R is None:
                raise ValueError(f"kl_coef is {kl_coef}, but no log-probs of a reference model came in")
            kl_R = divergence(inputs.logprobs_R, inputs.ref_logprobs_R.detach())
            values_R = values_R + kl_coef * kl_R
            metrics["policy/kl"] = kl_R.detach().sum()
        return LossOutput(aggregate(values_R, index_R, num_branches, over), metrics)

    return loss


@torch.no_grad()
def sampler_gap(logprobs_R: Tensor, sampler_logprobs_R: Tensor) -> tuple[float, float]:
    """(sum, max) over tokens of |trainer log-prob - sampler log-prob|: how far the two programs disagree."""
    gap_R = (logprobs_R - sampler_logprobs_R).abs()
    return (float(gap_R.sum()), float(gap_R.max())) if len(gap_R) else (0.0, 0.0)
