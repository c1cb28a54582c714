"""Worst cases of regular expressions and readers: texts of a repeated piece, and how time grows with their length."""

from __future__ import annotations

import ast
import importlib
import math
import random
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import saccade

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_parse

Shape = tuple[str, str, str]
"""head, piece and tail: the text is the head, the piece as often as it fits, the tail."""
NOISE_S = 0.01
"""Times below this are too short to compare."""


def text_of(shape: Shape, size: int) -> str:
    head, piece, tail = shape
    return head + piece * max(1, (size - len(head) - len(tail)) // len(piece)) + tail


def cpu_seconds(call: Callable[[str], Any], text: str, times: int = 5) -> float:
    """The least of several CPU times of this thread."""
    least = math.inf
    for _ in range(times):
        start = time.thread_time()
        call(text)
        least = min(least, time.thread_time() - start)
    return least


def slope(call: Callable[[str], Any], shape: Shape, small: int = 5_000, large: int = 40_000, times: int = 5) -> float:
    """The exponent of time over length, 1 for linear; 0 where even the longer text takes no time worth comparing."""
    brief = cpu_seconds(call, text_of(shape, 500), 1)
    for size in (1_000, 2_000, 4_000, 8_000):
        double = cpu_seconds(call, text_of(shape, size), 1)
        if double > 0.1 and double > 3.4 * brief:  # the longer text would take minutes, or for ever
            return math.log2(double / brief)
        brief = double
    long = cpu_seconds(call, text_of(shape, large), times)
    if long < NOISE_S:
        return 0.0
    return math.log(long / max(cpu_seconds(call, text_of(shape, small), times), 1e-6)) / math.log(large / small)


ROOT = Path(saccade.__file__).parent
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
WITH_TORCH = ("models", "rollout", "training", "verify", "planning", "base", "studies", "evaluation.local_model")
"""Packages whose patterns are read from the source, since importing them takes long."""
METHODS = ("search", "match", "fullmatch", "findall", "finditer", "sub", "split")


def patterns() -> dict[str, tuple[re.Pattern[str], frozenset[str]]]:
    """Every regular expression of ours, with the methods that are called on it: those that a module holds by name, also
    in tuples, lists and dictionaries, and those written in a call of `re`."""
    found: dict[str, tuple[re.Pattern[str], frozenset[str]]] = {}
    text = "\n".join(SOURCES.values())
    for path, source in SOURCES.items():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if "re.compile(" in source and not module.startswith(WITH_TORCH):
            for name, value in vars(importlib.import_module(f"saccade.{module}")).items():
                for one in _patterns_in(value):
                    where = source if name.startswith("_") else text
                    used = re.findall(rf"\b{name}\.({'|'.join(METHODS)})\b", where) if value is one else []
                    found.setdefault(f"{module}.{name}:{one.pattern[:40]!r}", (one, frozenset(used or ["search"])))
        for node in ast.walk(ast.parse(source)):
            function = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if not isinstance(node, ast.Call) or not function.startswith("re.") or not node.args:
                continue
            method, pattern = function.removeprefix("re."), node.args[0]
            if method in (*METHODS, "compile") and isinstance(pattern, ast.Constant) and isinstance(pattern.value, str):
                flags = re.DOTALL if "DOTALL" in ast.unparse(node) else re.NOFLAG
                if method != "compile" or module.startswith(WITH_TORCH):
                    used = frozenset({"search" if method == "compile" else method})
                    found[f"{module}:{pattern.value[:40]!r}"] = (re.compile(pattern.value, flags), used)
    unique = {(one.pattern, used): name for name, (one, used) in reversed(found.items())}
    return {name: found[name] for name in unique.values()}


def calls_of(pattern: re.Pattern[str], used: frozenset[str]) -> dict[str, Callable[[str], Any]]:
    """The ways in which a pattern is used, as functions of a text."""
    calls: dict[str, Callable[[str], Any]] = {}
    if used & {"match"}:
        calls["match"] = pattern.match
    if used & {"fullmatch"}:
        calls["fullmatch"] = pattern.fullmatch
    if used & {"search"}:
        calls["search"] = pattern.search
    if used & {"findall", "finditer", "sub", "split"}:
        calls["findall"] = pattern.findall
    return calls


def worst_of(call: Callable[[str], Any], shapes: Iterable[Shape], size: int = 3_000) -> Shape:
    """The shape that takes longest."""
    return max(shapes, key=lambda shape: cpu_seconds(call, text_of(shape, size), 1))


def _patterns_in(value: Any) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        yield value
    elif isinstance(value, tuple | list | frozenset):
        for one in value:
            yield from _patterns_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _patterns_in(one)


def shapes_of(pattern: re.Pattern[str], most: int = 400) -> list[Shape]:
    """Texts that keep a pattern busy: what its parts match, alone and in pairs, with a head that lets it begin and a
    tail that makes it fail, which a dot does not match."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = list(dict.fromkeys(_words(sre_parse.parse(pattern.pattern, pattern.flags & ~re.UNICODE))))
    pieces = [*words, " ", "\n", "1", "a", "{", "[", ",", "."]
    pieces = list(dict.fromkeys(piece for piece in pieces if piece))
    chance, ends = random.Random(pattern.pattern), ("\0", "\nx", "x", "")
    odd = []
    for _ in range(most // 2):
        block = "".join(chance.choices(pieces, k=chance.choice((1, 1, 1, 2, 3))))
        odd.append((chance.choice(["", *pieces]), block, chance.choice(ends)))
    pieces = pieces[:24]
    heads = ["", *pieces[:6]]
    plain = [("", piece, "\0") for piece in pieces]
    pairs = [("", one + other, "\0") for one in pieces[:10] for other in pieces[:10]]
    headed = [(head, piece, "\0") for piece in pieces for head in heads[1:]]
    known = [*plain[: most // 2], *headed[: most // 4], *pairs[: most // 4], *plain, *headed, *pairs]
    return [*known[: most - len(odd)], *odd]


def _words(tree: Any) -> Iterator[str]:
    """A text for each part of a parsed expression, and for runs of parts together."""
    run = ""
    for operation, argument in tree:
        name = str(operation)
        here = ""
        if name == "LITERAL":
            here = chr(argument)
        elif name == "NOT_LITERAL":
            here = "x"
        elif name == "ANY":
            here = "y"
        elif name == "IN":
            found = list(_of_set(argument))
            yield from found
            here = found[0] if found else "z"
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            inner = list(_words(argument[2]))
            yield from inner
            here = inner[-1] if inner else ""
        elif name == "SUBPATTERN":
            inner = list(_words(argument[3]))
            yield from inner
            here = inner[-1] if inner else ""
        elif name == "BRANCH":
            branches = [list(_words(branch)) for branch in argument[1]]
            for inner in branches[:8]:
                yield from inner[-2:]
            here = branches[0][-1] if branches and branches[0] else ""
        elif name in ("ASSERT", "ASSERT_NOT"):
            yield from _words(argument[1])
        elif name == "ATOMIC_GROUP":
            inner = list(_words(argument))
            yield from inner
            here = inner[-1] if inner else ""
        run += here
        if here:
            yield here
            yield run
    yield run


def _of_set(parts: Any) -> Iterator[str]:
    categories = {"CATEGORY_DIGIT": "7", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "w"}
    for operation, argument in list(parts)[:6]:
        name = str(operation)
        if name == "LITERAL":
            yield chr(argument)
        elif name == "RANGE":
            yield chr(argument[0])
        elif name == "CATEGORY":
            yield categories.get(str(argument), "%")
        elif name == "NEGATE":
            yield "q"
