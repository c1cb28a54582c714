"""Arithmetic of a model: parameters and floating-point operations, from its configuration only.

A multiplication with an addition counts as two operations. Norms, activation functions and the softmax are not counted.
Shape letters: P prompt tokens, C tokens of a completion, V visual tokens, S patches, D hidden size.

| part | operations of one forward pass |
|---|---|
| linear layers | 2 x weights x tokens |
| attention | 4 x heads x head size x pairs of query and key, in each layer |
| pairs, packed row | P(P+1)/2 + sum of (P C + C(C+1)/2) |
| pairs, plain rows | sum of (P+C)(P+C+1)/2 |
| head (`lm_head`) | 2 x D x vocabulary x completion tokens |

A backward pass costs one more forward for the gradient of the inputs and one for that of the weights, where they train;
of attention 2.5 (five products instead of two: flash attention computes the scores again). Gradient checkpointing adds
one forward of the layers. The head computes its logits again in backward, with or without checkpointing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from saccade.models.adapter import PARTS
from saccade.models.lora import linear_layers
from saccade.models.policy import ADAPTERS

ATTENTION_BACKWARD = 2.5
NamedParameters = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True, slots=True)
class Layers:
    """A stack of transformer layers."""

    count: int
    hidden: int
    mlp: int
    """Inner width of the feed-forward block."""
    gated: bool
    """Three matrices in the feed-forward block instead of two."""
    weights: int
    """Elements of all matrices that every token is multiplied with, without embeddings and head."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model that the arithmetic needs."""

    parameters: Mapping[str, int]
    """By part: vision, projector, language; a tied head is counted once."""
    language: Layers
    attention_layers: int
    """Layers of the language model with keys and values; linear attention has none."""
    vision: Layers
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    tied: bool
    """The head is the embedding."""
    projector_weights: int
    """Elements of the matrices that each visual token is multiplied with."""
    patches_per_token: float
    full_layers: int
    """Layers of the vision encoder (tower) in which each patch sees its whole image; in the others it sees its
    window."""
    window: int
    """Patches of a window."""
    largest_parameter: int
    sharing: str | None
    """How the family's adapter lets siblings share a prompt; None for a family without one, whose parts are inferred
    from module names."""
    linear: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    """Part -> name -> (inputs, outputs) of the linear layers that LoRA can adapt."""

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def head_weights(self) -> int:
        return self.vocab * self.language.hidden

    @property
    def kv_size(self) -> int:
        """Elements of one token's keys and values in all layers."""
        return 2 * self.kv_heads * self.head_size * self.attention_layers

    @classmethod
    def from_config(cls, config: Any) -> ModelShape:
        """From a transformers configuration; the model is built without weights to count it exactly.

        ValueError for a mixture of experts, where each token uses only some.
        """
        with torch.device("meta"):
            return cls.from_model(AutoModelForImageTextToText.from_config(config))

    @classmethod
    def from_model(cls, model: nn.Module) -> ModelShape:
        """From a model that is already there (on any device); see `from_config`."""
        config: Any = model.config
        text, vision = config.get_text_config(), config.vision_config
        parts, sharing = parts_of(model, config)
        if any("experts" in name for name, _ in parts["language"]):
            raise ValueError(
                f"model family {config.model_type!r} is a mixture of experts, where each token uses some; expected "
                "a dense language model, the only kind whose cost can be computed here"
            )
        layers = _layers(parts["language"], config.model_type)
        kinds = getattr(text, "layer_types", None) or ()
        tower = _layers([(name, p) for name, p in parts["vision"] if "merger" not in name], config.model_type)
        merging = [(name, p) for name, p in parts["vision"] if "merger" in name]  # Qwen3-VL's deepstack
        projector = _matrices([*parts["projector"], *merging])
        heads = text.num_attention_heads
        windowed = hasattr(vision, "window_size") and hasattr(vision, "fullatt_block_indexes")
        merge = getattr(vision, "spatial_merge_size", 1)
        return cls(
            parameters={part: sum(p.numel() for _, p in parts[part]) for part in PARTS},
            language=layers,
            attention_layers=layers.count - sum(kind == "linear_attention" for kind in kinds),
            vision=tower,
            heads=heads,
            kv_heads=_largest(text, "num_key_value_heads") or heads,
            head_size=_largest(text, "head_dim") or text.hidden_size // heads,
            vocab=text.vocab_size,
            tied=not any("lm_head" in name for name, _ in parts["language"]),
            projector_weights=projector,
            patches_per_token=_patches_per_token(config),
            full_layers=len(vision.fullatt_block_indexes) if windowed else tower.count,
            window=(vision.window_size // vision.patch_size // merge * merge) ** 2 if windowed else 0,
            largest_parameter=max(p.numel() for p in model.parameters()),
            sharing=sharing,
            linear=_linear(model, parts),
        )

    def attention(self, pairs: float) -> float:
        """Operations of the language model's attention over `pairs` pairs of query and key, in all layers."""
        return 4.0 * self.heads * self.head_size * self.attention_layers * pairs


def _linear(model: nn.Module, parts: Mapping[str, NamedParameters]) -> dict[str, dict[str, tuple[int, int]]]:
    modules: dict[str, Any] = dict(model.named_modules())
    return {
        part: {name: (modules[name].in_features, modules[name].out_features) for name in names}
        for part, names in linear_layers(model, parts).items()
    }


class _NoTokenizer:
    """Adapters are built around a tokenizer; to sort parameters none is needed, so this one knows no token."""

    eos_token_id = None

    def get_vocab(self) -> dict[str, int]:
        return {}

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def convert_tokens_to_ids(self, token: str) -> None:
        return None


PROJECTORS = ("merger", "multi_modal_projector", "connector")
"""Modules between tower and language model, in families without an adapter."""


def parts_of(model: nn.Module, config: Any) -> tuple[Mapping[str, NamedParameters], str | None]:
    """Parameters by part, and the adapter's way of sharing."""
    if config.model_type in ADAPTERS:
        adapter = ADAPTERS[config.model_type](_NoTokenizer(), None, config)
        return adapter.parts(model), adapter.sharing
    out: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in PARTS}
    for name, parameter in model.named_parameters():
        if "language_model" in name or "lm_head" in name:
            out["language"].append((name, parameter))
        else:
            out["projector" if any(word in name for word in PROJECTORS) else "vision"].append((name, parameter))
    return out, None


