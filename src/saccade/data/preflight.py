"""Preflight: reads a data set once, before a run, and reports its problems."""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, Protocol

from saccade.data.fingerprints import Fingerprint, PictureIndex, fingerprint, key_of, text_key
from saccade.data.images import ImageError
from saccade.data.records import MARKER, Item, kind_of, shown
from saccade.data.row_checks import BoxUnits, check_boxes, check_form, check_gold, check_size, check_words
from saccade.data.usable import weight_of
from saccade.faults import Faults
from saccade.rewards import check_row
from saccade.rewards.row_reward import ROW_METHOD, ROW_REWARD
from saccade.tasks import TASKS
from saccade.tasks.conversation import later_replies, turns_before
from saccade.types import Frame, ImageSource, Sample, Turn

PLACEHOLDERS = (
    *("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"),
    *("<IMG_CONTEXT>", "<|image|>", "<|video|>", "<image_soft_token>", "<start_of_image>", "<video>", "<|endoftext|>"),
)
"""Tokens that a model family would parse as an image or as the end of a turn; those of the model are added."""
MOST_GOLDS = 1 << 18
"""Golds that are kept as right, 60 bytes each."""
PREFETCH, MOST_HELD = 64, 128 << 20
"""Samples whose pictures are opened in advance, and about their bytes in memory."""
DataRole = Literal["train", "eval"]


class PromptCost(Protocol):
    """Token counts of a prompt; `saccade.models.counting.Tokens` implements it."""

    @property
    def total(self) -> int: ...
    @property
    def images(self) -> tuple[int, ...]: ...
    @property
    def frames(self) -> tuple[Frame, ...]: ...
    @property
    def opened(self) -> str: ...


class TokenCounting(Protocol):
    """Counts tokens as a model would; `saccade.models.counting.TokenCounter` implements it. ValueError for input that
    the model cannot read."""

    def prompt(self, text: str, sizes: Sequence[tuple[int, int]], before: Sequence[Turn] = ()) -> PromptCost:
        """Tokens of the user turn with images of these sizes, after the turns `before` it."""
        ...

    def reply(self, text: str, opened: str = "") -> int:
        """Tokens of a reply including the end of its turn."""
        ...

    def read_back(self, text: str, opened: str = "") -> str:
        """A reply as rewards would read it if the model sampled exactly its tokens."""
        ...


@dataclass(frozen=True)
class PreflightEntry:
    """A unit of checking: a sample, or the texts of a supervised fine-tuning row."""

    place: str
    sample: Sample | ValueError
    split: DataRole = "train"
    prompt: str | None = None
    """The user turn; None: as written by the sample's task."""
    source: str = ""
    """Ids must be unique within a source."""
    reply: str | None = None
    """A reply to train on. Such a row has no gold answer to check."""
    before: Sequence[Turn] | None = None
    """The turns before the user's; None: the system turn of the sample or the recipe."""
    unlearned: int = 0
    """Replies of its row that are not learned."""


@dataclass(frozen=True)
class PreflightReport:
    """Result of preflight: `counts` by kind, the first `findings` as messages, and `notes` that are no faults."""

    samples: int
    counts: dict[str, int]
    findings: tuple[str, ...]
    hidden: int = 0
    """Faults that are in none of the `findings`."""
    notes: dict[str, int] = field(default_factory=dict)
    prompt_tokens: Counter[int] = field(default_factory=Counter)
    """Length -> number of prompts, if tokens were counted."""
    image_tokens: Counter[int] = field(default_factory=Counter)
    """Visual tokens -> number of images."""
    visual_tokens: Counter[int] = field(default_factory=Counter)
    """Visual tokens over all images of a prompt -> number of prompts."""
    reply_tokens: Counter[int] = field(default_factory=Counter)
    """Length -> number of replies to train on."""
    tasks: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return not self.counts


