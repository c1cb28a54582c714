"""Statistics of a set from its drafts: self-reflection words, lengths, yield by filter and source, the gain from the
bridge. One pass over `drafts.jsonl`, in memory that grows only with the number of reasons and sources.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saccade.disk import write_text
from saccade.evaluation.habits import WORDS, count_words
from saccade.evaluation.statistics import compare_paired, wilson
from saccade.runs.drafts import ARMS, STATISTICS, Arm, Chain, Draft, read_drafts

PUBLISHED: dict[str, tuple[int, tuple[int, ...]]] = {
    "LLaVA-CoT": (100_000, (2_300, 1, 183, 251, 8_332)),
    "Mulberry": (260_000, (1_122, 0, 8_784, 68, 26_421)),
    "Vision-R1-cold": (200_000, (585_719, 75_853, 26_697, 188_187, 100_148)),
}
"""Vision-R1 (arXiv:2503.06749), table of self-reflective words: samples (rounded), occurrences of each of WORDS in the
whole set. The paper does not say how they were counted; ours are whole words, ignoring case."""
EXAMPLES = 3
"""Examples kept per reason, from the first rows."""
SHOWN, LONGEST_TEXT = 400, 4_000
"""Characters of a chain, and of any other text, in an example."""


@dataclass
class Histogram:
    """Lengths in words, in bins of a twelfth of a decade to stay small; quantiles are computed from the bins."""

    counts: Counter[int] = field(default_factory=Counter)
    total: int = 0
    longest: int = 0

    PER_DECADE = 12

    def add(self, words: int) -> None:
        self.counts[self._step(words)] += 1
        self.total += words
        self.longest = max(self.longest, words)

    def _step(self, words: int) -> int:
        step = 0
        while self._edge(step) <= words:
            step += 1
        return step - 1

    def _edge(self, step: int) -> int:
        """The lower edge of a bin: 1, 2, 3, ... then each 21 % above the last."""
        return step + 1 if step < self.PER_DECADE // 2 else round((1 + self.PER_DECADE // 2) * 10 ** ((step - 6) / 12))

    def summary(self) -> dict[str, Any]:
        n = sum(self.counts.values())
        if not n:
            return {"n": 0}
        first, last = min(self.counts), max(self.counts)
        bars = [[self._edge(step), self._edge(step + 1), self.counts[step]] for step in range(first, last + 1)]
        found = {"n": n, "mean": self.total / n, "longest": self.longest, "bars": bars}
        return found | {f"p{share}": self._quantile(share / 100, n) for share in (10, 50, 90)}

    def _quantile(self, share: float, n: int) -> int:
        seen = 0
        for step in sorted(self.counts):
            seen += self.counts[step]
            if seen >= share * n:
                return self._edge(step)
        return self.longest


@dataclass
class SourceCount:
    """Rows and judged chains of a source."""

    rows: int = 0
    in_set: int = 0
    never_right: int = 0
    judged: int = 0
    chains_in_set: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    arms: dict[Arm, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    """0 or 1 of the first chain of each arm, in rows that have all three."""


@dataclass
class SetStatistics:
    """Counters over a stream of drafts."""

    words: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    chains_counted: int = 0
    with_a_word: int = 0
    lengths: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in LENGTHS})
    sources: dict[str, SourceCount] = field(default_factory=dict)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    polished: Counter[str] = field(default_factory=Counter)
    saw_answer: int = 0

    def add(self, draft: Draft) -> None:
        source = self.sources.setdefault(draft.source, SourceCount())
        source.rows += 1
        source.in_set += bool(draft.chosen)
        source.never_right += draft.difficulty == "hard"
        self.saw_answer += draft.saw_answer
        for place, chain in enumerate(draft.chains):
            if chain.arm == "bridged":
                self._add_chain(draft, chain, place in draft.chosen, source)
        self._add_arms(draft, source)

    def _add_chain(self, draft: Draft, chain: Chain, chosen: bool, source: SourceCount) -> None:
        words = len(chain.words.split())
        if chain.right is not None:
            self.lengths["right" if chain.right else "wrong"].add(words)
        if chain.polished is not None:
            self.polished["looked at"] += 1
            self.polished["changed"] += chain.polished != chain.text
        if chosen or chain.rejections:
            source.judged += 1
        for one in chain.rejections:
            key = (one.filter, one.reason)
            self.rejected[key] += 1
            source.rejected[one.filter] += 1
            kept = self.examples.setdefault(key, [])
            if len(kept) < EXAMPLES and draft.id not in [example["id"] for example in kept]:
                kept.append(_example(draft, chain, one.detail))
        if chosen:
            self.lengths["in the set"].add(words)
            source.chains_in_set += 1
            found = count_words(chain.words)
            self.words += found
            self.with_a_word += bool(found)
            self.chains_counted += 1
            self.tokens += chain.tokens

    def _add_arms(self, draft: Draft, source: SourceCount) -> None:
        firsts: dict[Arm, Chain | None] = {arm: next(iter(draft.of_arm(arm)), None) for arm in ARMS}
        if all(chain is not None and chain.right is not None for chain in firsts.values()):
            for arm, chain in firsts.items():
                source.arms[arm].append(float(bool(chain and chain.right)))

    def summary(self) -> dict[str, Any]:
        """The content of `statistics.json`."""
        everything: dict[Arm, list[float]] = {
            arm: [v for one in self.sources.values() for v in one.arms[arm]] for arm in ARMS
        }
        return {
            "schema": 1,
            "words": self._word_table(),
            "lengths": {name: histogram.summary() for name, histogram in self.lengths.items()},
            "filters": self._filters(),
            "polish": dict(self.polished),
            "saw_answer": self.saw_answer,
            "sources": {name: _source_row(one) for name, one in sorted(self.sources.items())},
            "accuracy": accuracies(everything),
        }

    def _word_table(self) -> dict[str, Any]:
        columns = {
            name: {"samples": n, "count": dict(zip(WORDS, counts, strict=True)), "per_1k_samples": _per(n, counts)}
            for name, (n, counts) in PUBLISHED.items()
        }
        n, counts = self.chains_counted, [self.words[word] for word in WORDS]
        ours: dict[str, Any] = {"samples": n, "tokens": self.tokens, "count": dict(zip(WORDS, counts, strict=True))}
        if n:
            ours["per_1k_samples"] = _per(n, counts)
            ours["share_with_any"] = self.with_a_word / n
        if self.tokens:
            ours["per_1k_tokens"] = _per(self.tokens, counts)
        return {"published": columns, "ours": ours}

    def _filters(self) -> list[dict[str, Any]]:
        return [
            {"filter": name, "reason": reason, "n": n, "examples": self.examples[name, reason]}
            for (name, reason), n in self.rejected.most_common()
        ]


LENGTHS = ("in the set", "right", "wrong")


def _per(n: int, counts: Iterable[int]) -> dict[str, float]:
    return {word: 1000 * count / n for word, count in zip(WORDS, counts, strict=True)}


def _example(draft: Draft, chain: Chain, detail: str) -> dict[str, Any]:
    return {
        "id": draft.id,
        "source": draft.source,
        "question": _beginning(draft.question),
        "gold": _beginning(draft.answer),
        "answer": _beginning(chain.answer),
        "detail": _beginning(detail),
        "text": chain.words[:SHOWN],
    }


def _beginning(value: Any) -> Any:
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def _source_row(one: SourceCount) -> dict[str, Any]:
    return {
        "rows": one.rows,
        "in_set": one.in_set,
        "never_right": one.never_right,
        "judged": one.judged,
        "chains_in_set": one.chains_in_set,
        "rejected": dict(one.rejected.most_common()),
        "accuracy": accuracies(one.arms),
    }


def accuracies(arms: Mapping[Arm, list[float]]) -> dict[str, Any]:
    """Accuracy of the reasoner's first chain per arm on the same rows, with 95 % intervals; {} without such rows."""
    n = len(arms["bridged"])
    if not n:
        return {}
    found: dict[str, Any] = {"n": n}
    for arm in ARMS:
        interval = wilson(int(sum(arms[arm])), n)
        found[arm] = {"accuracy": interval.mean, "low": interval.low, "high": interval.high}
    for arm in ARMS[1:]:
        gap = compare_paired(f"bridged - {arm}", arms["bridged"], arms[arm])
        found[gap.name] = {"difference": gap.difference, "low": gap.low, "high": gap.high, "p": gap.p}
    return found


def write_statistics(folder: Path) -> dict[str, Any]:
    """Computes the statistics of a set, writes `statistics.json` into its directory and returns its content."""
    gathering = SetStatistics()
    for draft in read_drafts(folder):
        gathering.add(draft)
    found = gathering.summary()
    write_text(folder / STATISTICS, json.dumps(found, indent=1) + "\n")
    return found