TABLES = ("embed_tokens", "lm_head", "pos_embed", "position_embedding")
"""Matrices that are looked up, or counted separately."""


def _matrices(named: NamedParameters) -> int:
    return sum(p.numel() for name, p in named if p.ndim >= 2 and not any(table in name for table in TABLES))


def _layers(named: NamedParameters, family: str) -> Layers:
    # Gemma 4 wraps the matrices of its tower: mlp.down_proj.linear.weight
    bare = [(name.replace(".linear.weight", ".weight"), p) for name, p in named]
    down = [(name, p) for name, p in bare if name.endswith(("down_proj.weight", "fc2.weight"))]
    if not down:
        raise ValueError(
            f"model family {family!r}: found no feed-forward matrices (down_proj or fc2) to read the widths from"
        )
    hidden, mlp = down[0][1].shape
    return Layers(
        count=len(down),
        hidden=hidden,
        mlp=mlp,
        gated=any(word in name for name, _ in named for word in ("gate_proj", "gate_up_proj")),
        weights=_matrices(named),
    )


def _largest(text: Any, name: str) -> int | None:
    """A value of the language model's configuration; the largest where layers differ (Gemma 4)."""
    layers = getattr(text, "per_layer_config", None)
    configs = [layers[i] for i in range(text.num_hidden_layers)] if layers else [text]
    return max((value for one in configs if (value := getattr(one, name, None))), default=None)


def _patches_per_token(config: Any) -> float:
    """How many patches become one visual token, by the families' own names for it."""
    vision = config.vision_config
    if hasattr(vision, "spatial_merge_size"):
        return float(vision.spatial_merge_size**2)
    if getattr(config, "downsample_ratio", None):
        return float(config.downsample_ratio) ** -2
    if getattr(config, "scale_factor", None):
        return float(config.scale_factor**2)
    if getattr(config, "mm_tokens_per_image", None):
        return (vision.image_size / vision.patch_size) ** 2 / config.mm_tokens_per_image
    if getattr(vision, "pooling_kernel_size", None):
        return float(vision.pooling_kernel_size**2)
    if getattr(config, "downsample_mode", None):
        return float(str(config.downsample_mode).rstrip("x"))
    if config.model_type.startswith("llava"):
        return 1.0
    raise ValueError(
        f"model family {config.model_type!r}: its configuration does not give how many patches become one visual token "
        "(spatial_merge_size, downsample_ratio, scale_factor, mm_tokens_per_image, pooling_kernel_size)"
    )


@dataclass(frozen=True, slots=True)
class RowLengths:
    """One row of training, or one group of rollout: a prompt with its completions."""

    prompt: int
    """Tokens, image placeholders included."""
    completions: tuple[int, ...]
    """Tokens of each."""
    images: tuple[int, ...] = ()
    """Visual tokens of each image (or tile) of the prompt; they are among `prompt`."""

    @property
    def packed_tokens(self) -> int:
        return self.prompt + sum(self.completions)

    @property
    def plain_tokens(self) -> int:
        return sum(self.prompt + c for c in self.completions)

    @property
    def packed_pairs(self) -> int:
        """Pairs of query and key when the prompt occurs once and siblings do not see each other."""
        return causal_pairs(self.prompt) + sum(self.prompt * c + causal_pairs(c) for c in self.completions)

    @property
    def plain_pairs(self) -> int:
        return sum(causal_pairs(self.prompt + c) for c in self.completions)


