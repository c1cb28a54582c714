"""Which chains of a row are trained on: right ones that pass every filter, shortest first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from saccade.coldstart.polish import polish
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.teachers import sample_of
from saccade.parsing import read_reply
from saccade.runs.drafts import Chain, ChainCheck, Draft, Rejection
from saccade.tasks import TASKS


@dataclass(frozen=True, slots=True)
class Chooser:
    """Filters and preferences of a recipe."""

    recipe: ColdStartRecipe
    checks: Mapping[str, ChainCheck]
    polished: bool
    """Whether chains are polished first."""

    def choose(self, draft: Draft) -> Draft:
        """The draft with its chains polished and judged, and those chosen. Once `keep` chains are chosen, the rest are
        not judged, so that near duplicates are compared only with chains in the set."""
        places = [place for place, chain in enumerate(draft.chains) if chain.arm == "bridged"]
        chosen: list[int] = []
        while places and len(chosen) < self.recipe.keep:
            place = self._next(draft, places, chosen)
            places.remove(place)
            draft = self._judge(draft, place)
            if not draft.chains[place].rejections:
                chosen.append(place)
        return replace(draft, chosen=tuple(chosen))

    def _next(self, draft: Draft, places: Sequence[int], chosen: Sequence[int]) -> int:
        """Right chains first; of those the shortest or, after the first one, the least similar to those chosen."""
        right = [place for place in places if draft.chains[place].right]
        pool = right or list(places)
        if chosen and self.recipe.prefer == "diverse":
            chosen_words = [_words(draft.chains[place].text) for place in chosen]
            return min(pool, key=lambda p: max(_jaccard(_words(draft.chains[p].text), one) for one in chosen_words))
        return min(pool, key=lambda p: (len(draft.chains[p].text), p))

    def _judge(self, draft: Draft, place: int) -> Draft:
        chain = draft.chains[place]
        if self.polished and chain.right:
            draft = draft.with_chain(place, polished=polish(chain.text).text)
        return draft.with_chain(place, rejections=self._rejections(draft, draft.chains[place]))

    def _rejections(self, draft: Draft, chain: Chain) -> tuple[Rejection, ...]:
        """The first reason against a chain. Wrong chains are rejected even if the filter 'answer' is off."""
        if not chain.right and "answer" not in self.checks:
            return (Rejection("answer", "cannot be graded" if chain.right is None else "wrong answer", chain.route),)
        for check in self.checks.values():
            found = check(draft, chain)
            if found is not None:
                return (found,)
        if not read_reply(reply_of(draft, chain)).strict:
            return (Rejection("format", "does not fit the tags", read_reply(reply_of(draft, chain)).reason or ""),)
        return ()


def reply_of(draft: Draft, chain: Chain) -> str:
    """The training target: the thought, and the gold answer as its task writes it (the chain's own is equivalent)."""
    return TASKS[draft.task].write_gold(sample_of(draft), think=chain.words or "-")


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared words over all words."""
    return len(first & second) / max(1, len(first | second))
