"""The held-out evaluation during a run: accuracy on the data that the recipe names under `eval`."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saccade.data import open_source
from saccade.evaluation.benchmark_run import EvalRun, answer_all, own_plan
from saccade.evaluation.benchmarking import save_images
from saccade.evaluation.items import ItemResult, append_items
from saccade.evaluation.local_model import LocalModel
from saccade.models.policy import Policy
from saccade.rollout.engine import Engine
from saccade.tasks import TASKS
from saccade.training.config import EvalConfig
from saccade.training.group_metrics import mean
from saccade.training.loop import Evaluate
from saccade.training.ranks import ONE, Ranks
from saccade.types import Completion, Sample

log = logging.getLogger(__name__)

KEPT_IMAGES = 12
"""Questions whose images a run keeps for the report."""


def right(completion: Completion, sample: Sample) -> bool | None:
    """The verdict of the sample's task; None (and a log entry) when our own grading fails."""
    try:
        return TASKS[sample.task].correct(completion, sample).right
    except Exception:
        log.exception("grading a reply to sample %s failed; it is not counted", sample.id)
        return None


def build_heldout(
    config: EvalConfig,
    template: str | None,
    run_dir: Path,
    system_prompt: str | None = None,
    ranks: Ranks = ONE,
) -> Evaluate | None:
    """The function that evaluates a policy on `config.data`: `score` is the mean over samples. None without data. Each
    process answers its share of the questions.

    Each evaluation writes its items to `RUN/eval/step-N/items.jsonl`. ValueError for an infinite source; the
    function raises it when no reply could be graded, since a score of 0 would wrongly blame the model.
    """
    sources = [open_source(one) for one in config.data]
    for one in sources:
        if one.size is None:
            raise ValueError(f"eval.data: source '{one.name}' has no end; give it a 'limit'")
    if not sources:
        return None
    plan = own_plan([sample for one in sources for sample in one], template, system_prompt=system_prompt)
    share = replace(plan, samples=ranks.mine(plan.samples))

    def evaluate(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        out = run_dir / "eval" / f"step-{step}" / "items.jsonl"
        if ranks.is_first:
            out.unlink(missing_ok=True)  # of a run that was killed after this step and resumed before it
            if not out.parent.parent.exists():
                save_images(plan.samples, KEPT_IMAGES, run_dir / "images")
        # the same seeds at every evaluation, so that two of them differ only in the weights
        run = EvalRun(LocalModel(policy, engine), config.decoding, label=f"step {step}", batch_size=config.batch_size)
        if ranks.size == 1:
            return _metrics(answer_all(plan, run, out)[0])
        items = ranks.merge(ranks.gather(answer_all(share, run)[0]))
        if ranks.is_first:
            append_items(out, items)
        return _metrics(items)

    return evaluate


def _metrics(items: Sequence[ItemResult]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for item in items:
        found["length"] += map(float, item.tokens)
        found["truncated"] += map(float, item.truncated)
        if item.gradable:
            found["score"].append(item.accuracy)
            found[f"accuracy/{item.task}"].append(item.accuracy)
    if not found["score"]:
        raise ValueError(f"eval.data: none of the {len(items)} replies could be graded; the log says why")
    return {name: mean(values) or 0.0 for name, values in found.items()}
