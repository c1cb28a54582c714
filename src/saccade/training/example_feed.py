"""The steps of supervised fine-tuning from files: encoded examples in seeded order, unusable ones skipped aloud."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

from saccade.data.images import image_size
from saccade.data.records import MARKER
from saccade.models.adapter import Adapter, FarTooLong
from saccade.models.counting import TokenCounter, refuse_long
from saccade.training.examples import (
    EncodedStep,
    EncodedUnit,
    Example,
    TooLong,
    by_prompt,
    encode_step,
    order_of,
    reply_of,
    too_long_for,
)
from saccade.types import with_title

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Screened:
    """Examples by their prompts, of which those are known that the model cannot read."""

    adapter: Adapter
    cutoff_len: int | None
    prompts: list[list[Example]]
    unusable: list[int]
    """Indices of prompts."""
    too_long: TooLong


class ExampleFeed:
    """`feed(step)`: the encoded prompts of a step (from 0), a function of the seed and of the state of the checkpoint
    that the run continues from: its position and what was skipped before."""

    def __init__(
        self,
        rows: Screened,
        seed: int,
        n: int,
        state: Mapping[str, Any] | None = None,
        workers: Executor | None = None,
    ) -> None:
        """`n` prompts a step; `state` has the `step` of a checkpoint, and the `position` and `skipped` of the
        `EncodedStep` there; `workers` encode several prompts at once."""
        state = {"step": 0} if state is None else state
        before = int(state["step"]) * n
        self._rows, self._n, self._workers = rows, n, workers
        self._shift = int(state.get("position", before)) - before  # none where all steps have the same size
        known = [(-1, place) for place in rows.unusable]
        self._order = order_of(len(rows.prompts), seed, [*known, *state.get("skipped", ())])

    @property
    def prompts(self) -> int:
        """Usable prompts, as far as it is known before the first step."""
        return len(self._rows.prompts) - len(self._rows.unusable)

    def position(self, steps: int) -> int:
        """Draws from the rows until so many steps are done: steps before the checkpoint may have had other sizes."""
        return steps * self._n + self._shift

    def updates(self, epochs: float) -> int:
        """Steps until each usable prompt was seen so often, with those before the checkpoint."""
        return math.ceil((epochs * self.prompts - self._shift) / self._n)

    def __call__(self, step: int) -> EncodedStep:
        units: list[EncodedUnit] = []
        over: list[str] = []
        first, until = self.position(step), self.position(step + 1)
        for found in self._encoded(range(first, until)):
            units += found.units
            over += found.over_cutoff
        skipped = tuple(one for one in self._order.skipped if 0 <= one[0] < until)
        return EncodedStep(units, tuple(over), skipped, until)

    def _encoded(self, places: range) -> list[EncodedStep]:
        """The prompts at these places, several at once unless one is unusable: a skipped row may move later ones."""
        if self._workers is not None:
            try:
                prompts = [self._rows.prompts[self._order[place]] for place in places]
                return list(self._workers.map(self._encode, prompts))
            except ValueError:
                pass
        return [self._usable(place) for place in places]

    def _encode(self, examples: Sequence[Example]) -> EncodedStep:
        rows = self._rows
        return encode_step(rows.adapter, examples, rows.cutoff_len, too_long=rows.too_long)

    def _usable(self, place: int) -> EncodedStep:
        while True:
            examples = self._rows.prompts[self._order[place]]
            try:
                return self._encode(examples)
            except ValueError as error:
                if not all(one.on_bad == "skip" for one in examples):
                    raise
                log.warning("%s; skipped, another row takes its place (on_bad: skip)", error)
                self._order.skip(place)


def screened(adapter: Adapter, examples: Sequence[Example], cutoff_len: int | None = None) -> Screened:
    """The prompts of the examples, and which of them the model cannot read, as far as headers and texts show: images
    too thin, reserved tokens, more tokens than its context with the reply (without a `cutoff_len`, which drops those).
    Where other replies about a prompt remain, only the example is taken out of it. ValueError with file and line for
    the first where `on_bad` is error, and when there is no other."""
    prompts, too_long = by_prompt(examples), too_long_for(adapter, cutoff_len)
    found, faults = list[int](), list[str]()
    check = partial(_check, TokenCounter(adapter), adapter, cutoff_len, too_long)

    def is_usable(one: Example, known: ValueError | None) -> bool:
        try:
            if known is not None:
                raise known
            check([one])
        except ValueError as error:
            if one.on_bad != "skip":
                raise ValueError(f"{error} (set 'on_bad: skip' to skip such rows)") from None
            faults.append(str(error))
            return False
        return True

    for index, together in enumerate(prompts):
        try:
            check(together)
        except ValueError as error:
            known = error if len(together) == 1 else None
            if usable := [one for one in together if is_usable(one, known)]:
                prompts[index] = usable
            else:
                found.append(index)
    if found and len(found) == len(prompts):
        raise ValueError(f"the model can read none of the {len(prompts):,} prompts; {faults[0]}")
    if faults:
        what = f"{len(faults)} examples skipped ({len(found)} of {len(prompts)} prompts)"
        log.warning("%s, the first: %s", what, faults[0])
    return Screened(adapter, cutoff_len, prompts, found, too_long)


def _check(
    counter: TokenCounter, adapter: Adapter, cutoff_len: int | None, too_long: TooLong, examples: Sequence[Example]
) -> None:
    """ValueError for examples about one prompt that `screened` finds. Replies are encoded only where they hold reserved
    tokens, or where their bytes, as a bound of their tokens, leave the prompt no room. A prompt that continues one that
    is too long is not encoded."""
    one, context = examples[0], adapter.context_length if cutoff_len is None else sys.maxsize
    try:
        sizes = [image_size(image, sys.maxsize) for image in one.images]
        plain = not any(token in _text(example) for example in examples for token in adapter.reserved)
        if one in too_long:
            if cutoff_len is None:
                raise ValueError(f"continues a conversation of more than {context:,} tokens, the model's context")
            new = "".join([*(turn.text for turn in one.before[-2:]), one.prompt])
            if plain and not any(token in new for token in adapter.reserved if token != MARKER):
                return
        # a gold answer is written in a frame, with a key for each box
        most = max(counter.most(_text(example)) * (1 if example.gold is None else 2) + 200 for example in examples)
        room = (too_long.limit if len(one.before) > 1 else context) - most  # the cutoff is looked for in conversations
        if plain and counter.surely_fits(one.prompt, sizes, room, one.before, closed=True):
            return
        prompt, longest = counter.prompt(one.prompt, sizes, one.before), 0
        too_long.add(one, prompt.total, sum(prompt.images), prompt.opened)
        if plain and not prompt.opened and prompt.total <= context - most:
            return
        for one in examples:
            try:
                longest = max(longest, len(adapter.encode_reply(reply_of(one, prompt.frames), prompt.opened)))
            except FarTooLong:
                if cutoff_len is None:
                    raise
            if longest >= context:
                raise ValueError(f"its reply alone fills the model's context of {context:,} tokens; cut it")
            refuse_long(prompt, context - longest)
    except (ValueError, OSError) as error:
        if isinstance(error, FarTooLong) and cutoff_len is not None:
            return  # it is dropped when its turn comes
        raise ValueError(with_title(one.title, error)) from None


def _text(example: Example) -> str:
    return example.reply if example.gold is None else str(example.gold.answer)
