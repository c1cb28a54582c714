"""A user's own reward, in processes that can be killed.

If a function hangs, even in C code that holds the interpreter lock, its process is killed at the deadline, a new one is
started, and only that reply is masked. An exception also masks its reply. Neither ever scores 0.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from saccade.rewards.naming import check_options
from saccade.types import Completion, Sample, Score
from saccade.workers.channel import LONGEST_TRACEBACK, clean
from saccade.workers.process import START_S, Worker, WorkerLost, WorkerPool

log = logging.getLogger(__name__)

DEADLINE_S = 30.0
GRACE_S = 5.0
"""How long after its deadline a coroutine's timeout may arrive before its process is killed."""
MEMORY_GB = 16.0
"""Default limit of the data of one process of a reward, its model included."""
PATIENCE_S = 10.0
"""How long a file may load before the log says so."""
OUTPUT_BYTES = 64 << 10
"""What a process may print before the rest is dropped."""
CONCURRENCY = 64
"""Number of concurrent coroutines."""
STRANGE = "wrote something else than its messages"

ScoringJob = tuple[Completion, Sample]


class OwnReward:
    """`path/to/file.py:function` with its options: `reward(completion, sample)`, or many at once with `score`."""

    def __init__(
        self, name: str, options: Mapping[str, Any], deadline_s: float, workers: int, memory_gb: float = MEMORY_GB
    ) -> None:
        """Starts a process and loads the file. ValueError when the file, the function or an option is invalid."""
        path, _, function = name.rpartition(":")
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            odd = f"{file} is no regular file" if file.exists() else f"there is no file {file}"
            raise ValueError(f"reward '{name}': {odd} (names are relative to the working directory)")
        self.name, self.options, self.deadline_s, self.workers = name, dict(options), deadline_s, workers
        self._pool = _pool_of(file, function, name, memory_gb)  # the file as it is now, whatever becomes of it
        refuse_foreign(name, self._pool.signature)
        check_options(name, self._pool.signature, options)

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        return self.score([(completion, sample)])[0]

    def score(self, jobs: Sequence[ScoringJob]) -> list[Score]:
        """The scores of all jobs, in order; coroutines run concurrently, functions in up to `workers` processes."""
        if not jobs:
            return []
        shares = 1 if self._pool.is_async else min(self.workers, len(jobs))
        parts = [range(start, len(jobs), shares) for start in range(shares)]
        with ThreadPoolExecutor(shares) as threads:
            answers = list(threads.map(lambda part: self._share([jobs[i] for i in part]), parts))
        found = {
            i: score for part, scores in zip(parts, answers, strict=True) for i, score in zip(part, scores, strict=True)
        }
        return [found[i] for i in range(len(jobs))]

    def _share(self, jobs: Sequence[ScoringJob]) -> list[Score]:
        """The scores of one process's jobs; the process is restarted whenever a job kills it."""
        scores: dict[int, Score] = {}
        while len(scores) < len(jobs):
            left = [i for i in range(len(jobs)) if i not in scores]
            try:
                with self._pool.worker() as worker:
                    self._ask(worker, jobs, left, scores)
            except ValueError as error:  # the file was valid when the run began
                scores.update({i: self._masked((str(error), "")) for i in left})
        return [scores[i] for i in range(len(jobs))]

    def _ask(self, worker: Worker, jobs: Sequence[ScoringJob], left: Sequence[int], scores: dict[int, Score]) -> None:
        """Sends the remaining jobs and receives scores until all are done or the process is lost."""
        batch = {"jobs": [jobs[i] for i in left], "options": self.options}
        begun: list[int] = []
        try:
            worker.send(batch | {"deadline_s": self.deadline_s, "concurrency": CONCURRENCY})
        except WorkerLost as lost:
            worker.kill()
            scores[left[0]] = self._masked((str(lost), ""))
            return
        except Exception as error:  # noqa: BLE001 - a sample or an option that cannot be pickled
            scores.update({i: self._masked((f"{type(error).__name__}: {error}", "")) for i in left})
            return
        while any(i not in scores for i in left):
            try:
                grace = GRACE_S if self._pool.is_async else 0.0
                kind, place, result = _answer(worker, len(left), self.deadline_s + grace)
                if left[place] in (begun if kind == "begun" else scores):  # else it would never end
                    raise WorkerLost(f"its process {STRANGE}")
            except WorkerLost as lost:
                worker.kill()
                blamed = [i for i in begun if i not in scores] or left[:1]
                scores.update({i: self._masked((str(lost), "")) for i in blamed})
                return
            if kind == "begun":
                begun.append(left[place])
            else:
                value, failure = result
                scores[left[place]] = self._masked(failure) if value is None else _score(*value)

    def _masked(self, failure: Sequence[str]) -> Score:
        """A masked score; the first failure of each kind is logged with its traceback."""
        what, traceback = clean(failure[0]), clean(failure[1], LONGEST_TRACEBACK)
        kind = what.split(":")[0]
        if self._pool.shows(kind):
            shown = f"{what}\n{traceback}".rstrip()
            log.warning("reward %s failed and masks its reply (shown once): %s", self.name, shown)
        return Score(0.0, masked=what)


