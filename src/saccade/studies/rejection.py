"""Rejection-sampling fine-tuning: the model is trained on its own right answers. A control for RL at equal compute.

Compare STaR (arXiv:2203.14465) and RFT (arXiv:2308.01825). One round: sample k replies to each of many prompts, keep
those with a hard format-and-result reward of 1, fine-tune on them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from saccade.data import DataConfig, Mixture, open_sources
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.config import DEFAULT_ENGINE, EngineConfig, Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import prepare
from saccade.rollout.seeds import derive_seed
from saccade.tasks import TASKS
from saccade.training.examples import Example

PROMPTS_PER_CALL = 32


def sample_right(
    model: ModelConfig,
    data: Sequence[DataConfig],
    sampling: Sampling,
    k: int,
    seed: int,
    cpu_budget_s: float,
    engine: EngineConfig = DEFAULT_ENGINE,
) -> tuple[list[Example], int]:
    """Replies of the model that score 1, sampled until `cpu_budget_s` of process time is spent, and the number of
    sampled replies. Servers of another engine are not counted. Duplicate replies to one prompt are kept once."""
    policy = load_policy(model)
    sampler = open_engine(policy, engine)
    mixture = Mixture(open_sources(data), [one.weight for one in data], seed)
    kept: list[Example] = []
    num_samples, step, started = 0, 0, time.process_time()
    while time.process_time() - started < cpu_budget_s:
        samples = mixture.draw(step * PROMPTS_PER_CALL, PROMPTS_PER_CALL)
        texts = [TASKS[sample.task].prompt(sample) for sample in samples]
        seeds = [derive_seed(seed, step, place) for place in range(len(samples))]
        replies = sampler.generate([prepare(policy.adapter, sample) for sample in samples], sampling, k, seeds)
        for sample, text, group in zip(samples, texts, replies, strict=True):
            rubric = TASKS[sample.task].rubric("hard")
            right = {c.text for c in group if c.finish_reason == "stop" and rubric(c, sample).value == 1.0}
            kept += [Example(sample.id, text, sample.images, reply) for reply in sorted(right)]
            num_samples += len(group)
        step += 1
    sampler.close()
    return kept, num_samples
