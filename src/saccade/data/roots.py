"""Where the image files of a data set may be: folders that its user named, never folders that its rows name.

Our own outputs (`convert`, cold starts) refer to images where they were. They record those folders in `roots.json` with
a code (HMAC) under a key of this user, so that a data set of a stranger cannot name folders by a file of that name.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from saccade.data.images import ImageError, shown_name
from saccade.data.texts import LARGEST_LABELS, text_in
from saccade.disk import write_text

ROOTS = "roots.json"
KEY = Path("~/.cache/saccade/roots.key")
"""Made on the first use. Without it (another user or machine) recorded folders do not count."""


def inside(path: str | Path, roots: Sequence[Path]) -> bool:
    """Whether a file, with its links followed, is below one of the folders or in the cache of the hub."""
    real = _real(path)
    return any(real.is_relative_to(root) for root in (*roots, *_hub_caches()))


def roots_in(folders: Iterable[Path], data_root: Path | None) -> tuple[Path, ...]:
    """Where image files of a data set may be: in `data_root` alone if it is given, else in `folders` and where our own
    outputs in them recorded images."""
    if data_root is not None:
        return (_real(data_root),)
    found = list(dict.fromkeys(map(_real, folders)))
    return tuple(dict.fromkeys((*found, *(root for folder in found for root in recorded(folder)))))


def _real(path: str | Path) -> Path:
    """A path with its links followed, as far as they lead: `Path.resolve` raises for a link to itself."""
    return Path(os.path.realpath(path))


def refuse_outside(path: str | Path, roots: Sequence[Path] | None) -> None:
    """ImageError for what a row or a file of the data names outside its folders. None: anywhere."""
    if "\0" in str(path):
        raise ImageError(f"{shown_name(str(path))}: has a null byte, expected the name of a file")
    if roots is not None and not inside(path, roots):
        raise ImageError(
            f"{shown_name(str(path))}: is outside the folders of its data ({', '.join(map(str, roots)) or 'none'}); "
            "set image_folder or data_root to the folder that holds it, or data_root: / for any"
        )


def record(folder: Path, roots: Iterable[Path]) -> None:
    """Writes `roots.json`: the rows in `folder` may refer to images in `roots`."""
    names = sorted({str(_real(root)) for root in roots})
    key = _key(create=True)
    if names and key is not None:
        text = json.dumps({"roots": names, "code": _code(names, key)}, indent=1) + "\n"
        write_text(folder / ROOTS, text)


def recorded(folder: Path) -> tuple[Path, ...]:
    """The folders that this user's `convert` or cold start recorded in `folder`; none when the code does not match."""
    try:
        found = json.loads(text_in(folder / ROOTS, LARGEST_LABELS))
        names, key = [str(name) for name in found["roots"]], _key(create=False)
        if key is not None and hmac.compare_digest(str(found["code"]), _code(names, key)):
            return tuple(map(Path, names))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()
    return ()


def _code(names: list[str], key: bytes) -> str:
    return hmac.new(key, json.dumps(names).encode(), hashlib.sha256).hexdigest()


def _key(create: bool) -> bytes | None:
    try:
        path = KEY.expanduser()
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        return path.read_bytes() or None
    except (OSError, RuntimeError):  # no home, or read-only: nothing is recorded
        return None


@lru_cache(maxsize=1)
def _hub_caches() -> tuple[Path, ...]:
    """Clusters often set the second apart from the first."""
    from huggingface_hub import constants  # knows the variables and their older names

    return tuple(map(_real, (constants.HF_HOME, constants.HF_HUB_CACHE)))
