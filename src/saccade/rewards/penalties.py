"""Penalties, in [-1, 0]: what is taken off whatever the answer."""

from __future__ import annotations

from saccade.types import Completion, Sample, Score


def repetition(completion: Completion, sample: Sample, ngram: int = 6) -> Score:
    """Minus the share of n-grams of words (lower-cased) that occurred before: unique/total - 1.

    0 for texts of fewer than `ngram` words. The n-gram penalty of VLM-R1 and of Yeo et al. 2025 (arXiv 2502.03373).
    """
    words = completion.text.lower().split()
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    if not grams:
        return Score(0.0)
    repeated = 1 - len(set(grams)) / len(grams)
    return Score(-repeated, f"{repeated:.0%} repeated" if repeated else None)


def soft_overlong(completion: Completion, sample: Sample, max_length: int, buffer: int) -> Score:
    """0 up to max_length - buffer tokens, then linearly to -1 at max_length (DAPO, arXiv 2503.14476, eq. 13)."""
    if not 0 < buffer <= max_length:
        raise ValueError(
            f"soft_overlong: got buffer {buffer}, max_length {max_length}; expected 0 < buffer <= max_length"
        )
    over = len(completion.token_ids) - (max_length - buffer)
    if over <= 0:
        return Score(0.0)
    return Score(-min(1.0, over / buffer), f"{over} tokens into the buffer")
