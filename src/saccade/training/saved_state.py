"""What a checkpoint's state.json must hold for a loop of training to continue from it, beyond being whole: one of
another version, or edited by hand, has other keys."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict

from saccade.runs.streams import STREAMS

Count = Annotated[int, Field(ge=0, lt=2**63)]


def _of_streams(sizes: dict[str, int]) -> dict[str, int]:
    if sizes.keys() != set(STREAMS):
        raise ValueError("another name could be that of any file")
    return sizes


Sizes = Annotated[dict[str, Annotated[int, Field(gt=-(2**63), lt=2**63)]], AfterValidator(_of_streams)]


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
    processes: NotRequired[Count | None]
    python: NotRequired[str | None]
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
    position: NotRequired[Count]
    skipped: NotRequired[list[list[int]]]


class SavedStage(TypedDict):
    """Of a stage of pre-training that is not finished."""

    step: Count
    sizes: Sizes
    nonfinite_in_row: Count
    version: Count
    seen: NotRequired[dict[str, list[float]]]
    """Values of the steps since the last row, of which the next one has the means; an earlier version saved none."""


class _State(SavedStage):
    facts: _Facts
    loop: _RL | _SFT
    pending: _Pending | None
    best_score: float | None
    best_step: Count | None


@with_config(ConfigDict(arbitrary_types_allowed=True))
class FinishedStage(TypedDict):
    """What a finished stage of pre-training keeps beside its model."""

    heads: dict[str, Tensor]
    """Weights of the read-out heads."""
    sizes: Sizes


def fault_of(state: Any, kind: type = _State) -> str | None:
    """The first key of a checkpoint's state that is missing or of another kind than training writes, or what it is
    instead of an object; None when all fit."""
    try:
        TypeAdapter(kind).validate_python(state, strict=True)
    except ValidationError as error:
        keys = [str(key) for key in error.errors()[0]["loc"] if not str(key).startswith("_")]
        return ".".join(keys) or type(state).__name__
    return None