def load(
    name: str,
    options: Mapping[str, Any],
    deadline_s: float | None = None,
    workers: int | None = None,
    memory_gb: float | None = None,
) -> OwnReward:
    """The reward of a user's file; ValueError when the file, the function or an option is invalid."""
    deadline_s = DEADLINE_S if deadline_s is None else deadline_s
    return OwnReward(name, options, deadline_s, workers or 1, MEMORY_GB if memory_gb is None else memory_gb)


FOREIGN = {
    "completions": ("TRL", "{f}([sample.question], [completion.text])[0]"),
    "prompts": ("TRL", "{f}([sample.question], [completion.text])[0]"),
    "solution_str": ("verl", "{f}(sample.task, completion.text, sample.answer)"),
    "data_source": ("verl", "{f}(sample.task, completion.text, sample.answer)"),
    "reward_inputs": ("EasyR1", "{f}([{{'response': completion.text, 'ground_truth': sample.answer}}])[0]['overall']"),
    "reward_input": ("EasyR1", "{f}({{'response': completion.text, 'ground_truth': sample.answer}})['overall']"),
    "predicts": ("EasyR1", "{f}([completion.text], [sample.answer])[0]['overall']"),
}
"""First or second parameter of another trainer's reward -> its owner, and the call that gives one reply's value."""


def refuse_foreign(name: str, signature: inspect.Signature) -> None:
    """ValueError, with the fix in one line, for a function with the parameters of another trainer's rewards, or with
    fewer than two that are given by position."""
    function, parameters = name.rpartition(":")[2], list(signature.parameters)
    known = next((one for one in parameters[:2] if one in FOREIGN), None)
    if known is not None:
        owner, call = FOREIGN[known]
        raise ValueError(
            f"reward '{name}' takes ({', '.join(parameters)}) as rewards of {owner} do; add and name this instead: "
            f"def score(completion, sample): return {call.format(f=function)}"
        )
    kinds = [one.kind.name for one in signature.parameters.values()]
    if sum(kind.startswith("POSITIONAL") for kind in kinds) < 2 and "VAR_POSITIONAL" not in kinds:
        got = f"takes {signature}"
        raise ValueError(f"reward '{name}' {got}; expected def {function}(completion, sample): ...")


# ----------------------------------------------------------------------------------------------------------- processes


def _start(file: Path, source: bytes, function: str, name: str, memory_gb: float) -> Worker:
    """A process with the file loaded as it was read; ValueError when that fails."""
    module, arguments = "saccade.rewards.own_worker", (str(file), function, str(memory_gb))
    words = "reward %s: %s is still being loaded after %g s; it is given %g s"
    slow = threading.Timer(PATIENCE_S, log.warning, (words, name, file, PATIENCE_S, START_S))
    slow.start()
    try:
        worker = Worker(module, *arguments, printed=lambda output: _forward(output, name), first=source)
    except WorkerLost as lost:
        raise ValueError(f"reward '{name}': the process that loads {file}: {lost}") from None
    finally:
        slow.cancel()
    greeting = worker.greeting if isinstance(worker.greeting, dict) else {}
    if _signature(greeting) is not None:
        return worker
    worker.kill()
    why, trace = greeting.get("refused"), greeting.get("traceback")
    if not isinstance(why, str) or not isinstance(trace, str):
        raise ValueError(f"reward '{name}': the process that loads {file} {STRANGE}")
    if trace:
        log.warning("%s", clean(trace, LONGEST_TRACEBACK).rstrip())
    raise ValueError(f"reward '{name}': {clean(why)}")


