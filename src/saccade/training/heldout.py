"""The held-out evaluation that a run does by itself: accuracy of one reply per sample, on data the recipe names."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pydantic import Field

from saccade.config import Config
from saccade.data import DataConfig, open_source
from saccade.models.policy import Policy
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.collect import step_seed
from saccade.rollout.engine import Sampling
from saccade.rollout.prompts import prepare
from saccade.tasks import TASKS
from saccade.training.group_metrics import mean
from saccade.training.loop import Evaluate
from saccade.types import Completion, Sample

log = logging.getLogger(__name__)


class EvalConfig(Config):
    """Held-out evaluation during a run; the best checkpoint is chosen by it."""

    every: int = Field(default=50, ge=1)
    """Steps between evaluations; the last step is always evaluated."""
    data: tuple[DataConfig, ...] = ()
    """Sources with an end. Without any (and without a function of the caller) nothing is evaluated."""
    greedy: bool = True
    """Greedy replies, or one sampled at temperature 1."""
    max_new_tokens: int = Field(default=256, ge=1)
    batch_size: int = Field(default=64, ge=1)
    """Samples per call of the engine."""


def right(completion: Completion, sample: Sample) -> bool | None:
    """The verdict of the sample's task; None (and a log entry) when our own grading fails."""
    try:
        return TASKS[sample.task].correct(completion, sample).right
    except Exception:
        log.exception("grading a reply to sample %s failed; it is not counted", sample.id)
        return None


def build_heldout(config: EvalConfig, template: str | None = None) -> Evaluate | None:
    """The function that evaluates a policy on `config.data`: `score` is the mean over samples. None without data.

    ValueError for a source without an end; the function raises it when no reply could be graded, since a score of 0
    would blame the model.
    """
    sources = [open_source(one) for one in config.data]
    for one in sources:
        if one.size is None:
            raise ValueError(f"eval.data: source '{one.name}' has no end; give it a 'limit'")
    samples = [sample for one in sources for sample in one]
    if not samples:
        return None

    def evaluate(policy: Policy, step: int) -> dict[str, float]:
        graded: dict[str, list[float]] = defaultdict(list)
        for completion, sample in _replies(policy, samples, config, template):
            graded["length"].append(len(completion.token_ids))
            graded["truncated"].append(float(completion.truncated))
            verdict = right(completion, sample)
            if verdict is not None:
                graded["score"].append(float(verdict))
                graded[f"accuracy/{sample.task}"].append(float(verdict))
        if not graded["score"]:
            raise ValueError(f"eval.data: none of the {len(samples)} replies could be graded; the log says why")
        return {name: mean(values) or 0.0 for name, values in graded.items()}

    return evaluate


def _replies(
    policy: Policy, samples: Sequence[Sample], config: EvalConfig, template: str | None
) -> Iterator[tuple[Completion, Sample]]:
    engine = BuiltinEngine(policy)
    sampling = Sampling(max_new_tokens=config.max_new_tokens, greedy=config.greedy)
    for start in range(0, len(samples), config.batch_size):
        batch = samples[start : start + config.batch_size]
        prompts = [prepare(policy.adapter, sample, template).encoded for sample in batch]
        # the same random numbers at every evaluation, so that two of them differ by the weights alone
        replies = engine.generate(prompts, sampling, 1, step_seed(0, start))
        yield from ((completions[0], sample) for completions, sample in zip(replies, batch, strict=True))
