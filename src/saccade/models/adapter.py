"""The adapter seam: what Saccade must know of a model family, and nothing of tasks, prompts or rewards.

A family is one file with a class that satisfies `Adapter` and one line in `saccade.models.families.ADAPTERS`.
Shape letters: P prompt tokens, S patches of the vision tower, V visual tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from saccade.types import Frame

PARTS = ("vision", "projector", "language")


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt as the model reads it; what all G completions of a group share."""

    ids_P: Tensor
    """Token ids, image placeholders already repeated, up to and including the opening of the assistant's turn."""
    positions_3P: Tensor
    """Rotary positions on the three axes time, height, width (equal rows for a family with 1-D positions)."""
    next_position: int
    """Position of the first completion token on all axes; with images this is not P (M-RoPE: largest position + 1)."""
    pixels: dict[str, Tensor]
    """Inputs of the vision tower by the family's own names; empty for a text-only prompt."""
    image_shas: tuple[str, ...]
    frames: tuple[Frame, ...]
    prompt_id: str
    """Hash of ids and images: equal prompts share it."""

    def __len__(self) -> int:
        return int(self.ids_P.shape[0])


Sharing = Literal["attention", "masks", "two_phase", "none"]
"""How siblings of a family can share one prompt in training: by an attention of our own, by a dense mask per kind of
layer, through the family's own cache, or not at all."""


@dataclass(frozen=True, slots=True)
class MaskRules:
    """What a family with several kinds of attention layers lets a token see, for sharing by dense masks."""

    windows: Mapping[str, int | None]
    """Kind of layer as the model's mask dictionary names it -> width of its sliding window in positions, or None."""
    image_blocks: frozenset[str] = frozenset()
    """Kinds of layers in which the tokens of one image see each other in both directions."""


class Adapter(Protocol):
    """What a model family must answer. Everything else in Saccade is the same for all families.

    `saccade.models.chat.ChatAdapter` answers most of it for a family that writes its prompt with a chat template.
    """

    image_backend: str
    """Class that made the pixels, recorded with every run (PIL and torchvision resize slightly differently)."""
    sharing: Sharing
    image_ids: tuple[int, ...]
    """Tokens that stand for one visual token each."""
    reserved: tuple[str, ...]
    """Tokens, as text, that neither a prompt nor a reply may contain."""

    def encode(
        self, text: str, images: Sequence[Image.Image], reuse_images_from: EncodedPrompt | None = None
    ) -> EncodedPrompt:
        """`text` is the user's turn with one `<image>` marker per image; `like` has the same images already encoded."""
        ...

    def encode_reply(self, text: str) -> list[int]:
        """Token ids of an assistant's reply, ending with the end-of-turn token."""
        ...

    def continue_with(self, prompt: EncodedPrompt, text: str) -> EncodedPrompt:
        """The prompt with the beginning of the reply already written (forced prefix)."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of completion tokens, without the end-of-turn token."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a turn."""
        ...

    @property
    def context_length(self) -> int:
        """Positions that the language model was built for."""
        ...

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that a model must never sample: image and video placeholders."""
        ...

    def vision(self, model: Any, prompts: Sequence[EncodedPrompt]) -> tuple[Tensor, ...]:
        """Run the vision tower and the projector once over all images; per prompt the features (V, D), or (V, K, D)
        where a visual token has K vectors (Qwen3-VL: one for the input and K - 1 for deeper layers)."""
        ...

    def patches(self, prompt: EncodedPrompt) -> int:
        """Positions that the tower computes for the prompt's images."""
        ...

    def as_mm_outputs(self, features: Sequence[Tensor]) -> dict[str, Any] | None:
        """Features of prompts, in order, as transformers' `mm_encoder_outputs`; None when no prompt has an image."""
        ...

    def position_ids(self, positions_3BT: Tensor) -> Tensor:
        """The positions in the shape that the model takes: (3, B, T), or (B, T) for one axis."""
        ...

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        """What the family's own forward needs besides ids and 2-D mask when B rows begin with this prompt: pixels
        repeated for each row, token types. Positions and masks are left to the model: the plain path is the reference.
        """
        ...

    def mask_rules(self, model: Any) -> MaskRules:
        """For `sharing == "masks"`; other families need not have it."""
        ...

    def parts(self, model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """All parameters by name, split into vision, projector and language."""
        ...


def shared_prefix(prompts: Sequence[EncodedPrompt]) -> tuple[EncodedPrompt, list[list[int]]]:
    """The longest beginning that prompts about the same images share, and the tokens of each after it.

    Lets several questions about one image be branches of one packed row. At least one token stays in every tail, so
    each branch's first loss token has a predictor of its own. Raises ValueError when the images differ or an image
    stands after the first difference.
    """
    first = prompts[0]
    if any(p.image_shas != first.image_shas for p in prompts):
        raise ValueError("prompts with different images share no prefix that could be packed")
    length = min(len(p) for p in prompts) - 1
    for other in prompts[1:]:
        differs = (first.ids_P[:length] != other.ids_P[:length]).nonzero()
        length = int(differs[0]) if len(differs) else length
    following = int(first.positions_3P[0, length])
    for prompt in prompts:
        tail = prompt.positions_3P[:, length:]
        if not bool((tail == torch.arange(following, following + tail.shape[1])).all()):
            raise ValueError("an image stands after the place where the prompts begin to differ")
    prefix = EncodedPrompt(
        first.ids_P[:length],
        first.positions_3P[:, :length],
        following,
        first.pixels,
        first.image_shas,
        first.frames,
        f"{first.prompt_id}:{length}",
    )
    return prefix, [p.ids_P[length:].tolist() for p in prompts]


def pad_positions(positions: Sequence[Tensor], length: int) -> Tensor:
    """Stack (3, P) position tensors to (3, B, length), right-padded with 0."""
    out = torch.zeros(3, len(positions), length, dtype=torch.long)
    for row, one in enumerate(positions):
        out[:, row, : one.shape[1]] = one
    return out
