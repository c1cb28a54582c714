"""Losses as their papers state them; what a paper leaves open stays at the neutral default. `vlm_r1` and `vision_r1`
are also YAML files in `saccade/recipes/presets`, which recipes extend and which add stages, sampling and rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from saccade.algorithm.advantages import AdvantageConfig
from saccade.algorithm.loss import LossConfig

PRESETS: Mapping[str, LossConfig] = MappingProxyType(
    {
        # VLM-R1 (arXiv:2504.07615): the original GRPO objective, mean over each reply and then over replies.
        "vlm_r1": LossConfig(
            clip_low=0.2,
            clip_high=0.2,
            kl="k3",
            kl_coef=0.04,
            aggregation="sequence_mean",
            advantage=AdvantageConfig(std=True, eps=1e-4, unbiased=True),
        ),
        # Vision-R1 (arXiv:2503.06749): epsilon 0.2 and beta 0.01 are stated; the aggregation is that of its code base.
        "vision_r1": LossConfig(clip_low=0.2, clip_high=0.2, kl="k3", kl_coef=0.01, aggregation="token_mean"),
        # DAPO (arXiv:2503.14476): clip-higher, token mean, no KL.
        "dapo": LossConfig(clip_low=0.2, clip_high=0.28, aggregation="token_mean"),
        # Dr.GRPO (arXiv:2503.20783): neither the group's std nor the reply's length.
        "dr_grpo": LossConfig(aggregation="constant", advantage=AdvantageConfig(std=False)),
        # GSPO (arXiv:2507.18071): sequence ratios in a tiny clip.
        "gspo": LossConfig(ratio="sequence", clip_low=3e-4, clip_high=4e-4, aggregation="sequence_mean"),
    }
)
