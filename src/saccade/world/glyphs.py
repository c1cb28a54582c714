"""A 5 x 7 bitmap font for tiles, charts and figures; without a font file, rendering is the same on every machine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_ROWS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
    "?": "01110 10001 00001 00110 00100 00000 00100",
}
WIDTH, HEIGHT = 5, 7


@lru_cache(maxsize=512)
def glyph(char: str, scale: int = 1) -> np.ndarray:
    """Mask of one character, bool [7 * scale, 5 * scale]. KeyError for an unsupported character."""
    rows = [[bit == "1" for bit in row] for row in _ROWS[char].split()]
    return np.kron(np.array(rows, dtype=bool), np.ones((scale, scale), dtype=bool))


@lru_cache(maxsize=512)
def text_mask(text: str, scale: int = 1) -> np.ndarray:
    """Mask of a line of text with one empty column (times scale) between characters, bool [7s, (6n - 1)s]."""
    gap = np.zeros((HEIGHT * scale, scale), dtype=bool)
    parts = [part for char in text for part in (glyph(char, scale), gap)]
    return np.concatenate(parts[:-1], axis=1)
