"""The cold-start run: ingest data, send rows through the teachers, write the set. An interrupted run resumes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from saccade.coldstart.choosing import Chooser
from saccade.coldstart.filters import FilterContext, build_checks
from saccade.coldstart.images import BAD_IMAGE
from saccade.coldstart.ingest import ingest, source_names
from saccade.coldstart.output import write_set
from saccade.coldstart.recipe import ColdStartRecipe, EndpointTeacher
from saccade.coldstart.steps import RowLost, Teachers, write_row
from saccade.coldstart.store import NAME, WAIT_S, WRITING, Claim, Store
from saccade.coldstart.teacher_prompts import load_prompt
from saccade.coldstart.teachers import ChatTeacher, Teacher, TeacherError
from saccade.coldstart.world_teachers import OracleDescriber, OracleReasoner
from saccade.config import dump
from saccade.config.differences import differences, short
from saccade.data.config import WORLD
from saccade.data.images import ImageError
from saccade.disk import sweep, write_text, writing
from saccade.runs.lock import refuse_in_use, refuse_other_kind, shown_process
from saccade.runs.progress import ProgressFn, progress
from saccade.world import WorldConfig

log = logging.getLogger(__name__)

CLAIMED_AT_ONCE = 16
TEXT_KEYS = ("data", "vision", "reasoner", "sampling", "prompts", "answer_in", "samples", "bridge", "ablation")
"""Keys of the recipe that determine what teachers write; fixed for a store."""
WRITTEN = "written"
"""The fact of a store of what its set was made: a hash of recipe and rows, empty while it is being written."""
TRANSPORT_KEYS = ("concurrency", "timeout_s", "deadline_s", "retries", "backoff_s", "key_variable", "url")
"""Keys of an endpoint that do not affect the texts."""


@dataclass
class Flow:
    """Counters of a run in progress."""

    rows: int = 0
    failed: int = 0
    tokens: int = 0
    cost: float = 0.0
    consecutive_failures: int = 0
    """Failed attempts since the last successful step."""
    started: float = field(default_factory=time.monotonic)
    last: str = ""
    """Message of the last error."""

    def numbers(self, left: int) -> dict[str, float]:
        """For the progress line."""
        rate = self.rows / max(1e-9, time.monotonic() - self.started)
        eta = {"eta_s": left / rate} if rate else {}
        return {"rows/s": rate, **eta, "tokens": self.tokens, "cost": self.cost, "failed": self.failed}


def run(
    recipe: ColdStartRecipe,
    keys: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Makes the set that the recipe describes; returns the summary, which is also written as `summary.json`.

    `keys`: environment variable -> API key. ValueError for user errors, OSError for a full disk; in both cases every
    response received so far is in the store.
    """
    refuse_other_kind(recipe.out, recipe.kind)
    if not (recipe.out / NAME).exists():
        refuse_in_use(recipe.out)
    chooser = build_chooser(recipe)  # validate filters and prompts before the first paid request
    for _, path in recipe.prompts:
        load_prompt(path)
    again = "every response so far is in the store; free some space and run the same command again"
    with ExitStack() as stack:
        stack.enter_context(writing(recipe.out, again))
        vision, reasoner = build_teachers(recipe, keys or {})
        stack.callback(vision.close)
        stack.callback(reasoner.close)
        store = stack.enter_context(Store(recipe.out / NAME, recipe.lease_s))
        stack.callback(_release_rows, store)
        _check_same_texts(recipe, store)
        write_text(recipe.out / "config.yaml", dump(recipe))
        ingest(recipe, store, lambda n: log.info("ingested %d rows", n) if n % 25_600 == 0 else None)
        asyncio.run(_work(Teachers(recipe, vision, reasoner), store, console))
        return finish(chooser, store)


