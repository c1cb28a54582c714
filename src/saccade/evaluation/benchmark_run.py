"""Running a benchmark: the questions, the model's answers, and a row per item."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saccade.data import open_sources
from saccade.evaluation.answerers import Answerer, Answers, EvalQuestion, Failed, hashes
from saccade.evaluation.asked import askable, group_of, selected, unique
from saccade.evaluation.benchmarks import BENCHMARKS, Benchmark, Grade, Mode, Place, Prompt
from saccade.evaluation.benchmarks.benchmark import BenchmarkJudge, JudgeUnavailable
from saccade.evaluation.benchmarks.own import OWN, own_benchmark, world_suite
from saccade.evaluation.benchmarks.prompts import around
from saccade.evaluation.benchmarks.replies import read
from saccade.evaluation.blinding import blinded
from saccade.evaluation.boxes import gold_boxes
from saccade.evaluation.config import Decoding, EvalRecipe
from saccade.evaluation.habits import habit_of, listings
from saccade.evaluation.items import ItemResult, append_items, read_items
from saccade.grading import math_pool
from saccade.rollout.seeds import derive_seed
from saccade.runs.lock import keep_lock
from saccade.tasks.answers import MATHEMATICS
from saccade.tasks.conversation import SYSTEM, turns_before
from saccade.types import Completion, Frame, Sample, with_title

log = logging.getLogger(__name__)

PARSED = "</answer>"
"""What a reply must contain for `retries_until_parsed`, as in Vision-R1's evaluation."""
JUDGES = 8
"""Replies graded in parallel when there is a judge."""
UNJUDGED = "unjudged.jsonl"
"""Beside the items: those whose judge did not answer. They are judged again before any other question is asked."""
JUDGE_FAILED, WHY = "judge failed", "unjudged"
"""The route of such a reply, and the key of details that says why."""


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """The questions and how their replies are graded."""

    benchmark: Benchmark
    mode: Mode
    prompt: Prompt
    samples: list[Sample]
    """Their ids are unique."""
    total: int
    """Items of the subset, including those not in `samples`."""
    system_prompt: str | None = None
    """System turn of questions whose rows have none."""
    shas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Sample id -> hashes of its images. A cache, because a training run evaluates the same plan repeatedly."""

    def question(self, sample: Sample, seed: int) -> EvalQuestion:
        """The question about a sample, as the model receives it."""
        return EvalQuestion(sample, self.prompt.write(sample), seed, turns_before(sample, self.system_prompt))

    def system(self, sample: Sample) -> str:
        """The system turn of its question; nothing without one."""
        return "".join(turn.text for turn in turns_before(sample, self.system_prompt))

    def image_shas(self, sample: Sample) -> tuple[str, ...]:
        return self.shas.get(sample.id) or self.shas.setdefault(sample.id, hashes(sample))


def plan(recipe: EvalRecipe) -> EvalPlan:
    """Reads the questions. ValueError with file and line, before the first question."""
    found = _read(recipe)
    if recipe.blind is None:
        return found
    samples = blinded(found.samples, 1.0, recipe.blind)
    if not samples:
        raise ValueError(f"blind: {recipe.blind}: no question has an image; remove it")
    return replace(found, samples=samples)


def _read(recipe: EvalRecipe) -> EvalPlan:
    if recipe.benchmark is None:
        return own_plan(own_samples(recipe), recipe.template, recipe.limit, recipe.system_prompt)
    benchmark = BENCHMARKS[recipe.benchmark]
    subset = benchmark.subset(recipe.subset)
    place = Place(recipe.path, subset, recipe.image_folder, recipe.format, recipe.limit, recipe.data_root)
    samples = benchmark.load(place)
    if not samples:
        raise ValueError(f"benchmark '{benchmark.name}', subset '{place.subset}': found no items at {recipe.path}")
    prompt = around(benchmark.prompt(recipe.prompt), recipe.template)
    found = _plan(benchmark, benchmark.mode(recipe.mode), prompt, samples, recipe.limit)
    return replace(found, system_prompt=recipe.system_prompt)


def own_plan(
    samples: Sequence[Sample], template: str | None = None, limit: int | None = None, system_prompt: str | None = None
) -> EvalPlan:
    """The plan for any samples, with the prompts and graders that training uses. ValueError for unknown tasks."""
    benchmark = own_benchmark(samples, template)
    found = _plan(benchmark, benchmark.mode(None), benchmark.prompt(None), benchmark.load(Place(None)), limit)
    return replace(found, system_prompt=system_prompt)


def own_samples(recipe: EvalRecipe) -> list[Sample]:
    """The questions of a recipe without a benchmark: data sets first, then the world."""
    sources = open_sources(recipe.data)
    for source in sources:
        if source.size is None:
            raise ValueError(f"data '{source.name}' is infinite; give it a 'limit'")
    samples = [sample for source in sources for sample in askable(source, recipe.template)]
    world = recipe.world
    return samples + (world_suite(world.splits, world.tasks, world.n, world.seed) if world else [])


def _plan(benchmark: Benchmark, mode: Mode, prompt: Prompt, samples: list[Sample], limit: int | None) -> EvalPlan:
    samples = unique(samples)
    total = len(samples)
    samples = selected(mode.select(samples) if mode.select else samples, limit)
    if any(sample.task == MATHEMATICS for sample in samples):
        math_pool.shared().warm_up()  # while the model loads
    for sample in samples:
        try:
            prompt.write(sample)
        except ValueError as error:
            raise ValueError(with_title(sample.title, error)) from error
    return EvalPlan(benchmark, mode, prompt, samples, total)


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


CountProgress = Callable[[int, int], None]
"""(done, total)."""


def answer_all(
    plan: EvalPlan,
    run: EvalRun,
    out: Path | None = None,
    progress: CountProgress | None = None,
) -> tuple[list[ItemResult], dict[str, str]]:
    """Ask and grade the items that `out` (an items.jsonl) lacks; (items in the order of the plan, errors by id).

    Each batch is written when it is done; a resumed run has the same items as an uninterrupted one. A question that
    the server did not answer is not an item; a resumed run sends it again. Raises ValueError for a file
    with another number of attempts, or with items whose question or gold is not the plan's.
    """
    done = _held(out, run.decoding.name)
    open_ = out and out.with_name(UNJUDGED)
    unjudged = {name: item for name, item in _held(open_, run.decoding.name).items() if name not in done}
    for item in (*done.values(), *unjudged.values()):
        if len(item.verdicts) != run.decoding.k:
            raise ValueError(f"{out} holds {len(item.verdicts)} attempts per item, this run makes {run.decoding.k}")
    partly = any(sample.id not in done for sample in plan.samples)
    for sample in plan.samples:
        known = done.get(sample.id) or unjudged.get(sample.id)
        if known is not None and _is_other(plan, known, sample, images=partly):
            raise ValueError(
                f"{out} holds an answer to another question with the id {sample.id!r}: the data changed; "
                "choose a new `out`, or remove that directory"
            )
    errors: dict[str, str] = {}

    def keep(found: dict[str, ItemResult]) -> None:
        for name, item in found.items():
            if WHY in item.details:
                errors[name] = item.details[WHY]
            else:
                done[name] = item
        if out and open_:
            keep_lock(out)
            append_items(out, [item for name, item in found.items() if name not in errors])
            append_items(open_, [item for name, item in found.items() if name in errors and name not in unjudged])

    keep(_judge_again(plan, run, unjudged))
    for start in range(0, len(plan.samples), run.batch_size):
        batch = plan.samples[start : start + run.batch_size]
        missing = [sample for sample in batch if sample.id not in done and sample.id not in unjudged]
        for fresh, lost in _parts(plan, run, batch, missing):
            errors |= {name: why for name, why in lost.items() if name not in done}
            keep({sample.id: fresh[sample.id] for sample in missing if sample.id in fresh})
        if progress:
            progress(start + len(batch), len(plan.samples))
    held = _held(out, run.decoding.name) if out else done
    if out and (gone := [item for name, item in done.items() if name not in held]):
        log.warning("%s: something else removed %d of its rows; they are written again", out, len(gone))
        append_items(out, gone)
        held = _held(out, run.decoding.name)
    if (
        out
        and open_
        and open_.exists()
        and {one.key for one in read_items(open_)} <= {one.key for one in read_items(out)}
    ):
        open_.unlink(missing_ok=True)
    return [held[sample.id] for sample in plan.samples if sample.id in held], errors


def _parts(
    plan: EvalPlan, run: EvalRun, batch: Sequence[Sample], missing: Sequence[Sample]
) -> Iterator[tuple[dict[str, ItemResult], dict[str, str]]]:
    """(items by id, errors by id) of what is missing of a batch, as it arrives."""
    if not missing:
        return
    if run.answerer.whole_batches:
        yield _batch(plan, run, batch)
        return
    with ThreadPoolExecutor(run.answerer.lanes) as pool:
        asked = [pool.submit(_batch, plan, run, [sample]) for sample in missing]
        try:
            for one in as_completed(asked):
                yield one.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _shown(plan: EvalPlan, sample: Sample) -> str:
    """The question as items keep it: without the template of one's own data."""
    return sample.question if plan.benchmark.name == OWN else plan.prompt.write(sample)


