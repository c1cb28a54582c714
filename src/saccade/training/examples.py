"""Examples of supervised fine-tuning: where they come from, and how those about one prompt are grouped.

A file has a row per reply: `{"id", "image" or "images", "question" (with "task") or "prompt", "response", "meta"}`.
A `question` is written by its task's template, a `prompt` is the whole user turn. Any format of `saccade.data` works
too: its own replies are learned where it has some, or the gold answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from saccade.data import records
from saccade.data.config import OnBad
from saccade.data.images import large_alone, load_image
from saccade.data.kept import Kept
from saccade.data.order import EpochOrder, Skipped
from saccade.data.questions import place_pictures
from saccade.data.records import MARKER, Reading, Row
from saccade.data.sources import kept_items, reading_of, without_frames
from saccade.data.usable import refuse_unusable
from saccade.models.adapter import Adapter, EncodedPrompt, FarTooLong
from saccade.tasks import IMAGE, TASKS
from saccade.tasks.conversation import History, later_pairs, later_replies, later_turns, turns_before
from saccade.training.config import REPLIES, ExampleConfig
from saccade.types import Frame, ImageSource, Sample, Turn, with_title

log = logging.getLogger(__name__)

MOST_REPLIES = 500
"""Maximum replies of a conversation, each of which is learned with all turns before it."""


@dataclass(frozen=True, slots=True)
class Example:
    """A user turn with its images and the reply to learn."""

    id: str
    prompt: str
    """With one `<image>` marker per image."""
    images: tuple[ImageSource, ...]
    reply: str
    gold: Sample | None = None
    """Its gold answer is the reply, written when the model's frame is known; `reply` is empty then."""
    before: Sequence[Turn] = ()
    """The turns before the user's: the system's, and the history of a later turn."""
    unlearned: int = 0
    """Replies of its row that no example learns."""
    place: str = ""
    """Where its row is: `cold.jsonl:9`."""
    on_bad: OnBad = "error"
    """Whether it is skipped when it proves unusable."""
    max_pixels: int | None = None
    """Of an image, also when its turn comes."""

    @property
    def content(self) -> tuple[Any, ...]:
        """What it says, without where it is from and what its images show."""
        gold = None if self.gold is None else self.gold.content
        return self.id, len(self.images), tuple(self.before), self.prompt, self.reply, gold

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{self.place}: example {self.id!r}" if self.place else f"example {self.id!r}"


Draw = Callable[[int, int], Sequence[Example]]
"""(step from 0, n) -> examples of n prompts, any number of replies each; a pure function, so that resuming is exact."""


@dataclass(frozen=True, slots=True)
class Wording:
    """What a recipe puts around all questions."""

    template: str | None = None
    """None is each task's own."""
    system_prompt: str | None = None
    """Of rows without a system turn of their own."""


def example_items(
    config: ExampleConfig, template: str | None = None, system_prompt: str | None = None, kept: Kept | None = None
) -> Iterator[tuple[str, Example | ValueError]]:
    """The examples of an entry one by one with their places, and a ValueError in place of an invalid row. `kept`: the
    entries that are held beside it."""
    wording, kept = Wording(template, system_prompt), kept or Kept()
    for place, found in _replies(config, wording) if config.source == REPLIES else _samples(config, wording, kept):
        if isinstance(found, Example):
            found = replace(found, place=place, on_bad=config.on_bad, max_pixels=config.max_image_pixels)
        yield place, found if isinstance(found, Example) else without_frames(found)


def _samples(config: ExampleConfig, wording: Wording, kept: Kept) -> Iterator[tuple[str, Example | ValueError]]:
    for place, found in kept_items(config.samples(), kept):
        try:
            if isinstance(found, ValueError):
                raise found
            examples = _of_sample(found, config, wording)
        except ValueError as error:
            yield place, error
        else:
            yield from ((place, one) for one in examples)


