"""Data types of the cold start: a draft is one question on its way from image and answer to a chain to train on.

All are frozen dataclasses that round-trip through JSON. A paid request is a `StepRecord` with its text; everything
derived from the texts (verdicts, filter reasons, polished chains) can be recomputed at no cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from saccade.data.records import BROKEN

T = TypeVar("T")

TeacherStage = Literal["caption", "pseudo_cot", "description", "reasoning"]
"""Teacher calls of a row. `caption`: a plain caption written without the question, for the arm without bridging."""
Arm = Literal["bridged", "caption", "none"]
"""What the reasoner receives besides the question: the description, the plain caption, nothing."""
ARMS: tuple[Arm, ...] = ("bridged", "caption", "none")
Difficulty = Literal["easy", "mixed", "hard"]
"""All, some or none of the bridged samples are right."""
FILTER_NAMES = (
    "answer",
    "format",
    "leakage",
    "references",
    "contradiction",
    "repetition",
    "language",
    "length",
    "ground_truth",
    "evaluation_sets",
    "near_duplicate",
)
"""The keys of `coldstart.filters.FILTERS`: every filter, in the default order."""
DRAFTS, STATISTICS = "drafts.jsonl", "statistics.json"
"""Files of a set's directory."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One call to a teacher: model, prompt, cost. The text itself is in the draft."""

    stage: TeacherStage
    model: str
    prompt_version: str
    """'<file>@<version>:<first 8 hex digits of its SHA-256>'."""
    sampling: Mapping[str, Any]
    """As sent: temperature, top_p, max_new_tokens, seed."""
    tokens_in: int
    tokens_out: int
    cost: float
    """In the currency of the recipe's prices; 0 if no prices are set."""
    seconds: float
    """From request to response, including retries and queueing."""
    saw_answer: bool
    """True if the gold answer was in the prompt, or in a text written by a step that saw it."""
    finish_reason: str = "stop"
    number: int = 0
    """Sample index of a reasoning step."""
    arm: Arm = "bridged"
    """Arm of a reasoning step."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a filter dropped a chain."""

    filter: str
    """One of FILTER_NAMES."""
    reason: str
    """Short category, used as a counter key: identical for the same cause."""
    detail: str = ""
    """Excerpt of the text that shows it."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One answer of the reasoner."""

    text: str
    """The thought as written, without tags."""
    answer: str | None
    """The parsed final answer; None when the reply ends without one."""
    number: int = 0
    """Index among the k samples."""
    arm: Arm = "bridged"
    right: bool | None = None
    """The verdict of the task's grader; None when it could not be graded."""
    route: str = ""
    """How the verdict was reached."""
    finish_reason: str = "stop"
    tokens: int = 0
    polished: str | None = None
    """The thought rewritten as if the image had been seen; None until polished."""
    rejections: tuple[Rejection, ...] = ()
    """Why it is not in the set; empty before the filters run and for a chain that passes them all."""

    @property
    def words(self) -> str:
        """The thought as it would be trained on."""
        return self.text if self.polished is None else self.polished

    def to_dict(self) -> dict[str, Any]:
        return {**shallow_dict(self), "rejections": [shallow_dict(one) for one in self.rejections]}


