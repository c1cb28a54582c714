"""Small text files that are part of a data set: annotations, lists of splits, descriptions of a folder."""

from __future__ import annotations

from pathlib import Path

LARGEST = 1 << 24
"""Maximum bytes of such a file."""


def text_in(file: Path, most: int = LARGEST) -> str:
    """The text of a file. ValueError that names it when it is missing, no regular file (reading a pipe waits forever, a
    device has no end), too large or not UTF-8."""
    try:
        if not file.is_file():
            what = "is no regular file (a folder, pipe or device)" if file.exists() else "there is no such file"
            raise ValueError(f"{file}: {what}; expected a text file")
        if (size := file.stat().st_size) > most:
            raise ValueError(f"{file}: has {size:,} bytes, expected {most:,} at most")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
