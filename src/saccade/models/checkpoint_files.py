"""The files of a checkpoint beside its weights: what transformers or a server needs to read it like the original."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from saccade.data.hub import WAY_OUT, of_the_hub

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
_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk to which a checkpoint is downloaded."""
PROCESSOR_SETTINGS = "processor_config.json"
"""The image processor's settings are in the first (older checkpoints) or in the second, under `image_processor`."""


PANIC = "PanicException"
"""What a library in Rust raises for what it did not expect; it is no Exception."""


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """For the files of a checkpoint, which may hold anything: whatever goes wrong while `what` is read or used becomes
    one ValueError that names it. Lines that are ours already, and a lack of memory, pass."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        if (type(error) is ValueError and _raised_here(error)) or getattr(error, "errno", None) in _FULL:
            raise
        said = " ".join(str(error).split())
        cause = f"{type(error).__name__}: {said[:300]}{' ..' if len(said) > 300 else ''}"
        raise ValueError(f"{path}: {what} cannot be used ({cause}); {_way_out(error)}") from error


def _way_out(error: BaseException) -> str:
    if isinstance(error, ImportError):  # of a quantized checkpoint, or a tokenizer of another library
        return "install what is missing"
    if "can't allocate memory" in str(error):
        return "it takes more memory than there is, or a size in it is wrong"
    return "expected files as transformers saves them: copy the checkpoint again, or correct that file"


def _raised_here(error: BaseException) -> bool:
    """Whether a statement of this package raised it, not something that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("saccade.")


def read_family(path: str) -> Any:
    """The configuration of a model, without the implementations of attention and experts that it names, which may be
    code on a hub (only a recipe chooses code), and without what only its last run used, at which saving would fail.
    ValueError when it cannot be read, downloaded or saved."""
    try:
        with reading(path, "config.json"):
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except ValueError as error:
        if Path(path).is_dir() or not isinstance(error.__cause__, OSError):
            raise
        reason = str(error.__cause__).splitlines()[0]
        raise ValueError(f"model.path {path!r}: no such directory, and download failed ({reason})") from error
    config._attn_implementation = config._experts_implementation = None
    for name in ("distributed_config", "_auto_class"):
        vars(config).pop(name, None)
    config.output_attentions = False
    with reading(path, "config.json"):  # what could not be saved would be noticed at the first checkpoint
        getattr(config, "validate", bool)()
        config.to_json_string()
    return config


def read_processors(text: str, images: str) -> tuple[Any, Any]:
    """The tokenizer in one directory or of a hub name, and the image processor in another."""
    with reading(text, "the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False)
    with reading(images, "the settings of the image processor"):
        return tokenizer, AutoImageProcessor.from_pretrained(images, trust_remote_code=False)


def generation_ends(files: Mapping[str, bytes]) -> tuple[int, ...]:
    """The tokens at which the checkpoint's own generation ends. TypeError for what is no token id."""
    if "generation_config.json" not in files:
        return ()
    found = json.loads(files["generation_config.json"]).get("eos_token_id")
    ends = found if isinstance(found, list) else [] if found is None else [found]
    for end in ends:
        if not isinstance(end, int):
            raise TypeError(f"generation_config.json: eos_token_id: got {end!r:.80}, expected token ids")
    return tuple(ends)


def read_files(path: str) -> dict[str, bytes]:
    """Name -> content of the kept files of a directory or of a hub name. They are held in memory, about 10 MB, because
    the directory may be a checkpoint that the run removes later."""
    folder = Path(path) if Path(path).is_dir() else _downloaded(path)
    found = [file for pattern in ("*", "additional_chat_templates/*") for file in folder.glob(pattern)]
    named = {file.relative_to(folder).as_posix(): file for file in found if file.is_file()}
    return {name: file.read_bytes() for name, file in sorted(named.items()) if is_kept(name)}


def _downloaded(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(KEPT)))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a server answers
        raise ValueError(
            f"model.path {name!r}: cannot be read from the hub ({of_the_hub(error)}); {WAY_OUT}"
        ) from error


def _refuse_outside(folder: Path) -> None:
    """ValueError for an index of weights that names a file elsewhere."""
    for index in folder.glob("*.index.json"):
        found = json.loads(index.read_bytes()) if index.is_file() else None
        names = found.get("weight_map") if isinstance(found, dict) else None
        for name in set(names.values()) if isinstance(names, dict) else ():
            if Path(name).name != name:
                raise ValueError(f"{index}: names the file {name[:200]!r}, expected one beside it")


def read_weights(path: str, **options: Any) -> Any:
    """The model in a directory or of a hub name, with all its weights. ValueError when a tensor is missing or has
    another shape: transformers would draw it at random."""
    from transformers import AutoModelForImageTextToText

    read: Any = AutoModelForImageTextToText.from_pretrained  # its type leaves out the second result
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True, "trust_remote_code": False}
    with reading(path, "the weights"):
        _refuse_outside(Path(path))
        model, found = read(path, **options)
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
            changed[name] = (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
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
