"""The environment of a run: enough to explain later why two runs differ."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import saccade
from saccade.data.images import name_of
from saccade.disk import without_waiting
from saccade.types import ImageSource

if TYPE_CHECKING:
    import torch

    from saccade.models.policy import Policy

PACKAGES = (
    "saccade",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "pillow",
    "numpy",
    "pydantic",
    "peft",
    "bitsandbytes",
)
OF_A_MODEL = (
    "*.safetensors",
    "*.bin",
    "shards/*",
    "*.json",
    "*.jinja",
    "*/*.jinja",
    "*.model",
    "merges.txt",
    "vocab.txt",
)
"""Files of a directory that change what its model does."""
READERS, AT_ONCE = 8, 1_000
"""Threads that look at image files, which may be far away, and files of one turn of a thread."""
_BLOCK = 4096
"""Bytes of an image file that are hashed, at its start, in its middle and at its end."""


def describe(policy: Policy, model_path: str, data: Mapping[str, str], may_be_gone: bool = False) -> dict[str, Any]:
    """The content of environment.json; `data` is a hash for each source. ValueError when there is no model at
    `model_path`, unless it may be gone (on resume, which reads a checkpoint)."""
    import torch  # here, because an evaluation of a served model does without

    from saccade.models.policy import resolve_path

    try:
        model_hash = hash_model(resolve_path(model_path))
    except ValueError:
        if not may_be_gone:
            raise
        model_hash = None
    return {
        "commit": commit(),
        "packages": versions(),
        "python": platform.python_version(),
        "device": device_name(policy.device),
        "dtype": str(policy.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "image_backend": policy.adapter.image_backend,
        "data_hash": dict(data),
        "model": model_path,
        "model_hash": model_hash,
    }


def commit() -> str | None:
    """The commit of the checkout of this package, with '+' for uncommitted changes; None outside a checkout."""
    here = Path(saccade.__file__).parent

    def git(*words: str) -> str | None:
        try:
            command = ["git", "-C", str(here), *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None  # no git, no repository: an installed wheel
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    return head and head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def versions() -> dict[str, str | None]:
    """Of the packages that a run's numbers depend on."""
    return {name: version(name) for name in PACKAGES}


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents, sorted by name."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode(errors="surrogatepass"))
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def hash_model(path: str) -> str | None:
    """Hash of a directory's weights, configuration, tokenizer and templates; None for a model on a hub."""
    root = Path(path)
    files = [file for kind in OF_A_MODEL for file in root.glob(kind) if file.is_file()]
    return hash_files(files) if root.is_dir() else None


def hash_contents(contents: Iterable[tuple[Any, ...]]) -> str:
    """Hash of what the rows of a source say (`Sample.content`), in order, whatever files they come from; of their
    images see `hash_images`."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content_bytes(content))
    return digest.hexdigest()


def content_bytes(content: tuple[Any, ...]) -> bytes:
    """What of a row goes into the hash of its source."""
    return repr(content).encode("utf-8", "replace")


def numbered(names: Iterable[str]) -> list[str]:
    """Names that differ, for sources of the same title: `train`, `train (2)`."""
    found: dict[str, None] = {}
    for name in names:
        ways = (name, *(f"{name} ({n})" for n in range(2, len(found) + 3)))
        found[next(one for one in ways if one not in found)] = None
    return list(found)


def hash_images(images: Iterable[ImageSource]) -> dict[str, Any]:
    """{"count", "hash", "newest"} of the different image files of a source, in order: a hash of their sizes and
    three blocks of each, and the name and time of the last one that was written.

    Blocks, so that 100,000 images cost seconds and not their reading: a compressed image with other pixels has another
    size or end. Neither names nor times are hashed: copied data is the same data.
    """
    different = list(dict.fromkeys(one for one in images if isinstance(one, str | bytes)))
    digest, newest, latest = hashlib.sha256(), "", 0.0
    turns = [different[start : start + AT_ONCE] for start in range(0, len(different), AT_ONCE)]
    with ThreadPoolExecutor(READERS, thread_name_prefix="images") as readers:
        for found in readers.map(_marks, turns):
            for mark, written, name in found:
                digest.update(mark)
                newest, latest = (name, written) if written > latest else (newest, latest)
    at = f"{newest} at {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(latest))}" if newest else None
    return {"count": len(different), "hash": digest.hexdigest(), "newest": at}


def _marks(images: Sequence[str | bytes]) -> list[tuple[bytes, float, str]]:
    """(hash, time of the last change in seconds, name) of each."""
    return [_mark(one) for one in images]


def _mark(image: str | bytes) -> tuple[bytes, float, str]:
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest(), 0.0, ""
    digest, written = hashlib.sha256(), 0.0
    with suppress(OSError), open(image, "rb", buffering=0, opener=without_waiting) as file:
        facts = os.fstat(file.fileno())
        size, written = facts.st_size, facts.st_mtime
        digest.update(f"{size} ".encode())
        for start in dict.fromkeys((0, max(size // 2 - _BLOCK // 2, 0), max(size - _BLOCK, 0))):
            digest.update(os.pread(file.fileno(), _BLOCK, start))
    return digest.digest(), written, name_of(image)
