"""The files of a data set on the Hugging Face hub that hold a split, downloaded into the hub's cache.

Only files of the set itself are read, and only by our own readers: the package `datasets` follows whatever a set's
README.md names, addresses and files of this machine included.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from saccade.data.hub import of_the_hub, use_hub
from saccade.data.texts import settings_of, text_in
from saccade.faults import listed, shown

CARD = "README.md"
COPY = "refs/convert/parquet"
"""The branch with the hub's own Parquet copy of a set of any format: CONFIGURATION/SPLIT/*.parquet."""
SPLITS = {"train": "train|training", "validation": "validation|valid|dev|val", "test": "test|testing|eval|evaluation"}
"""Split -> words in the names of its folders or files, as `datasets` finds them."""
WAY_OUT = "or download the files and set 'path'"
LONGEST_PATTERN, MOST_PATTERNS = 300, 2_000
"""Characters of a pattern, and patterns of a set; each is tried at every file."""
_NO_ROWS = re.compile(r"metadata\.\w+|(config|dataset_infos?|dataset_dict|state)\.json")
"""Files that describe a folder or its images."""
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""In no name: control characters, which would break the line of an error, and what is no text."""
_SHARD = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*")
_FRONT = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", re.DOTALL)


def set_files(name: str, configuration: str | None, split: str, kinds: Collection[str]) -> list[Path]:
    """The files with the rows of a split, in order: those with a suffix of `kinds`, else those of the hub's Parquet
    copy. ValueError when there are none, or when the set names anything outside itself."""
    chosen = _configuration(name, configuration)
    within = f"{chosen['data_dir']}/" if chosen.get("data_dir") else ""
    if (given := chosen.get("data_files")) is None:
        splits = _by_name(_own_files(name, [f"{within}**/*{kind}" for kind in kinds]), within)
        files = splits.get(split, {})
    else:
        splits = _patterns(name, given)
        files = _own_files(name, [within + one for one in splits.get(split, ())])
    rows = {file: _kind(file) for file in files.values() if file.suffix.lower() in kinds}
    if rows:
        number = Counter(rows.values())
        most = max(number, key=lambda kind: (number[kind], kind == ".parquet"))
        return [file for file, kind in rows.items() if kind == most]
    try:
        copy = f"{configuration or chosen.get('config_name', 'default')}/{split}/*.parquet"
        found = [*_own_files(name, [copy], COPY).values()]
    except ValueError:
        found = []
    if found:
        return found
    others = f"it has the splits {listed(splits)}; use one of them, {WAY_OUT}" if splits else WAY_OUT[3:]
    raise ValueError(
        f"hub {name!r}: there are no rows of split {split!r} in files {', '.join(kinds)} or in the hub's Parquet copy; "
        + others
    )


def _kind(file: Path) -> str:
    return file.suffix.lower().removesuffix("l")


def _configuration(name: str, configuration: str | None) -> dict[str, Any]:
    """The entry of a configuration in the set's README.md, the default one for None; empty where it lists none."""
    front = _FRONT.match(text_in(card)) if (card := _snapshot(name, [CARD]) / CARD).is_file() else None
    held = settings_of(front[1], f"hub {name!r}: {CARD}") if front and front[1].strip() else {}
    given = held.get("configs") or []
    entries = given if isinstance(given, list) else [given]
    for one in entries:
        if not isinstance(one, dict) or not _is_name(one.get("config_name")):
            raise ValueError(
                f"hub {name!r}: {CARD}: 'configs' has {shown(one)}, expected a list with a config_name in each; "
                f"{WAY_OUT[3:]}"
            )
        if not isinstance(one.get("data_dir", ""), str) or set(one.get("data_dir", "")) & set("*?["):
            raise ValueError(
                f"hub {name!r}: {CARD}: 'data_dir' is {shown(one['data_dir'])}, expected a folder; {WAY_OUT[3:]}"
            )
    by_name = {one["config_name"]: one for one in entries}
    defaults = [one for key, one in by_name.items() if key == "default" or one.get("default") == "true"]
    if configuration is None and (defaults or len(by_name) < 2):
        return (defaults or entries or [{}])[0]
    if configuration not in by_name and by_name:
        lacks = f"configuration {configuration!r}" if configuration else "default configuration"
        raise ValueError(
            f"hub {name!r}: there is no {lacks}; it has {listed(by_name)}; download the files of one and set 'path'"
        )
    return by_name.get(configuration or "", {})


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and not _ODD.search(value)


def _patterns(name: str, given: Any) -> dict[str, list[str]]:
    """Split -> patterns, from `data_files` in any of its forms."""
    entries = given if isinstance(given, list) else [given]
    if all(isinstance(one, str) for one in entries):
        return {"train": entries}
    found: dict[str, list[str]] = {}
    for one in entries:
        paths = one.get("path") if isinstance(one, dict) else None
        paths = [paths] if isinstance(paths, str) else paths
        names = [one.get("split"), *paths] if isinstance(one, dict) and isinstance(paths, list) else [None]
        if not isinstance(paths, list) or not all(map(_is_name, names)):
            raise ValueError(
                f"hub {name!r}: {CARD}: 'data_files' has {shown(one)}, expected names of files, or split and path; "
                f"{WAY_OUT[3:]}"
            )
        found.setdefault(one["split"], []).extend(paths)
    return found


