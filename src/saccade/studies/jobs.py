"""Runs the jobs of a study: each in its own process, a few at a time, skipping finished ones.

A finished job writes `job.json` into its directory; rerunning an interrupted study runs the jobs without one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from saccade.disk import DiskError, disk_reason, read_text, write_text
from saccade.runs.shapes import is_number

DONE = "job.json"
HASH = "sha256"
"""Key of the hash of a result, in its file."""
LOG = "job.log"
POLL_S = 0.5
DISK = 28
"""Exit status of a job whose files cannot be written."""
STOP_S = 10.0
"""How long a stopped job may take to end."""


@dataclass(frozen=True)
class StudyJob:
    """A part of a study. `run(directory, **arguments)` must be importable; its result, texts and numbers by name, is
    saved in `job.json`."""

    name: str
    run: Callable[..., Mapping[str, Any]]
    directory: Path
    arguments: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    total: int = 1
    """Units of progress, for the progress bar."""
    progress_file: str = "metrics.jsonl"
    """A file in the directory that gains a line per unit."""

    @property
    def kind(self) -> str:
        """Jobs of a kind take about as long: eval/base and eval/rl, seed-1/rl and seed-2/rl."""
        seed, _, name = self.name.partition("/")
        return name if seed.startswith("seed-") else seed


class JobFailed(ValueError):
    """A job failed; the message names the job, the reason and the log file."""


Summary = Callable[[Path], str]
"""What came out of a finished job, in a few words, from its directory."""


def run_all(
    jobs: Sequence[StudyJob],
    parallel: int,
    console: Console,
    summary: Summary = lambda directory: "",
    keep: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Run every job after its dependencies, `parallel` at a time; returns the content of each `job.json` by name.

    `keep` is called again and again: it takes the lock again that something else removed. A finished job leaves a line
    with its `summary`. After a failure the running jobs are finished and no other begins,
    then JobFailed is raised. Finished jobs are not run again.
    """
    waiting = [job for job in jobs if result_of(job.directory) is None]
    running: dict[str, tuple[StudyJob, Any]] = {}
    done = {job.name for job in jobs if job not in waiting}
    estimate = Estimate(jobs, parallel)
    failures: list[str] = []
    with bars(jobs, done, console) as show:
        try:
            while running or (waiting and not failures):
                ready = [] if failures else waiting
                for job in [j for j in ready if done.issuperset(j.needs)][: parallel - len(running)]:
                    waiting.remove(job)
                    running[job.name] = (job, _start(job))
                time.sleep(POLL_S)
                keep()
                for name, (job, process) in list(running.items()):
                    count = _lines(job.directory / job.progress_file)
                    estimate.note(job, count)
                    show(job, count, estimate.left_s(done))
                    if process.is_alive():
                        continue
                    del running[name]
                    if process.exitcode != 0 or not (job.directory / DONE).exists():
                        failures.append(_failure_message(job, process.exitcode))
                        continue
                    done.add(name)
                    estimate.note(job, job.total)
                    show(job, job.total, estimate.left_s(done))
                    words = summary(job.directory)
                    console.print(f"{name}: done{f', {words}' if words else ''}", highlight=False, markup=False)
            if failures:
                raise JobFailed("\n".join(failures))
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.join(STOP_S)
    return {job.name: result_of(job.directory) or {} for job in jobs}


def result_of(directory: Path) -> dict[str, Any] | None:
    """What a finished job returned; None for one that is not finished or whose file is damaged: it runs again."""
    try:
        found = json.loads(read_text(directory / DONE))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not is_number(found.get("cpu_s")):
        return None
    whole = found.pop(HASH, None) in (None, _hash_of(found))  # earlier versions wrote none
    plain = all(one is None or isinstance(one, str) or is_number(one) for one in found.values())
    return found if whole and plain else None


def needed(directory: Path) -> dict[str, Any]:
    """The result of a job that ran before one that needs it. ValueError when it was removed or damaged since."""
    if (found := result_of(directory)) is None:
        raise ValueError(f"{directory / DONE} was removed or damaged; run the same command again: it is made again")
    return found


