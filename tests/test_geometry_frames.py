"""Laws of frames and of the resize: round trips, and equality with the image processors."""

from __future__ import annotations

import importlib
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from saccade.geometry import FRAMES, area, from_original, iou, smart_resize, to_original
from saccade.parsing import read_boxes
from saccade.types import Frame

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@st.composite
def placed(draw) -> tuple[Frame, tuple[float, float, float, float]]:
    """A frame and a box with area inside its original image."""
    name, original, resized = draw(st.sampled_from(sorted(FRAMES))), draw(SIZES), draw(SIZES)
    xs = sorted(draw(st.tuples(*[st.floats(0, original[0])] * 2)))
    ys = sorted(draw(st.tuples(*[st.floats(0, original[1])] * 2)))
    box = (xs[0], ys[0], xs[1], ys[1])
    assume(area(box) > 0)
    return Frame(name, original, resized), box


@given(placed())
def test_going_there_and_back_moves_no_edge_by_more_than_one_step(case):
    frame, box = case
    extent = FRAMES[frame.name].extent(frame)
    step = 1 if not FRAMES[frame.name].decimals else 10 ** -FRAMES[frame.name].decimals
    back = to_original(from_original(box, frame), frame)
    for axis, (was, now) in enumerate(zip(box, back, strict=True)):
        assert abs(was - now) <= step * frame.size_original[axis % 2] / extent[axis % 2] + 1e-6


@given(placed())
def test_a_gold_box_keeps_an_area_stays_inside_and_is_written_as_the_frame_writes(case):
    frame, box = case
    written = from_original(box, frame)
    extent = FRAMES[frame.name].extent(frame)
    assert area(written) > 0 and iou(written, written) == 1.0
    assert all(0 <= v <= s for v, s in zip(written, extent * 2, strict=True))
    if FRAMES[frame.name].decimals == 0:
        assert all(isinstance(v, int) for v in written)
    else:
        assert all(v == round(v, 4) for v in written)


@given(placed())
def test_writing_twice_changes_nothing(case):
    frame, box = case
    written = from_original(box, frame)
    assert from_original(to_original(written, frame), frame) == written


def test_each_frame_writes_the_same_place_in_its_own_numbers():
    box = (100, 50, 200, 300)
    sizes = {"size_original": (400, 500), "size_input": (200, 1000)}
    assert from_original(box, Frame("pixels_original", **sizes)) == (100, 50, 200, 300)
    assert from_original(box, Frame("pixels_resized", **sizes)) == (50, 100, 100, 600)
    assert from_original(box, Frame("thousand", **sizes)) == (250, 100, 500, 600)
    assert from_original(box, Frame("unit", **sizes)) == (0.25, 0.1, 0.5, 0.6)
    assert from_original(box, Frame("thousand_yx", **sizes)) == (100, 250, 600, 500)
    assert from_original(box, Frame("bins_1024", **sizes)) == (256, 102, 512, 614)


def test_a_side_too_small_for_any_number_still_becomes_one_step():
    for name in FRAMES:
        frame = Frame(name, (1, 2048), (1, 1))
        assert area(from_original((0.0, 0.0, 1.0, 5e-324), frame)) > 0, name


def test_a_frame_that_writes_y_first_is_read_back_as_x_first():
    frame = Frame("thousand_yx", (400, 500), (224, 224))
    assert to_original((100, 250, 600, 500), frame) == pytest.approx((100, 50, 200, 300))


def test_locations_end_at_1023_and_are_read_into_x_y_order():
    frame = Frame("bins_1024", (400, 500), (224, 224))
    assert from_original((0, 0, 400, 500), frame) == (0, 0, 1023, 1023), "there is no location 1024"
    (found,) = read_boxes("<loc0102><loc0256><loc0614><loc0512> cat")
    assert to_original(found.box, frame) == pytest.approx((100, 50, 200, 300), abs=0.3)


def processors_resize():
    """The resize of the image processor of Qwen2-VL, from whichever of its modules can be imported here."""
    for module in ("image_processing_pil_qwen2_vl", "image_processing_qwen2_vl"):
        try:
            return importlib.import_module(f"transformers.models.qwen2_vl.{module}").smart_resize
        except ImportError:
            continue
    return None


THEIRS = processors_resize()


@pytest.mark.skipif(
    THEIRS is None, reason="the Qwen2-VL image processor cannot be imported (transformers, torchvision)"
)
@pytest.mark.parametrize(
    ("factor", "low", "high"), [(28, 56 * 56, 28 * 28 * 1280), (32, 65536, 16777216), (14, 0, 10_000)]
)
def test_smart_resize_equals_that_of_the_image_processor(factor, low, high):
    rng = random.Random(factor)
    for _ in range(400):
        height, width = (int(2 ** rng.uniform(0, 12)) for _ in range(2))
        if max(height, width) / min(height, width) <= 200:
            assert smart_resize(height, width, factor, low, high) == THEIRS(height, width, factor, low, high)


def image_processor(model: str, name: str):
    """An image processor of transformers that does without torchvision; skips where it cannot be imported."""
    try:
        module = importlib.import_module(f"transformers.models.{model}.image_processing_pil_{model}")
        return getattr(module, name)
    except (ImportError, AttributeError):
        pytest.skip(f"{name} cannot be imported (transformers)")


