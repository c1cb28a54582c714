"""Seeds that depend only on what is drawn, not on earlier draws."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2^56) for one draw: a pure function of the run's seed and, say, step, round and prompt, or of an
    evaluation's seed and a question's id."""
    digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
    return int.from_bytes(digest[:7], "big")
