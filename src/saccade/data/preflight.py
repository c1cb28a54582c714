"""Preflight: reads a data set once, before a run, and says what is not right with it."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, Literal, Protocol

from saccade.data.fingerprints import Look, Pictures, key_of, look, text_key
from saccade.data.images import ImageError
from saccade.data.records import MARKER, Item, kind_of, shown
from saccade.rewards import Rubric
from saccade.tasks import TASKS
from saccade.types import Box, Completion, Frame, ImageSource, Sample

RUBRICS = ("hard", "default")
"""Of each task: the one that gives 1 only when format and answer are both right, and the one that RL maximises."""
PLACEHOLDERS = (
    *("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"),
    *("<IMG_CONTEXT>", "<|image|>", "<|video|>", "<image_soft_token>", "<start_of_image>", "<video>", "<|endoftext|>"),
)
"""Tokens of families by which text would be taken for an image or for the end of a turn; a model's own are added."""
ROUNDING = 1e-9
"""Of a sum of weights."""
SLACK = 0.5
"""Pixels that a box may lie outside of its image: rounding."""
AHEAD = 64
"""Samples whose pictures are opened before their turn comes."""
Split = Literal["train", "eval"]


class Counted(Protocol):
    """What a prompt costs; `saccade.models.counting.Tokens` is one."""

    @property
    def total(self) -> int: ...
    @property
    def images(self) -> tuple[int, ...]: ...
    @property
    def frames(self) -> tuple[Frame, ...]: ...


class Counting(Protocol):
    """Counts tokens as a model would; `saccade.models.counting.TokenCounter` does. ValueError for what the model cannot
    read."""

    def prompt(self, text: str, sizes: Sequence[tuple[int, int]]) -> Counted:
        """Of the user's turn with images of these sizes."""
        ...

    def reply(self, text: str) -> int:
        """Of a reply with the end of its turn."""
        ...


@dataclass(frozen=True)
class Entry:
    """What is checked as one: a sample, or the words of a row of supervised fine-tuning."""

    place: str
    sample: Sample | ValueError
    split: Split = "train"
    prompt: str | None = None
    """The user's turn; None: as the sample's task writes it."""
    source: str = ""
    """Ids have to differ within one."""
    reply: str | None = None
    """A reply to learn. Such a row has no gold answer to be held to."""


@dataclass(frozen=True)
class Report:
    """What preflight found; `counts` by kind, `findings` the first of them in words, `notes` what is no fault."""

    samples: int
    counts: dict[str, int]
    findings: tuple[str, ...]
    notes: dict[str, int] = field(default_factory=dict)
    prompt_tokens: Counter[int] = field(default_factory=Counter)
    """Length -> prompts, when tokens were counted."""
    image_tokens: Counter[int] = field(default_factory=Counter)
    """Visual tokens -> images."""
    visual_tokens: Counter[int] = field(default_factory=Counter)
    """Visual tokens -> prompts, all images of each together."""
    reply_tokens: Counter[int] = field(default_factory=Counter)
    """Length -> replies to learn."""
    tasks: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return not self.counts


def preflight(
    entries: Iterable[Sample | Item | Entry],
    count: Counting | None = None,
    budget: int | None = None,
    *,
    template: str | None = None,
    reserved: Sequence[str] = (),
    keep: int = 20,
) -> Report:
    """Checks rows, ids, images, boxes, golds, placeholders, duplicates, the overlap of training with evaluation and,
    with `count` and `budget`, the length of prompts.

    Streams: of each row some 500 bytes are kept (hashes of id and content), of each picture of an evaluation 400.
    Entries of evaluation must come first, since what trains is held against them. `findings` are `keep` at
    most, of every kind some.
    """
    checks = Checks(count, budget, template, tuple(dict.fromkeys((*PLACEHOLDERS, *reserved))), keep)
    for entry, looks in looked_ahead(map(_entry, entries), checks.opened):
        checks.add(entry, looks)
    return checks.report()


def _entry(given: Sample | Item | Entry) -> Entry:
    if isinstance(given, Entry):
        return given
    if isinstance(given, Sample):
        return Entry(str(given.meta.get("place", given.id)), given)
    return Entry(*given)


