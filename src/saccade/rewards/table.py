"""The tables of rewards and penalties, and how a name with options becomes a function."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from saccade.rewards import answers, boxes, form, judged, lengths, own, penalties, points, vlm_r1, vlm_r1_lists, words
from saccade.rewards.naming import as_score, check_options, is_file, nearest
from saccade.rewards.options import Count, Share, Where
from saccade.types import Completion, Sample, Score

Reward = Callable[..., "float | Score"]
"""`f(completion, sample, **options) -> float | Score`, in [0, 1]; a penalty is the same in [-1, 0].

def short(completion: Completion, sample: Sample) -> float:
    return float(len(completion.token_ids) < 64)
"""


def hard(completion: Completion, sample: Sample, accuracy: str, options: Mapping[str, Any] | None = None) -> Score:
    """1 only when the format is strict and the reward named `accuracy` (with `options`) gives full marks.

    Formula: 1 if format = 1 and accuracy = 1, else 0.
    Source: Vision-R1 (arXiv 2503.06749), hard formatting result reward.
    """
    return form.hard_of(_bound(accuracy, options))(completion, sample)


def cosine_length(
    completion: Completion,
    sample: Sample,
    accuracy: str,
    max_length: Count,
    options: Mapping[str, Any] | None = None,
    right_floor: Share = 2 / 3,
    wrong_ceiling: Share = 1 / 3,
) -> Score:
    """Longer right answers score less, longer wrong answers more; a right answer always scores more than a wrong one.

    An answer is right if the reward named `accuracy` (with `options`) gives 1. The defaults are the published values
    (right 1 to 0.5, wrong -0.5 to 0) rescaled to [0, 1], which does not change group advantages. A wrong reply that
    reaches `max_length`, or is truncated, gets 0.

    Formula: with c = (1 + cos(pi * min(1, tokens / max_length))) / 2: right_floor + (1 - right_floor) * c if right,
    wrong_ceiling * (1 - c) if wrong.
    Source: Yeo et al. 2025 (arXiv 2502.03373); VLM-R1's replaces the accuracy and rises again beyond its length.
    """
    scored = lengths.cosine_of(_bound(accuracy, options), max_length, right_floor, wrong_ceiling)
    return scored(completion, sample)


def llm_judge(
    completion: Completion,
    sample: Sample,
    url: str,
    model: str,
    accuracy: str = "exact_text",
    options: Mapping[str, Any] | None = None,
    server: judged.Server | None = None,
) -> Score:
    """A judge for answers that the reward named `accuracy` (with `options`) does not accept.

    The judge is a model behind an OpenAI-compatible `url`. It cannot overrule an accepted answer; the reply is quoted
    to it as data. When it is unreachable, or gives no clear verdict, the reply is masked, never a 0. `server`
    may contain `api_key_file` (a file with the server's key), `cache` (a file, so that each answer is paid for once),
    `concurrency` (16 concurrent requests) and `deadline_s` (120 for one reply).

    Formula: 1 if accuracy = 1 or the judge accepts, else 0.
    Source: VLM-R1's llm, which silently falls back to equality and can be instructed by the reply.
    """
    return as_score(WRAPPERS["llm_judge"](accuracy, options, url, model, server)(completion, sample))


REWARDS: dict[str, Reward] = {
    "format": form.strict_format,
    "rec_iou": boxes.rec_iou,
    "rec_iou_at": boxes.rec_iou_at,
    "rec_iou_dynamic": boxes.rec_iou_dynamic,
    "point_in_box": points.point_in_box,
    "detection_map": boxes.detection_map,
    "detection_ap50": boxes.detection_ap50,
    "detection_od_length": boxes.detection_od_length,
    "detection_weighted_sum": boxes.detection_weighted_sum,
    "detection_f1": boxes.detection_f1,
    "choice": answers.choice,
    "choices": answers.choices,
    "number": answers.number,
    "value": answers.value,
    "counting": answers.counting,
    "exact_text": answers.exact_text,
    "char_similarity": words.char_similarity,
    "yes_no": answers.yes_no,
    "math": answers.math,
    "hard": hard,
    "cosine_length": cosine_length,
    "language_consistency": words.language_consistency,
    "perception": words.perception,
    "llm_judge": llm_judge,
    "vlm_r1/format": vlm_r1.form,
    "vlm_r1/format_rec": vlm_r1.form_rec,
    "vlm_r1/iou": vlm_r1.rec,
    "vlm_r1/map": vlm_r1_lists.map_,
    "vlm_r1/od_ap": vlm_r1_lists.od_ap,
    "vlm_r1/od_ap50": vlm_r1_lists.od_ap50,
    "vlm_r1/odLength": vlm_r1_lists.od_length,
    "vlm_r1/weighted_sum": vlm_r1_lists.weighted_sum,
    "vlm_r1/all_match": vlm_r1.all_match,
    "vlm_r1/yes_no": vlm_r1.yes_no,
    "vlm_r1/levenshtein": vlm_r1.levenshtein,
    "vlm_r1/cosine": vlm_r1.cosine,
}

PENALTIES: dict[str, Reward] = {
    "repetition": penalties.repetition,
    "box_repetition": penalties.box_repetition,
    "soft_overlong": penalties.soft_overlong,
    "vlm_r1/repetition": vlm_r1_lists.repetition,
}

REACHES_OUT = frozenset({"llm_judge"})
"""Rewards that open an address or a file. Recipes may name them, rows of data may not."""

ALIASES: dict[str, str] = {
    "mcq": "choice",
    "numeric": "number",
    "all_match": "exact_text",
    "map": "detection_map",
    "od_ap": "detection_map",
    "od_ap50": "detection_ap50",
    "odLength": "detection_od_length",
    "weighted_sum": "detection_weighted_sum",
}
"""VLM-R1's names (`accu_reward_method`) -> corrected versions; accepted wherever a name is."""

CHECKS: dict[str, Callable[..., None]] = {
    "soft_overlong": penalties.check_overlong,
    "cosine_length": lengths.check_cosine,
    "detection_weighted_sum": boxes.check_weighted_sum,
    "llm_judge": judged.check_judge,
}
"""Checks that involve several options of a reward; each takes them by name and raises ValueError."""


def canonical(name: str) -> str:
    """The table name of a name or alias."""
    return ALIASES.get(name, name)


def bind(name: str, options: Mapping[str, Any]) -> Reward:
    """The reward or penalty of that name, or `path/to/file.py:function`, with its options filled in.

    Raises ValueError for a name that is not in the tables and for options that the function does not take, lacks or
    cannot work with.
    """
    if is_file(name):
        return own.load(name, options)
    function = find(name)
    check_options(name, inspect.signature(function), options)
    for option, adapter in _types(function).items():
        if option in options:
            _check_value(name, option, options[option], adapter)
    defaults = {p.name: p.default for p in _parameters(function) if p.default is not p.empty}
    if (check := CHECKS.get(canonical(name))) is not None:
        wanted = inspect.signature(check).parameters
        check(**{key: value for key, value in (defaults | dict(options)).items() if key in wanted})
    if canonical(name) in WRAPPERS:
        return WRAPPERS[canonical(name)](**(defaults | dict(options)))
    return partial(function, **options) if options else function


WRAPPERS: dict[str, Callable[..., Reward]] = {
    "hard": lambda accuracy, options: form.hard_of(_bound(accuracy, options)),
    "cosine_length": lambda accuracy, options, **numbers: lengths.cosine_of(_bound(accuracy, options), **numbers),
    "llm_judge": lambda accuracy, options, url, model, server: judged.JudgedReward(
        _bound(accuracy, options),
        url,
        model,
        judged.Server.model_validate(server or {}),
        (options or {}).get("where", "tag"),
    ),
}
"""Rewards that wrap another one, which is looked up once instead of at every reply."""


def placed(name: str, options: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """The options of a built-in reward, with the location of the answer filled in.

    A reward that wraps another one passes it on; one that reads no answer is unchanged; an existing `where` is kept.
    """
    if where == "tag":
        return dict(options)
    if canonical(name) in WRAPPERS:
        return {**options, "options": {"where": where, **(options.get("options") or {})}}
    return {"where": where, **options} if reads_answer(name) else dict(options)


def reads_answer(name: str) -> bool:
    """Whether a built-in reward has the option `where`."""
    return canonical(name) in WRAPPERS or "where" in inspect.signature(find(name)).parameters


def _parameters(function: Reward) -> list[inspect.Parameter]:
    """The options of a reward: what follows completion and sample."""
    return list(inspect.signature(function).parameters.values())[2:]


@lru_cache(maxsize=128)
def _types(function: Reward) -> dict[str, TypeAdapter[Any]]:
    hints = typing.get_type_hints(function, include_extras=True)
    return {p.name: TypeAdapter(hints[p.name]) for p in _parameters(function)}


def _check_value(name: str, option: str, value: Any, adapter: TypeAdapter[Any]) -> None:
    try:
        adapter.validate_python(value, strict=not isinstance(value, list | tuple))
    except ValidationError as error:
        first = error.errors()[0]
        why = ".".join(map(str, first["loc"])) + (": " if first["loc"] else "") + first["msg"].lower()
        got = f"the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else repr(value)  # no key's value
        raise ValueError(f"reward '{name}', option '{option}': got {got}; {why}") from None


def _bound(accuracy: str, options: Mapping[str, Any] | None) -> Callable[[Completion, Sample], Score]:
    function: Any = bind(accuracy, options or {})
    if hasattr(function, "score"):  # it scores many at once, and returns Scores
        return function
    return lambda completion, sample: as_score(function(completion, sample))


def find(name: str) -> Reward:
    """The function behind a name of either table; ValueError with the nearest name when there is none."""
    table = REWARDS | PENALTIES
    if canonical(name) not in table:
        hint = nearest(name, [*table, *ALIASES])
        raise ValueError(f"unknown reward '{name[:120]}'{hint} (your own reward is 'path/to/file.py:function')")
    return table[canonical(name)]
