"""The process that runs math-verify: `python -m saccade.grading.math_worker CPU_SECONDS MEMORY_MB`.

Pairs (gold, answer) come in; per pair two messages go out: {"gold": bool} when the gold is read, then {"right": bool};
{"full": true} instead of either means that the memory ran out. It is meant to be killed: by its own CPU timer, by the
memory limit, by its parent. It ends when its parent does, after many items, and when it has grown large.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from saccade.workers.channel import connect, peak_memory_mb

MAX_ITEMS = 2_000
"""Items after which a worker ends, since what algebra keeps in memory only grows."""

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


def serve(
    items: Iterable[tuple[str, str]], say: Callable[[dict[str, Any]], None], cpu_s: float, largest_mb: float
) -> None:
    """Answers `MAX_ITEMS` items, or until more than `largest_mb` was resident once, so that no item pays for those
    before. A question that raises is answered: its gold or its answer cannot be graded."""
    for _, (text, answer) in zip(range(MAX_ITEMS), items, strict=False):
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            gold = _read_gold(text)
        except MemoryError:
            say({"full": True})
            return
        except Exception as error:  # noqa: BLE001 - any failure of the parser on this text
            gold = ()
            say({"gold": False, "detail": type(error).__name__})
        else:
            say({"gold": bool(gold)})
        if gold:
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            try:
                say({"right": bool(verify(list(gold), _read(answer), timeout_seconds=None))})
            except MemoryError:
                say({"full": True})
                return  # what is left of such a process is not to be trusted
            except Exception as error:  # noqa: BLE001 - any failure of the algebra on this text
                say({"right": False, "detail": type(error).__name__})
        signal.setitimer(signal.ITIMER_PROF, 0)
        if peak_memory_mb() > largest_mb:
            return


def main() -> None:
    cpu_s, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    items, say = connect()
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))  # it dumps nothing, writes no file and starts no process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process even inside a long call into C
    say({"ready": True})
    serve(items, say, cpu_s, memory_mb / 2)


if __name__ == "__main__":
    main()
