"""Statistics of a set of items: answer balance, question and chain lengths, difficulty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from saccade.world.chains import HABITS, write_chain
from saccade.world.generator import WorldItem
from saccade.world.splits import SPLITS


def answer_shares(items: Sequence[WorldItem]) -> dict[str, float]:
    """Answer -> share of the items, most frequent first. Boxes are compared exactly, so they rarely repeat."""
    counts = Counter(str(item.sample.answer) for item in items)
    return {answer: n / len(items) for answer, n in counts.most_common()}


def _lengths(texts: Sequence[str]) -> dict[str, float]:
    words = [len(text.split()) for text in texts]
    return {"mean_words": round(sum(words) / len(words), 2), "max_words": max(words)}


def summarize(items: Sequence[WorldItem]) -> dict[str, Any]:
    """Statistics by split and task, ready for JSON; shares are 0..1, lengths are words."""
    tables: dict[str, Any] = {}
    for split in dict.fromkeys(item.sample.meta["split"] for item in items):
        own = [item for item in items if item.sample.meta["split"] == split]
        tasks = {}
        for task in dict.fromkeys(item.sample.task for item in own):
            chosen = [item for item in own if item.sample.task == task]
            shares = answer_shares(chosen)
            tasks[task] = {
                "n": len(chosen),
                "answers": len(shares),
                "largest_share": round(next(iter(shares.values())), 4),
                "shares": {a: round(s, 4) for a, s in list(shares.items())[:20]},
                "levels": dict(Counter(item.question.level for item in chosen if item.question.level)),
                "targets": dict(sorted(Counter(len(item.question.targets) for item in chosen).items())),
                "question": _lengths([item.question.text for item in chosen]),
                "chains": {h: _lengths([write_chain(i.question, h, Random(0)) for i in chosen]) for h in HABITS},
            }
        tables[split] = {"what": SPLITS[split].sentence, "n": len(own), "tasks": tasks}
    return tables