def _of_sample(sample: Sample, config: ExampleConfig, wording: Wording) -> list[Example]:
    """One example per reply that is learned; those of later turns have the history before them."""
    task = TASKS.get(sample.task)
    if task is None:
        raise ValueError(f"field 'task': got {sample.task!r}, expected one of {', '.join(TASKS)}")
    later, unlearned = later_pairs(sample), later_replies(sample)
    if len(later) >= MOST_REPLIES:
        raise ValueError(f"the conversation has {len(later) + 1:,} replies, expected {MOST_REPLIES:,} at most; cut it")
    if blank := [number for number, (_, reply) in enumerate(later, 2) if not reply.text.strip()]:
        raise ValueError(f"reply {blank[0]} of the conversation is empty; expected the reply to learn")
    first = replace(sample, images=sample.images[: len(sample.images) - markers(later_turns(sample))])
    asked = replace(first, meta={key: value for key, value in sample.meta.items() if key != "turns"})
    prompt, before = task.prompt(asked, wording.template), turns_before(sample, wording.system_prompt)
    if config.reply == "gold":
        return [Example(sample.id, prompt, asked.images, "", asked, before, unlearned)]
    response = sample.meta.get("response")
    if not isinstance(response, str) or not response.strip():
        raise ValueError("the row holds no reply to learn; give 'reply: gold' to learn its gold answer")
    found, shown, turns = [Example(sample.id, prompt, asked.images, response, None, before)], markers(before), [*before]
    for number, (question, reply) in enumerate(later, 2):
        turns += (Turn("user", found[-1].prompt), Turn("assistant", found[-1].reply))
        shown += markers(turns[-2:])
        images = sample.images[: shown + markers([question])]
        before = History(turns, len(turns))
        found.append(Example(f"{sample.id}#{number}", question.text, images, reply.text, None, before))
    kept = found if config.turns == "all" else found[-1:]
    return [replace(kept[0], unlearned=1 + unlearned - len(kept)), *kept[1:]]


def markers(turns: Sequence[Turn]) -> int:
    """Images of the turns."""
    return sum(turn.text.count(IMAGE) for turn in turns)


def _replies(config: ExampleConfig, wording: Wording) -> Iterator[tuple[str, Example | ValueError]]:
    assert config.path is not None  # ExampleConfig checks it
    reading, left = reading_of(config.files()), config.limit
    for place, row in records.jsonl_rows(config.path):
        try:
            if isinstance(row, ValueError):
                raise row
            found: Example | ValueError = _reply(row, place, reading, wording)
        except ValueError as error:
            found = error
        except records.BROKEN as error:
            found = ValueError(f"the row cannot be read ({type(error).__name__}: {records.shown(str(error))})")
        yield place, found
        if left is not None and isinstance(found, Example):
            left -= 1
            if not left:
                return


def _reply(row: Row, place: str, reading: Reading, wording: Wording) -> Example:
    names = row.get("images") if "images" in row else records.field(row, "image", (str, list, dict, bytes, type(None)))
    images = records.images_of(names, reading) if names else ()
    reply = records.field(row, "response", str)
    if not reply.strip():
        raise ValueError("field 'response' is empty; expected the reply to learn")
    sample_id, meta = str(row.get("id", place)), records.field(row, "meta", dict) if row.get("meta") else {}
    meta |= {"system": row["system"]} if row.get("system") else {}
    around = Sample(sample_id, (), "", None, "", meta)
    before, unlearned = turns_before(around, wording.system_prompt), later_replies(around)
    asked = records.field(row, "prompt" if "prompt" in row else "question", str)
    records.refuse_unsupported(row, asked)
    refuse_unusable(Sample(sample_id, images, f"{asked}{reply}", row.get("answer"), "", meta))
    question, _ = place_pictures(asked, images=len(images))
    if "prompt" in row:
        prompt = question if MARKER in question else MARKER * len(images) + question
        return Example(sample_id, prompt, images, reply, None, before, unlearned)
    task = records.field(row, "task", str)
    if task not in TASKS:
        raise ValueError(f"field 'task': got {task!r}, expected one of {', '.join(TASKS)} (or give a 'prompt')")
    sample = Sample(sample_id, images, question, row.get("answer"), task, meta)
    prompt = TASKS[task].prompt(sample, wording.template)
    return Example(sample_id, prompt, images, reply, None, before, unlearned)


