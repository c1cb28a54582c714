"""Checkpoints: `checkpoints/step-000100/` is an ordinary Hugging Face directory, or with LoRA one of adapters that peft
reads, plus the trainer's state.

A checkpoint appears by one rename, so a directory of that name was complete once; `state.json` has the size and hash of
each of its files, which `damage` compares. `last` and `best` are links to such directories. Loading restores everything
that the next step depends on: a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saccade.disk import PARTIAL, flush, require_space
from saccade.models.policy import Policy
from saccade.runs.lock import keep_lock
from saccade.training import generators
from saccade.training.config import OptimKind
from saccade.training.master_weights import needs_master
from saccade.training.optim import GuardedOptimizer
from saccade.training.optimizer_state import fitted, order

TRAINER_FILE = "trainer.pt"
STATE_FILE = "state.json"
LARGEST_STATE = 256 << 20
"""Bytes of a state; a run writes a few kilobytes, and some for each position that is skipped or replayed."""
EXTRAS_FILE = "extras.pt"
BEFORE = ".before"
"""End of the name of a checkpoint while the one that takes its place is renamed."""
REFERENCE = "reference"
"""Folder of the reference model, once it was refreshed."""
ASIDE = ("damaged-", "diverged-", "copied-", "before-resume-")
"""How names of what was set aside begin."""
_READ = (
    *("shards", REFERENCE, "additional_chat_templates", "merges.txt", "vocab.txt"),
    *(".json", ".jinja", ".safetensors", ".bin", ".model"),
)
"""Names, and ends of names, of what is read of a directory."""
_NAME = re.compile(r"step-[0-9]{6,}")
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_UNREADABLE = (EOFError, OSError, RuntimeError, pickle.UnpicklingError)
OF_ANOTHER = (ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What reading a state of another kind raises."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint directory and its JSON state."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def folder(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def save(
    run_dir: Path,
    policy: Policy,
    optimizer: GuardedOptimizer,
    state: dict[str, Any],
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Writes `step-<step>` beside its place, renames it, and points `last` at it. `state` is JSON data with a step;
    `also` may write more files into the directory."""
    fresh = begin(run_dir, state["step"])
    policy.save(fresh)
    trainer = {
        "optimizer": optimizer.optimizer.state_dict(),
        "parameters": [name for name, _ in policy.trainable()],
        "order": order(policy, optimizer.optimizer),
        "rng": generators.state(),
    }
    torch.save(trainer, fresh / TRAINER_FILE)
    if also is not None:
        also(fresh)
    return publish(fresh, state | counters(policy, optimizer))


def save_extras(fresh: Path, extras: dict[str, Any]) -> None:
    """Plain data and tensors that a loop keeps beside weights and counters."""
    torch.save(extras, fresh / EXTRAS_FILE)


def extras(found: Checkpoint) -> dict[str, Any]:
    """What `save_extras` wrote; empty without it. Only plain data and tensors are read."""
    return _read(found.path / EXTRAS_FILE) if EXTRAS_FILE in found.state["files"] else {}


def begin(run_dir: Path, step: int) -> Path:
    """The path of an unfinished checkpoint; what a killed run left there is removed."""
    root = folder(run_dir)
    keep_lock(root)
    root.mkdir(parents=True, exist_ok=True)
    fresh = root / f".step-{step:06d}{PARTIAL}"
    shutil.rmtree(fresh, ignore_errors=True)
    return fresh


def counters(policy: Policy, optimizer: GuardedOptimizer) -> dict[str, int]:
    """What of policy and optimizer is kept in the state file."""
    return {"nonfinite_in_row": optimizer.nonfinite_in_row, "version": policy.version}


def publish(fresh: Path, state: dict[str, Any]) -> Path:
    """Writes the state file with the size and hash of all others, forces everything to disk, renames, and points `last`
    at it."""
    root, final = fresh.parent, fresh.with_name(f"step-{state['step']:06d}")
    seal(fresh, state)
    keep_lock(root)
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        final.rename(free_name(root, f"copied-{final.name}"))  # something else took the name
    before = root / f".{final.name}{BEFORE}"  # an evaluation was made up for, and the step is saved again
    shutil.rmtree(before, ignore_errors=True)
    if final.is_dir():
        final.rename(before)
    fresh.rename(final)
    shutil.rmtree(before, ignore_errors=True)
    flush(root)
    link(root, "last", final.name)
    return final