def _by_name(files: dict[str, Path], within: str) -> dict[str, dict[str, Path]]:
    """Split -> files, where README.md does not say: by `data/SPLIT-00000-of-00001`, else by words in the names of
    folders, else of files; without any, all are for training."""
    own = {str(PurePosixPath(name).relative_to(within)): name for name in files}
    own = {short: name for short, name in own.items() if _may_hold_rows(short)}
    found: dict[str, dict[str, Path]] = {}
    for short, name in own.items():
        if shard := _SHARD.fullmatch(short):
            found.setdefault(shard[1], {})[name] = files[name]
    for part in (lambda short: short.split("/")[:-1], lambda short: short.split("/")[-1:]):
        for split, words in SPLITS.items() if not found else ():
            word = re.compile(rf"(?:^|[-._ 0-9])(?:{words})(?:[-._ 0-9]|$)")
            if held := {name: files[name] for short, name in own.items() if any(map(word.search, part(short)))}:
                found[split] = held
    return found or ({"train": {name: files[name] for name in own.values()}} if own else {})


def _may_hold_rows(short: str) -> bool:
    """Not in folders such as `__pycache__`."""
    *folders, last = short.split("/")
    return not _NO_ROWS.fullmatch(last) and not any(one.startswith("__") for one in folders)


def _own_files(name: str, patterns: Sequence[str], revision: str | None = None) -> dict[str, Path]:
    """Name in the set -> file here, of those that match, downloaded. ValueError for a pattern that leads out of it."""
    for one in patterns:
        if one.startswith("/") or "://" in one or "::" in one or _ODD.search(one) or ".." in PurePosixPath(one).parts:
            raise ValueError(
                f"hub {name!r}: {CARD} names {shown(one)}, expected files of the data set itself; if you trust it, "
                "download that file and set 'path'"
            )
    if not patterns:
        return {}
    longest = max(map(len, patterns))
    if len(patterns) > MOST_PATTERNS or longest > LONGEST_PATTERN:
        got = f"{len(patterns):,} patterns" if len(patterns) > MOST_PATTERNS else f"a pattern of {longest:,} characters"
        most = f"{MOST_PATTERNS:,} patterns of {LONGEST_PATTERN} characters at most"
        raise ValueError(f"hub {name!r}: {CARD} names {got}, expected {most}; {WAY_OUT[3:]}")
    plain = list(dict.fromkeys(re.sub(r"(?:\*\*/)+", "**/", str(PurePosixPath(one))) for one in patterns))
    # the hub's patterns are simpler: * matches / as well, so that they may match more
    folder = _snapshot(name, [one.replace("**/", "*") for one in plain], revision)
    names = sorted(Path(base, one).relative_to(folder) for base, _, files in os.walk(folder) for one in files)
    found = (one for pattern in plain for one in _matching(names, pattern))
    return {one: folder / one for one in found if (folder / one).is_file()}


def _matching(names: Sequence[Path], pattern: str) -> list[str]:
    """The names that match, in time linear in their depth: `glob` tries each way to spread the folders of a name over
    several `**`. As there, a name that begins with a dot is matched by one that does only."""
    if not glob.has_magic(pattern):
        return [pattern]
    steps = [None if part == "**" else re.compile(fnmatch.translate(part)).match for part in pattern.split("/")]
    dotted = [part.startswith(".") for part in pattern.split("/")]
    return [str(name) for name in names if _matches(name.parts, steps, dotted)]


def _matches(parts: Sequence[str], steps: Sequence[Any], dotted: Sequence[bool]) -> bool:
    """Whether the parts of a name match these steps of a pattern; None is `**`, any number of folders."""
    at = {0}  # steps that may be next
    for part in parts:
        at |= {place + 1 for place in at if place < len(steps) and steps[place] is None}
        hidden, after = part.startswith("."), set[int]()
        for place in at:
            if place < len(steps) and (dotted[place] or not hidden):
                if steps[place] is None:
                    after |= {place, place + 1} if place + 1 == len(steps) else {place}
                elif steps[place](part):
                    after.add(place + 1)
        at = after
    return len(steps) in at


def _snapshot(name: str, patterns: list[str], revision: str | None = None) -> Path:
    """The folder of the set in the hub's cache, with the files that match. ValueError when it cannot be read."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"hub {name!r}: reading from the hub needs the package 'huggingface_hub', which is not installed; run "
            f"'pip install huggingface_hub', {WAY_OUT}"
        ) from None
    use_hub()
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        here = f"; to read the folder {name}, set 'path' instead of 'hub'" if Path(name).is_dir() else ""
        raise ValueError(
            f"hub {name!r}: cannot be read ({of_the_hub(error)}); check name and network, {WAY_OUT}{here}"
        ) from error