def finish(chooser: Chooser, store: Store) -> dict[str, Any]:
    """Writes the files of the set, unless another process wrote them meanwhile from the same rows by the same recipe.
    Waits while another one writes, and writes itself if that one ends without: its lease runs out."""
    recipe, other = chooser.recipe, store.wait_for_lock(WRITING)
    try:
        made_of = hashlib.sha256(f"{dump(recipe)}{store.counts()}{store.reasons()}".encode()).hexdigest()
        if other is not None and store.fact(WRITTEN, str) == made_of:
            return {"writes_the_set": shown_process(other)}
        store.remember(WRITTEN, "")
        sweep(recipe.out)
        write_text(recipe.out / "config.yaml", dump(recipe))  # another process may have started with other filters
        summary = write_set(store, chooser)
        store.remember(WRITTEN, made_of)
        return summary
    finally:
        store.release_lock(WRITING)


def build_teachers(recipe: ColdStartRecipe, keys: Mapping[str, str]) -> tuple[Teacher, Teacher]:
    """(vision, reasoner)."""

    def chat(config: EndpointTeacher) -> Teacher:
        return ChatTeacher(config, recipe.prompts, keys.get(config.key_variable))

    sees, thinks = recipe.vision, recipe.reasoner
    vision = OracleDescriber(sees, _worlds(recipe)) if sees.teacher == "world" else chat(sees)
    reasoner = OracleReasoner(thinks) if thinks.teacher == "world" else chat(thinks)
    return vision, reasoner


def build_chooser(recipe: ColdStartRecipe) -> Chooser:
    """Filters and polish of the recipe. A chooser serves one pass over the rows: filters are stateful."""
    context = FilterContext(recipe.out, _worlds(recipe))
    return Chooser(recipe, build_checks(recipe.filters, recipe.filter_options, context), recipe.polish)


def _worlds(recipe: ColdStartRecipe) -> dict[str, WorldConfig]:
    """Settings of the procedural-world sources, keyed by `Draft.source`."""
    named = zip(source_names(recipe), recipe.data, strict=True)
    return {name: entry.world for name, entry in named if entry.source == WORLD}


def _release_rows(store: Store) -> None:
    """Frees the claimed rows; a full disk must not hide the error that led here."""
    try:
        store.release()
    except OSError as error:
        log.warning("rows stay claimed until their lease ends: %s", error)


def _check_same_texts(recipe: ColdStartRecipe, store: Store) -> None:
    """ValueError when the store was created with different settings of what teachers write."""
    settings = recipe.model_dump(mode="json", include=set(TEXT_KEYS))
    settings["prompts"] = {name: load_prompt(path).id for name, path in recipe.prompts}  # compare texts, not names
    for role in ("vision", "reasoner"):
        settings[role] = {key: value for key, value in settings[role].items() if key not in TRANSPORT_KEYS}
    before = store.fact("making", dict)
    if before is None:
        store.remember("making", settings)
        return
    before = {key: before.get(key, True if key == "bridge" else None) for key in TEXT_KEYS}  # also of earlier versions
    changed = [f"{key}: {short(was)} -> {short(now)}" for key, was, now in differences(before, settings)]
    if changed:
        raise ValueError(
            f"{recipe.out}: was started with other settings of what teachers write: {'; '.join(changed)}; set another "
            f"'out', or use the recipe in {recipe.out / 'config.yaml'}"
        )


async def _work(teachers: Teachers, store: Store, console: Console | None) -> None:
    """Processes all open rows, `rows` at a time, until none is left."""
    store.release_dead()
    store.reopen()
    counts = store.counts()
    if not counts.open:
        return
    await asyncio.gather(teachers.vision.check(True), teachers.reasoner.check(False))
    pool = _WorkerPool(teachers, store, counts.total)
    with progress("cold start", counts.total, console) as report, _renewing(store):
        await pool.work(report)