def read_examples(
    config: ExampleConfig, template: str | None = None, system_prompt: str | None = None, kept: Kept | None = None
) -> list[Example]:
    """The examples of an entry. ValueError with file and line for an invalid row that is not to be skipped, or when
    there are no rows.

    Logs how many replies of conversations are not learned.
    """
    examples: list[Example] = []
    skipped, why = 0, ""
    for place, found in example_items(config, template, system_prompt, kept):
        if isinstance(found, Example):
            examples.append(found)
        elif config.on_bad == "skip":
            skipped, why = skipped + 1, why or f"{place}: {found}"
        else:
            raise ValueError(f"{place}: {found}") from found
    first = f" ({skipped} skipped, the first: {why})" if skipped else ""
    if not examples:
        raise ValueError(f"{config.title}: holds no examples{first}")
    if skipped:
        log.warning("%s: %d examples%s", config.title, len(examples), first)
    if lost := sum(one.unlearned for one in examples):
        log.warning("%s: %d replies of conversations are not learned, %d are", config.title, lost, len(examples))
    return examples


@dataclass(slots=True)
class TooLong:
    """The prompts of conversations that are longer than a limit, so that what continues them need not be encoded."""

    limit: int
    found: dict[str, tuple[Example, int, str]] = field(default_factory=dict)
    """Place of a row -> such a prompt of it, its tokens without those of images, and what it has opened."""

    def add(self, one: Example, tokens: int, visual: int, opened: str) -> None:
        """Notes a prompt with its `tokens`, of which `visual` are of images."""
        known, texts, _ = self.found.get(one.place, (one, 0, ""))
        better = texts <= self.limit or len(one.before) < len(known.before)
        if tokens > self.limit and better and one.place:
            self.found[one.place] = (one, tokens - visual, opened)

    def __contains__(self, one: Example) -> bool:
        """Whether a prompt begins with one that is too long. Images may have fewer tokens where there are more."""
        first, texts, _ = self.found.get(one.place, (one, 0, ""))
        turns = len(first.before)
        return (
            turns < len(one.before)
            and (texts > self.limit or len(first.images) == len(one.images))
            and one.before[turns].text == first.prompt
            and one.before[:turns] == first.before
        )


