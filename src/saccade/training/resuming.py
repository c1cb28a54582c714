"""Where a run resumes: the newest whole checkpoint, or the one asked for. Nothing is deleted without a word."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from saccade.runs.lock import keep_lock
from saccade.runs.records import Run
from saccade.runs.streams import STREAMS, lost_rows, tail
from saccade.training import checkpoint
from saccade.training.checkpoint import Checkpoint
from saccade.training.saved_state import fault_of

log = logging.getLogger(__name__)

ASIDE = "before-resume"
"""How the name begins of what came after the checkpoint of an earlier step that the run resumed from."""
START = "start"
"""In place of a checkpoint's name: before the first step."""


@dataclass(frozen=True, slots=True)
class Resume:
    """How to resume."""

    where: str | None = None
    """None: the newest whole checkpoint. 'step-N': that one. 'start': anew, with the run's own recipe."""
    accept_changes: bool = False
    """Also when data, base model or recipe changed in what they train since the checkpoint."""


def find(run: Run, how: Resume) -> Checkpoint | None:
    """The checkpoint to resume from; None to start anew. Damaged ones are set aside, with a warning, on the way.

    Where the files of rows lack some of all checkpoints, the newest with whole files is used: `prepare` says what is
    lost. ValueError when there is none and the start was not asked for, and when the one asked for is damaged.
    """
    directory = run.directory
    checkpoint.finish_publishing(directory)
    if strange := [name for name in checkpoint.others(directory) if not name.startswith(checkpoint.ASIDE)]:
        log.info("%s: ignored, not named like a checkpoint: %s", checkpoint.folder(directory), ", ".join(strange[:9]))
    if how.where is not None:
        return None if how.where == START else _asked_for(directory, how.where)
    damaged, short = list[Path](), list[Checkpoint]()
    for path in reversed(checkpoint.steps(directory)):
        found = _usable(path)
        lost = found if isinstance(found, str) else lost_rows(directory, found.state["sizes"])
        if isinstance(found, Checkpoint) and lost is None:
            for one in (*damaged, *(one.path for one in short)):
                _set_aside_damaged(one)
            return found
        log.warning("checkpoint %s is damaged: %s", path.name, lost)
        if isinstance(found, Checkpoint):
            short.append(found)
        else:
            damaged.append(path)
    if short:  # weights and optimizer are whole, and no checkpoint has all its rows
        for one in damaged:
            _set_aside_damaged(one)
        log.warning("no checkpoint has all its rows; %s is the newest whose own files are whole", short[0].path.name)
        return short[0]
    raise ValueError(f"{directory} has no {'whole ' if damaged else ''}checkpoint{_start_anew(directory)}")


def _asked_for(directory: Path, where: str) -> Checkpoint:
    number = re.fullmatch(r"(?:step-)?([0-9]{1,12})", where)
    known = {int(path.name[5:]): path for path in checkpoint.steps(directory)}
    path = known.get(int(number[1])) if number else None
    if path is None:
        names = ", ".join(one.name for one in known.values()) or "none"
        raise ValueError(f"--from {where}: {directory} has no such checkpoint; there are: {names}; or say: {START}")
    found = _usable(path)
    if not isinstance(found, Checkpoint):
        raise ValueError(f"--from {where}: checkpoint {path.name} is damaged: {found}; choose another, or {START}")
    return found


def _usable(path: Path) -> Checkpoint | str:
    """The checkpoint if its files are whole, else what is wrong."""
    found = checkpoint.load(path)
    if isinstance(found, str):
        return found
    if fault := fault_of(found.state):
        return f"{checkpoint.STATE_FILE}: '{fault}' is missing or odd: it is of another version or another kind of run"
    return found


def _set_aside_damaged(path: Path) -> None:
    aside = checkpoint.free_name(path.parent, f"damaged-{path.name}")
    path.rename(aside)
    log.warning("%s is kept as %s and not used", path.name, aside.name)


def _start_anew(directory: Path) -> str:
    counts = [f"{_rows(directory / name)} in {name}" for name in STREAMS if (directory / name).is_file()]
    rows = f" but rows ({', '.join(counts)})" if counts else ""
    return (
        f"{rows}; to start anew with its own recipe (rows are kept beside it, not deleted), say: "
        f"saccade resume {quote(str(directory))} --from {START}"
    )


def _rows(path: Path) -> int:
    return sum(chunk.count(b"\n") for chunk in tail(path, 0))


def prepare(run: Run, found: Checkpoint | None, how: Resume) -> None:
    """Makes the directory what it was at the checkpoint. Rows and checkpoints after one that was asked for are moved to
    `before-resume-<n>/`; rows of steps that are repeated anyway are dropped. Both are logged."""
    directory, step = run.directory, 0 if found is None else found.step
    keep_lock(directory)
    sizes: dict[str, int] = dict.fromkeys(STREAMS, 0) if found is None else found.state["sizes"]
    sizes = run.standing(sizes, step)
    if how.where is not None:
        aside = _set_aside(directory, step, sizes)
        if aside is not None:
            log.info("what came after step %d is kept in %s", step, aside)
    dropped = {name: count for name, count in run.cut_back(sizes, step).items() if count}
    if dropped and how.where is None:
        rows = ", ".join(f"{count} of {name}" for name, count in dropped.items())
        log.info("rows written after the checkpoint are dropped, their steps are made again: %s", rows)
    best = None if found is None else found.state["best_step"]
    checkpoint.relink(directory, None if found is None else step, best)
    if found is None:
        log.info("starting %s anew, at step 1", directory)
    else:
        log.info("resuming %s after step %d (checkpoint %s)", directory, step, found.path.name)


def _set_aside(directory: Path, step: int, sizes: dict[str, int]) -> Path | None:
    """Moves what was written after `step` into a new folder; None when there is nothing."""
    aside = checkpoint.free_name(directory, ASIDE)
    moved = [path for path in checkpoint.steps(directory) if int(path.name[5:]) > step]
    moved += [path for path in directory.glob("eval/step-*") if _number(path.name) > step]
    streams = [name for name in STREAMS if (path := directory / name).exists() and path.stat().st_size > sizes[name]]
    if not moved and not streams:
        return None
    aside.mkdir()
    for name in streams:
        with (aside / name).open("wb") as file:
            file.writelines(tail(directory / name, sizes[name]))
    for path in moved:
        target = aside / path.relative_to(directory)
        target.parent.mkdir(exist_ok=True)
        try:
            path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            beside = checkpoint.free_name(path.parent, f"{ASIDE}-{path.name}")
            path.rename(beside)
            log.info("%s is kept as %s: its folder is a link to another disk", path.name, path.parent / beside.name)
    return aside


def _number(name: str) -> int:
    return int(name[5:]) if name[5:].isdecimal() else -1


def set_aside_diverged(run_dir: Path, paths: Sequence[Path]) -> None:
    """Renames checkpoints whose log-probs are not finite, so that `last` and the next resume pass them over."""
    keep_lock(run_dir)
    for path in paths:
        path.rename(checkpoint.free_name(path.parent, f"diverged-{path.name}"))