def _is_other(plan: EvalPlan, item: ItemResult, sample: Sample, images: bool) -> bool:
    """Whether an item answers another question, about other `images` if wanted; golds are compared as JSON, in which
    items are kept. Items of earlier versions tell nothing of the system turn, and images that are gone nothing."""
    shas, system = plan.image_shas(sample) if images else (), plan.system(sample)
    changed = [
        item.question != _shown(plan, sample),
        json.dumps(item.gold) != json.dumps(sample.answer),
        item.details.get(SYSTEM, system) != system,
        bool(item.image_shas and shas) and tuple(item.image_shas) != shas,
    ]
    return any(changed)


def _held(path: Path | None, decoding: str) -> dict[str, ItemResult]:
    """The items of a file by id, those of one decoding."""
    return {item.sample_id: item for item in (read_items(path) if path else []) if item.decoding == decoding}


def _batch(plan: EvalPlan, run: EvalRun, batch: Sequence[Sample]) -> tuple[dict[str, ItemResult], dict[str, str]]:
    """(items by id, errors by id)."""
    questions = [plan.question(sample, derive_seed(run.seed, sample.id)) for sample in batch]
    replies = run.answerer.answer(questions, run.decoding, run.decoding.k)
    retries = _retry(run, questions, replies)
    errors = {s.id: found.reason for s, found in zip(batch, replies, strict=True) if isinstance(found, Failed)}
    whole = [(s, found) for s, found in zip(batch, replies, strict=True) if not isinstance(found, Failed)]

    def graded(pair: tuple[Sample, list[Completion]]) -> ItemResult:
        sample, completions = pair
        return _item(plan, run, sample, completions, retries.get(sample.id, {}))

    if run.judge is None:
        items = [graded(pair) for pair in whole]
    else:
        with ThreadPoolExecutor(JUDGES) as pool:
            items = list(pool.map(graded, whole))
    return {item.sample_id: item for item in items}, errors


