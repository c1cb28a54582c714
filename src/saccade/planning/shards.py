"""One of several GPUs: what it holds of a sharded model, and what it sends and receives in a step; bytes and seconds.

What is counted is what `models.sharding` does: every GPU keeps 1/n of the weights in float32 (at least), of gradients
and of optimizer state; layers are gathered one by one for a pass, all weights for a rollout; a frozen vision side is
whole.

The cost model, for rings of 8 to 512 GPUs: a collective over p processes on B bytes takes B (p - 1) / p / rate, and p
times a latency. The rate is that of the links inside a node, or of all network cards of a node together where the ring
leaves it; both are multiplied with a share of the peak that is usual. Gathering and reducing overlap with computing, so
an update takes the longer of the two; gathering for a rollout overlaps with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from saccade.planning.flops import ModelShape
from saccade.planning.work import Parts, Work

GB = 1e9


@dataclass(frozen=True, slots=True)
class Links:
    """The connections between GPUs; the defaults are those of nodes with eight H100 SXM and eight network cards."""

    node_gpus: int = 8
    link_gbs: float = 450.0
    """GB/s of one GPU inside a node, in one direction."""
    network_gbs: float = 50.0
    """GB/s of the network card that each GPU has, in one direction."""
    efficiency: float = 0.7
    """Share of these rates that a collective reaches."""
    latency_s: float = 5e-6
    """Of each hop of a ring."""

    def seconds(self, count: float, size: float, processes: int, spread: bool) -> float:
        """Of `count` gathers or reductions of `size` bytes in total over `processes`; `spread` when the ring leaves a
        node."""
        if processes == 1:
            return 0.0
        rate = min(self.link_gbs, self.network_gbs * self.node_gpus) if spread else self.link_gbs
        moved = size * (processes - 1) / processes / (rate * GB * self.efficiency)
        return moved + count * processes * self.latency_s


def master_bytes(work: Work) -> int:
    """Bytes of a number in a shard."""
    return max(work.bytes, 4)


def kept_whole(shape: ModelShape, work: Work) -> int:
    """Parameters that every GPU keeps: a frozen vision side."""
    return 0 if work.tower_trains else shape.parameters["vision"] + shape.parameters["projector"]


def sharded(shape: ModelShape, work: Work) -> int:
    return shape.total - kept_whole(shape, work)


def state(shape: ModelShape, work: Work, moving: int) -> Parts:
    """Memory of one GPU in use throughout."""
    part = 0.0 if work.offload else master_bytes(work) / work.shards
    vision = shape.parameters["vision"] + shape.parameters["projector"]
    parts: Parts = {
        "shard of the weights": sharded(shape, work) * part,
        "frozen vision side": kept_whole(shape, work) * work.bytes,
        "optimizer state": 2 * moving * part,
    }
    if work.reference and not work.adapters:
        parts["reference model"] = (shape.total - vision) * part + vision * work.bytes
    return {name: size for name, size in parts.items() if size}


def whole(shape: ModelShape, work: Work) -> Parts:
    """All weights, while a GPU generates or evaluates."""
    return {"gathered weights": float(sharded(shape, work) * work.bytes)}


def gathered(shape: ModelShape, work: Work) -> Parts:
    """During an update: what belongs to no layer, two layers (one is gathered ahead), and a layer's gradients before
    they are exchanged."""
    layer = shape.language.weights / shape.language.count
    layers = shape.language.weights + (shape.vision.weights if work.tower_trains else 0)
    outside = sharded(shape, work) - layers
    return {"gathered weights": (outside + 2 * layer) * work.bytes, "gradients of a layer": layer * master_bytes(work)}


def logprobs(shape: ModelShape, work: Work) -> Parts:
    """Passes without gradient for the reference or the old log-probs, whose weights are gathered whole."""
    models = 1 if work.adapters else int(work.recompute_old) + int(work.reference)  # adapters: one, on and off
    return {"gathered weights": float(models * (shape.total - kept_whole(shape, work)) * work.bytes)}


def communication(shape: ModelShape, work: Work, links: Links, computing: float, moving: int) -> float:
    """Seconds of one step in which a GPU waits for others; `computing` are those of its training passes.

    Each pass gathers the weights for forward and for backward and reduces the gradients; with several copies of the
    shards the gradients are also summed over these.
    """
    n, b, master = work.shards, work.bytes, master_bytes(work)
    units = shape.language.count + (shape.vision.count if work.tower_trains else 0) + 1
    spread, copies = n > links.node_gpus, work.ranks // n
    size = sharded(shape, work)
    one = links.seconds(2 * units, 2.0 * size * b, n, spread) + links.seconds(units, float(moving * master), n, spread)
    if copies > 1:
        one += links.seconds(units, 2.0 * moving * master / n, copies, spread=work.ranks > links.node_gpus)
    passes = work.micro_batches * work.updates * one
    times = int(work.rollout) + int(work.recompute_old) + int(work.reference)
    alone = times * links.seconds(units, float(size * b), n, spread)
    return max(0.0, passes - computing) + alone
