"""A row of an evaluation: the verdicts on a model's replies to one question."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from saccade.evaluation.answerers import Answerer
from saccade.evaluation.asked import group_of
from saccade.evaluation.benchmarks import Grade
from saccade.evaluation.benchmarks.benchmark import BenchmarkJudge, JudgeUnavailable
from saccade.evaluation.benchmarks.replies import read
from saccade.evaluation.boxes import gold_boxes
from saccade.evaluation.config import Decoding
from saccade.evaluation.eval_plan import EvalPlan
from saccade.evaluation.habits import habit_of, listings
from saccade.evaluation.items import ItemResult
from saccade.tasks.conversation import SYSTEM
from saccade.types import Completion, Frame, Sample

log = logging.getLogger(__name__)

JUDGES = 8
"""Replies graded in parallel when there is a judge."""
JUDGE_FAILED = "judge failed"
"""The route of a reply whose judge did not answer."""
WHY = "unjudged"
"""The key of details that says why."""
ROW_ID = "row_id"
"""The key of details that has the id of the sample's row, where several rows had it."""


@dataclass(frozen=True, slots=True)
class EvalRun:
    """The model under test and its options; everything else is in the plan."""

    answerer: Answerer
    decoding: Decoding
    label: str = "model"
    control: str | None = None
    seed: int = 0
    batch_size: int = 32
    judge: BenchmarkJudge | None = None
    attempts_until_parsed: int = 1


DiscardedReplies = dict[int, list[Completion]]
"""Attempt -> the replies that were discarded before it, in order."""


def _grade(plan: EvalPlan, sample: Sample, completion: Completion, judge: BenchmarkJudge | None) -> Grade:
    """The mode's grade; when the grader fails, which is a bug of ours, the item is not counted."""
    try:
        return plan.mode.grade(read(completion.text, completion.frames), sample, judge)
    except JudgeUnavailable as error:
        return Grade(None, JUDGE_FAILED, detail=str(error))
    except CancelledError:
        return Grade(None, JUDGE_FAILED, detail="the run stopped while it waited")
    except Exception as error:
        log.exception("grading a reply to sample %s failed; the item is not counted", sample.id)
        return Grade(None, "grader failed", detail=repr(error))


def graded_item(
    plan: EvalPlan, run: EvalRun, sample: Sample, completions: Sequence[Completion], discarded: DiscardedReplies
) -> ItemResult:
    """The row of a question with its replies; `discarded` are those in whose place it was asked again."""
    grades = [_grade(plan, sample, completion, run.judge) for completion in completions]
    firsts = {j: _grade(plan, sample, some[0], run.judge) for j, some in discarded.items()}
    first = completions[0]
    attempts = [
        _attempt(completion, grade, len(discarded.get(j, ())) + 1, firsts.get(j))
        for j, (completion, grade) in enumerate(zip(completions, grades, strict=True))
    ]
    slices = dict(sample.meta.get("slices") or {})
    why = next((one.detail for one in (*grades, *firsts.values()) if one.route == JUDGE_FAILED), None)
    waits = {WHY: why, "firsts": {str(j): some[0].text for j, some in discarded.items()}} if why is not None else {}
    return ItemResult(
        model=run.label,
        control=run.control,
        decoding=run.decoding.name,
        sample_id=sample.id,
        task=sample.task,
        split=str(slices.get("split") or plan.benchmark.name),
        verdicts=tuple(grade.right for grade in grades),
        routes=tuple(grade.route for grade in grades),
        answers=tuple(grade.extracted for grade in grades),
        tokens=tuple(len(c.token_ids) for c in completions),
        truncated=tuple(c.truncated for c in completions),
        habits=tuple(habit_of(c.text) for c in completions),
        listings=tuple(listings(c.text) for c in completions),
        text=first.text,
        question=plan.shown(sample),
        gold=sample.answer,
        options=tuple(map(str, sample.meta.get("options") or ())),
        boxes=tuple(box for box, _ in grades[0].boxes),
        gold_boxes=gold_boxes(sample.answer),
        box_image=sample.box_image,
        image_shas=plan.image_shas(sample),
        details={
            "slices": slices,
            "group": group_of(sample),
            "prompt_id": plan.prompt.id,
            SYSTEM: plan.system(sample),
            "mode": plan.mode.name,
            "judge": run.judge.id if run.judge else None,
            "frames": [[f.name, list(f.size_original), list(f.size_input)] for f in first.frames],
            "crowds": sample.meta.get("crowds") or [],
            "boxes": [[list(box), label] for box, label in grades[0].boxes],
            "attempts": attempts,
            **({ROW_ID: plan.row_ids[sample.id]} if sample.id in plan.row_ids else {}),
            **waits,
        },
    )


def judged_again(plan: EvalPlan, run: EvalRun, unjudged: Mapping[str, ItemResult]) -> dict[str, ItemResult]:
    """The items of the plan whose judge did not answer, with what it says of their replies now."""

    def graded(sample: Sample) -> ItemResult:
        item = unjudged[sample.id]
        frames = tuple(Frame(name, original, given) for name, original, given in item.details["frames"])
        before = item.details["attempts"]
        replies = [Completion(one["text"], finish_reason=one["finish_reason"], frames=frames) for one in before]
        known = item.details.get("firsts")
        kept = known.items() if isinstance(known, dict) else ()  # whoever wrote the file
        firsts = {int(j): [Completion(str(text), frames=frames)] for j, text in kept if j.isdecimal() and len(j) < 9}
        new = graded_item(plan, run, sample, replies, firsts)
        for one, old in zip(new.details["attempts"], before, strict=True):
            one["tries"] = old["tries"]
        return replace(new, tokens=item.tokens)

    with ThreadPoolExecutor(JUDGES) as pool:
        some = list(pool.map(graded, [sample for sample in plan.samples if sample.id in unjudged]))
    return {item.sample_id: item for item in some}


def _attempt(completion: Completion, grade: Grade, retries: int, first: Grade | None) -> dict[str, Any]:
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "tries": retries,
        "read": read(completion.text).how,
        "first_right": grade.right if first is None else first.right,
        "right": grade.right,
        "value": grade.value,
        "route": grade.route,
        "extracted": grade.extracted,
        "detail": grade.detail,
        "needs_judge": grade.needs_judge,
        "judged": list(grade.judged),
    }
