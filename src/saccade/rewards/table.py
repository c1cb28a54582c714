"""The tables of rewards and penalties, and how a name with options becomes a function."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from saccade.rewards import answers, boxes, form, penalties
from saccade.types import Completion, Sample, Score

Reward = Callable[..., "float | Score"]
"""`f(completion, sample, **options) -> float | Score`, in [0, 1]; a penalty is the same in [-1, 0]."""


def hard(completion: Completion, sample: Sample, accuracy: str, options: Mapping[str, Any] | None = None) -> Score:
    """1 when the format is strict and the reward named `accuracy` (with `options`) gives full marks, else 0."""
    return form.hard_of(lambda c, s: as_score(bind(accuracy, options or {})(c, s)))(completion, sample)


REWARDS: dict[str, Reward] = {
    "format": form.strict_format,
    "rec_iou": boxes.rec_iou,
    "rec_iou_at": boxes.rec_iou_at,
    "detection_map": boxes.detection_map,
    "detection_od_length": boxes.detection_od_length,
    "detection_f1": boxes.detection_f1,
    "choice": answers.choice,
    "number": answers.number,
    "value": answers.value,
    "exact_text": answers.exact_text,
    "yes_no": answers.yes_no,
    "math": answers.math,
    "hard": hard,
}

PENALTIES: dict[str, Reward] = {
    "repetition": penalties.repetition,
    "soft_overlong": penalties.soft_overlong,
}


def bind(name: str, options: Mapping[str, Any]) -> Reward:
    """The reward or penalty of that name, or `path/to/file.py:function`, with its options filled in.

    Raises ValueError for a name that is not in the tables and for options that the function does not take or lacks.
    """
    function = _from_file(name) if is_file(name) else find(name)
    parameters = list(inspect.signature(function).parameters.values())[2:]
    known = [p.name for p in parameters]
    for option in options:
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise ValueError(f"reward '{name}' has no option '{option}'{_nearest(option, known)}")
    lacking = [p.name for p in parameters if p.default is p.empty and p.kind in _NAMED and p.name not in options]
    if lacking:
        raise ValueError(f"reward '{name}' needs the option '{lacking[0]}'; give it under options")
    if name == "hard":
        bind(options["accuracy"], options.get("options") or {})
    return partial(function, **options) if options else function


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def find(name: str) -> Reward:
    """The function behind a name of either table; ValueError with the nearest name when there is none."""
    table = REWARDS | PENALTIES
    if name not in table:
        hint = _nearest(name, list(table))
        raise ValueError(f"unknown reward '{name}'{hint} (your own is named 'path/to/file.py:function')")
    return table[name]


def is_file(name: str) -> bool:
    """True for a name of the form `path/to/file.py:function`."""
    return ".py:" in name


def as_score(value: float | Score) -> Score:
    """What a reward returned, as a Score."""
    return value if isinstance(value, Score) else Score(float(value))


def _from_file(name: str) -> Reward:
    """A user's reward. The file is run once, as `import` would run it."""
    path, _, function = name.rpartition(":")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"reward '{name}': there is no file {file}")
    module = _module(file, file.stat().st_mtime_ns)
    functions: dict[str, Any] = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
    if function not in functions:
        raise ValueError(
            f"reward '{name}': {file} defines no function '{function}'{_nearest(function, list(functions))}"
        )
    return functions[function]


@lru_cache(maxsize=64)
def _module(file: Path, changed_ns: int) -> ModuleType:
    """The file as a module, run once for each state of it: rubrics are built anew at every step, and what a file loads
    or remembers must live through the run."""
    spec = importlib.util.spec_from_file_location(f"saccade_reward_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _nearest(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(names) or 'none'}"
