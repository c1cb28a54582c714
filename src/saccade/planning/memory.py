"""Memory of the GPU, by part, in the phases of a step; bytes. Nothing is loaded: this is arithmetic on sizes.

What is counted is what this code base does: gradients in float32 of bfloat16 weights (`training.master_weights`),
attention of packed rows by flash kernels (no score matrix), logits in chunks (`models.logprobs`), a prompt's keys and
values once for all its completions (`rollout.slots`), the vision encoder (tower) over the prompts of a step by
`PATCHES_AT_ONCE`. T, S: tokens and patches of a micro-batch; D hidden size, b bytes of a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from saccade.models.forward import PATCHES_AT_ONCE
from saccade.models.logprobs import CHUNK
from saccade.planning import shards
from saccade.planning.flops import Layers, ModelShape
from saccade.rollout.fixed_slots import capacity_for
from saccade.rollout.prefill import PREFILL_TOKENS
from saccade.rollout.sampling import CHUNK as CHOSEN
from saccade.rollout.slots import BLOCK
from saccade.training.batching import repeated_cost, shared_cost

Parts = dict[str, float]
ForwardKind = Literal["merged", "split", "plain"]
"""How log-probs are computed: packed with flash kernels, packed with plain sdpa, or a row per completion."""
BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}
PIXELS_OF_PATCH = 2 * 3 * 14 * 14
"""Numbers that the tower reads per patch (two frames of Qwen2.5-VL); in float32, and small beside the rest."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the GPU does in one step of a stage."""

    name: str
    groups: int
    """Prompts of the step."""
    group_size: int
    prompt_tokens: int
    """Text and visual tokens of a prompt."""
    images: tuple[int, ...]
    """Visual tokens of each image of a prompt."""
    completion_tokens: int
    budget: int
    """Tokens of a micro-batch."""
    vision_cost: int
    """What a prompt's images cost in training, in tokens; 0 with a frozen tower."""
    form: ForwardKind
    trained: tuple[str, ...]
    dtype: Literal["float32", "bfloat16", "float64"]
    checkpointing: bool
    fused: bool = True
    """Norms and gated blocks save fewer activations (`models.fused`)."""
    rollout: bool = True
    """False for SFT."""
    max_rows: int = 1
    """Completions that are decoded at once."""
    graphs: bool = True
    """On a GPU, decoding in memory at fixed addresses (`rollout.fixed_slots`)."""
    longest: int | None = None
    """Tokens of the longest reply, which then determines the space of all; None: `completion_tokens`."""
    reference: bool = False
    recompute_old: bool = False
    updates: int = 1
    steps: int | None = None
    """Steps of the stage, if they can be known."""
    adapters: Mapping[str, int] = field(default_factory=dict)
    """Elements of LoRA by part; then no weight trains and `trained` is empty."""
    adapter_width: Mapping[str, float] = field(default_factory=dict)
    """Bytes per token and layer that LoRA keeps by part: the narrow vectors, and dropped inputs."""
    quantized: bool = False
    """The language model's linear layers are in 4 bits."""
    ranks: int = 1
    """GPUs of the run; all sizes above are those of one of them."""
    shards: int = 1
    """GPUs that share one copy of the model."""
    offload: bool = False
    """Shards are in CPU memory."""
    cuda: bool = True
    """On a GPU the optimizer steps all parameters at once, which takes memory; on a CPU one after the other."""

    @property
    def bytes(self) -> int:
        return BYTES[self.dtype]

    @property
    def tower_trains(self) -> bool:
        return bool(self.moving & {"vision", "projector"})

    @property
    def moving(self) -> set[str]:
        """Parts with anything that trains."""
        return {*self.trained, *self.adapters}

    @property
    def visual(self) -> int:
        return sum(self.images)

    @property
    def packed(self) -> bool:
        return self.form != "plain"

    @property
    def row_completions(self) -> int:
        """Completions of one row: a group, or the piece of it that the budget allows (see `training.batching`)."""
        before = self.prompt_tokens + self.vision_cost
        if self.packed:
            most = (self.budget - before) // self.completion_tokens
        else:
            most = self.budget // (before + self.completion_tokens)
        return max(1, min(self.group_size, most))

    @property
    def rows(self) -> int:
        """Rows of the step; a group that is cut repeats its prompt."""
        return self.groups * math.ceil(self.group_size / self.row_completions)

    @property
    def micro_batches(self) -> int:
        cost = shared_cost if self.packed else repeated_cost
        one = cost(self.prompt_tokens + self.vision_cost, [self.completion_tokens] * self.row_completions)
        return math.ceil(self.rows / max(1, self.budget // one))

    @property
    def rows_at_once(self) -> int:
        """Of the largest micro-batch; they are balanced."""
        return math.ceil(self.rows / self.micro_batches)

    @property
    def tokens_at_once(self) -> int:
        """Tokens that the language model reads in one forward and backward pass."""
        if self.packed:
            return self.rows_at_once * (self.prompt_tokens + self.row_completions * self.completion_tokens)
        return self.rows_at_once * self.row_completions * (self.prompt_tokens + self.completion_tokens)

    @property
    def images_at_once(self) -> int:
        """Prompts whose images the tower sees in one such pass, repeats counted."""
        return self.rows_at_once * (1 if self.packed else self.row_completions)

    @property
    def decoded_at_once(self) -> int:
        return min(self.max_rows, self.groups * self.group_size)

    @property
    def prompts_in_flight(self) -> int:
        return min(self.groups, math.ceil(self.decoded_at_once / self.group_size))


def total(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def memory(shape: ModelShape, work: Work) -> dict[str, Parts]:
    """Phase -> part -> bytes."""
    held = state(shape, work)
    alone = shards.whole(shape, work) if work.ranks > 1 else {}
    features = work.groups * work.visual * shape.language.hidden * work.bytes
    kept = {"vision features": features} if work.rollout and features else {}
    out: dict[str, Parts] = {}
    if work.rollout:
        if work.visual:
            out["vision"] = held | kept | alone | {"tower, no gradient": tower_pass(shape, work)}
        out["rollout"] = held | kept | alone | max(decoding(shape, work), key=total)
    if work.ranks > 1 and (work.reference or work.recompute_old):
        out["log-probs"] = held | kept | shards.logprobs(shape, work) | logprob_pass(shape, work)
    out["update"] = held | kept | max(update(shape, work), key=total)
    out["optimizer"] = held | kept | optimizer_step(shape, work)
    return out


def trainable(shape: ModelShape, work: Work) -> int:
    return sum(shape.parameters[part] for part in work.trained) + sum(work.adapters.values())


NF4 = 0.5 + (1 + 4 / 256) / 64
"""Bytes of a weight in 4 bits: blocks of 64 have a scale of 8 bits, and 256 of those one in float32."""


def weights(shape: ModelShape, work: Work) -> float:
    """Bytes of the model, its adapters included."""
    four = quantized_weights(shape) if work.quantized else 0
    return (shape.total - four + sum(work.adapters.values())) * work.bytes + four * NF4


def quantized_weights(shape: ModelShape) -> int:
    return sum(inputs * outputs for inputs, outputs in shape.linear["language"].values())


def dequantized(shape: ModelShape, work: Work) -> Parts:
    """The largest layer's weights while it computes."""
    layers = shape.linear["language"].values() if work.quantized else ()
    return {"one layer's weights": max((i * o for i, o in layers), default=0) * work.bytes} if layers else {}


def state(shape: ModelShape, work: Work) -> Parts:
    """Memory in use throughout."""
    if work.ranks > 1:
        return shards.state(shape, work, trainable(shape, work))
    b, moving = work.bytes, trainable(shape, work)
    parts: Parts = {"weights": weights(shape, work)}
    if work.reference and not work.adapters:
        parts["reference model"] = shape.total * b
    parts["optimizer state"] = 2 * moving * max(b, 4)
    if b < 4:
        parts["float32 master weights"] = 4 * moving
    return parts


def held_share(work: Work) -> float:
    """Share of gradients and optimizer state that one GPU holds."""
    return 0.0 if work.offload else 1 / work.shards


def logprob_pass(shape: ModelShape, work: Work) -> Parts:
    """A pass without gradient over the tokens of a micro-batch."""
    return {
        "one layer forward": work.tokens_at_once * forward_room(shape.language, work.bytes),
        "logits chunk": 12.0 * CHUNK * shape.vocab,
    }


def layer_activations(layers: Layers, attention: float, b: int, fused: bool) -> float:
    """Bytes per token that autograd keeps of one layer: two norms (their input in float32, the normed, the weighted;
    fused: input, weighted and a number), the attention's numbers, and the feed-forward block's inner vectors (gated:
    gate, its activation, up, product; fused: without the activation).
    """
    norms = 2 * (layers.hidden * 2 * b + 4) if fused and layers.gated else 2 * layers.hidden * (4 + 2 * b)
    inner = (3 if fused else 4) if layers.gated else 2
    return norms + (attention + inner * layers.mlp) * b


def language_attention(shape: ModelShape) -> int:
    """Queries and output, keys and values of one token in one layer."""
    return 2 * shape.head_size * (shape.heads + shape.kv_heads)


def backward_room(layers: Layers, b: int, fused: bool) -> float:
    """Bytes per token of the gradients inside one layer: two inner vectors while the product's inputs are still kept
    (fused: one, the others are written over those inputs), and the residual stream's.
    """
    return ((1 if fused and layers.gated else 2) * layers.mlp + 2 * layers.hidden) * b


def forward_room(layers: Layers, b: int) -> float:
    """Bytes per token of one layer's forward without gradient."""
    return ((3 if layers.gated else 2) * layers.mlp + 2 * layers.hidden) * b


@dataclass(frozen=True, slots=True)
class Stack:
    """Bytes per token of a stack of layers that trains."""

    kept: float
    """From forward to backward: all of it, or with checkpointing the layers' inputs."""
    going_back: float
    """More, while one layer goes backward."""


def stack(layers: Layers, attention: float, work: Work, part: str) -> Stack:
    b = work.bytes
    one, room = layer_activations(layers, attention, b, work.fused), backward_room(layers, b, work.fused)
    one += work.adapter_width.get(part, 0.0)
    if work.checkpointing:
        return Stack(layers.count * layers.hidden * b, one + room)
    return Stack(layers.count * one, room)


def split_room(shape: ModelShape, work: Work) -> float:
    """Bytes of one layer in the split form: each completion has its own copy of the prompt's keys and values beside its
    own, for every query head, and a mask.
    """
    if work.form != "split":
        return 0.0
    completions, seen = work.rows_at_once * work.row_completions, work.prompt_tokens + work.completion_tokens
    copies = 2 * shape.heads * shape.head_size * seen * work.bytes
    return completions * (copies + work.completion_tokens * seen * work.bytes)


def update(shape: ModelShape, work: Work) -> tuple[Parts, ...]:
    """The candidate peaks of forward and backward, in order; the largest counts. Gradients of earlier
    micro-batches are there from the start of the second on.
    """
    b, D, tokens = work.bytes, shape.language.hidden, work.tokens_at_once
    chosen = work.rows_at_once * work.row_completions * work.completion_tokens
    # several processes run a trained tower once for the whole update (training.tower_pass)
    seen = work.groups if work.ranks > 1 and work.tower_trains else work.images_at_once
    patches = seen * work.visual * shape.patches_per_token
    grads: Parts = {"gradients": held_share(work) * trainable(shape, work) * max(b, 4)}
    before = grads if work.micro_batches > 1 else {}
    if work.ranks > 1:
        gathered = shards.gathered(shape, work)
        grads, before = grads | gathered, before | gathered
    head = shape.head_weights * max(b, 4) if "language" in work.trained else 0
    language = stack(shape.language, language_attention(shape), work, "language")
    split = split_room(shape, work)
    all_split, one_split = (0.0, split) if work.checkpointing else (split * shape.language.count, 0.0)
    # queries, keys, values, output; the values are a view that keeps the joint tensor of all three
    tower = stack(shape.vision, 6 * shape.vision.hidden, work, "vision")
    kept: Parts = {"activations, language": tokens * language.kept + all_split}
    if work.tower_trains and patches:
        kept["activations, projector"] = 4 * patches * shape.vision.hidden * b
    if "vision" in work.moving and patches:
        kept["activations, vision"] = patches * (tower.kept + PIXELS_OF_PATCH * 4)
    logits: Parts = {
        "logits chunk": 12.0 * min(CHUNK, chosen) * shape.vocab,
        "states at the head": (tokens * (4 + b) + 2 * chosen * b) * D,
        "gradient of the head": head,
    }
    layer: Parts = {"one layer backward": tokens * language.going_back + one_split, "gradient of the head": head}
    layer |= dequantized(shape, work)
    moments = [before | kept | logits, before | kept | layer]
    if "vision" in work.moving and patches:
        begun = {name: value for name, value in kept.items() if name != "activations, language"}
        moments.append(grads | begun | {"one layer backward": patches * tower.going_back})
    elif patches and (work.tower_trains or not work.rollout):
        moments.append(before | {"tower, no gradient": patches * tower_room(shape, b)})
    moments.append(grads | {"one layer backward": tokens * language.going_back + one_split})
    if work.trained:
        moments.append(grads | {"last gradient, twice": head if shape.tied else shape.largest_parameter * min(b, 4)})
    return tuple(moments)


def optimizer_step(shape: ModelShape, work: Work) -> Parts:
    """AdamW: on a GPU one more array of all second moments' roots; on a CPU two numbers of the largest parameter."""
    moving = held_share(work) * trainable(shape, work) * max(work.bytes, 4)
    room = moving if work.cuda else min(moving, 2 * shape.largest_parameter * max(work.bytes, 4))
    return {"gradients": moving, "room of the step": room}


def tower_room(shape: ModelShape, b: int) -> float:
    """Bytes per patch of the tower without gradient; its rotary embedding computes in float32."""
    D = shape.vision.hidden
    return max(forward_room(shape.vision, b), 5 * D * b + 5 * D * 4) + PIXELS_OF_PATCH * 4


def tower_pass(shape: ModelShape, work: Work) -> float:
    """The largest call of the tower over the images of the step, which takes a limited number of patches at once."""
    patches = work.visual * shape.patches_per_token
    together = max(1, int(PATCHES_AT_ONCE // patches)) if patches else 0
    return min(work.groups, together) * patches * tower_room(shape, work.bytes)


SAMPLING = 20
"""Bytes per logit while a token is drawn: five float32 copies of the logits processed at once."""


def decoding(shape: ModelShape, work: Work) -> tuple[Parts, Parts]:
    """Two candidate peaks: the last prefill, and the last time that completions get more space."""
    rows, prompts, b = work.decoded_at_once, work.prompts_in_flight, work.bytes
    # slots of fixed memory double when there is one more prompt than fills the rows, as refilling soon requires
    slots = min(work.groups, 2 * prompts) if work.graphs and work.cuda else prompts
    both: Parts = {"prompt K/V": slots * work.prompt_tokens * shape.kv_size * b}
    read = min(prompts * work.prompt_tokens, max(PREFILL_TOKENS, work.prompt_tokens))
    logits = rows * shape.vocab
    if work.graphs and work.cuda:
        longest = work.longest or work.completion_tokens
        room = min(capacity_for(longest), longest)
        held, seen = room * (1 + 0.5 / shape.language.count), max(room, work.prompt_tokens)
    else:
        held, seen = cohort_tokens(work.completion_tokens), work.completion_tokens
    decode = both | {
        "completions' K/V": rows * held * shape.kv_size * b,
        "logits of one step": logits * 2 * b + min(logits, max(CHOSEN, shape.vocab)) * SAMPLING,
        "attention scores": rows * shape.heads * seen * (8 + b),
    }
    four = dequantized(shape, work)
    return both | {"prefill": read * forward_room(shape.language, b)} | four, decode | four


def cohort_tokens(completion_tokens: int) -> int:
    """Tokens of space per completion at the peak, while the full buffer is copied into a larger one (see
    `rollout.slots`).
    """
    capacity = worst = 0
    while capacity < completion_tokens:
        grown = capacity + max(BLOCK, capacity // 2)
        capacity, worst = grown, max(worst, capacity + grown)
    return worst
