"""What a checkpoint's state.json must hold for a loop of training to continue from it, beyond being whole: one of
another version, or edited by hand, has other keys."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from saccade.runs.streams import STREAMS

Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Images(TypedDict):
    count: int
    hash: str
    newest: str | None


class _Facts(TypedDict):
    recipe: dict[str, Any]
    packages: dict[str, str | None] | None
    data_hash: dict[str, str] | None
    images: NotRequired[dict[str, _Images] | None]
    model_hash: str | None
    device: str | None
    code_hash: NotRequired[dict[str, str]]
    rows: NotRequired[list[Annotated[list[Any], Field(min_length=3, max_length=3)]] | None]


class _Pending(TypedDict):
    row: dict[str, float | str | None]
    last: bool


class _Schedule(TypedDict):
    step: Count
    stage: Count
    stage_start: Count
    truncated: list[float]
    finished: bool


class _Feed(TypedDict):
    position: Count
    skipped: dict[str, list[list[int]]]


class _RL(TypedDict):
    schedule: _Schedule
    feed: _Feed


class _SFT(TypedDict):
    step: Count
    skipped: NotRequired[list[list[int]]]


class _State(TypedDict):
    step: Count
    facts: _Facts
    loop: _RL | _SFT
    pending: _Pending | None
    sizes: dict[str, int]
    best_score: float | None
    best_step: Count | None
    nonfinite_in_row: Count
    version: Count


_STATE = TypeAdapter(_State)


def fault_of(state: dict[str, Any]) -> str | None:
    """The first key of a checkpoint's state that is missing or of another kind than training writes; None when all
    fit. `sizes` may name the streams only: any other name could be that of any file."""
    try:
        sizes = _STATE.validate_python(state, strict=True)["sizes"]
    except ValidationError as error:
        return ".".join(str(key) for key in error.errors()[0]["loc"] if not str(key).startswith("_"))
    return next((f"sizes.{name}" for name in sorted(sizes.keys() ^ set(STREAMS))), None)