PROCESSORS = [
    ("qwen2_vl", "Qwen2VLImageProcessorPil", 14, 3136, 28 * 28 * 16, 1),  # Qwen2-VL and Qwen2.5-VL
    ("qwen2_vl", "Qwen2VLImageProcessorPil", 16, 32 * 32 * 4, 32 * 32 * 16, 1),  # Qwen3-VL
    ("glm4v", "Glm4vImageProcessorPil", 14, 112 * 112, 28 * 28 * 32, 2),  # its bounds count an image as two frames
]


@pytest.mark.parametrize(("model", "name", "patch", "low", "high", "frames"), PROCESSORS)
def test_smart_resize_equals_the_grid_that_the_processor_makes_of_images(model, name, patch, low, high, frames):
    kind = image_processor(model, name)
    processor = kind(patch_size=patch, merge_size=2, size={"shortest_edge": low, "longest_edge": high})
    rng, tried = random.Random(patch), 0
    while tried < 320:
        width, height = (int(2 ** rng.uniform(5, 8.5)) for _ in range(2))
        tried += 1
        image = Image.new("RGB", (width, height))
        _, rows, columns = processor(images=[image], return_tensors="np")["image_grid_thw"][0].tolist()
        wanted = smart_resize(height, width, 2 * patch, low // frames, high // frames)
        assert (rows * patch, columns * patch) == wanted, (width, height)


def test_smart_resize_literals():
    assert smart_resize(480, 640) == (476, 644)
    assert smart_resize(70, 70, 28) == (56, 56)  # 2.5 rounds to even
    assert smart_resize(10, 10, 28) == (56, 56)
    assert smart_resize(4000, 3000, 28, 3136, 1003520) == (1148, 840)


@pytest.mark.parametrize("size", [(1, 201), (0, 10), (5000, 3)])
def test_impossible_images_are_refused_with_their_size(size):
    with pytest.raises(ValueError, match=rf"{size[1]} x {size[0]} pixels"):
        smart_resize(*size)


EXTENTS = {
    "pixels_original": (400, 500, 400, 500),
    "pixels_resized": (200, 1000, 200, 1000),
    "thousand": (1000, 1000, 1000, 1000),
    "thousand_yx": (1000, 1000, 1000, 1000),
    "bins_1024": (1024, 1024, 1023, 1023),  # what a frame reads as the far corner, and the largest that it writes
    "unit": (1.0, 1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("name", FRAMES)
def test_the_far_corner_of_the_image_is_the_extent_of_the_frame(name):
    frame = Frame(name, (400, 500), (200, 1000))
    *corner, right, bottom = EXTENTS[name]
    assert to_original((0, 0, *corner), frame) == pytest.approx((0, 0, 400, 500))
    assert from_original((0, 0, 400, 500), frame) == (0, 0, right, bottom)


@pytest.mark.parametrize(
    ("name", "box", "written"),
    [
        ("pixels_original", (10.2, 10, 10.4, 20), (10, 10, 11, 20)),
        ("pixels_original", (10, 10.6, 20, 11.4), (10, 11, 20, 12)),
        ("pixels_original", (99.8, 0, 100, 20), (99, 0, 100, 20)),  # at the edge the step goes inward
        ("pixels_resized", (10.4, 0, 10.9, 20), (5, 0, 6, 10)),
        ("thousand", (50.01, 0, 50.04, 20), (500, 0, 501, 200)),
        ("thousand_yx", (50.01, 0, 50.04, 20), (0, 500, 200, 501)),
        ("unit", (50.001, 0, 50.004, 20), (0.5, 0.0, 0.5001, 0.2)),
        ("unit", (0.031, 0, 0.034, 20), (0.0003, 0.0, 0.0004, 0.2)),  # 3 * 1e-4 is not 0.0003
        ("unit", (99.999, 0, 100, 20), (0.9999, 0.0, 1.0, 0.2)),
        ("bins_1024", (99.99, 0, 100, 50), (1022, 0, 1023, 512)),
        ("bins_1024", (50.01, 0, 50.04, 50), (512, 0, 513, 512)),
    ],
)
def test_a_side_that_would_vanish_becomes_one_step_around_its_middle(name, box, written):
    assert from_original(box, Frame(name, (100, 100), (50, 50))) == written


def test_a_box_without_area_is_given_none():
    frame = Frame("pixels_original", (100, 100), (50, 50))
    assert from_original((5, 5, 5, 9), frame) == (5, 5, 5, 9)
    assert from_original((9, 5, 5, 9), frame) == (9, 5, 5, 9)


def test_smart_resize_at_its_bounds():
    assert smart_resize(1, 200) == (28, 812), "200 to 1 is still taken"
    assert smart_resize(1, 1) == (56, 56)
    assert smart_resize(5000, 5000) == (980, 980)
    # 50 x 60 rounds to 56 x 56 = 3136: at either bound exactly, nothing is scaled
    assert smart_resize(50, 60, 28, 0, 3136) == (56, 56)
    assert smart_resize(60, 50, 28, 3136, 10**6) == (56, 56)
    # one beyond: 20 x 4000 shrinks by sqrt(80000 / 3136), and a side of 4 stays one step
    assert smart_resize(20, 4000, 28, 3136, 3136) == (28, 784)
