"""The adapter interface: what Saccade must know about a model family, without tasks, prompts or rewards.

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

from saccade.types import Frame, Turn

PARTS = ("vision", "projector", "language")


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt as the model receives it; shared by all G completions of a group."""

    ids_P: Tensor
    """Token ids with expanded image placeholders, up to and including the start of the assistant's turn."""
    positions_3P: Tensor
    """Rotary positions on the three axes time, height, width (equal rows for a family with 1-D positions)."""
    next_position: int
    """Position of the first completion token on all axes; with images this is not P (M-RoPE: largest position + 1)."""
    pixels: dict[str, Tensor]
    """Inputs of the vision encoder (the "tower") under the family's argument names; empty for a text-only prompt."""
    image_shas: tuple[str, ...]
    frames: tuple[Frame, ...]
    prompt_id: str
    """Hash of ids and images: identical prompts have the same id."""
    opened: str = ""
    """The beginning of the reply that the prompt already holds: the `<think>` of a thinking template, a forced prefix.
    A completion's text includes it."""
    compact_ids: tuple[int, ...] = ()
    """Token ids with the chat template's one placeholder per image, as servers take them: they expand it themselves."""

    def __len__(self) -> int:
        return int(self.ids_P.shape[0])


Sharing = Literal["attention", "masks", "two_phase", "none"]
"""How sibling completions can share one prompt in training: with Saccade's attention kernels, with one dense mask per
layer kind, through the family's own cache, or not at all."""


@dataclass(frozen=True, slots=True)
class MaskRules:
    """Which tokens each layer kind lets a token attend to; used to build dense masks."""

    windows: Mapping[str, int | None]
    """Layer kind, as named in the model's mask dictionary -> width of its sliding window in positions, or None."""
    image_blocks: frozenset[str] = frozenset()
    """Layer kinds in which the tokens of one image attend to each other in both directions."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds on the size at which an image enters the model; None leaves the checkpoint's own."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    """Pixels of the resized image, width times height."""
    max_visual_tokens: int | None = None
    """Visual tokens of one image."""


LONG_TEXT = 1 << 18
"""Characters of a text from which on its tokens are counted part by part first: they take 200 bytes each and more."""


class FarTooLong(ValueError):
    """A text has so many more tokens than the model's context that it is not tokenized whole."""


class Adapter(Protocol):
    """What a model family must implement. Everything else in Saccade is the same for all families.

    prompt = policy.adapter.encode("<image>How many cups are there?", [image])
    policy.adapter.decode(completion.token_ids)

    `saccade.models.chat.ChatAdapter` implements most of it for families that use a chat template.
    """

    config: Any
    """The model's configuration, the same object as the model's own."""
    image_backend: str
    """Image processor class, recorded with every run (PIL and torchvision resize slightly differently)."""
    sharing: Sharing
    image_ids: tuple[int, ...]
    """Ids of placeholder tokens, each replaced by one visual token."""
    reserved: tuple[str, ...]
    """Tokens, as text, that neither a prompt nor a reply may contain."""

    def encode(
        self,
        text: str,
        images: Sequence[Image.Image],
        reuse_images_from: EncodedPrompt | None = None,
        before: Sequence[Turn] = (),
    ) -> EncodedPrompt:
        """Encode the user's turn after the turns `before` it, such as the system's. All turns together have one
        `<image>` marker per image. `reuse_images_from` is a prompt in which the same images are already encoded."""
        ...

    def encode_reply(self, text: str, opened: str = "") -> list[int]:
        """Token ids of a complete reply, ending with the end-of-turn token, without what the prompt has `opened`."""
        ...

    def configure(self, template_kwargs: Mapping[str, Any], stops: Sequence[int] = ()) -> None:
        """Set the options of the chat template and further tokens that end a turn. ValueError for an option that the
        template does not read."""
        ...

    def limit_images(self, limits: ImageLimits) -> dict[str, Any]:
        """Apply the limits to the image processor; returns the settings of it that changed. ValueError for a limit
        that the family does not have."""
        ...

    def continue_with(self, prompt: EncodedPrompt, text: str) -> EncodedPrompt:
        """The prompt followed by the start of the reply (a forced prefix)."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the completion tokens, without the end-of-turn token, and without what the prompt has opened."""
        ...

    @property
    def processors(self) -> tuple[Any, ...]:
        """Tokenizer and image processor."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a turn."""
        ...

    @property
    def context_length(self) -> int:
        """Maximum number of positions of the language model."""
        ...

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that must never be sampled: image and video placeholders."""
        ...

    def vision(self, model: Any, prompts: Sequence[EncodedPrompt]) -> tuple[Tensor, ...]:
        """Run the vision tower and the projector once over all images. Returns one tensor per prompt: (V, D), or
        (V, K, D) where a visual token has K vectors (Qwen3-VL: one for the input and K - 1 for deeper layers)."""
        ...

    def patches(self, prompt: EncodedPrompt) -> int:
        """Number of patches that the tower processes for the prompt's images."""
        ...

    def as_mm_outputs(self, features: Sequence[Tensor]) -> dict[str, Any] | None:
        """The prompts' features, in order, as transformers' `mm_encoder_outputs`; None when no prompt has an image."""
        ...

    def position_ids(self, positions_3BT: Tensor) -> Tensor:
        """The positions in the shape that the model expects: (3, B, T), or (B, T) for one axis."""
        ...

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        """Further inputs of the family's own forward, besides ids and 2-D mask, for B rows that start with this prompt:
        pixels repeated for each row, token types. The model computes positions and masks itself, because the plain
        path is the reference."""
        ...

    def mask_rules(self, model: Any) -> MaskRules:
        """Required only when `sharing == "masks"`."""
        ...

    def parts(self, model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """All parameters by name, split into vision, projector and language."""
        ...


def shared_prefix(prompts: Sequence[EncodedPrompt]) -> tuple[EncodedPrompt, list[list[int]]]:
    """The longest common prefix of prompts about the same images, and the remaining tokens of each prompt.

    This allows several questions about one image to be branches of one packed row. Every remainder keeps at least one
    token, so that each branch has its own position that predicts its first loss token. Raises ValueError when the
    images differ or an image follows the first difference.
    """
    first = prompts[0]
    if any(p.image_shas != first.image_shas for p in prompts):
        raise ValueError("prompts with different images have no common prefix to pack")
    length = min(len(p) for p in prompts) - 1
    for other in prompts[1:]:
        differs = (first.ids_P[:length] != other.ids_P[:length]).nonzero()
        length = int(differs[0]) if len(differs) else length
    following = int(first.positions_3P[0, length])
    for prompt in prompts:
        tail = prompt.positions_3P[:, length:]
        if not bool((tail == torch.arange(following, following + tail.shape[1])).all()):
            raise ValueError("an image follows the point at which the prompts start to differ")
    prefix = EncodedPrompt(
        first.ids_P[:length],
        first.positions_3P[:, :length],
        following,
        first.pixels,
        first.image_shas,
        first.frames,
        f"{first.prompt_id}:{length}",
        first.opened,
    )
    return prefix, [p.ids_P[length:].tolist() for p in prompts]
