"""Running a benchmark: the model's answers to the questions, and a row per item."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from saccade.evaluation.answerers import Answers, EvalQuestion, Failed
from saccade.evaluation.config import Decoding
from saccade.evaluation.eval_plan import EvalPlan
from saccade.evaluation.graded_items import JUDGES, WHY, DiscardedReplies, EvalRun, graded_item, judged_again
from saccade.evaluation.items import ItemResult, append_items, read_items
from saccade.rollout.seeds import derive_seed
from saccade.runs.files import UNJUDGED
from saccade.runs.lock import keep_lock
from saccade.tasks.conversation import SYSTEM
from saccade.types import Completion, Sample

log = logging.getLogger(__name__)

PARSED = "</answer>"
"""What a reply must contain for `retries_until_parsed`, as in Vision-R1's evaluation."""

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
    answers = _Answers(out, run.decoding)
    answers.check(plan)
    answers.add(judged_again(plan, run, answers.unjudged))
    for start in range(0, len(plan.samples), run.batch_size):
        batch = plan.samples[start : start + run.batch_size]
        missing = [sample for sample in batch if answers.to(sample) is None]
        with closing(_parts(plan, run, batch, missing)) as parts:  # now, not when it is collected, should the run stop
            for fresh, lost in parts:
                answers.errors |= {name: why for name, why in lost.items() if name not in answers.done}
                answers.add({sample.id: fresh[sample.id] for sample in missing if sample.id in fresh})
        if progress:
            progress(start + len(batch), len(plan.samples))
    held = answers.whole()
    return [held[sample.id] for sample in plan.samples if sample.id in held], answers.errors


class _Answers:
    """The answers so far: those that are judged, and those that wait for a judge, each in a file of its own."""

    def __init__(self, out: Path | None, decoding: Decoding) -> None:
        self._out, self._decoding = out, decoding
        self._waiting = out and out.with_name(UNJUDGED)
        self.done = self._held(out)
        self.unjudged = {name: item for name, item in self._held(self._waiting).items() if name not in self.done}
        self.errors: dict[str, str] = {}
        """Why an item is missing, by its id."""

    def to(self, sample: Sample) -> ItemResult | None:
        """The answer to a sample's question, judged or not."""
        return self.done.get(sample.id) or self.unjudged.get(sample.id)

    def check(self, plan: EvalPlan) -> None:
        """ValueError for answers to other questions than those of the plan, or another number of them."""
        for item in (*self.done.values(), *self.unjudged.values()):
            if len(item.verdicts) != self._decoding.k:
                raise ValueError(
                    f"{self._out} holds {len(item.verdicts)} attempts per item, this run makes {self._decoding.k}"
                )
        partly = any(sample.id not in self.done for sample in plan.samples)
        for sample in plan.samples:
            known = self.to(sample)
            if known is not None and _is_other(plan, known, sample, images=partly):
                raise ValueError(
                    f"{self._out} holds an answer to another question with the id {sample.id!r}: the data changed; "
                    "choose a new `out`, or remove that directory"
                )

    def add(self, found: Mapping[str, ItemResult]) -> None:
        """Writes items, those whose judge did not answer beside the others."""
        self.errors |= {name: item.details[WHY] for name, item in found.items() if WHY in item.details}
        judged = {name: item for name, item in found.items() if WHY not in item.details}
        self.done |= judged
        if self._out and self._waiting:
            keep_lock(self._out)
            append_items(self._out, judged.values())
            fresh = [name for name in found if name not in judged and name not in self.unjudged]
            append_items(self._waiting, [found[name] for name in fresh])

    def whole(self) -> dict[str, ItemResult]:
        """The judged items by id, as the file has them; rows that something else removed are written again."""
        if not self._out or not self._waiting:
            return self.done
        held = self._held(self._out)
        if gone := [item for name, item in self.done.items() if name not in held]:
            log.warning("%s: something else removed %d of its rows; they are written again", self._out, len(gone))
            append_items(self._out, gone)
            held = self._held(self._out)
        if self._waiting.exists():
            judged = {item.key for item in read_items(self._out)}
            if all(item.key in judged for item in read_items(self._waiting)):
                self._waiting.unlink(missing_ok=True)
        return held

    def _held(self, path: Path | None) -> dict[str, ItemResult]:
        """The items of a file by id, those of one decoding."""
        items = read_items(path) if path else []
        return {item.sample_id: item for item in items if item.decoding == self._decoding.name}


def _parts(
    plan: EvalPlan, run: EvalRun, batch: Sequence[Sample], missing: Sequence[Sample]
) -> Generator[tuple[dict[str, ItemResult], dict[str, str]]]:
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


def _is_other(plan: EvalPlan, item: ItemResult, sample: Sample, images: bool) -> bool:
    """Whether an item answers another question, about other `images` if wanted; golds are compared as JSON, in which
    items are kept. Items of earlier versions tell nothing of the system turn, and images that are gone nothing."""
    shas, system = plan.image_shas(sample) if images else (), plan.system(sample)
    changed = [
        item.question != plan.shown(sample),
        json.dumps(item.gold) != json.dumps(sample.answer),
        item.details.get(SYSTEM, system) != system,
        bool(item.image_shas and shas) and tuple(item.image_shas) != shas,
    ]
    return any(changed)


def _batch(plan: EvalPlan, run: EvalRun, batch: Sequence[Sample]) -> tuple[dict[str, ItemResult], dict[str, str]]:
    """(items by id, errors by id)."""
    questions = [plan.question(sample, derive_seed(run.seed, sample.id)) for sample in batch]
    replies = run.answerer.answer(questions, run.decoding, run.decoding.k)
    retries = _retry(run, questions, replies)
    errors = {s.id: found.reason for s, found in zip(batch, replies, strict=True) if isinstance(found, Failed)}
    whole = [(s, found) for s, found in zip(batch, replies, strict=True) if not isinstance(found, Failed)]

    def graded(pair: tuple[Sample, list[Completion]]) -> ItemResult:
        sample, completions = pair
        return graded_item(plan, run, sample, completions, retries.get(sample.id, {}))

    if run.judge is None:
        items = [graded(pair) for pair in whole]
    else:
        with ThreadPoolExecutor(JUDGES) as pool:
            items = list(pool.map(graded, whole))
    return {item.sample_id: item for item in items}, errors


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
