"""The process that runs a user's own reward, `main` with FILE FUNCTION as arguments.

Messages are pickled (`multiprocessing.connection`). The process first sends {"ready": ...} or {"refused": why}. It then
receives batches {"jobs": [(completion, sample), ..], "options", "deadline_s", "concurrency"}, and sends ("begun", i)
and ("done", i, value, failure) for each job. Coroutines run concurrently, up to `concurrency`; functions one by one. It
may be killed at any time, and exits when its input is closed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from saccade.rewards.naming import as_score, nearest
from saccade.types import Score

Failure = tuple[str, str]
"""What went wrong in one line, and the traceback."""


def load(file: Path, name: str) -> Callable[..., Any]:
    """The function; the file is run as `import` would run it, with its folder on the path."""
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(f"saccade_reward_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    functions = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
    if name not in functions:
        raise ValueError(f"{file} defines no function '{name}'{nearest(name, list(functions))}")
    return functions[name]


def failure_of(error: BaseException) -> Failure:
    """The error and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {error}{place}", "".join(traceback.format_exception(error))


def run_batch(function: Callable[..., Any], batch: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Scores every job of a batch."""
    if inspect.iscoroutinefunction(function):
        asyncio.run(_all_at_once(function, batch, say))
        return
    for i, (completion, sample) in enumerate(batch["jobs"]):
        say(("begun", i))
        try:
            say(("done", i, _value(function(completion, sample, **batch["options"])), None))
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises
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
            except Exception as error:  # noqa: BLE001 - whatever a user's function raises
                say(("done", i, None, failure_of(error)))

    await asyncio.gather(*(one(i, *job) for i, job in enumerate(batch["jobs"])))


def _value(value: Any) -> Score:
    try:
        return as_score(value)
    except (TypeError, ValueError):
        raise TypeError(f"got {value!r} from the reward, expected a number or a Score") from None


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # sent to all processes of a job: the parent finishes its step first
    jobs = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # output that a user's function prints must not be read as a message
    file, name = Path(sys.argv[1]), sys.argv[2]
    try:
        function = load(file, name)
    except ValueError as error:
        answers.send({"refused": str(error), "traceback": ""})
        return
    except BaseException as error:  # noqa: BLE001 - sys.exit in a user's file too
        answers.send({"refused": f"{file} cannot be loaded: {failure_of(error)[0]}", "traceback": failure_of(error)[1]})
        return
    parameters = [
        (p.name, p.default is not p.empty, p.kind.name) for p in inspect.signature(function).parameters.values()
    ]
    answers.send({"ready": parameters, "is_async": inspect.iscoroutinefunction(function)})
    while True:
        try:
            batch = jobs.recv()
        except EOFError:
            return
        run_batch(function, batch, answers.send)