def preflight(
    entries: Iterable[Sample | Item | PreflightEntry],
    count: TokenCounting | None = None,
    budget: int | None = None,
    *,
    template: str | None = None,
    system_prompt: str | None = None,
    reserved: Sequence[str] = (),
    keep: int = 20,
) -> PreflightReport:
    """Checks rows, ids, images, boxes, gold answers, placeholders, duplicates, the overlap of training with evaluation
    and, with `count` and `budget`, the length of prompts.

    Streams the data: about 500 bytes are kept per row (hashes of id and content), 400 per evaluation picture.
    Evaluation entries must come first, since training rows are compared with them. At most `keep` `findings` are
    returned, from all kinds in turn.
    """
    words = tuple(dict.fromkeys((*PLACEHOLDERS, *reserved)))
    checks = PreflightChecks(count, budget, template, words, keep, system_prompt)
    for entry, fingerprints in prefetch_fingerprints(map(_entry, entries), checks.fingerprint_of):
        checks.add(entry, fingerprints)
    return checks.report()


def _entry(given: Sample | Item | PreflightEntry) -> PreflightEntry:
    if isinstance(given, PreflightEntry):
        return given
    if isinstance(given, Sample):
        return PreflightEntry(str(given.meta.get("place", given.id))[:200], given)
    return PreflightEntry(*given)


