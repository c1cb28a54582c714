"""Small text files that are part of a data set: annotations, lists of splits, descriptions of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from saccade.config.yaml_values import Bounded
from saccade.faults import no_file, shown

LARGEST = 1 << 24
"""Maximum bytes of such a file."""
MOST_LINES = 1 << 19
LARGEST_LABELS = 1 << 22
"""Maximum bytes of the labels of one image, as XML 50 times as many in memory."""
LARGEST_SETTINGS = 1 << 20
"""Maximum bytes of settings in YAML."""


def text_in(file: Path, most: int = LARGEST) -> str:
    """The text of a file. ValueError that names it when it is missing, no regular file (reading a pipe waits forever, a
    device has no end), too large or not UTF-8."""
    try:
        if not file.is_file():
            raise ValueError(f"{file}: {no_file(file)}; expected a text file")
        if (size := file.stat().st_size) > most:
            raise ValueError(f"{file}: has {size:,} bytes, expected {most:,} at most")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None


def lines_in(file: Path, most: int = LARGEST) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers. ValueError as `text_in`, and for more than
    MOST_LINES."""
    text = text_in(file, most)
    if text.count("\n") > MOST_LINES:
        raise ValueError(f"{file}: has more than {MOST_LINES:,} lines; split it")
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


class _Loader(Bounded, yaml.BaseLoader):
    """All scalars are texts: a class may be called no or 01."""


def settings_of(text: str, place: str) -> dict[str, Any]:
    """The keys and values of a text in YAML: texts, lists and mappings, which aliases may repeat. ValueError, with the
    place, for anything else."""
    try:
        if len(text) > LARGEST_SETTINGS:
            raise yaml.YAMLError(f"{len(text):,} characters, expected {LARGEST_SETTINGS:,} at most")
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{place}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{place}: got {shown(value)}, expected a mapping of keys to values")
    return value
