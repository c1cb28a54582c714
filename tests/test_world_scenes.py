from __future__ import annotations

import sys
import time
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from saccade.config import ConfigError, load
from saccade.world import World, WorldConfig, render
from saccade.world.config import HELD_OUT, PALETTE
from saccade.world.draw import id_buffer, mask_box
from saccade.world.generator import SCENES
from saccade.world.measure import hue_name, measure
from saccade.world.splits import SPLITS

GRID = World()
FREE = World(WorldConfig(layout="free"))
KNOWN = [("orange", "star", "large", "c1", (56, 2, 79, 24)), ("purple", "triangle", "small", "a2", (7, 34, 22, 49))]


@pytest.mark.parametrize("kind", SCENES)
def test_the_same_seed_and_index_give_the_same_pixels(kind: str) -> None:
    for index in range(4):
        first, again = World().scene(3, index, kind=kind), World().scene(3, index, kind=kind)
        assert first == again
        assert render(first).tobytes() == render(again).tobytes()


def test_another_seed_index_split_or_kind_gives_another_scene() -> None:
    scenes = [
        GRID.scene(0, 0),
        GRID.scene(1, 0),
        GRID.scene(0, 1),
        GRID.scene(0, 0, "test"),
        GRID.scene(0, 0, kind="digits"),
    ]
    assert len({render(scene).tobytes() for scene in scenes}) == len(scenes)


def test_a_known_scene_does_not_change() -> None:
    scene = GRID.scene(0, 0)
    assert [(t.color, t.shape, t.size, t.cell, t.box) for t in scene.objects[:2]] == KNOWN


@pytest.mark.parametrize("split", SPLITS)
def test_grid_objects_stay_in_their_own_cell(split: str) -> None:
    for index in range(20):
        scene = GRID.scene(0, index, split)
        pitch = scene.size[0] // scene.cells
        assert len({t.index for t in scene.objects}) == len(scene.objects)
        for t in scene.objects:
            column, row = t.index % scene.cells, t.index // scene.cells
            assert t.cell == f"{'abcde'[column]}{row + 1}"
            assert column * pitch <= t.box[0] < t.box[2] <= (column + 1) * pitch
            assert row * pitch <= t.box[1] < t.box[3] <= (row + 1) * pitch


def test_objects_are_in_row_order() -> None:
    for index in range(20):
        assert all(a.index < b.index for a, b in pairwise(GRID.scene(1, index).objects))


def test_larger_scenes_have_a_fifth_row_or_more_than_eight_objects() -> None:
    scenes = [GRID.scene(0, index, "ood_larger") for index in range(40)]
    assert {scene.size for scene in scenes} == {(140, 140), (112, 112)}
    assert all(scene.cells == 5 or 9 <= len(scene.objects) <= 12 for scene in scenes)


def test_held_out_pairs_appear_in_their_split_and_nowhere_else() -> None:
    for split in SPLITS:
        pairs = [{(t.color, t.shape) for t in GRID.scene(0, index, split).objects} for index in range(150)]
        if split == "ood_combination":
            assert all(found & HELD_OUT for found in pairs)
        else:
            assert not any(found & HELD_OUT for found in pairs)


def test_every_object_of_a_free_scene_is_visible_enough_and_boxes_fit_its_visible_pixels() -> None:
    overlaps = 0
    for index in range(25):
        scene = FREE.scene(0, index, kind=("shapes", "digits")[index % 2])
        owner = id_buffer(scene.objects, scene.size)
        for place, thing in enumerate(scene.objects):
            assert thing.visible >= 0.5
            assert thing.box == mask_box(owner == place)
            overlaps += thing.visible < 1.0
        assert all(seen.visible >= 0.5 for seen in measure(scene))
    assert overlaps > 5


def test_a_stricter_visible_share_is_respected() -> None:
    strict = World(WorldConfig(layout="free", visible_share=1.0))
    assert all(t.visible == 1.0 for index in range(15) for t in strict.scene(0, index).objects)


def test_the_shifted_palette_keeps_its_color_names_and_differs_from_the_default() -> None:
    usual, shifted = [], []
    for index in range(40):
        for thing in GRID.scene(0, index, "ood_style").objects:
            assert hue_name(np.array(thing.rgb)) == thing.color
            shifted.append(np.abs(np.subtract(thing.rgb, PALETTE[thing.color])).max())
        usual += [np.abs(np.subtract(t.rgb, PALETTE[t.color])).max() for t in GRID.scene(0, index).objects]
    assert max(usual) <= 10
    assert np.mean(shifted) > 30


def test_settings_have_their_effect() -> None:
    assert render(World(WorldConfig(cells=3, objects_max=5)).scene(0, 0)).size == (84, 84)
    assert render(World(WorldConfig(cell_px=56)).scene(0, 0)).size == (224, 224)
    assert {len(World(WorldConfig(objects_min=2, objects_max=2)).scene(0, k).objects) for k in range(9)} == {2}
    calm = World(WorldConfig(jitter=0)).scene(0, 0)
    assert all(abs(v % 28 - 13.5) == 0.5 for t in calm.objects for v in t.center)
    even, uneven = (World(WorldConfig(skew=skew, objects_min=8)) for skew in (100.0, 0.05))
    assert _colors(even) > _colors(uneven) + 1


def _colors(world: World) -> float:
    return float(np.mean([len({t.color for t in world.scene(0, k).objects}) for k in range(40)]))


def test_invalid_settings_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="objects_min <= objects_max"):
        WorldConfig(objects_min=9, objects_max=8)
    path = tmp_path / "world.yaml"
    path.write_text("cels: 5\n")
    with pytest.raises(ConfigError, match="cells"):
        load(path, WorldConfig)
    with pytest.raises(ValueError, match="unknown scene kind 'cubes'"):
        GRID.scene(0, 0, kind="cubes")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        GRID.scene(0, 0, "dev")


def test_rendering_is_fast() -> None:
    start, n = time.process_time(), 300
    for index in range(n):
        render(GRID.scene(0, index, kind=("shapes", "digits")[index % 2]))
    rate = n / (time.process_time() - start)
    sys.stdout.write(f"{rate:.0f} images a second on one core\n")
    assert rate >= 150


def test_questions_do_not_touch_the_scene_stream() -> None:
    rng = Random(0)
    before = GRID.scene(0, 7)
    GRID.questions(before, rng, 5)
    assert GRID.scene(0, 7) == before
