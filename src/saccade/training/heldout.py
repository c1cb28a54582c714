"""The held-out evaluation that a run does by itself: accuracy of one reply per sample, on data the recipe names."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence

from saccade.data import open_source
from saccade.models.policy import Policy
from saccade.rollout.config import Sampling
from saccade.rollout.engine import Engine
from saccade.rollout.prompts import prepare
from saccade.rollout.seeds import derive_seed
from saccade.tasks import TASKS
from saccade.training.config import EvalConfig
from saccade.training.group_metrics import mean
from saccade.training.loop import Evaluate
from saccade.types import Completion, Sample

log = logging.getLogger(__name__)


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

    def evaluate(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        graded: dict[str, list[float]] = defaultdict(list)
        for completion, sample in _replies(policy, engine, samples, config, template):
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
    policy: Policy, engine: Engine, samples: Sequence[Sample], config: EvalConfig, template: str | None
) -> Iterator[tuple[Completion, Sample]]:
    sampling = Sampling(max_new_tokens=config.max_new_tokens, greedy=config.greedy)
    for start in range(0, len(samples), config.batch_size):
        batch = samples[start : start + config.batch_size]
        prompts = [prepare(policy.adapter, sample, template) for sample in batch]
        # the same random numbers at every evaluation, so that two of them differ by the weights alone
        replies = engine.generate(prompts, sampling, 1, [derive_seed(0, start, place) for place in range(len(prompts))])
        yield from ((completions[0], sample) for completions, sample in zip(replies, batch, strict=True))
