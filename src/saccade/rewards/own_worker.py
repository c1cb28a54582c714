"""The process that runs a user's own reward, `main` with FILE FUNCTION MEMORY_GB as arguments.

Jobs arrive pickled, answers leave as frames of plain values (`workers.channel`). The process first receives the content
of the file and sends {"ready": ...} or {"refused": why}. It then receives batches {"jobs": [(completion, sample), ..],
"options", "deadline_s", "concurrency"}, and sends ["begun", i] and ["done", i, [value, reason, masked] or null,
failure] for each job. Coroutines run concurrently, up to `concurrency`; functions one by one. It may be killed at any
time with all of its process group, and ends that group itself when its input is closed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from saccade.rewards.naming import nearest
from saccade.types import Score
from saccade.workers.channel import LONGEST_TRACEBACK, clean, connect
from saccade.workers.descendants import end_descendants

Failure = tuple[str, str]
"""What went wrong in one line, and the traceback."""
OURS = (__file__, "<frozen importlib", str(Path(asyncio.__file__).parent))
"""Beginnings of the names of files whose frames are not the user's."""
MOST_CAUSES = 20


Plain = tuple[float, str | None, str | None]
"""Value, reason and mask of a score."""


class _AsRead(SourceFileLoader):
    """Loads a file as the parent has read it; it may have been changed or removed since."""

    def __init__(self, name: str, file: Path, source: bytes) -> None:
        super().__init__(name, str(file))
        self._source = source

    def path_stats(self, path: Any) -> Any:
        raise OSError  # so that no compiled file is read or written

    def get_data(self, path: Any) -> bytes:
        return self._source if path == self.path else super().get_data(path)  # also files beside it


class NoReward(Exception):
    """A file without the function; not an error of what it runs."""


def load(file: Path, source: bytes, name: str) -> Callable[..., Any]:
    """The function; the file is run as `import` would run it, with its folder first on the path, and the working
    directory last, so that nothing there takes the place of an installed package."""
    sys.path.insert(0, str(file.parent))
    with suppress(OSError):  # a job's folder may be removed while it runs
        sys.path.append(os.getcwd())
    loader = _AsRead(f"saccade_reward_{file.stem}", file, source)
    spec = importlib.util.spec_from_file_location(loader.name, file, loader=loader)
    if spec is None or spec.loader is None:
        raise NoReward(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    functions = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
    if name in functions:
        return functions[name]
    if callable(other := vars(module).get(name)):
        kind = "class" if inspect.isclass(other) else f"callable {type(other).__name__}"
        raise NoReward(f"{file}: '{name}' is a {kind}; write a function: def score(completion, sample): ...")
    raise NoReward(f"{file} defines no function '{name}'{nearest(name, list(functions))}")


def failure_of(error: BaseException) -> Failure:
    """The error and where the user's code raised it, cut to sizes that can be logged; no traceback of ours alone."""
    try:
        whole = _of_the_user(traceback.TracebackException.from_exception(error, limit=-20))
        place = "".join(f" ({one.filename}:{one.lineno} in {one.name})" for one in whole.stack[-1:])
        trace = "".join(whole.format() if whole.stack else ())
        if isinstance(error, SyntaxError):
            trace = "".join(whole.format_exception_only())
    except BaseException:  # noqa: BLE001 - a user's own __str__
        place = trace = ""
    return f"{clean(type(error).__name__)}: {clean(error)}{clean(place)}", clean(trace, LONGEST_TRACEBACK)


def _of_the_user(whole: traceback.TracebackException) -> traceback.TracebackException:
    """The error without frames of ours and of asyncio; where there are no others, the one that it was raised from."""
    one = whole
    for _ in range(MOST_CAUSES):
        one.stack = traceback.StackSummary.from_list(
            [frame for frame in one.stack if not frame.filename.startswith(OURS)]
        )
        if (inner := one.__cause__ or one.__context__) is None:
            break
        one = inner
    else:
        one.__cause__ = one.__context__ = None
    return whole if whole.stack or whole.__cause__ is None else whole.__cause__


def run_batch(function: Callable[..., Any], batch: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Scores every job of a batch."""
    if inspect.iscoroutinefunction(function):
        asyncio.run(_all_at_once(function, batch, say))
        return
    for i, (completion, sample) in enumerate(batch["jobs"]):
        say(("begun", i))
        try:
            say(("done", i, _value(function(completion, sample, **batch["options"])), None))
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises, sys.exit included
            say(("done", i, None, failure_of(error)))


async def _all_at_once(function: Callable[..., Any], batch: dict[str, Any], say: Callable[[Any], None]) -> None:
    turn = asyncio.Semaphore(batch["concurrency"])

    async def one(i: int, completion: Any, sample: Any) -> None:
        async with turn:
            say(("begun", i))
            try:
                async with asyncio.timeout(batch["deadline_s"]):
                    value = await function(completion, sample, **batch["options"])
                say(("done", i, _value(value), None))
            except TimeoutError as error:
                why = f"no answer in {batch['deadline_s']:g} s"
                say(("done", i, None, (why, failure_of(error)[1])))
            except BaseException as error:  # noqa: BLE001 - whatever a user's function raises, sys.exit included
                say(("done", i, None, failure_of(error)))

    await asyncio.gather(*(one(i, *job) for i, job in enumerate(batch["jobs"])))


def _value(value: Any) -> Plain:
    """Whatever a reward returned as plain values. TypeError for what is no score."""
    try:
        if isinstance(value, Score):
            texts = [None if text is None else clean(text) for text in (value.reason, value.masked)]
            return float(value.value), texts[0], texts[1]
        return float(value), None, None
    except BaseException as error:  # noqa: BLE001 - values of any class, whose methods may do anything
        why = f" ({clean(type(error).__name__)}: {clean(error, 120)})"
        raise TypeError(f"got {_shown(value)} from the reward, expected a number or a Score{why}") from None


def _shown(value: Any) -> str:
    try:
        return clean(repr(value), 120)
    except BaseException:  # noqa: BLE001 - a user's own __repr__
        return f"a {clean(type(value).__name__)}"


def _parameters(function: Callable[..., Any], what: str) -> list[tuple[str, bool, str]]:
    """Names of the parameters, whether they have a default, and their kinds."""
    try:
        found = inspect.signature(function).parameters.values()
        return [(clean(p.name), p.default is not p.empty, clean(p.kind.name)) for p in found]
    except BaseException as error:  # noqa: BLE001 - a signature or wrapped function that the user's file set
        why = f"{clean(type(error).__name__)}: {clean(error)}"
        raise NoReward(
            f"{what} has no parameters that can be read ({why}); write def score(completion, sample): ..."
        ) from None


def limit_memory(memory_gb: float) -> None:
    """Data that this process may allocate; more is a MemoryError. Files and shared memory do not count."""
    most = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main() -> None:
    jobs, say = connect(watched=True)
    file, name, memory_gb = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    limit_memory(memory_gb)
    try:
        function = load(file, next(jobs), name)
        parameters = _parameters(function, f"{file}: '{name}'")
    except NoReward as error:
        say({"refused": clean(error), "traceback": ""})
        return
    except BaseException as error:  # noqa: BLE001 - sys.exit in a user's file too
        what, trace = failure_of(error)
        say({"refused": f"{file} cannot be loaded: {what}", "traceback": trace})
        return
    say({"ready": parameters, "is_async": inspect.iscoroutinefunction(function)})
    for batch in jobs:
        run_batch(function, batch, say)
    end_descendants(os.getpid())
    os.killpg(0, signal.SIGKILL)  # the parent ended: children of the user's code end too


if __name__ == "__main__":
    main()