@dataclass(frozen=True, slots=True)
class Draft:
    """A question with every text written about it so far."""

    id: str
    question: str
    answer: Any
    """The gold answer, in the format of its task."""
    task: str
    source: str = ""
    images: tuple[str, ...] = ()
    """Paths of the images; relative ones are relative to the directory of the set."""
    image_shas: tuple[str, ...] = ()
    """SHA-256 of each image's file."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Metadata of the sample: options of a choice question, split, difficulty, ground truth of the world."""
    caption: str | None = None
    pseudo_cot: str | None = None
    description: str | None = None
    chains: tuple[Chain, ...] = ()
    """All samples of all arms; `of_arm` selects one arm."""
    steps: tuple[StepRecord, ...] = ()
    chosen: tuple[int, ...] = ()
    """Indices into `chains` of those that go into the set."""

    def of_arm(self, arm: Arm) -> tuple[Chain, ...]:
        return tuple(chain for chain in self.chains if chain.arm == arm)

    @property
    def saw_answer(self) -> bool:
        """True if any step saw the answer."""
        return any(step.saw_answer for step in self.steps)

    @property
    def difficulty(self) -> Difficulty | None:
        """From the bridged chains that could be graded; None if there are none."""
        right = [chain.right for chain in self.of_arm("bridged") if chain.right is not None]
        if not right:
            return None
        return "easy" if all(right) else "mixed" if any(right) else "hard"

    def to_dict(self) -> dict[str, Any]:
        chains, steps = [one.to_dict() for one in self.chains], [shallow_dict(one) for one in self.steps]
        return {**shallow_dict(self), "chains": chains, "steps": steps}

    def to_json(self) -> str:
        return to_json_line(self.to_dict())

    @staticmethod
    def from_dict(row: Mapping[str, Any]) -> Draft:
        """TypeError when a field is unknown, missing or of another type."""
        chains = tuple(chain_from_dict(chain) for chain in row.get("chains", ()))
        steps = tuple(record_from(StepRecord, step) for step in row.get("steps", ()))
        lists = {key: tuple(row.get(key, ())) for key in ("images", "image_shas", "chosen")}
        return record_from(Draft, {**row, **lists, "chains": chains, "steps": steps})

    @staticmethod
    def from_json(text: str) -> Draft:
        return Draft.from_dict(json.loads(text))

    def with_chain(self, place: int, **changes: Any) -> Draft:
        """The same draft with the given fields of one chain replaced."""
        chains = list(self.chains)
        chains[place] = replace(chains[place], **changes)
        return replace(self, chains=tuple(chains))


def shallow_dict(record: Any) -> dict[str, Any]:
    """The fields of a record of this file, not copied; the deep copy of `dataclasses.asdict` would dominate the run
    time."""
    return {name: getattr(record, name) for name in record.__slots__}


def to_json_line(value: Any) -> str:
    """JSON that any file and database accepts: a lone surrogate, which UTF-8 cannot encode, stays escaped."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def chain_from_dict(row: Mapping[str, Any]) -> Chain:
    rejections = tuple(record_from(Rejection, one) for one in row.get("rejections", ()))
    return record_from(Chain, {**row, "rejections": rejections})


def record_from(kind: type[T], row: Mapping[str, Any]) -> T:
    """A record of this file. TypeError when a field is unknown, missing or of another type."""
    record = kind(**row)
    for name, kinds in _kinds(kind).items():
        if not isinstance(value := getattr(record, name), kinds):
            expected = " or ".join("null" if one is NoneType else one.__name__ for one in kinds)
            raise TypeError(f"{name} is {value!r:.60}, expected {expected}")
    return record


@cache
def _kinds(kind: type) -> dict[str, tuple[type, ...]]:
    """Field -> the classes of its values."""

    def classes(hint: Any) -> tuple[type, ...]:
        if isinstance(hint, UnionType):
            return tuple(one for part in get_args(hint) for one in classes(part))
        if get_origin(hint) is Literal:
            return (str,)
        return {Any: (object,), float: (int, float)}.get(hint, (get_origin(hint) or hint,))

    return {name: classes(hint) for name, hint in get_type_hints(kind).items()}


ChainCheck = Callable[[Draft, Chain], Rejection | None]
"""A filter, ready to use: None accepts the chain (one of the draft's, already polished). A check may be stateful (near
duplicates); drafts arrive in the order of the data set, in one process."""


def read_drafts(folder: Path) -> Iterator[Draft]:
    """The drafts of a set, one at a time. ValueError with file and line for an invalid line."""
    path = folder / DRAFTS
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the directory of a set made by saccade coldstart")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield Draft.from_json(line)
            except BROKEN as error:
                raise ValueError(f"{path}:{number}: not a draft ({error})") from error
