"""A histogram of lengths as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

BARS = 8


def histogram(title: str, counts: Counter[int]) -> Iterator[str]:
    """Smallest, middle and largest, then a bar for each range."""
    if not counts:
        return
    total, values = counts.total(), sorted(counts)
    lowest, highest = values[0], values[-1]
    at = [f"{name} {quantile(counts, share):,}" for name, share in (("median", 0.5), ("95% up to", 0.95))]
    yield f"{title}: {lowest:,} to {highest:,}, {', '.join(at)}"
    width = max(1, -(-(highest - lowest + 1) // BARS))
    for start in range(lowest, highest + 1, width) if highest > lowest else ():
        number = sum(counts[value] for value in values if start <= value < start + width)
        bar = "#" * round(40 * number / total) or ("." if number else "")
        yield f"  {start:>7,} - {start + width - 1:>7,} {number:>9,} {bar}".rstrip()


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest value that this share of all does not exceed."""
    seen, total = 0, counts.total()
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * total:
            return value
    return max(counts)
