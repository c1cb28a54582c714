"""The blind control: held-out questions asked with another image, or none, in place of their own.

What a model answers right without the image it knows from the question, from the distribution of answers or by chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal
from zlib import crc32

from PIL import Image

from saccade.data.images import image_size
from saccade.types import Sample

Blinding = Literal["swap", "blank"]
GRAY = (128, 128, 128)


def blinded(samples: Sequence[Sample], share: float, how: Blinding) -> list[Sample]:
    """A share (0..1) of the samples that have images, always the same ones, at least one; each with its images
    replaced: `swap` by those of another question of its task with another answer, `blank` by gray ones of their size.

    A question without such a partner gets gray images. [] without images, or when the share is 0.
    """
    seeing = [sample for sample in samples if sample.images]
    count = min(len(seeing), max(1, round(share * len(seeing)))) if share and seeing else 0
    chosen = sorted(seeing, key=lambda sample: crc32(sample.id.encode()))[:count]
    partners: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in seeing:
        partners[sample.task, len(sample.images)].append(sample)
    return [_blind(sample, partners[sample.task, len(sample.images)], how) for sample in chosen]


def _blind(sample: Sample, partners: Sequence[Sample], how: Blinding) -> Sample:
    other = None
    if how == "swap":
        start = next(i for i, one in enumerate(partners) if one is sample)
        turned = [*partners[start + 1 :], *partners[:start]]
        other = next((one for one in turned if str(one.answer) != str(sample.answer)), None)
    images = other.images if other else tuple(Image.new("RGB", image_size(one), GRAY) for one in sample.images)
    return replace(sample, images=images)