def seal(fresh: Path, state: dict[str, Any], name: str = STATE_FILE) -> None:
    """Writes the state file of a directory with the size and hash of all others, and forces everything to disk."""
    files = {str(path.relative_to(fresh)): [path.stat().st_size, _hash(path)] for path in _files(fresh)}
    whole = state | {"files": files}
    (fresh / name).write_text(json.dumps(whole | {"hash": _hash_of(whole)}, indent=1), encoding="utf-8")
    for path in (*_files(fresh), *(path for path in fresh.rglob("*") if path.is_dir()), fresh):
        flush(path)


def finish_publishing(run_dir: Path) -> None:
    """After a kill amid the renames of `publish`: the checkpoint before gets its name back, or makes room."""
    for before in folder(run_dir).glob(f".step-*{BEFORE}"):
        final = before.with_name(before.name[1 : -len(BEFORE)])
        if final.exists() or final.is_symlink():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.rename(final)


def steps(run_dir: Path) -> list[Path]:
    """The checkpoints in the order of their steps. Anything else in the folder is none, whatever its name begins
    with."""
    found = [path for path in folder(run_dir).glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted((path for path in found if not path.is_symlink()), key=lambda path: int(path.name[5:]))


def is_there(run_dir: Path, step: int) -> bool:
    """Whether the checkpoint of a step is in its place, as far as names tell."""
    return (folder(run_dir) / f"step-{step:06d}" / STATE_FILE).is_file()


def others(run_dir: Path) -> list[str]:
    """Names in the folder that are neither checkpoints nor ours."""
    known = {path.name for path in steps(run_dir)} | {"last", "best"}
    root = folder(run_dir)
    return sorted(path.name for path in root.iterdir() if path.name not in known) if root.is_dir() else []


def load(path: Path) -> Checkpoint | str:
    """The checkpoint, or what is damaged about it: a file that is missing, or of another size or content than when it
    was saved."""
    state = sealed(path)
    if isinstance(state, str):
        return state
    try:
        step = int(state["step"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return f"{STATE_FILE} is of another version"
    return Checkpoint(path, state) if path.name == f"step-{step:06d}" else f"{STATE_FILE} is of step {step}"


def sealed(path: Path, name: str = STATE_FILE) -> dict[str, Any] | str:
    """The state that `seal` wrote into a directory, or what is damaged there."""
    if isinstance(state := _state_in(path, name), str):
        return state
    try:
        files = {str(one): (int(size), str(digest)) for one, (size, digest) in state["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return f"{name} is of another version"
    return (_changed(path, files, name) if files else f"{name} names no files") or state


def _state_in(path: Path, name: str = STATE_FILE) -> dict[str, Any] | str:
    """As `sealed`, without looking at the other files."""
    file = path / name
    if not file.is_file():
        return f"{name} is missing"
    if (size := file.stat().st_size) > LARGEST_STATE:
        return f"{name} has {size:,} bytes, expected {LARGEST_STATE:,} at most"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        whole = isinstance(state, dict) and state.pop("hash", None) == _hash_of(state)
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        return f"{name} cannot be read ({error})"
    return state if whole else f"{name} was changed, or written by an earlier version"


def _changed(path: Path, files: dict[str, tuple[int, str]], seal_file: str) -> str | None:
    """What of a directory is not as it was saved, by the size and hash of each file."""
    for name, (size, digest) in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, {size} when it was saved"
        if _hash(file) != digest:
            return f"{name} was changed: its SHA-256 is not that of when it was saved"
    known = {str(part) for name in (*files, seal_file) for part in (Path(name), *Path(name).parents)}
    for added in sorted(str(file.relative_to(path)) for file in path.rglob("*")):
        if added not in known and (Path(added).parts[0] in _READ or ("/" not in added and Path(added).suffix in _READ)):
            return f"{added} was not there when it was saved"  # and would be read in place of what was
    return None


def latest(run_dir: Path) -> Checkpoint | None:
    """The whole checkpoint of the highest step, or None. A damaged one that is passed over is logged."""
    for path in reversed(steps(run_dir)):
        if isinstance(found := load(path), Checkpoint):
            return found
        log.warning("%s is damaged and not used: %s", path, found)
    return None


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def restore(checkpoint: Checkpoint, policy: Policy, optimizer: GuardedOptimizer) -> None:
    """Restores optimizer, random generators and counters. The policy must have been loaded from the checkpoint.

    ValueError when the trained parameters differ from the checkpoint's.
    """
    trainer = _read(checkpoint.path / TRAINER_FILE)
    names, saved_names = [name for name, _ in policy.trainable()], trainer.get("parameters", [])
    if not isinstance(saved_names, list) or not all(isinstance(one, str) for one in saved_names):
        raise _another(checkpoint.path / TRAINER_FILE, TypeError("its 'parameters' are no names"))
    if names != saved_names:
        differ = sorted(set(names) ^ set(saved_names))
        raise ValueError(
            f"{checkpoint.path}: the trained parameters differ from the checkpoint's: {', '.join(differ[:3])}; "
            "restore model.train or model.lora"
        )
    try:
        saved = trainer.get("optimizer")
        if saved is not None:
            saved = fitted(saved, trainer.get("order"), policy, optimizer.optimizer)
        if policy.shards is not None or saved is None:
            from saccade.training import sharded_checkpoint  # needs torch.distributed

            sharded_checkpoint.restore(checkpoint.path, policy, optimizer, saved)
        else:
            optimizer.optimizer.load_state_dict(saved)
        generators.restore(trainer["rng"])
    except torch.OutOfMemoryError:  # says what it is, and is no fault of the file
        raise
    except (*_UNREADABLE, *OF_ANOTHER) as error:
        raise _another(checkpoint.path / TRAINER_FILE, error) from None
    optimizer.nonfinite_in_row = int(checkpoint.state["nonfinite_in_row"])
    policy.version = int(checkpoint.state["version"])


def _read(path: Path) -> dict[str, Any]:
    """Plain data and tensors. ValueError, with the way out, for anything else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return {**found}
    except (*_UNREADABLE, TypeError) as error:
        raise _another(path, error) from None


def _another(path: Path, error: Exception) -> ValueError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return ValueError(
        f"{path}: not the state of this run's optimizer and random generators ({reason}); undo what changed in its "
        "recipe, or resume from another checkpoint: --from step-N, or --from start"
    )


def prune(run_dir: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints and the one that `best` points at. What has only the name of one
    neither counts nor is removed."""
    root = folder(run_dir)
    best = (root / "best").resolve().name if (root / "best").exists() else None
    keep_lock(root)
    found = {path: _state_in(path) for path in steps(run_dir)}
    ours = [path for path, at in found.items() if not isinstance(at, str) and at.get("step") == int(path.name[5:])]
    for path in ours[:-keep]:
        if path.name != best:
            shutil.rmtree(path.rename(root / f".{path.name}{PARTIAL}"))  # half removed, it is no checkpoint


def relink(run_dir: Path, last: int | None, best: int | None) -> None:
    """Points the links at these steps; a link without a step, or to a checkpoint that is gone, is removed."""
    root = folder(run_dir)
    keep_lock(root)
    for name, step in (("last", last), ("best", best)):
        if step is not None and (root / f"step-{step:06d}").is_dir():
            link(root, name, f"step-{step:06d}")
        else:
            _make_way(root / name)
            (root / name).unlink(missing_ok=True)


def link(root: Path, name: str, target: str) -> None:
    """Points `root/name` at `root/target` by one rename. A warning where the file system has no links."""
    fresh = root / f".{name}{PARTIAL}"
    fresh.unlink(missing_ok=True)
    _make_way(root / name)
    try:
        fresh.symlink_to(target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        log.warning("%s: this file system has no links, so there is no '%s' (%s)", root, name, target)
        return
    fresh.replace(root / name)


def _make_way(path: Path) -> None:
    """Renames what stands where a link belongs: a run was copied with its links followed."""
    if path.exists() and not path.is_symlink():
        aside = free_name(path.parent, f"copied-{path.name}")
        path.rename(aside)
        log.warning("%s was no link but a copy; it is kept as %s and not used", path, aside.name)


def free_name(parent: Path, name: str) -> Path:
    """`parent/name-<n>`, the first that is not taken."""
    numbers = range(1, 1 + len(list(parent.iterdir())) + 1)
    return next(path for n in numbers if not os.path.lexists(path := parent / f"{name}-{n}"))


def check_disk_space(
    run_dir: Path, policy: Policy, keep: int, kind: OptimKind = "adamw", resumed: int | None = None
) -> None:
    """ValueError when the checkpoints that the run may hold at once (weights and optimizer state) do not fit. Those
    that are there, up to the step that the run resumes after, are among them."""
    saved = policy.model.parameters() if policy.adapters is None else [p for _, p in policy.trainable()]
    weights = sum(p.numel() * p.element_size() for p in saved)
    # both Adam moments, of at least float32 or of a byte each; for weights of less than 32 bits float32 masters too
    wide = [(p.numel(), max(p.element_size(), 4), 4 * needs_master(p)) for _, p in policy.trainable()]
    state = sum(count * ((2 * size if kind == "adamw" else 2) + master) for count, size, master in wide)
    there = 0 if resumed is None else sum(int(path.name[5:]) <= resumed for path in steps(run_dir))
    more = max(keep + 2 - there, 1)  # those kept, the best, and the one being written
    require_space(folder(run_dir), (weights + state) * more, f"{more} checkpoints", "lower checkpoint.keep, ")
