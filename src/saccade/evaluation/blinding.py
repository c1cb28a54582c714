"""The blind control: held-out questions asked with another image, or none, in place of their own.

What a model answers right without the image it knows from the question, from the distribution of answers or by chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, Literal
from zlib import crc32

from PIL import Image

from saccade.data.images import image_size
from saccade.types import Sample

Blinding = Literal["swap", "blank"]
GRAY = (128, 128, 128)
CONTROLS = {"swap": "image swapped", "blank": "image blanked"}
"""Column `control` of the items of the blind control."""


def blinded(samples: Sequence[Sample], share: float, how: Blinding) -> list[Sample]:
    """A share (0..1) of the samples that have images, always the same ones, at least one; each with its images
    replaced: `swap` by those of a question of its task with other images and another answer, of the same wording where
    there is one, `blank` by gray ones of their size.

    A question without such a partner gets gray images. [] without images, or when the share is 0.
    """
    seeing = [sample for sample in samples if sample.images]
    count = min(len(seeing), max(1, round(share * len(seeing)))) if share and seeing else 0
    chosen = sorted(seeing, key=lambda sample: crc32(sample.id.encode()))[:count]
    return [*_swapped(seeing, chosen)] if how == "swap" else [_gray(sample) for sample in chosen]


def _swapped(seeing: Sequence[Sample], chosen: Sequence[Sample]) -> Iterator[Sample]:
    alike: dict[Any, list[Sample]] = defaultdict(list)
    for sample in seeing:
        for key in _likeness(sample):
            alike[key].append(sample)
    for sample in chosen:
        found = (_partner(sample, alike[key]) for key in _likeness(sample))
        other = next((one for one in found if one), None)
        yield replace(sample, images=other.images) if other else _gray(sample)


def _likeness(sample: Sample) -> tuple[Any, Any]:
    """What partners have in common, the closest first."""
    loose = (sample.task, len(sample.images))
    return (*loose, sample.question), loose


def _partner(sample: Sample, partners: Sequence[Sample]) -> Sample | None:
    """The next one after the sample with another answer, which is not about the same images."""
    start = next(i for i, one in enumerate(partners) if one is sample)
    turned = chain(islice(partners, start + 1, None), islice(partners, start))
    return next((o for o in turned if str(o.answer) != str(sample.answer) and o.images != sample.images), None)


def _gray(sample: Sample) -> Sample:
    return replace(sample, images=tuple(Image.new("RGB", image_size(one), GRAY) for one in sample.images))
