"""Pictures that several tests draw alike."""

from __future__ import annotations

import random

from PIL import Image


def noise_image(width: int, height: int, seed: int) -> Image.Image:
    """Random RGB pixels, the same for the same arguments."""
    return Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(width * height * 3))
