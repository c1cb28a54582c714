"""Shared code of families with a chat template: builds prompts from a tokenizer and an image processor.

No combined processor is used: most require a video processor, which needs torchvision, and would resize images again.
A family is a subclass that defines how its image processor's output becomes placeholders, positions and features; the
test suite compares ids and pixels with the family's own processor.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any, ClassVar, NoReturn

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from saccade.data.images import sha_of
from saccade.models.adapter import LONG_TEXT, EncodedPrompt, FarTooLong, ImageLimits, MaskRules, Sharing
from saccade.models.chat_template import after_opened, opened_by, option_names, refuse_unreadable, write_chat
from saccade.parsing.reply import TAGS
from saccade.types import Frame, FrameName, Turn

FULL = "full_attention"
Pixels = dict[str, Tensor]


class ChatAdapter(ABC):
    """Implements `saccade.models.adapter.Adapter`; subclasses define the family's tokens and shapes."""

    placeholder: ClassVar[str]
    """Text that the chat template writes once per image."""
    image_token: ClassVar[str]
    """The token that is repeated once per visual token."""
    end: ClassVar[str]
    """Ends the assistant's turn."""
    reserved_tokens: ClassVar[tuple[str, ...]]
    """Tokens that neither a reply nor a prompt's text may contain: placeholders and markup of images and turns."""
    extra_stop_tokens: ClassVar[tuple[str, ...]] = ()
    """Further tokens that end a reply when sampled."""
    pixel_names: ClassVar[tuple[str, ...]] = ("pixel_values",)
    """Outputs of the image processor that the tower needs. The first axis of every tensor runs over the prompt's images
    (or their patches), so prompts are batched by concatenation."""
    projector: ClassVar[tuple[str, ...]]
    """Substrings that identify projector parameters by name."""
    tower: ClassVar[tuple[str, ...]]
    """Substrings that identify vision parameters by name; they may also match projector parameters."""
    sharing: Sharing = "attention"

    def __init__(self, tokenizer: Any, image_processor: Any, config: Any, frame: FrameName) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.config = config
        self.frame: FrameName = frame
        self.image_backend = type(image_processor).__name__
        if self.sharing == "attention" and not _attends_plainly(config.get_text_config()):
            self.sharing = "none"
        known = tokenizer.get_vocab()
        self.image_ids: tuple[int, ...] = (known[self.image_token],) if self.image_token in known else ()
        self.template_kwargs: Mapping[str, Any] = {}
        self._end = known.get(self.end, tokenizer.eos_token_id)
        self.banned_ids = tuple(
            known[t] for t in dict.fromkeys((*self.reserved_tokens, self.image_token)) if t in known
        )
        ends = (self._end, tokenizer.eos_token_id, *(known.get(token) for token in self.extra_stop_tokens))
        self._set_stops([int(e) for e in ends if e is not None])

    def _set_stops(self, stop_ids: Sequence[int]) -> None:
        """Tokens that end a turn. Neither a prompt nor a reply may contain them, and `decode` drops them; but a tag
        such as GLM's `</answer>` ends a reply and is part of it."""
        self.stop_ids = tuple(dict.fromkeys(stop_ids))
        added = {i: token for token, i in self.tokenizer.get_added_vocab().items()}
        ends = {i: added[i] for i in self.stop_ids if i in added and added[i] not in TAGS}
        self._silent = frozenset(ends)
        of_turns = (self.placeholder, self.end, *self.extra_stop_tokens, *ends.values())
        self.reserved = tuple(dict.fromkeys((*self.reserved_tokens, *of_turns)))

    def configure(self, template_kwargs: Mapping[str, Any], stops: Sequence[int] = ()) -> None:
        """See `Adapter.configure`."""
        known = option_names(self.tokenizer.get_chat_template()) if template_kwargs else set()
        for name in template_kwargs:
            if name not in known:
                raise ValueError(
                    f"model.template_kwargs: the checkpoint's chat template does not read {name!r}; it reads "
                    f"{', '.join(sorted(known)) or 'no options'}"
                )
        self.template_kwargs = dict(template_kwargs)
        self._set_stops([*self.stop_ids, *stops])

    def limit_images(self, limits: ImageLimits) -> dict[str, Any]:
        """See `Adapter.limit_images`."""
        if limits == ImageLimits():
            return {}
        settings = self.image_settings(limits)
        kind = type(self.image_processor)
        self.image_processor = kind.from_dict(self.image_processor.to_dict() | settings)
        return settings

    def refuse_limit(self, key: str, got: int, why: str) -> NoReturn:
        raise ValueError(f"model.{key}: got {got}, but {self.config.model_type} {why}; change or remove it")

    # Defined by each family

    def read_images(self, images: Sequence[Image.Image]) -> Pixels:
        """The tower's inputs for the images of one prompt, under the model's argument names."""
        out = self.image_processor(images=list(images), return_tensors="pt")
        return {name: out[name] for name in self.pixel_names}

    @abstractmethod
    def placeholder_texts(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[str]:
        """Per image, the text that replaces the template's placeholder: image tokens and markup."""

    @abstractmethod
    def input_sizes(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        """Per image, the (width, height) in pixels of the resized image that the model receives."""

    @abstractmethod
    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """The settings of the image processor that keep images within the limits. ValueError for an impossible one."""

    def positions(self, ids_P: Tensor, pixels: Pixels) -> tuple[Tensor, int]:
        """Positions (3, P) and the position of the first completion token; the default is one axis, counting up."""
        return torch.arange(len(ids_P)).expand(3, -1), len(ids_P)

    def position_ids(self, positions_3BT: Tensor) -> Tensor:
        """See `Adapter.position_ids`; the default is one axis."""
        return positions_3BT[0]

    @abstractmethod
    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        """Features of each prompt with images, (V, D) or (V, K, D); `pixels` is the joined batch, on the device."""

    def as_mm_outputs(self, features: Sequence[Tensor]) -> dict[str, Any] | None:
        """See `Adapter.as_mm_outputs`; by default the model takes a sequence of tensors and concatenates them."""
        present: Any = tuple(f for f in features if f.shape[0])  # declared a tensor, read as a sequence
        return {"image": BaseModelOutputWithPooling(pooler_output=present)} if present else None

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        """See `Adapter.plain_inputs`; by default only pixels."""
        return self.join_pixels([prompt] * len(ids_BT))

    def mask_rules(self, model: Any) -> MaskRules:
        """See `Adapter.mask_rules`; by default one layer kind, causal."""
        return MaskRules({"full_attention": None})

    # Common to all families

    @property
    def processors(self) -> tuple[Any, ...]:
        return self.tokenizer, self.image_processor

    @property
    def context_length(self) -> int:
        return int(self.config.get_text_config().max_position_embeddings)

    def encode(
        self,
        text: str,
        images: Sequence[Image.Image],
        reuse_images_from: EncodedPrompt | None = None,
        before: Sequence[Turn] = (),
    ) -> EncodedPrompt:
        """Encode a conversation that ends with the user's turn; the pixels come from `reuse_images_from` if given, a
        prompt with the same images.

        ValueError: the numbers of markers and images differ, reserved tokens or a video appear, the model has no
        image token, or the chat template drops or refuses a turn.
        """
        chat, known = self._chat([*before, Turn("user", text)], len(images)), reuse_images_from
        pixels, shas = self._pixels(images) if known is None else (known.pixels, known.image_shas)
        replaced = self.placeholder_texts(pixels, images) if images else []
        pieces = chat.split(self.placeholder)
        if len(pieces) - 1 != len(images):
            raise ValueError(
                f"the chat template wrote {len(pieces) - 1} '{self.placeholder}' for {len(images)} images; "
                "expected one for each: the checkpoint's chat template does not belong to this family"
            )
        opened = opened_by(chat)
        compact_ids = tuple(self._ids(chat))
        chat = "".join(piece + image for piece, image in zip(pieces, [*replaced, ""], strict=True))
        ids_P = torch.tensor(self._ids(chat), dtype=torch.long)
        positions_3P, following = self.positions(ids_P, pixels)
        sizes = self.input_sizes(pixels, images) if images else []
        frames = tuple(Frame(self.frame, image.size, size) for image, size in zip(images, sizes, strict=True))
        key = hashlib.sha256(ids_P.numpy().tobytes() + "".join(shas).encode()).hexdigest()[:16]
        return EncodedPrompt(ids_P, positions_3P, following, pixels, shas, frames, key, opened, compact_ids)

    def continue_with(self, prompt: EncodedPrompt, text: str) -> EncodedPrompt:
        text = text.removeprefix(prompt.opened.strip()) if prompt.opened else text
        extra = torch.tensor(self._ids(text), dtype=torch.long)
        new = torch.arange(prompt.next_position, prompt.next_position + len(extra)).expand(3, -1)
        key = hashlib.sha256(prompt.prompt_id.encode() + extra.numpy().tobytes()).hexdigest()[:16]
        return replace(
            prompt,
            ids_P=torch.cat([prompt.ids_P, extra]),
            positions_3P=torch.cat([prompt.positions_3P, new], dim=1),
            next_position=prompt.next_position + len(extra),
            prompt_id=key,
            opened=prompt.opened + text,
            compact_ids=(*prompt.compact_ids, *extra.tolist()),
        )

    def encode_reply(self, text: str, opened: str = "") -> list[int]:
        """See `Adapter.encode_reply`. ValueError for a reserved token (an image placeholder would require an image),
        and for a reply that never closes the thought that the prompt has opened."""
        for token in self.reserved:
            if token in text:
                raise ValueError(f"reply contains the reserved token {token}; remove it from the data: {text[:80]!r}")
        return [*self._ids(after_opened(text, opened)), self._end]

    def _ids(self, text: str) -> list[int]:
        """Token ids of a text. FarTooLong, before all of it is tokenized, for more than twice the context."""
        starts, count = range(0, len(text), LONG_TEXT) if len(text) > LONG_TEXT else (), 0
        for start in starts:
            count += len(self.tokenizer(text[start : start + LONG_TEXT], add_special_tokens=False).input_ids)
            if count > 2 * self.context_length:
                most = f"the model's context holds {self.context_length:,}"
                raise FarTooLong(f"a text of {len(text):,} characters has more than {count // 2:,} tokens, {most}")
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode([i for i in ids if i not in self._silent], skip_special_tokens=False)

    def vision(self, model: Any, prompts: Sequence[EncodedPrompt]) -> tuple[Tensor, ...]:
        """Features of each prompt, in order; a text-only prompt gets an empty tensor. ValueError for a model that would
        ignore precomputed features."""
        with_images = [p for p in prompts if p.pixels]
        if not with_images:
            hidden = self.config.get_text_config().hidden_size
            return tuple(torch.empty(0, hidden, device=model.device, dtype=model.dtype) for _ in prompts)
        if "mm_encoder_outputs" not in signature(model.model.forward).parameters:
            raise ValueError(
                f"transformers {transformers.__version__}: {type(model).__name__} does not accept precomputed image "
                "features (mm_encoder_outputs) and would ignore the images; install transformers >= 5.18"
            )
        joined = {name: value.to(model.device) for name, value in self.join_pixels(with_images).items()}
        found = iter(self.image_features(model, joined, with_images))
        features = [next(found) if p.pixels else None for p in prompts]
        empty = next(f for f in features if f is not None)[:0]
        return tuple(empty if f is None else f for f in features)

    def patches(self, prompt: EncodedPrompt) -> int:
        """See `Adapter.patches`: number of pixel values / pixel values of one patch (RGB, times its frames)."""
        vision = self.config.vision_config
        height, width = vision.patch_size if isinstance(vision.patch_size, list | tuple) else (vision.patch_size,) * 2
        values = 3 * height * width * getattr(vision, "temporal_patch_size", 1)
        return prompt.pixels["pixel_values"].numel() // values if prompt.pixels else 0

    def join_pixels(self, prompts: Sequence[EncodedPrompt]) -> Pixels:
        """The tower's inputs for several prompts as one batch."""
        with_images = [p for p in prompts if p.pixels]
        names = with_images[0].pixels if with_images else ()
        return {name: torch.cat([p.pixels[name] for p in with_images]) for name in names}

    def parts(self, model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
        out: dict[str, list[tuple[str, nn.Parameter]]] = {"vision": [], "projector": [], "language": []}
        for name, parameter in model.named_parameters():
            is_projector = any(key in name for key in self.projector)
            is_vision = any(key in name for key in self.tower)
            out["projector" if is_projector else "vision" if is_vision else "language"].append((name, parameter))
        return out

    def _chat(self, turns: Sequence[Turn], num_images: int) -> str:
        """The conversation formatted by the chat template, up to the start of the assistant's turn."""
        refuse_unreadable(turns, num_images, self.reserved)
        if num_images and not self.image_ids:
            raise ValueError(
                f"prompt has {num_images} images, but the tokenizer has no token {self.image_token}: the checkpoint is "
                "not a vision-language model of this family, or its tokenizer files belong to another model"
            )
        return write_chat(self.tokenizer, turns, self.template_kwargs)

    def _pixels(self, images: Sequence[Image.Image]) -> tuple[Pixels, tuple[str, ...]]:
        if not images:
            return {}, ()
        return self.read_images(images), tuple(map(sha_of, images))


def _attends_plainly(text_config: Any) -> bool:
    """Whether all layers of a language model are full causal softmax attention, which is what the packed-row kernels
    compute. Some families accept several kinds of language models: sliding windows, recurrent states and the attention
    sinks of gpt-oss do not qualify.
    """
    kinds = getattr(text_config, "layer_types", None)
    windowed = getattr(text_config, "sliding_window", None) is not None if kinds is None else {*kinds} != {FULL}
    return not windowed and text_config.model_type != "gpt_oss"
