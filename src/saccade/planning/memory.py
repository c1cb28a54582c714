"""Memory of the GPU, by part, in the phases of a step; bytes. Nothing is loaded: this is arithmetic on sizes.

What is counted is what this code base does: gradients in float32 of bfloat16 weights (`training.master_weights`),
attention of packed rows by flash kernels (no score matrix), logits in chunks (`models.logprobs`), a prompt's keys and
values once for all its completions (`rollout.slots`), the vision encoder (tower) over the prompts of a step by
`PATCHES_AT_ONCE`. T, S: tokens and patches of a micro-batch; D hidden size, b bytes of a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from saccade.models.forward import PATCHES_AT_ONCE
from saccade.models.logprobs import CHUNK
from saccade.planning import shards
from saccade.planning.flops import Layers, ModelShape
from saccade.planning.work import Parts, Work
from saccade.rollout.fixed_slots import capacity_for
from saccade.rollout.prefill import PREFILL_TOKENS
from saccade.rollout.sampling import CHUNK as CHOSEN
from saccade.rollout.slots import cohort_capacity

PIXELS_OF_PATCH = 2 * 3 * 14 * 14
"""Numbers that the tower reads per patch (two frames of Qwen2.5-VL); in float32, and small beside the rest."""


def total(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def memory(shape: ModelShape, work: Work) -> dict[str, Parts]:
    """Phase -> part -> bytes."""
    held = state(shape, work)
    alone = shards.whole(shape, work) if work.ranks > 1 else {}
    features = work.groups * work.visual * shape.language.hidden * work.bytes
    kept: Parts = {"vision features": features} if work.rollout and features else {}
    if work.shares_tower and features:
        patches = work.groups * work.visual * shape.patches_per_token
        kept["tower output"] = patches * shape.vision.hidden * work.bytes
    out: dict[str, Parts] = {}
    if work.rollout:
        if work.visual:
            out["vision"] = held | kept | alone | {"tower, no gradient": tower_pass(shape, work)}
        out["rollout"] = held | kept | alone | max(decoding(shape, work), key=total)
    stays = kv_bytes(shape, work) if work.rollout and work.graphs and work.cuda else 0.0
    if 0 < stays <= work.keep_bytes:
        kept["K/V of recorded steps"] = stays
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
    # of 8 bits: a byte, and a float32 scale for each block of 256
    parts["optimizer state"] = 2 * moving * (max(b, 4) if work.optimizer == "adamw" else 1 + 4 / 256)
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
    elif patches and not work.rollout:
        moments.append(before | {"tower, no gradient": patches * tower_room(shape, b)})
    moments.append(grads | {"one layer backward": tokens * language.going_back + one_split})
    if work.trained:
        moments.append(grads | {"last gradient, twice": head if shape.tied else shape.largest_parameter * min(b, 4)})
    return tuple(moments)


def optimizer_step(shape: ModelShape, work: Work) -> Parts:
    """AdamW: on a GPU one kernel without arrays of its own; on a CPU two numbers of the largest parameter, with moments
    of 8 bits five (both moments, the gradient scaled, the denominator and its root)."""
    moving = held_share(work) * trainable(shape, work) * max(work.bytes, 4)
    if work.cuda:
        return {"gradients": moving}
    numbers = 2 if work.optimizer == "adamw" else 5
    return {
        "gradients": moving,
        "room of the step": min(moving, numbers * shape.largest_parameter * max(work.bytes, 4)),
    }


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


def kv_tokens(shape: ModelShape, work: Work) -> tuple[int, float]:
    """Tokens that prompts and completions have room for at the peak: while completions get more, one layer exists
    twice."""
    rows, prompts, once = work.decoded_at_once, work.prompts_in_flight, 1 + 1 / shape.language.count
    longest = work.longest or work.completion_tokens
    if work.graphs and work.cuda:
        return prompts * work.prompt_tokens, rows * min(capacity_for(longest), longest) * once
    return prompts * work.prompt_tokens, rows * cohort_capacity(work.completion_tokens) * once


def kv_bytes(shape: ModelShape, work: Work) -> float:
    """Bytes of all keys and values at the peak of decoding."""
    return sum(kv_tokens(shape, work)) * shape.kv_size * work.bytes


def rows_that_fit(shape: ModelShape, work: Work) -> int:
    """Completions that memory admits at once when the longest are as long as planned; at least one."""
    if work.kv_limit is None:
        return work.max_rows
    low, high = 1, max(1, work.decoded_at_once)
    while low < high:
        middle = (low + high + 1) // 2
        fits = kv_bytes(shape, replace(work, max_rows=middle)) <= work.kv_limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return low if low < work.decoded_at_once else work.max_rows


def decoding(shape: ModelShape, work: Work) -> tuple[Parts, Parts]:
    """Two candidate peaks: the last prefill, and the last time that completions get more space."""
    rows, b = work.decoded_at_once, work.bytes
    prompts, completions = kv_tokens(shape, work)
    both: Parts = {"prompt K/V": prompts * shape.kv_size * b}
    read = min(prompts, max(PREFILL_TOKENS, work.prompt_tokens))
    logits = rows * shape.vocab
    seen = max(work.longest or 0, work.completion_tokens, work.prompt_tokens if work.cuda else 0)
    decode = both | {
        "completions' K/V": completions * shape.kv_size * b,
        "logits of one step": logits * 2 * b + min(logits, max(CHOSEN, shape.vocab)) * SAMPLING,
        "attention scores": rows * shape.heads * seen * (8 + b) if work.cuda else 0.0,
    }
    four = dequantized(shape, work)
    return both | {"prefill": read * forward_room(shape.language, b)} | four, decode | four
