"""The random generators that training could draw from: Python's, numpy's and torch's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed(number: int) -> None:
    """Seeds all three generators at the start of a run, so that whatever draws from them repeats with the recipe."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def state() -> dict[str, Any]:
    """States of the generators that training could draw from, as plain data and tensors."""
    version, internal, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    numpy = [kind, [int(key) for key in keys], *rest]
    found: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), gauss], "numpy": numpy}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def restore(saved: dict[str, Any]) -> None:
    """The inverse of `state`."""
    torch.set_rng_state(saved["torch"].cpu())
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in saved["cuda"]])
