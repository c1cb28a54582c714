"""Counting tokens without pixels gives what encoding with them gives, for every family, without weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES, family
from PIL import Image

from saccade.base.tiny import write_checkpoint
from saccade.models.counting import TokenCounter
from saccade.models.policy import load_adapter
from saccade.types import Turn

TEXTS = {
    0: "What is 2 + 2?",
    1: "<image>Where is the red circle?",
    2: "Compare <image> with\n<image>, step by step.",
    3: "<image><image> and <image>",
}
ASKED, REPLY = Turn("user", "<image>How many?"), Turn("assistant", "Two.")
CONVERSATIONS: list[tuple[tuple[Turn, ...], str]] = [
    ((), "<image>Which?"),
    ((), "Which?"),
    ((), "<image>Which <audio>?"),
    ((), "<image>Which <video>?"),
    ((Turn("system", "Listen to <audio>."),), "<image>Which?"),
    ((Turn("system", "Look at <image>."),), "Which?"),
    ((Turn("system", "Be brief."),), "<image>Which?"),
    ((ASKED, REPLY), "Which?"),
    ((ASKED, Turn("assistant", "It is <video>.")), "Which?"),
    ((Turn("user", "How many?"), Turn("assistant", "In <image>.")), "Which?"),
    ((ASKED,), "Which?"),
    ((REPLY,), "<image>Which?"),
    ((ASKED, *[REPLY, Turn("user", "And?")] * 9, Turn("assistant", "<audio>")), "Which?"),
    ((ASKED, Turn("system", "Be brief."), REPLY), "Which?"),
]
SIZES = [(300, 200), (64, 64), (37, 91), (500, 120), (640, 480)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_counted_as_it_is_encoded(name: str, tmp_path: Path) -> None:
    path = family(name).write(tmp_path / name, 0)
    for weights in path.glob("*.safetensors"):
        weights.unlink()
    adapter = load_adapter(str(path))
    counter = TokenCounter(adapter)
    random = np.random.default_rng(0)
    for count, text in TEXTS.items():
        for first in range(len(SIZES) if count else 1):
            sizes = [SIZES[(first + k) % len(SIZES)] for k in range(count)]
            noise = [Image.fromarray(random.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
            encoded = adapter.encode(text, noise)
            counted = counter.prompt(text, sizes)
            assert counted.total == len(encoded)
            assert counted.frames == encoded.frames
            visual = sum(int((encoded.ids_P == image_id).sum()) for image_id in adapter.image_ids)
            assert sum(counted.images) == visual
    assert counter.reply("Two.") == len(adapter.encode_reply("Two."))
    refused = 0
    for before, text in CONVERSATIONS:
        try:
            adapter.encode(text, [Image.new("RGB", SIZES[0])], before=before)
        except ValueError:
            refused += 1
            assert not counter.surely_fits(text, SIZES[:1], 1_000_000, before), (before, text)
    assert refused >= 7
    for system in [(), (Turn("system", "Be brief."),)]:
        for pairs in (0, 1, 4, 40):
            history = (*system, *[ASKED, *[REPLY, Turn("user", "𝔸 é\n")] * pairs][: 2 * pairs])
            text, sizes = ("And?", SIZES[:1]) if pairs else ("<image>Which?", SIZES[:1])
            total = counter.prompt(text, sizes, history).total
            assert not counter.surely_fits(text, sizes, total - 1, history)
            assert counter.surely_fits(text, sizes, 5 * total + 200, history)
    for letter in "\U0001d160\u0958\ufb2c\ufdfa\u0130":  # which normalizers make longer
        text = f"<image>{letter * 400}"
        assert not counter.surely_fits(text, SIZES[:1], counter.prompt(text, SIZES[:1]).total - 1)
        assert counter.most(letter * 400) + 1 >= counter.reply(letter * 400)


def test_a_size_that_the_processor_refuses_is_a_value_error() -> None:
    counter = TokenCounter(load_adapter("base"))
    with pytest.raises(ValueError, match="ratio"):
        counter.prompt("<image>?", [(4000, 4)])
    assert counter.prompt("<image>?", [(1, 1)]).total == counter.prompt("<image>?", [(2, 2)]).total


def test_a_template_that_takes_no_images_beside_a_system_turn_is_known_before_the_first_step(tmp_path: Path) -> None:
    """As that of Llama 3.2 Vision; without images it writes both."""
    refusal = (
        "{% if messages[0]['role'] == 'system' %}{% for m in messages %}{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}{{ raise_exception('no images beside a system turn') }}{% endif %}"
        "{% endfor %}{% endfor %}{% endif %}"
    )
    path = write_checkpoint(tmp_path / "model", "S")
    template = path / "chat_template.jinja"
    template.write_text(refusal + template.read_text())
    counter, before = TokenCounter(load_adapter(str(path))), (Turn("system", "Be brief."),)
    assert counter.surely_fits("<image>Which?", SIZES[:1], 10_000)
    assert not counter.surely_fits("<image>Which?", SIZES[:1], 10_000, before)
    with pytest.raises(ValueError, match="no images beside a system turn"):
        counter.check("<image>Which?", SIZES[:1], 10_000, before)
    counter.check("Which?", [], 10_000, before)
