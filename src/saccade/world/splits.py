"""The splits of the world: description, tasks and settings of each."""

from __future__ import annotations

from dataclasses import dataclass

IN_DOMAIN = ("plain", "gradient", "noise")
COUNTING = ("count", "arithmetic", "compare")
LOCATING = ("refer", "detect")
FIGURES = ("chart", "geometry")
ALL_TASKS = (*COUNTING, *LOCATING, *FIGURES, "choice", "yes_no", "difference")


@dataclass(frozen=True, slots=True)
class Split:
    """How a split differs from the training distribution. Every field but the first two defaults to in-domain."""

    sentence: str
    tasks: tuple[str, ...]
    backgrounds: tuple[str, ...] = IN_DOMAIN
    held_out: bool = False
    """Scenes contain held-out color-shape pairs, and the targets of every question include one."""
    hops: int = 1
    """Relations in a relational expression."""
    larger: bool = False
    """One more cell per side, or 9 to 12 objects."""
    palette_shift: bool = False


SPLITS: dict[str, Split] = {
    "train": Split("The training distribution: 4x4 cells, 3 to 8 objects, 31 of 36 color-shape pairs.", ALL_TASKS),
    "test": Split("The training distribution in its own seed namespace, so that no scene is shared.", ALL_TASKS),
    "ood_combination": Split(
        "The five color-shape pairs that never occur in training; every question is about at least one of them.",
        ("count", "compare", "refer", "detect", "choice", "yes_no", "difference"),
        held_out=True,
    ),
    "ood_relation": Split("Referring expressions with two relations instead of one.", ("refer",), hops=2),
    "ood_larger": Split(
        "Larger scenes: a 5x5 grid (one more cell per side), or 9 to 12 objects.",
        (*COUNTING, *LOCATING, "choice", "yes_no", "difference"),
        larger=True,
    ),
    "ood_style": Split(
        "Striped, checkered and cluttered backgrounds with a shifted palette.",
        (*COUNTING, *LOCATING, "choice", "yes_no", "difference"),
        backgrounds=("stripes", "checker", "clutter"),
        palette_shift=True,
    ),
}


def find_split(name: str) -> Split:
    """The split of that name. ValueError with the known names for an unknown one."""
    if name not in SPLITS:
        raise ValueError(f"unknown split {name!r}; the world has {', '.join(SPLITS)}")
    return SPLITS[name]
