"""Rows of a run directory as readers may rely on them: files of killed, edited or foreign runs hold anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isnan
from sys import intern
from typing import Any

JsonRow = dict[str, Any]
Check = Callable[[Any], bool]
MOST_METRICS = 2_000
"""Metrics of a run that are looked at; it writes a few hundred."""
LONGEST_TEXT = 20_000
"""Characters of a reply that a page shows."""


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def is_name(value: Any) -> bool:
    return isinstance(value, str) or is_count(value)


def list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_count(v) and v > 0 for v in value)


def is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def numbers_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


def is_verdicts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(one is None or isinstance(one, bool) for one in value)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


ROLLOUT = (
    {"group_id": is_name, "text": is_text, "step": is_count},
    {
        **dict.fromkeys(("reward", "advantage"), is_number),
        **dict.fromkeys(("index", "weights_version", "tokens"), is_count),
        **dict.fromkeys(("sample_id", "task", "stage", "frame", "masked", "finish_reason", "sampler_cause"), is_text),
        **dict.fromkeys(("size_original", "size_input"), list_of(is_pair)),
        **{"parts": numbers_by_name, "reasons": is_object, "image_sha": list_of(is_text)},
        **{"token_ids": list_of(is_count), "logprobs": list_of(is_number), "token_ends": list_of(is_count)},
    },
    {"reward": 0.0, "advantage": 0.0, "index": 0, "task": "?", "sample_id": "?"},
)
"""Required keys, other keys whose values are checked, and what stands for keys that are missing."""
GROUP = (
    {"group_id": is_name, "question": is_text},
    {"step": is_count, "meta": is_object, "image_sha": list_of(is_text), "image_files": list_of(is_text)},
    {"meta": {}},
)
ITEM = (
    {
        **dict.fromkeys(("model", "decoding", "sample_id", "task", "split", "text", "question"), is_text),
        **{"verdicts": is_verdicts, "tokens": lambda value: list_of(is_count)(value) and bool(value)},
    },
    {
        **dict.fromkeys(("boxes", "gold_boxes"), list_of(is_box)),
        **{"image_shas": list_of(is_text), "options": list_of(is_text), "box_image": is_count},
    },
    {"boxes": [], "gold_boxes": [], "image_shas": [], "options": [], "box_image": 0, "gold": None},
)
Shape = tuple[Mapping[str, Check], Mapping[str, Check], Mapping[str, Any]]


def fitted(row: JsonRow, shape: Shape) -> JsonRow | None:
    """The row without values of other types and with its texts cut; None when a required one is missing or odd."""
    required, checked, defaults = shape
    if not all(name in row and check(row[name]) for name, check in required.items()):
        return None
    odd = {name for name, check in checked.items() if name in row and not check(row[name])}
    found = {**defaults, **{name: value for name, value in row.items() if name not in odd}}
    for name in ("text", "question", "masked"):
        if isinstance(text := found.get(name), str):
            found[name] = _shown(text)
    if isinstance(meta := found.get("meta"), dict):
        index, options = meta.get("image_index") or 0, meta.get("options")
        found["meta"] = {**meta, "image_index": index if is_count(index) else 0}
        found["meta"]["options"] = options if isinstance(options, list) else []
    sizes = found.get("size_original"), found.get("size_input")
    if any(sizes) and not (sizes[0] and sizes[1] and len(sizes[0]) == len(sizes[1])):
        found["size_original"] = found["size_input"] = []
    return found


def fitted_metrics(rows: Iterable[JsonRow], known: set[str] | None = None) -> Iterator[JsonRow]:
    """Rows of metrics with numbers and texts only, without those that have no step. The first MOST_METRICS names of the
    run stay; `known` are those of the rows before."""
    known = set() if known is None else known
    for row in rows:
        if is_count(row.get("step")):
            kept = {"step": row["step"]}
            for name, value in row.items():
                if _is_metric(value) and (name in known or len(known) < MOST_METRICS):
                    known.add(name)
                    kept[intern(name)] = value
            yield kept


def _is_metric(value: Any) -> bool:
    return value is None or isinstance(value, str) or is_number(value) or (isinstance(value, float) and isnan(value))


def _shown(text: str) -> str:
    text = text if text.isascii() else text.encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}... ({len(text):,} characters)"