def looked_ahead(
    entries: Iterable[Entry], opened: Callable[[ImageSource], Look | ImageError]
) -> Iterator[tuple[Entry, list[Look | ImageError]]]:
    """Entries in order with their pictures, which threads open before their turn comes."""
    waiting: deque[tuple[Entry, list[Future[Look | ImageError]]]] = deque()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="look") as pool:
        try:
            for entry in entries:
                images = entry.sample.images if isinstance(entry.sample, Sample) else ()
                waiting.append((entry, [pool.submit(opened, source) for source in images]))
                if len(waiting) > AHEAD:
                    first, looks = waiting.popleft()
                    yield first, [one.result() for one in looks]
            while waiting:
                first, looks = waiting.popleft()
                yield first, [one.result() for one in looks]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Checks:
    """The state of a preflight: what was seen and what was found."""

    count: Counting | None
    budget: int | None
    template: str | None
    reserved: tuple[str, ...]
    keep: int

    def __post_init__(self) -> None:
        self._samples = 0
        self._counts, self._notes = Counter[str](), Counter[str]()
        self._findings: dict[str, list[str]] = {}
        self._ids: set[int] = set()
        self._rows: dict[Split, dict[int, str]] = {"train": {}, "eval": {}}
        self._golds: dict[int, int] = {}
        self._eval_texts: dict[int, str] = {}
        self._eval_pictures = Pictures()
        self._near = lru_cache(maxsize=1 << 14)(self._eval_pictures.find)
        self._cached = lru_cache(maxsize=1 << 12)(_opened)
        self._tokens, self._visual, self._images = Counter[int](), Counter[int](), Counter[int]()
        self._replies, self._tasks = Counter[int](), Counter[str]()

    def opened(self, source: ImageSource) -> Look | ImageError:
        """A picture, or why it does not open. Files are remembered for a while: neighbouring rows share them."""
        return self._cached(source) if isinstance(source, str) else _opened(source)

    def add(self, entry: Entry, looks: Sequence[Look | ImageError]) -> None:
        """Checks one entry, whose pictures were opened."""
        self._samples += 1
        for kind, text in self._check(entry, looks):
            self._counts[kind] += 1
            kept = self._findings.setdefault(kind, [])
            if len(kept) < self.keep:
                kept.append(f"{entry.place}: {text}")

    def report(self) -> Report:
        """What was found so far; findings of all kinds in turn, until `keep` are told."""
        told: list[str] = []
        for number in range(self.keep):
            told += [kept[number] for kept in self._findings.values() if number < len(kept)]
        return Report(
            samples=self._samples,
            counts=dict(self._counts),
            findings=tuple(told[: self.keep]),
            notes={text: number for text, number in self._notes.items() if number},
            prompt_tokens=self._tokens,
            image_tokens=self._images,
            visual_tokens=self._visual,
            reply_tokens=self._replies,
            tasks=self._tasks,
        )

    def _check(self, entry: Entry, looks: Sequence[Look | ImageError]) -> Iterator[tuple[str, str]]:
        """(kind, text) of what is wrong with one entry."""
        sample = entry.sample
        if isinstance(sample, ValueError):
            yield kind_of(sample), str(sample)
            return
        self._tasks[sample.task] += 1
        yield from self._check_id(entry, sample.id)
        if entry.reply is None and sample.task not in TASKS:
            yield "task", f"unknown task {sample.task!r}; expected one of {', '.join(TASKS)}"
            return
        options = sample.meta.get("options")
        if options is not None and not isinstance(options, list | tuple):
            yield "row", f"meta.options is {shown(options)}, expected a list of texts"
            return
        if broken := [one for one in looks if isinstance(one, ImageError)]:
            yield from (("image", str(error)) for error in broken)
            return
        pictures = [one for one in looks if isinstance(one, Look)]
        self._notes["animations, of which the first frame is used"] += any(p.frames > 1 for p in pictures)
        yield from self._check_words(entry, sample)
        frames = tuple(Frame("pixels_original", picture.size, picture.size) for picture in pictures)
        counted = yield from self._check_length(entry, sample, [picture.size for picture in pictures])
        if entry.reply is None:
            outside = list(_check_boxes(sample, [picture.size for picture in pictures]))
            yield from outside
            yield from _check_gold(sample, counted.frames if counted is not None and not outside else frames)
        yield from self._check_repeats(entry, sample, pictures)

    def _check_id(self, entry: Entry, name: str) -> Iterator[tuple[str, str]]:
        key = key_of(entry.split, entry.source, name)
        if key in self._ids:
            yield "duplicate id", f"id {name!r} was used before"
        self._ids.add(key)

    def _check_words(self, entry: Entry, sample: Sample) -> Iterator[tuple[str, str]]:
        """Placeholder tokens where plain text should stand."""
        options = sample.meta.get("options") or ()
        texts = [sample.question if entry.prompt is None else entry.prompt, *map(str, options)]
        texts += [text for text in (entry.reply, sample.answer) if isinstance(text, str)]
        found = [token for token in self.reserved if token != MARKER and any(token in text for text in texts)]
        found += [MARKER for text in texts[1:] if MARKER in text][:1]
        for token in found:
            yield "placeholder", f"the text holds {token}, which models read as an image or a turn; remove it"

    def _check_length(
        self, entry: Entry, sample: Sample, sizes: Sequence[tuple[int, int]]
    ) -> Generator[tuple[str, str], None, Counted | None]:
        """Counts the tokens of a prompt (what it returns) and holds them against the budget."""
        try:
            prompt = entry.prompt if entry.prompt is not None else TASKS[sample.task].prompt(sample, self.template)
            counted = None if self.count is None else self.count.prompt(prompt, sizes)
            reply = 0 if self.count is None or entry.reply is None else self.count.reply(entry.reply)
        except (ValueError, OSError) as error:
            yield "prompt", f"the prompt cannot be written or read: {error}"
            return None
        if counted is not None:
            self._tokens[counted.total] += 1
            self._visual[sum(counted.images)] += 1
            self._images.update(counted.images)
            if reply:
                self._replies[reply] += 1
            if self.budget is not None and counted.total + reply > self.budget:
                text = f"the prompt has {counted.total:,} tokens ({sum(counted.images):,} of images)"
                text += f" and the reply {reply:,}" if reply else ""
                yield "prompt over budget", f"{text}, expected {self.budget:,} at most"
        return counted

    def _check_repeats(self, entry: Entry, sample: Sample, pictures: Sequence[Look]) -> Iterator[tuple[str, str]]:
        """Rows that were there before, and training rows that an evaluation asks."""
        text = text_key(sample if entry.prompt is None else replace(sample, question=entry.prompt))
        question = key_of(text, sample.task, *(picture.digest for picture in pictures))
        answer = key_of(sample.answer, entry.reply)
        row, rows = key_of(question, answer), self._rows[entry.split]
        if row in rows:
            yield "duplicate row", f"has the images, question and answer of {rows[row]}"
        elif entry.reply is None and self._golds.setdefault(key_of(entry.split, question), answer) != answer:
            yield "two answers", "an earlier row has the same images and question with another answer"
        rows.setdefault(row, entry.place)
        if entry.split == "eval":
            self._eval_texts.setdefault(text, entry.place)
            for picture in pictures:
                self._eval_pictures.add(picture, entry.place)
            return
        yield from self._check_overlap(text, pictures)

    def _check_overlap(self, text: int, pictures: Sequence[Look]) -> Iterator[tuple[str, str]]:
        if not self._eval_texts:
            return
        seen = [self._near(picture) for picture in pictures]
        asked = self._eval_texts.get(text)
        if pictures and all(seen) and asked is not None:
            yield "in the evaluation", f"the same question about the same picture is asked by {seen[0][0]}"
        elif any(seen):
            place = next(names[0] for names in seen if names)
            yield "picture of the evaluation", f"shows a picture that the evaluation asks about: {place}"
        elif asked is not None and not pictures:
            yield "in the evaluation", f"the same question is asked by {asked}"
        elif asked is not None:
            self._notes["questions in the words of the evaluation about other pictures"] += 1


