"""Asking a model the questions of a benchmark, through the same prompts and graders that training uses."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from saccade.evaluation.boxes import gold_boxes, reply_boxes
from saccade.evaluation.config import Decoding
from saccade.evaluation.habits import habit_of, listings
from saccade.evaluation.items import ItemResult, append_items, read_items
from saccade.grading import Verdict
from saccade.models.adapter import Adapter, EncodedPrompt
from saccade.parsing import read_final
from saccade.rollout.engine import Engine
from saccade.rollout.prompts import Prompt, prepare
from saccade.rollout.seeds import derive_seed
from saccade.tasks import TASKS
from saccade.types import Completion, Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Label:
    """Whose answers these are: the columns `model` and `control` of the results."""

    model: str = "model"
    control: str | None = None


def evaluate(
    engine: Engine,
    adapter: Adapter,
    samples: Sequence[Sample],
    decoding: Decoding,
    label: Label = Label(),
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[ItemResult]:
    """Answer every sample `decoding.k` times and grade the replies, in the order of `samples`.

    With `out` (an items.jsonl) each batch is written as it is done, and items already there are not asked again; a
    batch is drawn whole with a seed of its own, so a killed and resumed evaluation has the same items as one that never
    stopped. `progress(done, total)` is called after each batch. Raises ValueError for unknown tasks and for items
    that occur twice.
    """
    _check(samples)
    done = {item.key: item for item in (read_items(out) if out else [])}
    other = next((i for i in done.values() if i.decoding == decoding.name and len(i.verdicts) != decoding.k), None)
    if other:
        raise ValueError(
            f"{out} holds items with {len(other.verdicts)} attempts, this run makes {decoding.k}; use another file"
        )
    results: list[ItemResult] = []
    for start in range(0, len(samples), decoding.batch_size):
        batch = samples[start : start + decoding.batch_size]
        keys = [(label.model, label.control, decoding.name, split_of(s), s.task, s.id) for s in batch]
        missing = [key for key in keys if key not in done]
        if missing:
            fresh = {i.key: i for i in _ask(engine, adapter, batch, decoding, label, batch_seed(decoding.seed, start))}
            if out:
                append_items(out, [fresh[key] for key in missing])
            done |= {key: fresh[key] for key in missing}
        results += [done[key] for key in keys]
        if progress:
            progress(len(results), len(samples))
    return results


def split_of(sample: Sample) -> str:
    """The split that the results name: the sample's own, else the data set that it came from."""
    return str(sample.meta.get("split") or sample.meta.get("source") or "test")


def batch_seed(seed: int, start: int) -> int:
    """Seed of the batch that begins at item `start`, in [0, 2^63)."""
    digest = hashlib.sha256(f"evaluation/{seed}/{start}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _check(samples: Sequence[Sample]) -> None:
    unknown = sorted({s.task for s in samples} - set(TASKS))
    if unknown:
        raise ValueError(f"samples name unknown tasks {unknown}; known: {', '.join(sorted(TASKS))}")
    often = [key for key, n in Counter((split_of(s), s.task, s.id) for s in samples).items() if n > 1]
    if often:
        raise ValueError(
            f"{len(often)} items occur more than once, first (split, task, id) {often[0]}; ids must be unique"
        )


def _ask(
    engine: Engine, adapter: Adapter, batch: Sequence[Sample], decoding: Decoding, label: Label, seed: int
) -> list[ItemResult]:
    prompts = [_prompt(adapter, sample, decoding) for sample in batch]
    seeds = [derive_seed(seed, place) for place in range(len(prompts))]
    replies = engine.generate(prompts, decoding.sampling(), decoding.k, seeds)
    forced = tuple(adapter.encode_reply(decoding.forced_prefix)[:-1]) if decoding.forced_prefix else ()
    whole = [[_whole(c, decoding.forced_prefix, forced) for c in some] for some in replies]
    return [
        _grade(sample, completions, prompt.encoded, decoding, label)
        for sample, prompt, completions in zip(batch, prompts, whole, strict=True)
    ]


def _prompt(adapter: Adapter, sample: Sample, decoding: Decoding) -> Prompt:
    prompt = prepare(adapter, sample, decoding.template)
    if not decoding.forced_prefix:
        return prompt
    return replace(prompt, encoded=adapter.continue_with(prompt.encoded, decoding.forced_prefix))


def _whole(completion: Completion, prefix: str, ids: tuple[int, ...]) -> Completion:
    """The reply with its forced beginning; log-probs stay those of the sampled tokens alone."""
    return (
        replace(completion, text=prefix + completion.text, token_ids=ids + completion.token_ids)
        if prefix
        else completion
    )


def _verdict(completion: Completion, sample: Sample) -> Verdict:
    """The task's verdict; a grader that fails is our fault, so the item then counts nowhere."""
    try:
        return TASKS[sample.task].correct(completion, sample)
    except Exception as error:
        log.exception("grading a reply to sample %s failed; the item is not counted", sample.id)
        return Verdict(None, "grader failed", repr(error))


def _grade(
    sample: Sample, completions: Sequence[Completion], prompt: EncodedPrompt, decoding: Decoding, label: Label
) -> ItemResult:
    verdicts = [_verdict(completion, sample) for completion in completions]
    answers = [read_final(completion.text) for completion in completions]
    first, gold, image = completions[0], gold_boxes(sample.answer), int(sample.meta.get("image_index", 0))
    return ItemResult(
        model=label.model,
        control=label.control,
        decoding=decoding.name,
        sample_id=sample.id,
        task=sample.task,
        split=split_of(sample),
        verdicts=tuple(v.right for v in verdicts),
        routes=tuple(v.route for v in verdicts),
        answers=tuple(a.strip() if a is not None else None for a in answers),
        tokens=tuple(len(c.token_ids) for c in completions),
        truncated=tuple(c.truncated for c in completions),
        habits=tuple(habit_of(c.text) for c in completions),
        listings=tuple(listings(c.text) for c in completions),
        text=first.text,
        question=sample.question,
        gold=sample.answer,
        options=tuple(map(str, sample.meta.get("options", ()))),
        boxes=reply_boxes(first.text, prompt.frames[image]) if gold and prompt.frames else (),
        gold_boxes=gold,
        box_image=image,
        image_shas=prompt.image_shas,
    )
