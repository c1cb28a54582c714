"""The images of a set: hashed when their rows are ingested, compared with that hash whenever they are read again."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from PIL import Image

from saccade.data.held_images import most_sendable, sendable
from saccade.data.images import SUFFIXES, ImageError, file_bytes, format_of, large_alone, name_of, png_of
from saccade.disk import partial_of
from saccade.runs.drafts import Draft
from saccade.types import ImageSource

FOLDER, BAD_IMAGE = "images", "bad image"
"""The folder in the set, and the reason of rows whose image is not there or another one."""


def store_image(image: ImageSource, out: Path) -> tuple[str, str]:
    """(path, SHA-256 of the file) of an image; one without a file is written into the set's directory."""
    if isinstance(image, str):
        return os.path.realpath(image), _sha_of(Path(image))
    if isinstance(image, Image.Image):
        content, suffix = png_of(image), "png"
    else:
        content, suffix = image, format_of(image)
    sha = hashlib.sha256(content).hexdigest()
    name = f"{FOLDER}/{sha[:32]}.{suffix}"
    target = out / name
    if not _holds(target, sha):
        fresh = _fresh(target)
        fresh.write_bytes(content)
        fresh.replace(target)
    return name, sha


def read_images(draft: Draft, out: Path) -> list[bytes]:
    """The files of a draft's images, as `sendable`. ImageError when one cannot be read or has another content than when
    it was ingested, from a folder of its data: so a link that was put in its place leads to no other file."""
    contents = list[bytes]()
    for path, sha in zip(draft.images, draft.image_shas, strict=True):
        content = file_bytes(out / path)  # an absolute path stays itself
        _refuse_changed(path, hashlib.sha256(content).hexdigest(), sha)
        with large_alone([content]):
            contents.append(sendable(content))
    return contents


def most_bytes(draft: Draft, out: Path) -> int:
    """Bytes that `read_images` returns at most; files that cannot be read count nothing."""
    size = 0
    for path in draft.images:
        with suppress(OSError, ValueError):
            size += most_sendable(out / path)
    return size


def place_image(path: str, sha: str, out: Path, how: str) -> str:
    """The path of an image in the set: a hard link or copy named by its hash, or the original path. ImageError as in
    `read_images`."""
    if how == "path" or not Path(path).is_absolute():
        _refuse_changed(path, _sha_of(out / path), sha)
        return path
    suffix = Path(path).suffix.lower()
    suffix = suffix if suffix in SUFFIXES else f".{format_of(file_bytes(path))}"  # any text may follow the last dot
    name = f"{FOLDER}/{sha[:32]}{suffix}"
    target = out / name
    if _holds(target, sha):
        return name
    _refuse_changed(path, _sha_of(Path(path)), sha)
    fresh = _fresh(target)
    try:
        os.link(os.path.realpath(path), fresh)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(path, fresh)
    fresh.replace(target)
    return name


def _refuse_changed(path: str, found: str, sha: str) -> None:
    if found != sha:
        raise ImageError(
            f"{name_of(path)}: was changed after its row was ingested (SHA-256 {found[:12]}, expected {sha[:12]}); "
            "restore the file and run again, or set another 'out' to ingest the changed one"
        )


def _holds(target: Path, sha: str) -> bool:
    with suppress(ImageError):
        return _sha_of(target) == sha
    return False


def _fresh(target: Path) -> Path:
    """The name under which to write a file of the set in place of what is there: nothing, another content (a hard link
    whose original was changed), a pipe."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    fresh = partial_of(target)
    fresh.unlink(missing_ok=True)  # of a killed process that had the same id
    return fresh


def _sha_of(path: Path) -> str:
    """SHA-256 of an image file, which many rows may share. ImageError when it cannot be read."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a null byte is in no name
        return hashlib.sha256(file_bytes(path)).hexdigest()  # says what is wrong
    return _sha_of_file(path, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=4096)
def _sha_of_file(path: Path, *_stamp: int) -> str:
    return hashlib.sha256(file_bytes(path)).hexdigest()
