"""The set on disk: for `saccade sft`, for LLaMA-Factory, RL prompts by difficulty, and every draft with its history.

Everything is derived from the store and can be rewritten with other filters at no cost. Files are written atomically.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from saccade.coldstart.choosing import Chooser, reply_of
from saccade.coldstart.images import BAD_IMAGE, place_image
from saccade.coldstart.statistics import accuracies
from saccade.coldstart.steps import assemble
from saccade.coldstart.store import WRITING, Store
from saccade.coldstart.teachers import sample_of
from saccade.data.images import ImageError
from saccade.data.sources import record_roots
from saccade.disk import atomic_file
from saccade.runs.drafts import ARMS, DRAFTS, Arm, Chain, Draft, StepRecord, shallow_dict
from saccade.tasks import TASKS

TRAIN, LLAMA_FACTORY, LEFT_OUT = "train.jsonl", "llama_factory.json", "left_out.jsonl"
SUMMARY = "summary.json"
DIFFICULTIES = ("easy", "mixed", "hard")


@dataclass
class SetTally:
    """Counters kept while the set is written."""

    rows: Counter[str] = field(default_factory=Counter)
    chains: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    sources: dict[str, Counter[str]] = field(default_factory=dict)
    stages: dict[str, defaultdict[str, float]] = field(default_factory=dict)
    arms: dict[Arm, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    """0 or 1 of the first chain of each arm, for rows that have all three."""

    def add(self, draft: Draft) -> None:
        source = self.sources.setdefault(draft.source, Counter())
        for counter in (self.rows, source):
            counter["written"] += 1
            counter["in the set"] += bool(draft.chosen)
            counter[draft.difficulty or "not graded"] += 1
        self.rows["saw the answer"] += draft.saw_answer
        self.chains["bridged"] += len(draft.of_arm("bridged"))
        self.chains["in the set"] += len(draft.chosen)
        for chain in draft.of_arm("bridged"):
            for one in chain.rejections:
                self.rejected[f"{one.filter}: {one.reason}"] += 1
                source[f"rejected: {one.filter}"] += 1
        for step in draft.steps:
            stage = self.stages.setdefault(step.stage, defaultdict(int))
            stage["calls"] += 1
            stage["tokens_in"] += step.tokens_in
            stage["tokens_out"] += step.tokens_out
            stage["cut_off"] += step.finish_reason == "length"
            stage["cost"] += step.cost
            stage["seconds"] += step.seconds
        firsts: dict[Arm, Chain | None] = {arm: next(iter(draft.of_arm(arm)), None) for arm in ARMS}
        if all(chain is not None and chain.right is not None for chain in firsts.values()):
            for arm, chain in firsts.items():
                self.arms[arm].append(float(bool(chain and chain.right)))


def write_set(store: Store, chooser: Chooser) -> dict[str, Any]:
    """Writes the files of the set into the recipe's directory; returns the content of `summary.json`."""
    recipe, tally, lost = chooser.recipe, SetTally(), Counter[str]()
    with ExitStack() as stack:
        files = {name: stack.enter_context(atomic_file(recipe.out / name)) for name in (TRAIN, DRAFTS)}
        rl = {name: stack.enter_context(atomic_file(recipe.out / f"rl_{name}.jsonl")) for name in DIFFICULTIES}
        other = stack.enter_context(json_array_file(recipe.out / LLAMA_FACTORY))
        left_out = stack.enter_context(atomic_file(recipe.out / LEFT_OUT))
        for key, base, steps in store.finished():
            store.keep_lock(WRITING)
            try:
                pictures = zip(base.images, base.image_shas, strict=True)
                images = [place_image(path, sha, recipe.out, recipe.images) for path, sha in pictures]
            except ImageError as error:  # the row stays done: the set is written again when the image is back
                lost[BAD_IMAGE] += 1
                _write_line(left_out, _left_out(base.source, key, BAD_IMAGE, str(error)))
                continue
            draft = chooser.choose(assemble(base, steps))
            tally.add(draft)
            for place in draft.chosen:
                row = train_row(draft, draft.chains[place], images)
                _write_line(files[TRAIN], row)
                other(sharegpt_row(draft, row["response"], images))
            if draft.difficulty is not None:
                _write_line(rl[draft.difficulty], rl_row(draft, images))
            files[DRAFTS].write(draft.to_json() + "\n")
        for row in store.skipped():
            _write_line(left_out, _left_out(*row))
        store.keep_lock(WRITING)  # the last moment before the files take their places
    if recipe.images == "path":
        record_roots(recipe.out, recipe.data)
    _write_json(recipe.out / "dataset_info.json", dataset_info())
    summary = {"schema": 1, **_states(store, lost), **_counted(tally)}
    _write_json(recipe.out / SUMMARY, summary)
    return summary