def by_prompt(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples about the same images with the same prompt together, in order of first appearance."""
    found: dict[Hashable, list[Example]] = {}
    for example in examples:
        images = tuple(source if isinstance(source, str | bytes) else id(source) for source in example.images)
        found.setdefault((example.before, example.prompt, images), []).append(example)
    return list(found.values())


def order_of(prompts: int, seed: int, skipped: Iterable[Sequence[int]] = ()) -> EpochOrder:
    """A new seeded order of the prompts each epoch."""

    def permutation(epoch: int) -> list[int]:
        places = list(range(prompts))
        Random(f"{seed}/{epoch}").shuffle(places)
        return places

    return EpochOrder(prompts, permutation, skipped)


def draw_from(examples: Sequence[Example], seed: int) -> tuple[Draw, int]:
    """A draw that walks over the prompts in a new seeded order each epoch, and the number of prompts."""
    prompts = by_prompt(examples)
    order = order_of(len(prompts), seed)

    def draw(step: int, n: int) -> list[Example]:
        return [example for place in range(step * n, step * n + n) for example in prompts[order[place]]]

    return draw, len(prompts)


def reply_of(example: Example, frames: Sequence[Frame]) -> str:
    """The reply to learn; a gold answer is written in the model's frames. ValueError when its task cannot
    write it."""
    return example.reply if example.gold is None else TASKS[example.gold.task].write_gold(example.gold, frames)


@dataclass(frozen=True, slots=True)
class EncodedUnit:
    """One prompt with the token ids of all replies about it; they share a packed row."""

    prompt: EncodedPrompt
    replies: tuple[tuple[int, ...], ...]

    @property
    def reply_tokens(self) -> int:
        return sum(len(reply) for reply in self.replies)


@dataclass(frozen=True, slots=True)
class EncodedStep:
    """What a step learns from, and what was too long for it."""

    units: list[EncodedUnit]
    over_cutoff: tuple[str, ...] = ()
    """Ids of the examples that were skipped; nothing is ever truncated."""
    skipped: tuple[Skipped, ...] = ()
    """Unusable prompts up to this step."""
    position: int | None = None
    """Draws from the rows up to this step, with those of it; None for examples of a caller's function."""


def encode_step(
    adapter: Adapter,
    examples: Sequence[Example],
    cutoff_len: int | None = None,
    workers: Executor | None = None,
    too_long: TooLong | None = None,
) -> EncodedStep:
    """Reads the images and encodes, with `workers` several prompts at once. An example of more than `cutoff_len`
    tokens, prompt, images and reply together, is skipped; so is a prompt with no remaining reply. Errors name the
    example."""
    encode = partial(_encode_unit, adapter, cutoff_len, too_long or too_long_for(adapter, cutoff_len))
    groups = by_prompt(examples)
    found = list(map(encode, groups) if workers is None else workers.map(encode, groups))
    units = [unit for unit, _ in found if unit is not None and unit.replies]
    return EncodedStep(units, tuple(one for _, over in found for one in over))


def too_long_for(adapter: Adapter, cutoff_len: int | None) -> TooLong:
    """For prompts beyond the cutoff, or without one beyond the model's context."""
    return TooLong(adapter.context_length if cutoff_len is None else cutoff_len)


def encode_usable(
    adapter: Adapter,
    examples: Sequence[Example],
    cutoff_len: int | None = None,
    skip: bool = False,
    too_long: TooLong | None = None,
) -> EncodedStep:
    """As `encode_step`, without the prompts that prove unusable and may be skipped, with `skip` any; they are
    logged."""
    units: list[EncodedUnit] = []
    over: list[str] = []
    for together in by_prompt(examples):
        try:
            found = encode_step(adapter, together, cutoff_len, too_long=too_long)
        except ValueError as error:
            if not skip and not all(one.on_bad == "skip" for one in together):
                raise
            log.warning("%s; skipped", error)
            continue
        units, over = [*units, *found.units], [*over, *found.over_cutoff]
    return EncodedStep(units, tuple(over))


def _encode_unit(
    adapter: Adapter, cutoff_len: int | None, too_long: TooLong, together: Sequence[Example]
) -> tuple[EncodedUnit | None, tuple[str, ...]]:
    """The examples about one prompt, and the ids of those that are too long; None where this is known before."""
    replies, over, one = [], [], together[0]
    try:
        with large_alone(one.images):
            images = [load_image(source, one.max_pixels) for source in one.images]
            if one in too_long:
                if cutoff_len is None:
                    raise ValueError(
                        f"continues a conversation of more than {too_long.limit:,} tokens, the model's context; set "
                        "cutoff_len to leave such examples out"
                    )
                for one in together:  # refuses what the model cannot learn
                    adapter.encode_reply(one.reply, too_long.found[one.place][2])
                return None, tuple(one.id for one in together)
            prompt = adapter.encode(one.prompt, images, before=one.before)
            del images
        visual = sum(int((prompt.ids_P == image_id).sum()) for image_id in adapter.image_ids)
        too_long.add(one, len(prompt), visual, prompt.opened)
        for one in together:
            try:
                reply = tuple(adapter.encode_reply(reply_of(one, prompt.frames), prompt.opened))
            except FarTooLong:
                if cutoff_len is None:
                    raise
                over.append(one.id)
                continue
            if cutoff_len is not None and len(prompt) + len(reply) > cutoff_len:
                over.append(one.id)
            elif cutoff_len is None and len(prompt) + len(reply) > adapter.context_length:
                raise ValueError(
                    f"has {len(prompt) + len(reply):,} tokens, the model's context holds {adapter.context_length:,}; "
                    "set cutoff_len to leave such examples out"
                )
            else:
                replies.append(reply)
    except (ValueError, OSError) as error:
        if isinstance(error, FarTooLong) and cutoff_len is not None:
            return None, tuple(one.id for one in together)
        raise ValueError(with_title(one.title, error)) from error
    return EncodedUnit(prompt, tuple(replies)), tuple(over)