def causal_pairs(tokens: int) -> int:
    """Each token sees itself and all before it."""
    return tokens * (tokens + 1) // 2


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations by part of the model."""

    vision: float = 0.0
    """The tower, its attention included."""
    projector: float = 0.0
    language: float = 0.0
    """Linear layers of the language model."""
    attention: float = 0.0
    """Of the language model."""
    head: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def times(self, count: float) -> Flops:
        return Flops(*(count * getattr(self, f.name) for f in fields(self)))


NO_ADAPTERS: Mapping[str, int] = {}


def vision_flops(shape: ModelShape, images: Sequence[int]) -> tuple[float, float, float]:
    """(linear, attention, projector) operations of one pass over images of these numbers of visual tokens."""
    linear = attention = projector = 0.0
    for tokens in images:
        patches = tokens * shape.patches_per_token
        seen = shape.full_layers * patches + (shape.vision.count - shape.full_layers) * min(patches, shape.window)
        linear += 2.0 * shape.vision.weights * patches
        attention += 4.0 * shape.vision.hidden * patches * seen
        projector += 2.0 * shape.projector_weights * tokens
    return linear, attention, projector


def forward_flops(shape: ModelShape, row: RowLengths, packed: bool = True, vision: bool = True) -> Flops:
    """One pass without gradient, the head on completion tokens only; plain runs the tower once per completion.

    `vision=False` when the features are there already.
    """
    tokens, pairs = _tokens_and_pairs(row, packed)
    tower = vision_flops(shape, row.images) if vision else (0.0, 0.0, 0.0)
    passes = 1 if packed else len(row.completions)
    return Flops(
        vision=passes * (tower[0] + tower[1]),
        projector=passes * tower[2],
        language=2.0 * shape.language.weights * tokens,
        attention=shape.attention(pairs),
        head=2.0 * shape.head_weights * sum(row.completions),
    )


def training_flops(
    shape: ModelShape,
    row: RowLengths,
    packed: bool = True,
    trained: Collection[str] = ("language",),
    checkpointing: bool = False,
    vision: bool = True,
    adapters: Mapping[str, int] = NO_ADAPTERS,
) -> Flops:
    """Forward and backward of one row (packed) or of one row per completion (plain). `vision` as in `forward_flops`;
    `adapters` are the elements of LoRA by part, where the weights themselves have no gradient.

    A frozen tower has no backward. The gradient always goes back through the language model, to its lowest layer.
    """
    tokens, pairs = _tokens_and_pairs(row, packed)
    linear, attention, projector = vision_flops(shape, row.images) if vision else (0.0, 0.0, 0.0)
    passes, again = 1 if packed else len(row.completions), int(checkpointing)
    tower, language = "vision" in trained or "vision" in adapters, "language" in trained
    visual = sum(row.images) if vision else 0
    ours = {part: 2.0 * count * (3 + again) for part, count in adapters.items()}  # operations per token
    if tower:
        linear, attention = (2 + ("vision" in trained) + again) * linear, (1 + again + ATTENTION_BACKWARD) * attention
    tower_flops = linear + attention + ours.get("vision", 0.0) * visual * shape.patches_per_token
    return Flops(
        vision=passes * tower_flops,
        projector=passes * (projector * (1 + tower + ("projector" in trained)) + ours.get("projector", 0.0) * visual),
        language=(2.0 * shape.language.weights * (2 + language + again) + ours.get("language", 0.0)) * tokens,
        attention=shape.attention(pairs) * (1 + again + ATTENTION_BACKWARD),
        head=2.0 * shape.head_weights * sum(row.completions) * (3 + language),
    )


def prefill_flops(shape: ModelShape, row: RowLengths) -> Flops:
    """The prompt once, without the tower; the head on its last token."""
    return Flops(
        language=2.0 * shape.language.weights * row.prompt,
        attention=shape.attention(causal_pairs(row.prompt)),
        head=2.0 * shape.head_weights,
    )


def decode_flops(shape: ModelShape, row: RowLengths) -> Flops:
    """All completions token by token. The first token comes from the prefill, the last is not read again."""
    steps = sum(c - 1 for c in row.completions)
    pairs = sum(row.prompt * (c - 1) + causal_pairs(c - 1) for c in row.completions)
    return Flops(
        language=2.0 * shape.language.weights * steps,
        attention=shape.attention(pairs),
        head=2.0 * shape.head_weights * steps,
    )


def _tokens_and_pairs(row: RowLengths, packed: bool) -> tuple[int, int]:
    return (row.packed_tokens, row.packed_pairs) if packed else (row.plain_tokens, row.plain_pairs)