def _hash_of(result: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


class Estimate:
    """How long the rest of a study takes, from the measured speed of its jobs. A job that has not begun takes as long
    as the known ones of its kind (`StudyJob.kind`), or as the mean of all."""

    def __init__(self, jobs: Sequence[StudyJob], parallel: int) -> None:
        self.jobs, self.parallel = jobs, parallel
        self.began: dict[str, float] = {}
        self.expected_s: dict[str, float] = {}

    def note(self, job: StudyJob, count: int, now: float | None = None) -> None:
        """A job has done `count` of its units."""
        now = time.monotonic() if now is None else now
        elapsed = now - self.began.setdefault(job.name, now)
        if count > 0 and elapsed > 0:
            self.expected_s[job.name] = elapsed * max(1.0, job.total / count)

    def left_s(self, done: set[str], now: float | None = None) -> float | None:
        """Seconds until all jobs are done; None before any has a measured speed."""
        if not self.expected_s:
            return None
        now = time.monotonic() if now is None else now
        left = 0.0
        for job in self.jobs:
            if job.name not in done:
                spent = now - self.began[job.name] if job.name in self.began else 0.0
                left += max(0.0, self._expected(job) - spent)
        return left / min(self.parallel, max(1, len(self.jobs) - len(done)))

    def _expected(self, job: StudyJob) -> float:
        if job.name in self.expected_s:
            return self.expected_s[job.name]
        known = [one for one in self.jobs if one.name in self.expected_s]
        alike = [self.expected_s[one.name] for one in known if one.kind == job.kind]
        return fmean(alike or self.expected_s.values())


Show = Callable[[StudyJob, int, float | None], None]
"""(job, units done, seconds until the whole study is done)."""


@contextmanager
def bars(jobs: Sequence[StudyJob], done: set[str], console: Console) -> Iterator[Show]:
    """One bar per job and one for all, with the time that is left; without a terminal, a line when a job starts."""
    if not console.is_terminal:
        started: set[str] = set()

        def report(job: StudyJob, count: int, left_s: float | None) -> None:
            if job.name not in started:
                started.add(job.name)
                console.print(f"{job.name}: started", highlight=False)

        yield report
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=console) as progress:
        tasks: dict[str, TaskID] = {}
        for job in jobs:
            finished = job.name in done
            tasks[job.name] = progress.add_task(
                escape(job.name), total=job.total, start=finished, completed=job.total if finished else 0, left=""
            )
        whole = progress.add_task("all parts", total=len(jobs), completed=len(done), left="")

        def show(job: StudyJob, count: int, left_s: float | None) -> None:
            progress.start_task(tasks[job.name])
            progress.update(tasks[job.name], completed=min(count, job.total))
            if count >= job.total:
                progress.stop_task(tasks[job.name])
            left = "" if left_s is None else f"about {max(1, round(left_s / 60))} min left"
            progress.update(whole, completed=len(done), left=left)

        yield show


QUIET = "ignore:resource_tracker"
"""Python's own warning about semaphores of libraries in a job that a signal ends."""


def _start(job: StudyJob) -> Any:
    # files of an interrupted attempt would be refused as an existing run
    shutil.rmtree(job.directory, ignore_errors=True)
    job.directory.mkdir(parents=True)
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(job,), name=job.name)
    if QUIET not in sys.warnoptions:
        sys.warnoptions.append(QUIET)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for this process only
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _work(job: StudyJob) -> None:
    """The body of a job's process: one thread, output to its log, CPU seconds measured. It ends with its parent,
    so that no second process ever writes into the directory of a study that was killed and started again."""
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    (job.directory / LOG).unlink(missing_ok=True)  # in a folder of others it may be a link
    log = (job.directory / LOG).open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = dict(job.run(job.directory, **job.arguments))
        result |= {"wall_s": round(time.perf_counter() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}
        write_text(job.directory / DONE, json.dumps(result | {HASH: _hash_of(result)}, indent=1))
    except Exception as error:  # noqa: BLE001 - it is logged, and the parent says what it was
        with suppress(OSError):  # the log is on that disk too
            traceback.print_exc()
            log.write(f"{type(error).__name__}: {error}\n")
        if isinstance(error, DiskError) or disk_reason(error, job.directory):
            os._exit(DISK)  # at an ordinary end the log, flushed once more, would change the status
        sys.exit(1)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _failure_message(job: StudyJob, code: int | None) -> str:
    path = job.directory / LOG
    last = path.read_text(encoding="utf-8").strip().splitlines()[-1:] if path.is_file() else []
    reason = last[0] if last else f"exit status {code}"
    if code == DISK and "cannot be written" not in reason:
        reason = "its files cannot be written, the disk is full or read-only"
    return f"'{job.name}' failed: {reason} (log: {path}); run the same command again to resume"