DiscardedReplies = dict[int, list[Completion]]
"""Attempt -> the replies that were discarded before it, in order."""


def _retry(run: EvalRun, batch: Sequence[EvalQuestion], replies: list[Answers]) -> dict[str, DiscardedReplies]:
    """Asks again where a reply lacks `PARSED`, in place; the last reply is kept when none has it."""
    discarded: dict[str, DiscardedReplies] = {}
    for attempt in range(2, run.attempts_until_parsed + 1):
        open_: list[tuple[int, int]] = []
        for i, found in enumerate(replies):
            if not isinstance(found, Failed):
                open_ += [(i, j) for j, one in enumerate(found) if PARSED not in one.text]
        ids = [one.sample.id for one in batch]
        questions = [replace(batch[i], seed=derive_seed(run.seed, ids[i], attempt, j)) for i, j in open_]
        if not questions:
            break
        for (i, j), again in zip(open_, run.answerer.answer(questions, run.decoding, 1), strict=True):
            held = replies[i]
            if isinstance(again, Failed) or isinstance(held, Failed):
                replies[i] = again if isinstance(again, Failed) else held
                continue
            discarded.setdefault(ids[i], {}).setdefault(j, []).append(held[j])
            held[j] = again[0]
    return discarded


# ------------------------------------------------------------------------------------------------------------- grading


def _grade(plan: EvalPlan, sample: Sample, completion: Completion, judge: BenchmarkJudge | None) -> Grade:
    """The mode's grade; when the grader fails, which is a bug of ours, the item is not counted."""
    try:
        return plan.mode.grade(read(completion.text, completion.frames), sample, judge)
    except JudgeUnavailable as error:
        return Grade(None, JUDGE_FAILED, detail=str(error))
    except Exception as error:
        log.exception("grading a reply to sample %s failed; the item is not counted", sample.id)
        return Grade(None, "grader failed", detail=repr(error))


def _item(
    plan: EvalPlan, run: EvalRun, sample: Sample, completions: Sequence[Completion], discarded: DiscardedReplies
) -> ItemResult:
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
        question=_shown(plan, sample),
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
            **waits,
        },
    )


def _judge_again(plan: EvalPlan, run: EvalRun, unjudged: Mapping[str, ItemResult]) -> dict[str, ItemResult]:
    """The items of the plan whose judge did not answer, with what it says of their replies now."""

    def graded(sample: Sample) -> ItemResult:
        item = unjudged[sample.id]
        frames = tuple(Frame(name, original, given) for name, original, given in item.details["frames"])
        before = item.details["attempts"]
        replies = [Completion(one["text"], finish_reason=one["finish_reason"], frames=frames) for one in before]
        firsts = {int(j): [Completion(text, frames=frames)] for j, text in item.details.get("firsts", {}).items()}
        new = _item(plan, run, sample, replies, firsts)
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
