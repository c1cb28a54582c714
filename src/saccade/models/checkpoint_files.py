"""The files of a checkpoint beside its weights: what transformers or a server needs to read it like the original."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

KEPT = (
    "*config*.json",
    "chat_template.*",
    "additional_chat_templates/*.jinja",
    "*.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.json",
    "vocab*.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.spm",
)
"""Configurations, templates and all forms of tokenizers; never code, weights or their indices."""
NOT_KEPT = ("config.json", "adapter_config.json", "*.py", "*.index.json")
"""`config.json` is written with the model; an adapter's belongs to weights that are not beside it."""
IMAGE_SETTINGS = "preprocessor_config.json"
PROCESSOR_SETTINGS = "processor_config.json"
"""The image processor's settings are in the first (older checkpoints) or in the second, under `image_processor`."""


def read_files(path: str) -> dict[str, bytes]:
    """Name -> content of the kept files of a directory or of a hub name. They are held in memory, about 10 MB, because
    the directory may be a checkpoint that the run removes later."""
    folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path, allow_patterns=list(KEPT)))
    found = [file for pattern in ("*", "additional_chat_templates/*") for file in folder.glob(pattern)]
    named = {file.relative_to(folder).as_posix(): file for file in found if file.is_file()}
    return {name: file.read_bytes() for name, file in sorted(named.items()) if is_kept(name)}


def read_weights(path: str, **options: Any) -> Any:
    """The model in a directory or of a hub name, with all its weights. ValueError when a tensor is missing or has
    another shape: transformers would draw it at random."""
    from transformers import AutoModelForImageTextToText

    read: Any = AutoModelForImageTextToText.from_pretrained  # its type leaves out the second result
    model, found = read(path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    bad = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    bad += [
        f"{name} has shape {list(was)}, expected {list(new)}" for name, was, new in sorted(found["mismatched_keys"])
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(f"{path}: the weights do not fit config.json: {', '.join(bad[:3])}{more}; copy it again")
    return model


def is_kept(name: str) -> bool:
    return any(fnmatch(name, one) for one in KEPT) and not any(fnmatch(name, one) for one in NOT_KEPT)


def with_image_settings(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> dict[str, bytes]:
    """The files with some settings of the image processor replaced, wherever they are."""
    changed = dict(files)
    for name, key in ((IMAGE_SETTINGS, None), (PROCESSOR_SETTINGS, "image_processor")):
        whole = json.loads(files[name]) if name in files else {}
        held = whole if key is None else whole.get(key)
        if settings and isinstance(held, dict) and whole:
            held.update(settings)
            changed[name] = (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode()
    return changed


def write_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Writes the files into `directory`."""
    for name, content in files.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def readable(directory: Path) -> None:
    """Mode 0644 for every file (safetensors writes 0600), so that a server under another user can read them."""
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
