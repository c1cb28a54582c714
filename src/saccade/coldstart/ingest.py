"""Turns samples into rows of the store, in the order of the data, a page at a time; unusable ones are counted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from saccade.coldstart.images import store_image
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.store import READING, Store
from saccade.data.config import WORLD, DataConfig
from saccade.data.records import Item, kind_of, shown
from saccade.data.sources import items
from saccade.runs.drafts import Draft
from saccade.runs.environment import content_bytes
from saccade.tasks import TASKS
from saccade.tasks.answers import ANSWER_TASKS
from saccade.types import Sample

log = logging.getLogger(__name__)
PAGE = 256
DONE, SAID = "taken_in", "said"
"""Facts of a store: whether all data has been read, and the hash of what each entry of the recipe said."""
WORDED = frozenset(task.name for task in ANSWER_TASKS)
"""Tasks with text answers. Box formats differ between model families, and a text-only reasoner cannot see boxes."""

SkippedRow = tuple[str, str, str, str]
"""(source, place, reason, detail)"""


def source_names(recipe: ColdStartRecipe) -> list[str]:
    """The source name of each data entry; duplicate names get the index of their entry."""
    names = [_name(entry) for entry in recipe.data]
    return [name if names.count(name) == 1 else f"{name}#{place}" for place, name in enumerate(names)]


def _name(entry: DataConfig) -> str:
    if entry.name is not None:
        return entry.name
    if entry.source == WORLD:
        return f"world/{entry.split or 'train'}/{entry.task}"
    return entry.path.stem if entry.path else str(entry.hub)


def ingest(recipe: ColdStartRecipe, store: Store, progress: Callable[[int], None] = lambda n: None) -> None:
    """Reads all data into the store, once, in one process while others wait. A later start names the files whose rows
    have changed since. ValueError with file and line for an invalid row unless `on_bad` is skip, and when no row is
    usable."""
    if store.fact(DONE, bool):
        _name_changes(recipe, store)
        return
    store.wait_for_lock(READING)
    try:
        if not store.fact(DONE, bool):
            _read_all(recipe, store, progress)
    finally:
        store.release_lock(READING)


def _read_all(recipe: ColdStartRecipe, store: Store, progress: Callable[[int], None]) -> None:
    store.clear()  # of a start that was stopped before it had read all; the data may have been mended since
    seen, said = 0, [hashlib.sha256() for _ in recipe.data]
    for page in _pages(_rows(recipe, store, said)):
        store.add(((key, draft) for key, draft in page if isinstance(draft, Draft)), READING)
        store.skip([draft for _, draft in page if not isinstance(draft, Draft)])
        seen += len(page)
        progress(seen)
    if not store.counts().total:
        why = ", ".join(f"{reason} {n}" for reason, n in store.reasons().items())
        raise ValueError(f"no row of the data can be used ({why or 'it is empty'})")
    store.add((), READING)  # the lock is still this process's
    store.remember(SAID, [digest.hexdigest() for digest in said])
    store.remember(DONE, True)


def _name_changes(recipe: ColdStartRecipe, store: Store) -> None:
    """Warns of each file or folder that no longer says what the store has; the rows stay as they were read."""
    before = store.fact(SAID, list) or []  # empty in a store of an earlier version
    for name, entry, hash_before in zip(source_names(recipe), recipe.data, before, strict=False):
        if entry.path is None:
            continue
        digest = hashlib.sha256()
        try:
            for _ in _noted(items(entry), digest):
                pass
        except (ValueError, OSError) as error:
            log.info("%s: cannot be compared with the rows that were read from it: %s", name, error)
            continue
        if digest.hexdigest() != hash_before:
            words = "%s: its rows, or which can be read, have changed since; this set is made of what they were. %s"
            log.warning(words, name, "Set another 'out' for a set of the changed rows")


def _noted(found: Iterator[Item], digest: hashlib._Hash) -> Iterator[Item]:
    """The items, whose contents go into the digest; of images see `store_image`."""
    for place, item in found:
        digest.update(b"bad" if isinstance(item, ValueError) else content_bytes(item.content))
        yield place, item


def _pages(rows: Iterator[tuple[str, Draft | SkippedRow]]) -> Iterator[list[tuple[str, Draft | SkippedRow]]]:
    page = []
    for row in rows:
        page.append(row)
        if len(page) >= PAGE:
            yield page
            page = []
    if page:
        yield page


def _rows(recipe: ColdStartRecipe, store: Store, said: list[hashlib._Hash]) -> Iterator[tuple[str, Draft | SkippedRow]]:
    """(key, draft) of every sample; the key is its position in its source, since ids may repeat."""
    for position, (name, entry) in enumerate(zip(source_names(recipe), recipe.data, strict=True)):
        for number, (place, found) in enumerate(_noted(items(entry), said[position])):
            store.keep_lock(READING)
            key = f"{position}/{number}"
            if isinstance(found, ValueError):
                if entry.on_bad == "error":
                    raise ValueError(f"{place}: {found} (set 'on_bad: skip' to skip such rows)") from found
                yield key, (name, f"{place}/{number}", f"bad {kind_of(found)}", str(found))
                continue
            if why := _why_unusable(found):
                yield key, (name, f"{place}/{number}", *why)
                continue
            try:
                yield key, _draft(found, name, recipe.out)
            except ValueError as error:
                yield key, (name, f"{place}/{number}", f"bad {kind_of(error)}", str(error))


def _why_unusable(sample: Sample) -> tuple[str, str] | None:
    """(reason, detail) why a sample cannot be used."""
    if not sample.images:
        return "no image", f"sample {sample.id!r} has no image"
    if sample.task not in TASKS:
        return (
            "unknown task",
            f"sample {shown(sample.id)}: task {shown(sample.task)}; expected one of {', '.join(TASKS)}",
        )
    if sample.task not in WORDED:
        return "answer is not text", f"sample {sample.id!r}: task {sample.task!r} answers with positions in the image"
    if not sample.question.strip():
        return "no question", f"sample {sample.id!r} has an empty question"
    return None


def _draft(sample: Sample, source: str, out: Path) -> Draft:
    stored = [store_image(image, out) for image in sample.images]
    return Draft(
        id=sample.id,
        question=sample.question,
        answer=sample.answer,
        task=sample.task,
        source=source,
        images=tuple(path for path, _ in stored),
        image_shas=tuple(sha for _, sha in stored),
        meta={**sample.meta, "source": source},
    )