def _opened(source: ImageSource) -> Look | ImageError:
    try:
        return look(source)
    except ImageError as error:
        return error


def _check_boxes(sample: Sample, sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Boxes outside of their image, or with their corners in the wrong order."""
    index = sample.meta.get("image_index")
    within = sizes if not isinstance(index, int) or not 0 <= index < len(sizes) else [sizes[index]]
    for box in _boxes(sample.answer):
        x1, y1, x2, y2 = box
        if x1 > x2 or y1 > y2:
            yield "box", f"box {list(box)} has x1 > x2 or y1 > y2; expected xyxy in image pixels, not xywh"
        elif x1 == x2 or y1 == y2:
            yield "box", f"box {list(box)} is empty; expected x1 < x2 and y1 < y2"
        elif not any(min(x1, y1) >= -SLACK and x2 <= w + SLACK and y2 <= h + SLACK for w, h in within):
            yield "box outside", f"box {list(box)} is not inside its image {within}; expected xyxy in original pixels"


def _check_gold(sample: Sample, frames: tuple[Frame, ...]) -> Iterator[tuple[str, str]]:
    """The law that a gold answer, written as a reply, gets full marks under its own task (and the reward that the row
    names)."""
    gold = shown(sample.answer)
    try:
        completion = Completion(TASKS[sample.task].write_gold(sample, frames), frames=frames)
        scores = {name: _rubric(sample.task, name)(completion, sample) for name in RUBRICS}
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        yield "gold", f"the gold {gold} cannot be written for task '{sample.task}': {error}"
        return
    for name, score in scores.items():
        if abs(score.value - 1) > ROUNDING:
            why = score.masked or "; ".join(f"{part}: {said}" for part, said in score.reasons.items()) or score.reason
            got = f"the gold {gold} scores {score.value:g} under its own task '{sample.task}' (rubric '{name}')"
            yield "gold", f"{got}, expected 1 ({why})"
            return


@cache
def _rubric(task: str, name: str) -> Rubric:
    return TASKS[task].rubric(name)


def _boxes(answer: Any) -> Iterator[Box]:
    """The boxes in an answer: itself, or those of a list of detections."""
    if isinstance(answer, tuple | list) and len(answer) == 4 and all(isinstance(v, int | float) for v in answer):
        yield (answer[0], answer[1], answer[2], answer[3])
    elif isinstance(answer, list):
        for item in answer:
            if isinstance(item, dict) and "bbox_2d" in item:
                yield from _boxes(item["bbox_2d"])
