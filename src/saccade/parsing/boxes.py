"""Reading boxes out of a reply, in whatever of the known notations it writes them."""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from saccade.parsing.reading import Reading, found
from saccade.types import Box

BOX_KEYS = ("bbox_2d", "bbox", "box", "bounding_box")
LABEL_KEYS = ("label", "category", "class", "name")
CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
"""Keys of an object that gives its corners by name."""
SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
"""Keys of an object that gives a corner and the size by name."""
NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)
"""Placeholder used only in counts, for an entry with an unreadable box; overlaps no box. No reader returns it."""

Entry = tuple[Box | None, str]
"""A box as written, or None for one that is given but cannot be read; and its label."""

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_FOUR = r"\s*,\s*".join([f"({_NUMBER})"] * 4)
_LIST = re.compile(rf"\[\s*{_FOUR}\s*+,?\s*+\]")
_LOOSE = re.compile(
    r"[\[{]\s{0,9}" + r"(?:\s?px)?(?:\s{0,9}[,;]\s{0,9}|\s{1,9})".join([f"({_NUMBER})"] * 4) + r"(?:\s?px)?\s{0,9}[\]}]"
)
"""Four numbers in brackets, whatever is between them."""
_PAIR = rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
_ROUND = re.compile(rf"\(\s*{_FOUR}\s*\)")
_CORNER = re.compile(rf"[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[)\]]")
_BARE = re.compile(rf"{_FOUR}|" + r"\s+".join([f"({_NUMBER})"] * 4))
_NAMED = tuple(
    (
        names,
        re.compile(
            r"[,;\s]{1,9}".join(
                rf"(?<!\w)[\"']?{name}[\"']?\s{{0,9}}[=:]\s{{0,9}}[\"']?({_NUMBER})[\"']?" for name in names
            )
        ),
    )
    for names in (*CORNERS, *SIZES)
)
_INNER = re.compile(r"<b?box>([^<]{1,200})</b?box>")
_TO = re.compile(
    r"[\s,]*(?:(?:and|to|-|–|—|→|->)\s*)?"
    r"(?:(?:the\s)?(?:bottom|lower)[-_ ]right(?:\s(?:corner|point))?(?:\s(?:is|at))*\s*(?:[:=]\s*)?)?",
    re.IGNORECASE,
)
"""The separator between the two corners of a box."""
_LINE = re.compile(
    r"^[ \t]{0,16}(?:[-*•]|\d{1,3}[.)])?[ \t]{0,16}[*\"'`]{0,3}([^\W\d][\w '-]{0,40})"
    r"[*\"'`]{0,3}[ \t]{0,16}:[*\"'` \t]{0,16}(?=[\[(])",
    re.MULTILINE,
)
"""A label and a colon, as in 'cat: [1, 2, 3, 4]', at the start of a line."""
_NO_LABEL = re.compile(
    r".*\b(?:b?box(?:es)?|bounding|coordinates?|answers?|location|position|region|output|result|is|are)\b.*|bbox_2d",
    re.IGNORECASE,
)
_TOKENS = re.compile(
    r"(?:<\|object_ref_start\|>(?P<ref>[^<]{0,200})<\|object_ref_end\|>\s{0,9}"
    r"|<ref>(?P<old_ref>[^<]{0,200})</ref>\s{0,9})?"
    rf"(?:(?:<\|box_start\|>|<box>)\s{{0,9}}{_PAIR}\s{{0,9}},\s{{0,9}}{_PAIR}\s{{0,9}}(?:<\|box_end\|>|</box>)"
    rf"|<box>\s{{0,9}}\[?\s{{0,9}}{_LIST.pattern})"
)
_BINS = re.compile(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>([^<;]{0,200})")
_OBJECT = re.compile(r"\{[^{}]*\}")
_LABEL = re.compile(rf"""["'](?:{"|".join(LABEL_KEYS)})["']\s*:\s*(?:"([^"]*)"|'([^']*)')""")
_KEYED = re.compile("[\"'](?:" + "|".join(BOX_KEYS) + ")[\"']\\s*:")
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?")
_NOTHING = re.compile(r"(?:\[\s*\]|none|null)\.?", re.IGNORECASE)
_EMPTY_LIST = re.compile(r"\{\s*[\"'](?:objects|detections|boxes|bboxes|bbox_2d|results?)[\"']\s*:\s*\[\s*\]\s*\}")
_DECODER = json.JSONDecoder(parse_int=float)
_NARROW = str.maketrans("，、（）［］【】｛｝：", ",,()[][]{}:")
LONGEST_JOINT = 50
"""Characters between two corners of a box."""
LONGEST_BARE = 200
"""Characters of a text that may be four numbers and nothing else."""
MAX_STARTS = 8
"""Brackets at which a JSON value inside prose is tried, so that a text of brackets stays cheap."""


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """A box as written, in the frame of the reply or of the gold; an empty label when none was given."""

    box: Box
    label: str = ""


def read_boxes(text: str) -> list[LabelledBox]:
    """All boxes of a text, in order; [] when there are none.

    Reads JSON, fenced or bare, broken or whole: objects with `bbox_2d`, `bbox` or `box` and perhaps `label`, lists of
    four numbers, lists of either; `<|box_start|>(x1,y1),(x2,y2)<|box_end|>` and `<box>[[..]]</box>` with the label in
    `<|object_ref_start|>` or `<ref>`; `<locYYYY><locXXXX>..label`, which is put into x, y order; and what is left of
    these where markup is dropped: `(x1,y1),(x2,y2)`, `(x1,y1,x2,y2)`, `[[x1,y1],[x2,y2]]`, `{"x1":..,"y1":..}`,
    `x1=.., y1=..`, and four bare numbers when they are the whole text. Labels are read from the keys in `LABEL_KEYS`,
    from `{"cat": [..]}` and `["cat", [..]]`, and from lines such as `cat: [..]`. Full-width commas and brackets are
    read as plain ones. Numbers stay as written: not converted, clipped or reordered, except that a named width and
    height are turned into a corner. An unreadable box (three numbers, NaN) is left out; `read_entries` counts it.
    Takes any string; linear in its length.
    """
    return [LabelledBox(box, label) for box, label in read_entries(text) if box is not None]


def read_entries(text: str) -> list[Entry]:
    """As `read_boxes`, with None in the place of each box that is given but cannot be read."""
    text = _inside_fence(text)
    entries = _entries(text)
    if text.isascii() or (narrow := text.translate(_NARROW)) == text:
        return entries
    again = _entries(narrow)
    return again if _readable(again) > _readable(entries) else entries


def read_detections(text: str) -> list[LabelledBox] | None:
    """As `read_boxes`, but None for a text that neither holds a box nor says outright that there is none.

    `[]`, `None` and `null` say so, alone or in a fence; prose does not, nor does a list of boxes that cannot be read.
    """
    return parse_detections(text).value


def parse_detections(text: str) -> Reading[list[LabelledBox]]:
    """As `read_detections`, with the rule or the reason."""
    boxes = read_boxes(text)
    if boxes:
        return found(boxes, "boxes")
    inside = _inside_fence(text).strip()
    if _NOTHING.fullmatch(inside) or _EMPTY_LIST.fullmatch(inside):
        return found([], "said to be none")
    return Reading(None, reason="nothing" if not text.strip() else "no box")


def _readable(entries: list[Entry]) -> int:
    return sum(box is not None for box, _ in entries)


def _entries(text: str) -> list[Entry]:
    value = _json(text)
    if value is not None and (walked := list(_walk(value))):
        return walked
    if "box" in text and (tokens := [_token_box(m) for m in _TOKENS.finditer(text)]):
        return tokens
    if "<loc" in text and (bins := [_bin_box(m) for m in _BINS.finditer(text)]):
        return bins
    if value is None and (entries := _among_prose(text) or _scan(text)):
        return entries
    return _without_markup(text)


def _inside_fence(text: str) -> str:
    """The inside of the last complete ``` fence, or the text itself."""
    if "```" not in text:
        return text
    last: deque[tuple[int, int]] = deque(maxlen=3)
    count = 0
    for mark in _FENCE.finditer(text):
        last.append(mark.span())
        count += 1
    if count % 2:  # the fence that was opened last never closes: no pair
        last.pop()
    return text[last[-2][1] : last[-1][0]] if len(last) >= 2 else text


def _json(text: str) -> Any:
    """The JSON value between the first and the last bracket, or None. Numbers become floats, NaN and all."""
    starts = [i for i in (text.find("["), text.find("{")) if i >= 0]
    end = max(text.rfind("]"), text.rfind("}"))
    if not starts or end < min(starts):
        return None
    try:
        return _DECODER.decode(text[min(starts) : end + 1])
    except (ValueError, RecursionError):
        return None


def _among_prose(text: str) -> list[Entry]:
    """Boxes of the JSON values that stand in prose, when each of at most `MAX_STARTS` is whole; else []."""
    entries: list[Entry] = []
    position = 0
    labels = _line_labels(text)
    for _ in range(MAX_STARTS):
        start = min((i for i in (text.find("[", position), text.find("{", position)) if i >= 0), default=-1)
        if start < 0:
            return entries
        try:
            value, position = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            return []  # broken JSON: the scan keeps its whole items
        entries += _walk(value, labels.get(start, ""))
    return []


def _line_labels(text: str) -> dict[int, str]:
    """Where a box begins that has its label in front on the line -> the label."""
    return {line.end(): line[1].strip() for line in _LINE.finditer(text) if _NO_LABEL.fullmatch(line[1]) is None}


def _walk(value: Any, label: str = "", depth: int = 0) -> Iterator[Entry]:
    """Boxes in a JSON value: objects with a box key or named corners, lists of four numbers, lists of these. `label` is
    that of what holds the value."""
    if depth > 8:
        return
    if isinstance(value, dict):
        key = next((k for k in BOX_KEYS if k in value), None)
        label = next((said for k in LABEL_KEYS if isinstance(said := value.get(k), str)), label)
        if key is not None:
            for box in _boxes_under_key(value[key]):
                yield box, label
        elif _named_corners(value) is not None:
            yield _box(value), label
        else:
            yield from _walk_values(value, label, depth + 1)
    elif isinstance(value, list):
        if _is_flat(value) or _is_pair(value):
            yield _box(value), label
        elif len(value) == 2 and isinstance(value[0], str):
            yield from _walk(value[1], value[0], depth + 1)
        else:
            for inner in value:
                yield from _walk(inner, label, depth + 1)


def _walk_values(value: dict[str, Any], label: str, depth: int) -> Iterator[Entry]:
    """Boxes of an object whose keys are labels, or that has a list of labels beside that of boxes."""
    labels = value.get("labels")
    for key, inner in value.items():
        if isinstance(labels, list) and isinstance(inner, list) and inner is not labels and len(inner) == len(labels):
            for one, said in zip(inner, labels, strict=True):
                yield from _walk(one, said if isinstance(said, str) else label, depth)
        else:
            known = label or not isinstance(inner, list) or _NO_LABEL.fullmatch(key.replace("_", " "))
            yield from _walk(inner, label if known else key, depth)


def _is_flat(value: list[Any]) -> bool:
    return len(value) == 4 and all(isinstance(v, float) for v in value)


def _is_pair(value: Any) -> bool:
    """True of two corners, [[x1, y1], [x2, y2]]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(corner, list) and len(corner) == 2 for corner in value)
        and all(isinstance(v, float | str) for corner in value for v in corner)
    )


def _named_corners(value: dict[str, Any]) -> list[Any] | None:
    names = next((names for names in (*CORNERS, *SIZES) if all(name in value for name in names)), None)
    if names is None:
        first, last = value.get("top_left", ""), value.get("bottom_right", "")
        return [*first, *last] if _is_pair([first, last]) else None
    return _corners(names, [value[name] for name in names])


def _corners(names: tuple[str, ...], values: Sequence[Any]) -> list[Any]:
    """Corners as they are; a corner and the size as two corners, where they are numbers."""
    x1, y1, right, bottom = values
    if names in SIZES:
        try:
            return [x1, y1, float(x1) + float(right), float(y1) + float(bottom)]
        except (TypeError, ValueError):
            return [x1, y1, None, None]
    return [x1, y1, right, bottom]


def _scan(text: str) -> list[Entry]:
    """Boxes of a text that is no JSON, such as a list cut short or one with a stray comma."""
    entries: list[Entry] = []
    end = 0
    for item in _OBJECT.finditer(text):
        entries += [(_box(m.groups()), "") for m in _LIST.finditer(text, end, item.start())]
        end = item.end()
        boxes: list[Box | None] = [_box(m.groups()) for m in _LIST.finditer(item[0])]
        if not boxes and _KEYED.search(item[0]):
            boxes = [box for box, _ in _corner_pairs(item[0])] or [None]
        label = _LABEL.search(item[0])
        entries += [(box, next(filter(None, label.groups()), "") if label else "") for box in boxes]
    labels = _line_labels(text)
    return entries + [(_box(m.groups()), labels.get(m.start(), "")) for m in _LIST.finditer(text, end)]


def _without_markup(text: str) -> list[Entry]:
    """Boxes of a text without JSON and tokens: in brackets, as two corners, by name, or four bare numbers."""
    labels = _line_labels(text) if "(" in text else {}
    if "(" in text and (rounds := [(_box(m.groups()), labels.get(m.start(), "")) for m in _ROUND.finditer(text)]):
        return [*rounds]
    if pairs := _corner_pairs(text, labels):
        return pairs
    if loose := [(_box(m.groups()), "") for m in _LOOSE.finditer(text)]:
        return [*loose]
    for names, pattern in _NAMED:
        if names[0] in text and (named := [_box(_corners(names, m.groups())) for m in pattern.finditer(text)]):
            return [(box, "") for box in named]
    if inner := [_box_in_words(m[1]) for m in _INNER.finditer(text)]:
        return [(box, "") for box in inner]
    bare = _BARE.fullmatch(text.strip().removesuffix(".")) if len(text) < LONGEST_BARE else None
    return [] if bare is None else [(_box([v for v in bare.groups() if v is not None]), "")]


def _corner_pairs(text: str, labels: Mapping[int, str] = MappingProxyType({})) -> list[Entry]:
    """A box of each two corners `(x1,y1),(x2,y2)` with a comma, space or 'to' between them; a run of more is a
    polygon. `labels`: where a box begins -> its label."""
    runs: list[list[str]] = []
    starts: list[int] = []
    end = -1
    for corner in _CORNER.finditer(text):
        between = corner.start() - end if end >= 0 else LONGEST_JOINT
        if between < LONGEST_JOINT and corner.start() not in labels and _TO.fullmatch(text, end, corner.start()):
            runs[-1] += corner.groups()
        else:
            runs.append([*corner.groups()])
            starts.append(corner.start())
        end = corner.end()
    return [(_box(run), labels.get(at, "")) for at, run in zip(starts, runs, strict=True) if len(run) == 4]


def _boxes_under_key(value: Any) -> list[Box | None]:
    """One box, or several in a list of lists, which all have the label of their object."""
    lists = isinstance(value, list) and len(value) > 1 and all(isinstance(inner, list) for inner in value)
    return [_box(inner) for inner in value] if lists and not _is_pair(value) else [_box(value)]


def _token_box(match: re.Match[str]) -> Entry:
    numbers = [group for group in match.groups()[2:] if group is not None]
    return _box(numbers), (match["ref"] or match["old_ref"] or "").strip()


def _bin_box(match: re.Match[str]) -> Entry:
    y1, x1, y2, x2, label = match.groups()
    return _box((x1, y1, x2, y2)), label.strip()


def _box(value: Any) -> Box | None:
    """Four finite numbers as a box, in a list, as two corners, by name or as a text of these; else None."""
    if isinstance(value, list) and len(value) == 1:  # [[x1, y1, x2, y2]], as some families write
        value = value[0]
    if isinstance(value, str):
        return _box_in_words(value)
    if isinstance(value, dict):
        value = _named_corners(value)
    elif _is_pair(value):
        value = [*value[0], *value[1]]
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(isinstance(v, float | str) for v in value):
        return None
    try:
        x1, y1, x2, y2 = map(float, value)
    except ValueError:
        return None
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


def _box_in_words(text: str) -> Box | None:
    """The one box of a text that stands where a list should."""
    if len(text) >= LONGEST_BARE:
        return None
    boxes = [_box(m.groups()) for m in _LIST.finditer(text)] or [box for box, _ in _without_markup(text)]
    return boxes[0] if len(boxes) == 1 else None
