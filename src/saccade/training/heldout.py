"""The held-out evaluation during a run: accuracy on the data that the recipe names under `eval`."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saccade.data import open_sources
from saccade.evaluation.asked import askable
from saccade.evaluation.benchmark_run import answer_all
from saccade.evaluation.benchmarking import save_images
from saccade.evaluation.blinding import CONTROLS, blinded
from saccade.evaluation.eval_plan import EvalPlan, own_plan
from saccade.evaluation.graded_items import EvalRun
from saccade.evaluation.items import ItemResult, append_items
from saccade.evaluation.local_model import LocalModel
from saccade.models.policy import Policy
from saccade.rollout.engine import Engine
from saccade.runs.files import BLIND_ITEMS, ITEMS
from saccade.runs.lock import keep_lock
from saccade.tasks import TASKS
from saccade.training.config import EvalConfig
from saccade.training.group_metrics import mean
from saccade.training.loop import Evaluate
from saccade.training.ranks import ONE, Ranks
from saccade.types import Completion, Sample

log = logging.getLogger(__name__)

KEPT_IMAGES = 48
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

    Each evaluation writes its items to `RUN/eval/step-N/items.jsonl`, and those of the blind control, a share of the
    questions asked without their images, to `blind.jsonl` beside it. ValueError for an infinite source; the function
    raises it before the first step when no reply could be graded, since a score of 0 would wrongly blame the model.
    """
    sources = open_sources(config.data)
    for one in sources:
        if one.size is None:
            raise ValueError(f"eval.data: source '{one.name}' has no end; give it a 'limit'")
    if not sources:
        return None
    plan = own_plan(
        [sample for one in sources for sample in askable(one, template)], template, system_prompt=system_prompt
    )
    strict = {one.name for one in sources if one.on_bad == "error"}
    blind = replace(plan, samples=blinded(plan.samples, config.blind.share, config.blind.image), shas={})

    def answered(plan: EvalPlan, run: EvalRun, out: Path) -> list[ItemResult]:
        """The items, in the order of the plan, from all processes."""
        if ranks.is_first:
            keep_lock(out)
            out.unlink(missing_ok=True)  # of a run that was killed after this step and resumed before it
        share = plan if ranks.size == 1 else replace(plan, samples=ranks.mine(plan.samples))
        found = ranks.gather(answer_all(share, run, out if ranks.size == 1 else None))
        errors = {name: why for _, some in found for name, why in some.items()}
        refused = [errors[one.id] for one in plan.samples if one.id in errors and one.meta.get("source") in strict]
        if refused and run.label == "step 0":
            raise ValueError(f"eval.data: {refused[0]} (set 'on_bad: skip' to skip such rows)")
        if errors:
            log.warning(
                "%s: %d held-out questions were not asked: %s", run.label, len(errors), next(iter(errors.values()))
            )
        by_id = {item.sample_id: item for items, _ in found for item in items}
        items = [by_id[sample.id] for sample in plan.samples if sample.id in by_id]
        if ranks.size > 1 and ranks.is_first:
            keep_lock(out)
            append_items(out, items)
        return items

    def evaluate(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        folder = run_dir / "eval" / f"step-{step}"
        if ranks.is_first and not folder.parent.exists():
            save_images(plan.samples, KEPT_IMAGES, run_dir / "images")
        # the same seeds at every evaluation, so that two of them differ only in the weights
        run = EvalRun(LocalModel(policy, engine), config.decoding, label=f"step {step}", batch_size=config.batch_size)
        items = answered(plan, run, folder / ITEMS)
        if not blind.samples:
            return _metrics(items, step)
        without = answered(blind, replace(run, control=CONTROLS[config.blind.image]), folder / BLIND_ITEMS)
        return _metrics(items, step) | _blind_metrics(items, without)

    return evaluate


def _blind_metrics(items: Sequence[ItemResult], without: Sequence[ItemResult]) -> dict[str, float]:
    """`blind` is the accuracy without the image, `sighted` that on the same questions with it."""
    own = {item.sample_id: item for item in items}
    both = [(own[one.sample_id], one) for one in without if one.sample_id in own]
    pairs = [(one, other) for one, other in both if one.gradable and other.gradable]
    if not pairs:
        return {}
    return {
        "sighted": mean(one.accuracy for one, _ in pairs) or 0.0,
        "blind": mean(other.accuracy for _, other in pairs) or 0.0,
        "blind_n": float(len(pairs)),
    }


def _metrics(items: Sequence[ItemResult], step: int) -> dict[str, float]:
    """ValueError before the first step when no reply could be graded; later the score is not a number, since images
    may go away and a machine be busy."""
    found: dict[str, list[float]] = defaultdict(list)
    for item in items:
        found["length"] += map(float, item.tokens)
        found["truncated"] += map(float, item.truncated)
        if item.gradable:
            found["score"].append(item.accuracy)
            found[f"accuracy/{item.task}"].append(item.accuracy)
    if not found["score"]:
        why = f"eval.data: none of the {len(items)} replies could be graded; the log says why"
        if step == 0:
            raise ValueError(why)
        log.warning("step %d: %s", step, why)
        return {"score": math.nan, "n": 0.0}
    return {name: mean(values) or 0.0 for name, values in found.items()} | {"n": float(len(found["score"]))}