@contextmanager
def _renewing(store: Store) -> Iterator[None]:
    """Renews the leases while the event loop runs."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(store.lease_s / 3)
            try:
                store.renew()
            except OSError as error:  # the next save fails the same way and stops the run
                log.warning("leases are not renewed: %s", error)

    task = asyncio.get_running_loop().create_task(renew())
    try:
        yield
    finally:
        task.cancel()


@dataclass
class _WorkerPool:
    """The rows in progress. A row is claimed when a slot is free, so memory does not grow with the data."""

    teachers: Teachers
    store: Store
    total: int
    """Rows of the store in any state."""
    flow: Flow = field(default_factory=Flow)
    waiting: deque[Claim] = field(default_factory=deque)
    here: set[int] = field(default_factory=set)
    """Numbers of the rows that are waiting or in progress."""
    last_poll: float = 0.0

    async def work(self, report: ProgressFn) -> None:
        recipe, running = self.teachers.recipe, set[asyncio.Task[None]]()
        last_report = 0.0
        try:
            while True:
                while len(running) < recipe.rows and (claim := self._next(recipe.rows - len(running))):
                    running.add(asyncio.create_task(self._row(claim)))
                if running:
                    finished, running = await asyncio.wait(running, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
                    if errors := [error for task in finished if (error := task.exception())]:
                        raise errors[0]  # of those that must stop the run, which several rows may have at once
                if time.monotonic() - last_report >= 1.0 or not running:
                    counts, last_report = self.store.counts(), time.monotonic()
                    report(counts.done + counts.failed, self.flow.numbers(counts.open))
                    if not counts.open:
                        return
                    if not running:
                        await asyncio.sleep(WAIT_S)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _next(self, room: int) -> Claim | None:
        if not self.waiting and time.monotonic() - self.last_poll >= WAIT_S:
            claims = self.store.claim(min(room, CLAIMED_AT_ONCE))
            # after a pause longer than the lease some may still be in progress, and continue
            self.waiting.extend(claim for claim in claims if claim.number not in self.here)
            self.here.update(claim.number for claim in claims)
            if not claims:
                self.last_poll = time.monotonic()  # nothing available: poll again later
                self.store.release_dead()
        return self.waiting.popleft() if self.waiting else None

    async def _row(self, claim: Claim) -> None:
        try:
            await self._steps(claim)
        finally:
            self.here.discard(claim.number)

    async def _steps(self, claim: Claim) -> None:
        number = claim.number
        try:
            await write_row(self.teachers, claim.draft, claim.steps, self._saver(number), self._in_ablation(number))
        except RowLost:
            self.store.give_up(number)  # another process had it meanwhile, and it may be this one's again
            return
        except TeacherError as error:
            self._failed(claim, error)
            return
        except ImageError as error:  # it may come back: the next start looks again
            self.flow.failed += self.store.fail(number, BAD_IMAGE, str(error), retriable=True)
            return
        self.store.finish(number)
        self.flow.rows += 1

    def _in_ablation(self, number: int) -> bool:
        """Whether a row is in the ablation: N rows spread evenly over the data, the same in every process and run."""
        n_rows = min(self.teachers.recipe.ablation, self.total)
        return number * n_rows // self.total > (number - 1) * n_rows // self.total

    def _saver(self, number: int) -> Callable[[str, Any], bool]:
        def save(step: str, body: Any) -> bool:
            saved = self.store.save(number, step, body)
            if saved:
                record = body["record"]
                self.flow.tokens += record["tokens_in"] + record["tokens_out"]
                self.flow.cost += record["cost"]
                self.flow.consecutive_failures = 0
            return saved

        return save

    def _failed(self, claim: Claim, error: TeacherError) -> None:
        recipe, flow = self.teachers.recipe, self.flow
        flow.consecutive_failures += error.retriable
        flow.last = str(error)
        if error.fatal:
            self.store.put_back(claim.number, error.reason, error.detail, 0.0)
            raise ValueError(f"a teacher rejected the request: {error.detail}")
        if not error.retriable or claim.attempts + 1 >= recipe.attempts:
            self.store.fail(claim.number, error.reason, error.detail, error.retriable)
            flow.failed += 1
        else:
            self.store.put_back(claim.number, error.reason, error.detail, recipe.retry_after_s * 2**claim.attempts)
        if flow.consecutive_failures >= recipe.stop_after:
            raise ValueError(
                f"{flow.consecutive_failures} consecutive attempts failed; last error: {flow.last}. "
                "Completed rows are kept; run the command again when the teachers respond"
            )