def _left_out(source: str, place: str, reason: str, detail: str) -> dict[str, str]:
    return {"source": source, "place": place, "reason": reason, "detail": detail}


def _states(store: Store, lost: Counter[str]) -> dict[str, Any]:
    counts = store.counts()
    return {
        "rows": {"all": counts.total, "done": counts.done, "open": counts.open, "failed": counts.failed},
        "left_out": dict(sorted((lost + Counter(store.reasons())).items())),
    }


def _counted(tally: SetTally) -> dict[str, Any]:
    return {
        "written": dict(tally.rows),
        "chains": dict(tally.chains),
        "rejected": dict(tally.rejected.most_common()),
        "sources": {name: dict(counter) for name, counter in tally.sources.items()},
        "stages": {name: dict(counter) for name, counter in tally.stages.items()},
        "accuracy": accuracies(tally.arms),
    }


# ------------------------------------------------------------------------------------------------------------ rows


def train_row(draft: Draft, chain: Chain, images: list[str]) -> dict[str, Any]:
    """A row as `saccade sft` reads it, with its origin."""
    origin = {
        "source": draft.source,
        "sample": chain.number,
        "right": sum(bool(one.right) for one in draft.of_arm("bridged")),
        "samples": len(draft.of_arm("bridged")),
        "saw_answer": draft.saw_answer,
        "polished": chain.polished is not None and chain.polished != chain.text,
        "steps": [shallow_dict(step) for step in draft.steps if _led_to(step, chain, draft)],
    }
    return {
        "id": draft.id,
        "images": images,
        "task": draft.task,
        "question": draft.question,
        "answer": draft.answer,
        "response": reply_of(draft, chain),
        "meta": {**draft.meta, "cold_start": origin},
    }


def _led_to(step: StepRecord, chain: Chain, draft: Draft) -> bool:
    if step.stage == "reasoning":
        return (step.arm, step.number) == (chain.arm, chain.number)
    described = any(one.stage == "description" for one in draft.steps)
    return step.stage in (("pseudo_cot", "description") if described else ("caption",))


def sharegpt_row(draft: Draft, response: str, images: list[str]) -> dict[str, Any]:
    """A row of LLaMA-Factory's ShareGPT layout: `messages` with one `<image>` per image, and `images`."""
    turn = TASKS[draft.task].prompt(sample_of(draft))
    messages = [{"role": "user", "content": turn}, {"role": "assistant", "content": response}]
    return {"messages": messages, "images": images}


def dataset_info() -> dict[str, Any]:
    """How LLaMA-Factory finds the set; `dataset_dir` and `media_dir` are the directory of the set."""
    return {
        "cold_start": {
            "file_name": LLAMA_FACTORY,
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        }
    }


def rl_row(draft: Draft, images: list[str]) -> dict[str, Any]:
    """A prompt for RL (source 'saccade'), labeled by how often the reasoner was right."""
    verdicts = [chain.right for chain in draft.of_arm("bridged") if chain.right is not None]
    labels = {"cold_start": draft.difficulty, "pass_rate": sum(verdicts) / len(verdicts)}
    return {
        "id": draft.id,
        "task": draft.task,
        "question": draft.question,
        "answer": draft.answer,
        "images": images,
        "meta": {**draft.meta, **labels},
    }


# ------------------------------------------------------------------------------------------------------------ files


def _write_line(file: TextIO, row: Any) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def json_array_file(path: Path) -> Iterator[Any]:
    """A JSON list written item by item; yields the function that appends one."""
    with atomic_file(path) as file:
        file.write("[")
        first = True

        def add(row: Any) -> None:
            nonlocal first
            file.write(("\n" if first else ",\n") + json.dumps(row, ensure_ascii=False))
            first = False

        yield add
        file.write("\n]\n")


def _write_json(path: Path, value: Any) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