def prefetch_fingerprints(
    entries: Iterable[PreflightEntry], fingerprint_of: Callable[[ImageSource], Fingerprint | ImageError]
) -> Iterator[tuple[PreflightEntry, list[Fingerprint | ImageError]]]:
    """Entries in order with the fingerprints of their pictures, computed in advance by threads."""
    waiting: deque[tuple[PreflightEntry, list[Future[Fingerprint | ImageError]], int]] = deque()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="look") as pool:
        try:
            for entry in entries:
                one = entry.sample
                images, content = (one.images, (one.meta, one.answer)) if isinstance(one, Sample) else ((), ())
                weight = weight_of((images, content))
                waiting.append((entry, [pool.submit(fingerprint_of, source) for source in images], weight))
                while len(waiting) > PREFETCH or (waiting and sum(weight for *_, weight in waiting) > MOST_HELD):
                    first, fingerprints, _ = waiting.popleft()
                    yield first, [one.result() for one in fingerprints]
            while waiting:
                first, fingerprints, _ = waiting.popleft()
                yield first, [one.result() for one in fingerprints]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class PreflightChecks:
    """The state of a preflight: rows seen and problems found."""

    count: TokenCounting | None
    budget: int | None
    template: str | None
    reserved: tuple[str, ...]
    keep: int
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        self._samples = 0
        self._counts, self._notes = Counter[str](), Counter[str]()
        self._findings: defaultdict[str, Faults] = defaultdict(lambda: Faults(self.keep))
        self._units = BoxUnits()
        self._ids: set[int] = set()
        self._rows: dict[DataRole, dict[int, str]] = {"train": {}, "eval": {}}
        self._golds: dict[int, int] = {}
        self._right_golds: set[int] = set()
        self._pictured: defaultdict[str, Counter[bool]] = defaultdict(Counter)
        self._eval_texts: dict[int, str] = {}
        self._eval_pictures = PictureIndex()
        self._near = lru_cache(maxsize=1 << 14)(self._eval_pictures.find)
        self._cached = lru_cache(maxsize=1 << 12)(_opened)
        self._tokens, self._visual, self._images = Counter[int](), Counter[int](), Counter[int]()
        self._replies, self._tasks = Counter[int](), Counter[str]()

    def fingerprint_of(self, source: ImageSource) -> Fingerprint | ImageError:
        """The fingerprint of a picture, or its error. Files are cached, since neighboring rows share them."""
        return self._cached(source) if isinstance(source, str) else _opened(source)

    def add(self, entry: PreflightEntry, fingerprints: Sequence[Fingerprint | ImageError]) -> None:
        """Checks one entry, given the fingerprints of its pictures."""
        self._samples += 1
        for kind, text in self._check(entry, fingerprints):
            self._found(entry.place, kind, text)

    def _found(self, place: str, kind: str, text: str) -> None:
        """Counts a fault; rows with the same one, but for numbers and quoted texts, become one finding."""
        self._counts[kind] += 1
        self._findings[kind].add(place, text)

    def report(self) -> PreflightReport:
        """The result so far, with up to `keep` findings from all kinds in turn."""
        for source, (kind, text) in self._units.faults():
            self._found(source, kind, text)
        self._units = BoxUnits()
        bare = sum(rows[False] for rows in self._pictured.values() if rows[True])
        self._notes["rows without an image, among rows with one"] = bare
        kinds = [list(findings) for findings in self._findings.values()]
        most = min(self.keep, max(map(len, kinds), default=0))
        found = [kept[number] for number in range(most) for kept in kinds if number < len(kept)][: self.keep]
        return PreflightReport(
            samples=self._samples,
            counts=dict(self._counts),
            findings=tuple(map(str, found)),
            hidden=sum(self._counts.values()) - sum(one.count for one in found),
            notes={text: number for text, number in self._notes.items() if number},
            prompt_tokens=self._tokens,
            image_tokens=self._images,
            visual_tokens=self._visual,
            reply_tokens=self._replies,
            tasks=self._tasks,
        )

    def _check(
        self, entry: PreflightEntry, fingerprints: Sequence[Fingerprint | ImageError]
    ) -> Iterator[tuple[str, str]]:
        """(kind, message) of each problem of an entry."""
        sample = entry.sample
        if isinstance(sample, ValueError):
            yield kind_of(sample), str(sample)
            return
        self._tasks[sample.task] += 1
        self._pictured[entry.source][bool(sample.images)] += 1
        yield from self._check_id(entry, sample.id)
        if entry.reply is None and sample.task not in TASKS:
            yield "task", f"unknown task {shown(sample.task)}; expected one of {', '.join(TASKS)}"
            return
        try:
            check_row(sample)
        except ValueError as error:
            yield "reward", str(error).removeprefix(f"{entry.place}: ")
            return
        options = sample.meta.get("options")
        if options is not None and not isinstance(options, list | tuple):
            yield "row", f"meta.options is {shown(options)}, expected a list of texts"
            return
        if broken := [one for one in fingerprints if isinstance(one, ImageError)]:
            yield from (("image", str(error)) for error in broken)
            return
        pictures = [one for one in fingerprints if isinstance(one, Fingerprint)]
        self._notes["animations, of which the first frame is used"] += any(p.animated for p in pictures)
        try:
            entry = replace(entry, before=self._turns_before(entry, sample))
        except ValueError as error:
            yield "row", str(error)
            return
        sizes = [picture.size for picture in pictures]
        yield from check_size(sample, sizes)
        yield from check_words(sample, _texts(entry, sample), self.reserved)
        frames = tuple(Frame("pixels_original", picture.size, picture.size) for picture in pictures)
        counted = yield from self._check_length(entry, sample, sizes)
        if entry.reply is None:
            self._units.add(entry.source, sample, sizes)
            outside = list(check_boxes(sample, sizes))
            yield from outside
            wrong_form = list(check_form(sample))
            yield from wrong_form
            if not wrong_form:
                frames = counted.frames if counted is not None and not outside else frames
                yield from self._check_gold(sample, frames, counted)
        yield from self._check_repeats(entry, sample, pictures)

    def _check_id(self, entry: PreflightEntry, name: str) -> Iterator[tuple[str, str]]:
        key = key_of(entry.split, entry.source, name)
        if key in self._ids:
            yield "duplicate id", f"id {shown(name)} was used before"
        self._ids.add(key)

    def _turns_before(self, entry: PreflightEntry, sample: Sample) -> Sequence[Turn]:
        """The turns before the entry's question, noting those of the conversation that are not used or learned."""
        unused = entry.unlearned if entry.reply is not None else later_replies(sample)
        self._notes["replies of later turns, which are not learned"] += entry.unlearned
        self._notes["replies of later turns, which are not used: only the first question is asked"] += (
            unused - entry.unlearned
        )
        if entry.before is not None:
            return entry.before
        self._notes["system turns of rows, which replace system_prompt"] += bool(self.system_prompt) and bool(
            turns_before(sample)
        )
        return turns_before(sample, self.system_prompt)

    def _check_gold(
        self, sample: Sample, frames: tuple[Frame, ...], counted: PromptCost | None
    ) -> Iterator[tuple[str, str]]:
        """See `check_gold`; a gold that was right once is so in another row of the same task with the same options."""
        key = None
        if (
            isinstance(sample.answer, str | int | float)
            and ROW_REWARD not in sample.meta
            and ROW_METHOD not in sample.meta
        ):
            opened = "" if counted is None else counted.opened
            key = key_of(sample.task, type(sample.answer).__name__, sample.answer, sample.meta.get("options"), opened)
        if key is not None and key in self._right_golds:
            return
        faults = list(check_gold(sample, frames, self._reader(counted)))
        if key is not None and not faults and len(self._right_golds) < MOST_GOLDS:
            self._right_golds.add(key)
        yield from faults

    def _reader(self, counted: PromptCost | None) -> Callable[[str], str] | None:
        """A reply -> what rewards read if the model samples its tokens after this prompt; None without a model."""
        count = self.count
        return None if count is None or counted is None else lambda reply: count.read_back(reply, counted.opened)

    def _check_length(
        self, entry: PreflightEntry, sample: Sample, sizes: Sequence[tuple[int, int]]
    ) -> Generator[tuple[str, str], None, PromptCost | None]:
        """Compares the tokens of a prompt with the budget; returns the counts."""
        try:
            prompt = entry.prompt if entry.prompt is not None else TASKS[sample.task].prompt(sample, self.template)
            counted = None if self.count is None else self.count.prompt(prompt, sizes, entry.before or ())
            opened = "" if counted is None else counted.opened
            reply = 0 if self.count is None or entry.reply is None else self.count.reply(entry.reply, opened)
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

    def _check_repeats(
        self, entry: PreflightEntry, sample: Sample, pictures: Sequence[Fingerprint]
    ) -> Iterator[tuple[str, str]]:
        """Duplicate rows, and training rows that are in the evaluation."""
        asked = sample.question if entry.prompt is None else entry.prompt
        history = [turn.text for turn in entry.before or () if turn.role != "system"]
        text = text_key(replace(sample, question="\n".join([*history, asked])))
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

    def _check_overlap(self, text: int, pictures: Sequence[Fingerprint]) -> Iterator[tuple[str, str]]:
        if not self._eval_texts:
            return
        seen = [self._near(picture) for picture in pictures]
        question_place = self._eval_texts.get(text)
        if pictures and all(seen) and question_place is not None:
            yield "in the evaluation", f"the same question about the same picture is in {seen[0][0]}"
        elif any(seen):
            place = next(names[0] for names in seen if names)
            yield "picture of the evaluation", f"shows a picture of the evaluation: {place}"
        elif question_place is not None and not pictures:
            yield "in the evaluation", f"the same question is in {question_place}"
        elif question_place is not None:
            self._notes["questions of the evaluation about other pictures"] += 1


def _texts(entry: PreflightEntry, sample: Sample) -> list[str]:
    """The texts of an entry that should be plain, the question first."""
    options = sample.meta.get("options") or ()
    texts = [sample.question if entry.prompt is None else entry.prompt, *map(str, options)]
    texts += [text for text in (entry.reply, sample.answer) if isinstance(text, str)]
    return texts + [turn.text.replace(MARKER, "") for turn in entry.before or ()]


def _opened(source: ImageSource) -> Fingerprint | ImageError:
    try:
        return fingerprint(source)
    except ImageError as error:
        return error
