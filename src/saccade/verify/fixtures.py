"""Test inputs for a checkpoint: drawn scenes, questions about one, two and no images, short replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from saccade.models.adapter import Adapter, EncodedPrompt
from saccade.models.packing import Branch
from saccade.world import World

BranchGroup = tuple[EncodedPrompt, tuple[Branch, ...]]

SIZES = ((112, 112), (168, 112), (90, 140))
"""Width and height of the scenes, in pixels; the last is not a multiple of any patch size."""
REPLIES = (
    "<think>red circle, blue star, red square</think><answer>2</answer>",
    "There are three shapes.",
    "The second one has a yellow cross in the corner, which the first has not.",
    "No.",
)


@dataclass(frozen=True, slots=True)
class FixtureQuestion:
    """A user's turn: images, then text."""

    text: str
    images: tuple[Image.Image, ...]

    def encode(self, adapter: Adapter) -> EncodedPrompt:
        return adapter.encode("<image>" * len(self.images) + self.text, self.images)

    def messages(self) -> list[dict[str, Any]]:
        """In the format of transformers' processors."""
        content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in self.images]
        return [{"role": "user", "content": [*content, {"type": "text", "text": self.text}]}]


def scenes(seed: int = 0) -> tuple[Image.Image, ...]:
    """One drawn scene of each of `SIZES`."""
    world = World()
    return tuple(world.render(world.scene(seed, i)).resize(size) for i, size in enumerate(SIZES))


def questions(seed: int = 0) -> dict[str, FixtureQuestion]:
    """A question about one image, one about two, one about none."""
    one, two, three = scenes(seed)
    return {
        "one image": FixtureQuestion("How many red shapes are there?", (one,)),
        "two images": FixtureQuestion("What is in the second but not in the first?", (two, three)),
        "text": FixtureQuestion("What is 2 + 2?", ()),
    }


def branches(adapter: Adapter, count: int = 4) -> tuple[Branch, ...]:
    """Replies of different lengths: a complete one, one of one token, a truncated one, one with loss only on the second
    half."""
    first, second, third, fourth = (adapter.encode_reply(text) for text in REPLIES)
    cut = third[: len(third) // 2]
    every = (
        Branch(first),
        Branch(second[-1:]),
        Branch(cut),
        Branch(second, ((len(second) // 2, len(second)),)),
        Branch(fourth),
    )
    return every[:count]


def slice_of(adapter: Adapter, seed: int = 0) -> list[BranchGroup]:
    """Three groups in one row: four replies about one image, two about two images, two to text only."""
    asked = questions(seed)
    replies = branches(adapter, 5)
    return [
        (asked["one image"].encode(adapter), replies[:4]),
        (asked["two images"].encode(adapter), replies[2:4]),
        (asked["text"].encode(adapter), (replies[4], replies[1])),
    ]


def prompts_of(groups: Sequence[BranchGroup]) -> list[EncodedPrompt]:
    return [prompt for prompt, _ in groups]
