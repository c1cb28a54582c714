"""Laws of boxes: symmetry, identity, brute force; degenerate boxes overlap nothing and raise nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples

from saccade.geometry import area, center, clip, contains, intersection, iou, iou_matrix

COORDINATE = st.integers(0, 24)
PROPER = st.tuples(COORDINATE, COORDINATE, st.integers(1, 12), st.integers(1, 12)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
ANY = st.tuples(*[st.floats(allow_nan=True, allow_infinity=True, width=64)] * 4)


def cells(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


@given(PROPER, PROPER)
def test_iou_equals_counting_unit_cells(a, b):
    assert iou(a, b) == pytest.approx(len(cells(a) & cells(b)) / len(cells(a) | cells(b)))


@given(ANY, ANY)
def test_iou_is_total_symmetric_and_bounded(a, b):
    assert 0.0 <= iou(a, b) <= 1.0
    assert iou(a, b) == iou(b, a)
    assert iou(a, a) in (0.0, 1.0)


@given(PROPER)
def test_a_box_overlaps_itself_entirely(box):
    assert iou(box, box) == 1.0


@given(st.lists(ANY | PROPER, max_size=5), st.lists(ANY | PROPER, max_size=5))
@settings(max_examples=examples(60))
def test_the_matrix_holds_the_iou_of_every_pair(rows, columns):
    matrix = iou_matrix(np.array(rows, dtype=float).reshape(-1, 4), np.array(columns, dtype=float).reshape(-1, 4))
    assert matrix.shape == (len(rows), len(columns))
    expected = [[iou(a, b) for b in columns] for a in rows]
    assert np.allclose(matrix, np.array(expected).reshape(matrix.shape), atol=1e-12)


@pytest.mark.parametrize("bad", [(3, 3, 3, 9), (9, 9, 3, 3), (0, 9, 9, 3), (math.nan, 0, 9, 9), (0, 0, math.inf, 9)])
def test_degenerate_and_inverted_boxes_overlap_nothing(bad):
    assert area(bad) == iou(bad, (0, 0, 10, 10)) == iou(bad, bad) == 0.0
    assert iou_matrix([bad], [(0, 0, 10, 10)])[0, 0] == 0.0


def test_one_pixel_wide_boxes_have_an_area():
    assert iou((5, 5, 6, 9), (5, 5, 6, 9)) == 1.0


def test_known_values():
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert center((2, 4, 6, 10)) == (4, 7)
    assert clip((-5, 3, 12, 99), (10, 20)) == (0, 3, 10, 20)


@given(PROPER, st.tuples(COORDINATE, COORDINATE))
def test_a_box_contains_its_center_and_the_points_between_its_edges(box, point):
    assert contains(box, center(box))
    assert contains(box, point) == (box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


@given(ANY.filter(lambda b: not any(map(math.isnan, b))), st.integers(1, 50), st.integers(1, 50))
def test_a_clipped_box_lies_in_the_image_and_clipping_twice_changes_nothing(box, width, height):
    once = clip(box, (width, height))
    assert clip(once, (width, height)) == once
    assert all(0 <= v <= s for v, s in zip(once, (width, height) * 2, strict=True))


@pytest.mark.parametrize(
    ("other", "shared", "ratio"),
    [
        ((1, 1, 3, 3), 1.0, 1 / 7),
        ((0, 0, 2, 1), 2.0, 1 / 2),
        ((2, 0, 4, 2), 0.0, 0.0),  # an edge in common
        ((2, 2, 4, 4), 0.0, 0.0),  # a corner
        ((5, 5, 6, 6), 0.0, 0.0),  # apart on both axes: two negative sides are no area
        ((5, 0, 6, 2), 0.0, 0.0),
        ((-1, -1, 3, 3), 4.0, 1 / 4),
    ],
)
def test_what_two_boxes_share_to_the_number(other, shared, ratio):
    box = (0, 0, 2, 2)
    assert intersection(box, other) == intersection(other, box) == shared
    assert iou(box, other) == pytest.approx(ratio)
    assert iou_matrix([box, (9, 9, 10, 10)], [other])[:, 0].tolist() == pytest.approx([ratio, 0.0])


def test_boxes_whose_area_is_no_number_have_none():
    assert area((0, 0, 3, 2)) == 6.0
    assert area((0, 0, 1e200, 1e200)) == 0.0
    assert area((0, 0, 1e-3, 1e-3)) == pytest.approx(1e-6)
    huge = (0.0, 0.0, 1e154, 1e154)
    assert iou(huge, huge) in (0.0, 1.0) and iou_matrix([huge], [huge])[0, 0] in (0.0, 1.0)


def test_a_point_on_the_edge_is_inside_and_one_beyond_any_edge_is_not():
    box = (2, 3, 6, 9)
    assert all(contains(box, point) for point in ((2, 3), (6, 9), (2, 9), (4, 5)))
    assert not any(contains(box, point) for point in ((1.9, 5), (6.1, 5), (4, 2.9), (4, 9.1)))


def test_clipping_moves_only_what_is_outside():
    assert clip((2, 3, 6, 9), (10, 20)) == (2, 3, 6, 9)
    assert clip((-1, -2, 30, 40), (10, 20)) == (0, 0, 10, 20)
    assert clip((12, 25, 30, 40), (10, 20)) == (10, 20, 10, 20)
    assert clip((-9, -8, -1, -2), (10, 20)) == (0, 0, 0, 0)
