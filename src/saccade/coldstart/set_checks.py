"""Filters that need more than the texts: the true scene, evaluation sets, chains already in the set."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saccade.coldstart.filter_options import EvaluationSetsOptions, NearDuplicateOptions
from saccade.coldstart.teachers import sample_of
from saccade.data.fingerprints import PictureIndex, fingerprint, text_key
from saccade.data.images import ImageError
from saccade.data.sources import items
from saccade.runs.drafts import Chain, Draft, Rejection
from saccade.types import Sample
from saccade.world import World, WorldConfig

_KEYS = ("seed", "index", "split", "world_kind")


@dataclass
class GroundTruth:
    """Checks picture, question and gold of a procedural-world row against the scene they claim to come from.

    Rows of other sources pass: their ground truth is unknown.
    """

    worlds: Mapping[str, WorldConfig]
    """Settings of the procedural-world sources, keyed by `Draft.source`."""
    folder: Path
    """Base directory of relative image paths."""

    def __call__(self, draft: Draft, chain: Chain) -> Rejection | None:
        config = self.worlds.get(draft.source)
        if config is None or any(draft.meta.get(key) is None for key in _KEYS):
            return None
        meta = draft.meta
        try:
            true = World(config).item(meta["seed"], meta["index"], draft.task, meta["split"]).sample
        except (ValueError, KeyError, TypeError) as error:
            return Rejection("ground_truth", "no such scene", str(error)[:120])
        if draft.question != true.question:
            return Rejection("ground_truth", "another question", draft.question[:90])
        if draft.answer != _as_json(true.answer):
            return Rejection("ground_truth", "another gold", f"{draft.answer!r}, true {true.answer!r}"[:90])
        try:
            shown = [fingerprint(self.folder / name).digest for name in draft.images]
        except ImageError as error:
            return Rejection("ground_truth", "a picture that cannot be read", str(error)[:120])
        if shown != [fingerprint(image).digest for image in true.images]:
            return Rejection("ground_truth", "another picture", ", ".join(draft.images)[:90])
        return None


def _as_json(answer: Any) -> Any:
    """Tuples become lists in JSON."""
    return list(answer) if isinstance(answer, tuple) else answer


@dataclass
class EvaluationSets:
    """Rejects questions and pictures that are in the sets the model will be evaluated on."""

    options: EvaluationSetsOptions
    folder: Path
    questions: dict[int, str] = field(default_factory=dict)
    pictures: PictureIndex = field(default_factory=PictureIndex)

    def __post_init__(self) -> None:
        for entry in self.options.sets:
            name = entry.name or str(entry.path or entry.hub or entry.source)
            for place, found in items(entry):
                if isinstance(found, ValueError):
                    raise ValueError(f"filter evaluation_sets, {name}: {place}: {found}")
                self._add(found, name)

    def _add(self, sample: Sample, name: str) -> None:
        if "question" in self.options.by:
            self.questions.setdefault(text_key(sample), name)
        if "picture" in self.options.by:
            for image in sample.images:
                self.pictures.add(fingerprint(image), name)

    def __call__(self, draft: Draft, chain: Chain) -> Rejection | None:
        name = self.questions.get(text_key(sample_of(draft)))
        if name is not None:
            return Rejection("evaluation_sets", f"a question of {name}", draft.question[:90])
        if not len(self.pictures):
            return None
        for image in draft.images:
            try:
                found = self.pictures.find(fingerprint(self.folder / image))
            except ImageError as error:
                return Rejection("evaluation_sets", "a picture that cannot be read", str(error)[:120])
            if found:
                return Rejection("evaluation_sets", f"a picture of {found[0]}", image)
        return None


class NearDuplicates:
    """Rejects near duplicates of chains that passed before. Must run last: it would also remember chains that a later
    filter drops."""

    def __init__(self, options: NearDuplicateOptions) -> None:
        try:
            from datasketch import LeanMinHash, MinHash, MinHashLSH
        except ImportError as error:
            raise ValueError(
                "filter near_duplicate needs datasketch: pip install 'saccade[coldstart]', or remove it from 'filters'"
            ) from error
        self.options, self._lean = options, LeanMinHash
        self._blank = MinHash(num_perm=options.permutations, seed=1)
        self._index = MinHashLSH(threshold=options.threshold, num_perm=options.permutations)
        self._ids: dict[Hashable, str] = {}
        self._of_pictures: dict[tuple[str, ...], list[tuple[Any, str]]] = {}

    def __call__(self, draft: Draft, chain: Chain) -> Rejection | None:
        sketch = self._blank.copy()
        sketch.update_batch(_pieces(f"{draft.question}\n{chain.words}", self.options.ngram))
        if self.options.across_pictures:
            return self._against_all(draft, sketch)
        seen = self._of_pictures.setdefault(draft.image_shas, [])
        for other, name in seen:
            if other.jaccard(sketch) >= self.options.threshold:
                return Rejection("near_duplicate", "near duplicate of a chain in the set", f"{draft.id} like {name}")
        seen.append((self._lean(sketch), draft.id))
        return None

    def _against_all(self, draft: Draft, sketch: Any) -> Rejection | None:
        for key in self._index.query(sketch):
            return Rejection(
                "near_duplicate", "near duplicate of a chain in the set", f"{draft.id} like {self._ids[key]}"
            )
        number = len(self._ids)
        self._index.insert(number, sketch)
        self._ids[number] = draft.id
        return None


def _pieces(text: str, ngram: int) -> list[bytes]:
    """All word n-grams; of a shorter text, the text."""
    words = re.findall(r"\w+", text.lower())
    runs = {" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))}
    return [run.encode("utf-8", "surrogatepass") for run in sorted(runs)]
