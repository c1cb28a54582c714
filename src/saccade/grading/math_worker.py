"""The process that runs math-verify: `python -m saccade.grading.math_worker CPU_SECONDS MEMORY_MB`.

One JSON object {"gold", "answer"} per line comes in; per item two lines go out: {"gold": bool} when the gold is read,
then {"right": bool}; {"full": true} instead of either means that the memory ran out. It is meant to be killed: by its
own CPU timer, by the memory limit, by its parent. It ends when its input does, and when it has grown large.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TextIO

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

_SPELLING = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True)
"""Without units, which are read before: math-verify takes the s of 2a+3s for seconds."""
_TARGETS = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=_SPELLING), ExprExtractionConfig())


@lru_cache(maxsize=64)
def _read_gold(text: str) -> tuple[Any, ...]:
    return tuple(_read(text))


def _read(text: str) -> list[Any]:
    """Sympy objects of an expression; [] for one that math-verify can only spell.

    The timeouts of math-verify are off (0), since ours cannot be outlived.
    """
    found = parse(f"${text}$", extraction_config=_TARGETS, parsing_timeout=0)
    return found if any(not isinstance(item, str) for item in found) else []


def serve(lines: Iterable[str], out: TextIO, cpu_s: float, largest_mb: float) -> None:
    """Answers until the input ends or more than `largest_mb` was resident once, so that no item pays for those before.

    A question that raises is answered: its gold or its answer cannot be graded.
    """

    def say(**values: Any) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    say(ready=True)
    for line in lines:
        item = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            gold = _read_gold(item["gold"])
        except MemoryError:
            say(full=True)
            return
        except Exception as error:  # noqa: BLE001 - any failure of the parser on this text
            gold = ()
            say(gold=False, detail=type(error).__name__)
        else:
            say(gold=bool(gold))
        if gold:
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            try:
                say(right=bool(verify(list(gold), _read(item["answer"]), timeout_seconds=None)))
            except MemoryError:
                say(full=True)
                return  # what is left of such a process is not to be trusted
            except Exception as error:  # noqa: BLE001 - any failure of the algebra on this text
                say(right=False, detail=type(error).__name__)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if _largest_mb() > largest_mb:
            return


def _largest_mb() -> float:
    """The most memory that was ever resident. On Linux `ru_maxrss` is not that: it begins with what the parent had."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def main() -> None:
    cpu_s, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))  # it dumps nothing, writes no file and starts no process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process even inside a long call into C
    signal.signal(signal.SIGTERM, lambda *_: None)  # sent to all processes of a job: the parent finishes its step first
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # what a library prints must not look like an answer
    serve(sys.stdin, answers, cpu_s, memory_mb / 2)


if __name__ == "__main__":
    main()
