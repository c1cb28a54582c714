"""The steps of supervised fine-tuning from files: encoded examples in seeded order, unusable ones skipped aloud."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any

from saccade.data.images import image_size
from saccade.models.adapter import Adapter
from saccade.models.counting import TokenCounter
from saccade.training.examples import EncodedStep, EncodedUnit, Example, by_prompt, encode_step, order_of, reply_of

log = logging.getLogger(__name__)


class ExampleFeed:
    """`feed(step)`: the encoded prompts of a step (from 0), a function of the seed and of the state of the checkpoint
    that the run continues from: its position and what was skipped before."""

    def __init__(
        self,
        adapter: Adapter,
        examples: Sequence[Example],
        seed: int,
        n: int,
        cutoff_len: int | None = None,
        state: Mapping[str, Any] | None = None,
        workers: Executor | None = None,
    ) -> None:
        """`n` prompts a step; `state` has the `step` of a checkpoint, and the `position` and `skipped` of the
        `EncodedStep` there; `workers` encode several prompts at once. Examples that the model cannot read, as far as
        headers and texts show, are skipped, or a ValueError names the first."""
        state = {"step": 0} if state is None else state
        before = int(state["step"]) * n
        self._adapter, self._n, self._cutoff_len = adapter, n, cutoff_len
        self._shift = int(state.get("position", before)) - before  # none where all steps have the same size
        self._workers = workers
        self._prompts = by_prompt(examples)
        known = [(-1, place) for place in screened(adapter, self._prompts, cutoff_len)]
        self.screened = len(known)
        self._order = order_of(len(self._prompts), seed, [*known, *state.get("skipped", ())])

    @property
    def prompts(self) -> int:
        """Usable prompts, as far as it is known before the first step."""
        return len(self._prompts) - self.screened

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
                return list(self._workers.map(self._encode, [self._prompts[self._order[place]] for place in places]))
            except ValueError:
                pass
        return [self._usable(place) for place in places]

    def _encode(self, examples: Sequence[Example]) -> EncodedStep:
        return encode_step(self._adapter, examples, self._cutoff_len)

    def _usable(self, place: int) -> EncodedStep:
        while True:
            examples = self._prompts[self._order[place]]
            try:
                return self._encode(examples)
            except ValueError as error:
                if not all(one.on_bad == "skip" for one in examples):
                    raise
                log.warning("%s; skipped, another row takes its place (on_bad: skip)", error)
                self._order.skip(place)


def screened(adapter: Adapter, prompts: list[list[Example]], cutoff_len: int | None) -> list[int]:
    """Indices of the prompts that the model cannot read: images too thin, reserved tokens, more tokens than its context
    with the reply (without a `cutoff_len`, which drops those). Where other replies about a prompt remain, only the
    example is taken out of it. ValueError with file and line for the first where `on_bad` is error, and when there is
    no other."""
    counter, found, faults = TokenCounter(adapter), list[int](), list[str]()

    def is_usable(one: Example) -> bool:
        try:
            _check(counter, adapter, [one], cutoff_len)
        except ValueError as error:
            if one.on_bad != "skip":
                raise ValueError(f"{error} (set 'on_bad: skip' to skip such rows)") from None
            faults.append(str(error))
            return False
        return True

    for index, examples in enumerate(prompts):
        try:
            _check(counter, adapter, examples, cutoff_len)
        except ValueError:
            if usable := list(filter(is_usable, examples)):
                prompts[index] = usable
            else:
                found.append(index)
    if found and len(found) == len(prompts):
        raise ValueError(f"the model can read none of the {len(prompts):,} prompts; {faults[0]}")
    if faults:
        what = f"{len(faults)} examples skipped ({len(found)} of {len(prompts)} prompts)"
        log.warning("%s, the first: %s", what, faults[0])
    return found


def _check(counter: TokenCounter, adapter: Adapter, examples: Sequence[Example], cutoff_len: int | None) -> None:
    """ValueError for examples about one prompt that `screened` finds. Replies are encoded only where they hold reserved
    tokens, or where their bytes, as a bound of their tokens, leave the prompt no room."""
    one, context = examples[0], adapter.context_length if cutoff_len is None else sys.maxsize
    try:
        sizes = [image_size(image, sys.maxsize) for image in one.images]
        fits = partial(counter.check, one.prompt, sizes, before=one.before)
        if not any(token in _text(example) for example in examples for token in adapter.reserved):
            # a gold answer is written in a frame, with a key for each box
            most = max(len(_text(example).encode()) * (1 if example.gold is None else 2) + 200 for example in examples)
            with suppress(ValueError):
                fits(room=context - most)
                return
        prompt, longest = counter.prompt(one.prompt, sizes, one.before), 0
        for one in examples:
            longest = max(longest, len(adapter.encode_reply(reply_of(one, prompt.frames), prompt.opened)))
            if longest >= context:
                raise ValueError(f"its reply alone fills the model's context of {context:,} tokens; cut it")
            fits(room=context - longest)
    except (ValueError, OSError) as error:
        raise ValueError(f"{one.title}: {error}") from None


def _text(example: Example) -> str:
    return example.reply if example.gold is None else str(example.gold.answer)
