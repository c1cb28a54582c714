"""The vocabulary and colors of the world, and the settings of a generator."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from saccade.config import Config

Rgb = tuple[int, int, int]

PALETTE: dict[str, Rgb] = {
    "red": (222, 38, 42),
    "green": (40, 168, 72),
    "blue": (52, 92, 232),
    "yellow": (236, 204, 34),
    "purple": (152, 58, 190),
    "orange": (244, 130, 28),
}
COLORS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
TILE = "tile"
SIZES = ("small", "large")
DIGITS = tuple(range(1, 10))

HELD_OUT = frozenset(
    {("red", "star"), ("green", "triangle"), ("blue", "circle"), ("yellow", "cross"), ("purple", "square")}
)
"""Color-shape pairs that occur in scenes and questions only in the split `ood_combination`."""

ExpressionKind = Literal["attribute", "relation", "ordinal", "superlative", "negation"]
LayoutMode = Literal["grid", "free"]


class WorldConfig(Config):
    """Settings of a `World`. Lengths in pixels refer to 28 px cells and scale with `cell_px`."""

    cells: int = Field(default=4, ge=2, le=9)
    """Cells per side; the image is `cells * cell_px` pixels square."""
    cell_px: int = Field(default=28, ge=20, le=224)
    objects_min: int = Field(default=3, ge=1)
    objects_max: int = Field(default=8, ge=2)
    jitter: int = Field(default=3, ge=0, le=6)
    """Maximum offset of an object's center from its cell's center, in pixels of a 28 px cell."""
    layout: LayoutMode = "grid"
    """grid: at most one object per cell; free: anywhere, may overlap, each at least `visible_share` visible."""
    visible_share: float = Field(default=0.5, gt=0.0, le=1.0)
    skew: float = Field(default=0.6, gt=0.0, le=1e6)
    """Concentration of the Dirichlet weights of colors and shapes within a scene; smaller is more uneven."""
    expressions: tuple[ExpressionKind, ...] = Field(default=get_args(ExpressionKind), min_length=1)
    """Kinds of referring expressions that are asked for. The free layout has only attributes."""
    count_max: int = Field(default=5, ge=1)
    compare_max: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _some_objects_fit(self) -> WorldConfig:
        if self.layout == "free" and self.expressions != type(self).model_fields["expressions"].default:
            raise ValueError("expressions: layout 'free' asks for attributes only; remove one of the two")
        if not self.objects_min <= self.objects_max < self.cells**2:
            raise ValueError(
                f"expected objects_min <= objects_max < cells * cells = {self.cells**2}; "
                f"got objects_min {self.objects_min}, objects_max {self.objects_max}"
            )
        return self

    @property
    def size_px(self) -> int:
        """Side of the square image in pixels."""
        return self.cells * self.cell_px

    def scaled(self, pixels: float) -> int:
        """A length for 28 px cells converted to this cell size; at least 1 unless it is 0."""
        return 0 if pixels == 0 else max(1, round(pixels * self.cell_px / 28))
