"""Token counts of prompts without reading pixels: the number of visual tokens depends only on the image's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import Image

from saccade.data.images import large_alone
from saccade.models.adapter import Adapter, EncodedPrompt
from saccade.models.chat_template import refuse_unreadable
from saccade.types import Frame, Turn

MARKER = "<image>"
SMALL = (64, 64)
FEW_TURNS = 8
TURN = 4
"""Tokens that the words around a turn may have more than those around others: a text changes where they are cut."""
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one prompt."""

    total: int
    images: tuple[int, ...]
    """Visual tokens of each image."""
    frames: tuple[Frame, ...]
    opened: str = ""
    """See `EncodedPrompt.opened`."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a chat template writes around turns."""

    tokens: int
    """Of each turn, as a bound."""
    opened: str
    """See `EncodedPrompt.opened`."""


def _growth(normalizer: str) -> int:
    """How many times its bytes a text has at most after a tokenizer's normalizer (Unicode FAQ, "Normalization": 3 for
    NFC and NFD, 11 for the compatibility forms)."""
    return 1 if normalizer == "None" else 11 if "NFK" in normalizer or "Precompiled" in normalizer else 3


class TokenCounter:
    """Counts the tokens that `adapter.encode` would produce. Each image size is encoded once, as a blank image, for
    each number of images in a prompt: some families use fewer tokens per image when there are several.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        backend = getattr(adapter.processors[0], "backend_tokenizer", None)
        self._growth = _growth(str(getattr(backend, "normalizer", None)))
        self._image = lru_cache(maxsize=1 << 17)(self._measure)
        self._smalls = lru_cache(maxsize=4)(self._only_smalls)
        self._around = lru_cache(maxsize=1 << 10)(self._measure_turns)

    def prompt(self, text: str, sizes: Sequence[Size], before: Sequence[Turn] = ()) -> Tokens:
        """`text`, with the turns `before` it, has one marker per image; sizes are (width, height) in pixels. ValueError
        as `encode`."""
        if not sizes:
            plain = self._adapter.encode(text, [], before=before)
            return Tokens(len(plain), (), (), plain.opened)
        measured = [self._image(size, len(sizes)) for size in sizes]
        smalls, small, _ = self._smalls(len(sizes))
        prompt = self._adapter.encode(text, smalls, reuse_images_from=small, before=before)
        length = len(prompt) + sum(extra for extra, _, _ in measured)
        visual, frames = tuple(visual for _, visual, _ in measured), tuple(frame for _, _, frame in measured)
        return Tokens(length, visual, frames, prompt.opened)

    def check(self, text: str, sizes: Sequence[Size], room: int, before: Sequence[Turn] = ()) -> None:
        """ValueError for a prompt that `encode` would refuse or that has more than `room` tokens. Cheap where
        `surely_fits` is enough."""
        if not self.surely_fits(text, sizes, room, before):
            refuse_long(self.prompt(text, sizes, before), room)

    def surely_fits(
        self, text: str, sizes: Sequence[Size], room: int, before: Sequence[Turn] = (), closed: bool = False
    ) -> bool:
        """Whether an upper bound of a prompt's tokens (the bytes of the text) is enough to know that it has `room`, and
        it holds nothing that `encode` refuses; if `closed`, and it opens nothing that the reply must close."""
        turns = [*before, Turn("user", text)]
        try:
            refuse_unreadable(turns, len(sizes), self._adapter.reserved)
        except ValueError:
            return False
        few = [*before[: FEW_TURNS + len(before) % 2], turns[-1]]  # later ones alternate like them
        form = tuple(replace(turn, text=f"{MARKER}A." if MARKER in turn.text else "A.") for turn in few)
        if not sizes or not all(turn.text.strip() for turn in turns) or (around := self._around(form)) is None:
            return False
        if closed and around.opened:
            return False
        visual = sum(self._image(size, len(sizes))[0] for size in sizes)
        letters = sum(self.most(turn.text) for turn in turns)
        return len(self._smalls(len(sizes))[1]) + visual + letters + around.tokens * len(turns) <= room

    def reply(self, text: str, opened: str = "") -> int:
        """Tokens of a reply after what the prompt has opened, including the end-of-turn token."""
        return len(self._adapter.encode_reply(text, opened))

    def read_back(self, text: str, opened: str = "") -> str:
        """A reply as rewards would read it if the model sampled exactly its tokens."""
        return opened + self._adapter.decode(self._adapter.encode_reply(text, opened))

    def most(self, text: str) -> int:
        """Tokens of a text at most: its bytes once the tokenizer has normalized it."""
        return len(text.encode()) if text.isascii() else self._growth * len(text.encode())

    def _measure_turns(self, turns: tuple[Turn, ...]) -> Around | None:
        """Of such a conversation, with an image wherever there is one; None when the chat template does not write
        it."""
        images = [Image.new("RGB", SMALL) for turn in turns if MARKER in turn.text]
        try:
            whole = self._adapter.encode(turns[-1].text, images, before=turns[:-1])
        except ValueError:
            return None
        return Around(2 * math.ceil(len(whole) / len(turns)) + TURN, whole.opened)

    def _measure(self, size: Size, count: int) -> tuple[int, int, Frame]:
        """(tokens in excess of a small image's, visual tokens, frame) of one of `count` images."""
        smalls, small, each = self._smalls(count)
        blank = Image.new("RGB", size)
        with large_alone([blank]):
            found = self._adapter.encode(MARKER * count, [blank, *smalls[1:]])
        return len(found) - len(small), self._visual(found) - each * (count - 1), found.frames[0]

    def _only_smalls(self, count: int) -> tuple[list[Image.Image], EncodedPrompt, int]:
        """`count` small images, their prompt without text, and the number of visual tokens of one image."""
        images = [Image.new("RGB", SMALL) for _ in range(count)]
        found = self._adapter.encode(MARKER * count, images)
        return images, found, self._visual(found) // count

    def _visual(self, prompt: EncodedPrompt) -> int:
        return sum(int((prompt.ids_P == image_id).sum()) for image_id in self._adapter.image_ids)


def refuse_long(counted: Tokens, room: int) -> None:
    """ValueError for a prompt of more than `room` tokens."""
    if counted.total > room:
        raise ValueError(
            f"the prompt has {counted.total:,} tokens ({sum(counted.images):,} of images), and there is room for "
            f"{room:,} (the model's context less the longest reply)"
        )
