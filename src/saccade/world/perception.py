"""What each cell of a scene holds: dense targets for pre-training a vision tower."""

from __future__ import annotations

from dataclasses import dataclass

from saccade.types import Box
from saccade.world.scene import Scene, cell_name

EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class CellTarget:
    """One cell. Attributes are `EMPTY` where nothing stands or the attribute does not apply (the digit of a shape)."""

    cell: str
    color: str = EMPTY
    shape: str = EMPTY
    size: str = EMPTY
    digit: str = EMPTY
    offsets: Box | None = None
    """The object's box minus the cell's top left corner, in cells: 0 to 1 inside the cell; None when empty."""


def perception_targets(scene: Scene) -> tuple[CellTarget, ...]:
    """A target for every cell in reading order. An object belongs to the cell of its centre; the topmost one wins.

    ValueError for charts and figures, which are not made of cells.
    """
    if scene.bars or scene.figure is not None:
        raise ValueError(f"only scenes of objects have cells; got a {scene.kind!r} scene")
    pitch = scene.size[0] / scene.cells
    top = {thing.index: thing for thing in sorted(scene.objects, key=lambda t: t.z)}
    targets = []
    for index in range(scene.cells**2):
        column, row = index % scene.cells, index // scene.cells
        thing = top.get(index)
        if thing is None:
            targets.append(CellTarget(cell_name(column, row)))
            continue
        x1, y1, x2, y2 = thing.box
        offsets = (x1 / pitch - column, y1 / pitch - row, x2 / pitch - column, y2 / pitch - row)
        digit = EMPTY if thing.digit is None else str(thing.digit)
        targets.append(CellTarget(thing.cell, thing.color, thing.shape, thing.size, digit, offsets))
    return tuple(targets)