def _signature(greeting: Mapping[str, Any]) -> inspect.Signature | None:
    """The function's signature; None in a greeting that introduces no function."""
    try:
        parameters = [
            inspect.Parameter(key, inspect._ParameterKind[kind], default=None if given else inspect.Parameter.empty)
            for key, given, kind in greeting["ready"]
        ]
        return inspect.Signature(parameters) if isinstance(greeting["is_async"], bool) else None
    except (LookupError, TypeError, ValueError):
        return None


def _score(value: float, *texts: str | None) -> Score:
    """The process cleans its texts, but what it runs may write to us in its place."""
    reason, masked = (None if text is None else clean(text) for text in texts)
    return Score(value, reason, masked=masked)


def _answer(worker: Worker, jobs: int, seconds: float) -> tuple[str, int, list[Any]]:
    """(kind, job, rest) of the next answer. WorkerLost when the process ends, when the time limit is reached, or when
    anything else arrives."""
    found = worker.receive(seconds)
    valid = isinstance(found, list) and len(found) in (2, 4) and found[0] in ("begun", "done")
    if not valid or type(found[1]) is not int or not 0 <= found[1] < jobs:
        raise WorkerLost(f"its process {STRANGE}")
    if found[0] == "done":
        value, failure = found[2:]
        if isinstance(value, list):
            of_texts = all(text is None or isinstance(text, str) for text in value[1:])
            valid = len(value) == 3 and isinstance(value[0], float) and of_texts
        else:
            valid = value is None and isinstance(failure, list) and list(map(type, failure)) == [str, str]
        if not valid:
            raise WorkerLost(f"its process {STRANGE}")
    return found[0], found[1], found[2:]


def _forward(output: IO[bytes], name: str) -> None:
    """What a process prints, up to OUTPUT_BYTES, goes to our log line by line; the rest is read and dropped."""
    left = OUTPUT_BYTES
    with output:
        while line := output.readline(4096):
            if left > 0:
                log.info("reward %s prints: %s", name, clean(line.decode("utf-8", "replace").rstrip()))
                left -= len(line)
                if left <= 0:
                    log.warning("reward %s printed more than %d kB; the rest is not shown", name, OUTPUT_BYTES >> 10)


class _RewardPool(WorkerPool):
    """The processes of one function, the first of which is started at once."""

    def __init__(self, file: Path, source: bytes, function: str, name: str, memory_gb: float) -> None:
        super().__init__(lambda: _start(file, source, function, name, memory_gb))
        self._shown: set[str] = set()
        with self.worker() as first:
            greeting = first.greeting
        self.is_async: bool = greeting["is_async"]
        self.signature = _signature(greeting) or inspect.Signature()

    def shows(self, kind: str) -> bool:
        """True once for each kind of failure, however often rubrics are rebuilt."""
        with self._lock:
            new = kind not in self._shown
            self._shown.add(kind)
        return new


_POOLS: dict[tuple[int, Path, str, bytes, float], _RewardPool] = {}
"""By process, file, function, content and memory: what a file has loaded persists while rubrics are built again."""
_POOLS_LOCK = threading.Lock()


def _pool_of(file: Path, function: str, name: str, memory_gb: float) -> _RewardPool:
    try:
        source = file.read_bytes()
    except OSError as error:
        raise ValueError(f"reward '{name}': {file} cannot be read ({error.strerror})") from None
    key = (os.getpid(), file, function, source, memory_gb)
    with _POOLS_LOCK:
        if key not in _POOLS:
            _POOLS[key] = _RewardPool(file, source, function, name, memory_gb)
        return _POOLS[key]


@atexit.register
def close_all() -> None:
    """Ends the processes of all own rewards; they restart on demand."""
    with _POOLS_LOCK:
        for (pid, *_), pool in _POOLS.items():
            if pid == os.getpid():
                pool.close()
