"""One stage of a recipe by arithmetic: what the GPU does in it, its operations, memory and time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from saccade.models.config import LoraConfig, ShardConfig
from saccade.models.lora import select_layers
from saccade.models.shared_prefix import fastest_kernel
from saccade.planning.flops import (
    Flops,
    ModelShape,
    RowLengths,
    decode_flops,
    forward_flops,
    prefill_flops,
    training_flops,
)
from saccade.planning.memory import (
    NF4,
    memory,
    quantized_weights,
    rows_that_fit,
    state,
    total,
    trainable,
)
from saccade.planning.shards import Links, communication, whole
from saccade.planning.work import ForwardKind, Parts, Work
from saccade.rollout.config import DEFAULT_ENGINE, BuiltinEngineConfig
from saccade.rollout.kv_memory import SHARE
from saccade.rollout.stages import Stage
from saccade.training.config import RLRecipe, SFTRecipe

Recipe = RLRecipe | SFTRecipe
GB = 1e9
PEAK_TFLOPS = {"bfloat16": 989.0, "float32": 67.0, "float64": 67.0}
"""Of one H100 SXM, dense, by the recipe's dtype; torch disables TF32 by default, so float32 is float32."""
SFT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings that are not in the recipe."""

    images: tuple[int, ...]
    """Visual tokens of each image of a prompt."""
    text_tokens: int = 64
    completion_tokens: int | None = None
    """Mean length; None is the stage's cap, or SFT_TOKENS for SFT."""
    memory_gb: float = 80.0
    headroom: float = 0.1
    """Share of the memory to keep free: the CUDA context, fragments, errors of the prediction."""
    utilization: float = 0.4
    peak_tflops: float | None = None
    """None: by dtype from PEAK_TFLOPS."""
    memory_tbs: float = 3.35
    """TB/s at which decoding reads weights, keys and values."""
    gpus: int = 1
    links: Links = field(default_factory=Links)

    @property
    def room(self) -> float:
        """Bytes that may be used."""
        return self.memory_gb * GB * (1 - self.headroom)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of RL, or the one of SFT."""

    name: str
    steps: int | None
    groups: int
    group_size: int
    completion_tokens: int
    packed_row: int
    """Tokens of one micro-batch."""
    micro_batches: int
    """Per update."""
    flops: Mapping[str, Flops]
    """Phase of one step -> operations; `training, packed` and `training, plain` are both listed."""
    decode_steps: int
    """One after the other, when every completion has the mean length."""
    memory: Mapping[str, Parts]
    """Phase -> part -> bytes."""
    seconds: Mapping[str, float]
    """Phase of one step -> time; of a stage that does not fit, on a GPU with enough memory."""

    @property
    def peak_phase(self) -> str:
        return max(self.memory, key=lambda phase: total(self.memory[phase]))

    @property
    def peak(self) -> float:
        return total(self.memory[self.peak_phase])

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.values())


def peak_tflops(recipe: Recipe, setting: Setting) -> float:
    return setting.peak_tflops or PEAK_TFLOPS[recipe.model.dtype]


def form_of(recipe: Recipe, shape: ModelShape) -> ForwardKind:
    """The run's choice on its first batch, if that proves the packed path exact (`models.sharing`)."""
    mode = recipe.update.shared_prefix if isinstance(recipe, RLRecipe) else recipe.shared_prefix
    if mode == "off" or shape.sharing in (None, "none"):
        return "plain"
    device = torch.device("cpu" if recipe.model.device == "cpu" else "cuda")
    return fastest_kernel(device, getattr(torch, recipe.model.dtype))


def shares(groups: int, recipe: Recipe, setting: Setting) -> int:
    """Groups of the busiest GPU. ValueError for what a run on these GPUs would refuse."""
    copies, gpus = recipe.shard.replicate, setting.gpus
    if groups < gpus:
        raise ValueError(
            f"prompts_per_step is {groups}, but there are {gpus} GPUs and a group stays on one of them; expected at "
            f"least {gpus}"
        )
    if gpus == 1 and recipe.shard != ShardConfig():
        raise ValueError("shard: got options for several GPUs, but --gpus is 1; give --gpus N, or remove shard")
    if copies > 1 and (gpus % copies or copies >= gpus):
        raise ValueError(f"shard.replicate: got {copies} for {gpus} GPUs; expected a divisor of {gpus} below it")
    if gpus > 1 and recipe.model.quantize:
        raise ValueError("model.quantize: 4-bit weights are not sharded; use --gpus 1, or remove quantize")
    if gpus > 1 and recipe.optim.kind != "adamw":
        raise ValueError(f"optim.kind {recipe.optim.kind!r}: its state is not sharded; use --gpus 1, or kind adamw")
    return math.ceil(groups / gpus)


def works(recipe: Recipe, shape: ModelShape, setting: Setting) -> list[Work]:
    """What a GPU does in each stage."""
    base = Work(
        name="sft",
        groups=shares(recipe.prompts_per_step, recipe, setting) if isinstance(recipe, SFTRecipe) else 0,
        group_size=1,
        prompt_tokens=setting.text_tokens + sum(setting.images),
        images=setting.images,
        completion_tokens=setting.completion_tokens or SFT_TOKENS,
        budget=0,
        vision_cost=0,
        form=form_of(recipe, shape),
        trained=tuple(recipe.model.train),
        dtype=recipe.model.dtype,
        checkpointing=recipe.model.gradient_checkpointing,
        fused=recipe.model.fused_layers,
        optimizer=recipe.optim.kind,
        quantized=recipe.model.quantize is not None,
        cuda=recipe.model.device != "cpu",
        ranks=setting.gpus,
        shards=setting.gpus // recipe.shard.replicate,
        offload=recipe.shard.cpu_offload,
    )
    if recipe.model.lora is not None:
        base = replace(base, trained=(), **adapter_sizes(recipe.model.lora, shape, base.bytes))
    if base.tower_trains:
        patches = base.visual * shape.patches_per_token
        base = replace(base, vision_cost=round(patches * shape.parameters["vision"] / shape.parameters["language"]))
    if isinstance(recipe, SFTRecipe):
        return [replace(base, rollout=False, budget=recipe.tokens_per_micro_batch, steps=recipe.num_steps)]
    given = recipe.rollout.engine
    engine = given if isinstance(given, BuiltinEngineConfig) else DEFAULT_ENGINE
    base = replace(
        base,
        rollout=engine is given,  # other engines decode elsewhere
        budget=recipe.update.tokens_per_micro_batch,
        max_rows=engine.max_rows,
        kv_limit=None if engine.memory_mb is None else engine.memory_mb * 2**20,
        keep_bytes=engine.keep_mb * 2**20,
        graphs=engine.cuda_graphs != "off" and shape.sharing == "attention",
        reference=recipe.loss.kl_coef > 0,
        recompute_old=recipe.update.resolved(recipe.objective, recipe.rollout.staleness).old_logprobs == "recompute",
        updates=recipe.update.updates_per_rollout,
    )
    return [
        replace(
            base,
            name=stage.name,
            groups=shares(recipe.prompts_in(stage), recipe, setting),
            group_size=stage.group_size,
            completion_tokens=min(setting.completion_tokens or stage.max_new_tokens, stage.max_new_tokens),
            longest=stage.max_new_tokens,
            steps=steps,
        )
        for stage, steps in zip(recipe.stages, stage_steps(recipe.stages, recipe.num_steps), strict=True)
    ]


def adapter_sizes(lora: LoraConfig, shape: ModelShape, b: int) -> dict[str, Any]:
    """`adapters` and `adapter_width` of `Work`. ValueError for a target that selects nothing."""
    chosen = {part: [layers[name] for name in names] for part, names, layers in chosen_layers(lora, shape)}
    counts = {part: shape.language.count if part == "language" else shape.vision.count for part in chosen}
    dropped = (b + 1) if lora.dropout else 0
    width = {
        part: sum(lora.rank * b + dropped * inputs for inputs, _ in layers) / counts[part]
        for part, layers in chosen.items()
    }
    elements = {part: lora.rank * sum(map(sum, layers)) for part, layers in chosen.items()}
    return {"adapters": elements, "adapter_width": width}


def chosen_layers(lora: LoraConfig, shape: ModelShape) -> list[tuple[str, list[str], Mapping[str, tuple[int, int]]]]:
    """(part, names of its adapted layers, all of its linear layers) of the parts that are adapted."""
    names = set(select_layers(shape.linear, lora.targets))
    found = [(part, [name for name in layers if name in names], layers) for part, layers in shape.linear.items()]
    return [one for one in found if one[1]]


def stage_steps(stages: Sequence[Stage], num_steps: int | None) -> list[int]:
    """Steps of each stage, at most."""
    ends: list[int] = []
    for stage in stages:
        start = ends[-1] if ends else 0
        until = stage.until
        ends.append((num_steps or 0) if until is None else until.step or start + (until.at_most or 0))
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def stages_of(recipe: Recipe, shape: ModelShape, setting: Setting) -> tuple[StagePlan, ...]:
    return tuple(
        stage_plan(shape, work, setting, peak_tflops(recipe, setting)) for work in works(recipe, shape, setting)
    )


def stage_plan(shape: ModelShape, work: Work, setting: Setting, tflops: float) -> StagePlan:
    work = replace(work, max_rows=rows_that_fit(shape, work))
    limited = work
    if work.rollout and work.kv_limit is None and work.cuda:
        held = total(state(shape, work)) + (total(whole(shape, work)) if work.ranks > 1 else 0.0)
        limited = replace(work, kv_limit=max(0.0, SHARE * (setting.memory_gb * GB - held)))
        limited = replace(limited, max_rows=rows_that_fit(shape, limited))
    parts = memory(shape, limited)
    if max(map(total, parts.values())) <= setting.room:  # otherwise the seconds are those of a GPU with enough memory
        work = limited
    flops = step_flops(shape, work)
    waves = math.ceil(work.groups * work.group_size / work.decoded_at_once)
    decode_steps = waves * (work.completion_tokens - 1) if work.rollout else 0
    speed = tflops * 1e12 * setting.utilization
    training = "training, packed" if work.packed else "training, plain"
    seconds = {
        phase.split(",")[0]: ops.total / speed
        for phase, ops in flops.items()
        if phase == training or not phase.startswith("training")
    }
    if work.rollout:
        reading = decode_steps * bytes_per_decode_step(shape, work) / (setting.memory_tbs * 1e12)
        seconds["decode"] = max(seconds["decode"], reading)
    if work.ranks > 1:
        moving = trainable(shape, work)
        seconds["communication"] = communication(shape, work, setting.links, seconds["training"], moving)
    return StagePlan(
        name=work.name,
        steps=work.steps,
        groups=work.groups,
        group_size=work.group_size,
        completion_tokens=work.completion_tokens,
        packed_row=work.tokens_at_once,
        micro_batches=work.micro_batches,
        flops=flops,
        decode_steps=decode_steps,
        memory=parts,
        seconds=seconds,
    )


def step_flops(shape: ModelShape, work: Work) -> dict[str, Flops]:
    """Phase -> operations of one step. In RL a frozen vision encoder (tower) runs once per prompt, in the phase
    `vision`."""
    group = RowLengths(work.prompt_tokens, (work.completion_tokens,) * work.group_size, work.images)
    pieces = pieces_of(work)
    tower = work.tower_trains or not work.rollout
    tower_again = tower and not work.shares_tower

    def over(rows: Sequence[RowLengths], one: Any) -> Flops:
        return sum((one(row) for row in rows), Flops()).times(work.groups)

    def train(packed: bool) -> Flops:
        # the plain path runs every image through the tower again, frozen or not
        vision = tower_again or not packed
        rows = pieces if packed else [group]
        return over(
            rows,
            lambda row: training_flops(shape, row, packed, work.trained, work.checkpointing, vision, work.adapters),
        ).times(work.updates)

    out: dict[str, Flops] = {}
    if work.rollout:
        seen = forward_flops(shape, RowLengths(0, (), work.images))
        out["vision"] = seen.times(work.groups)
        out["prefill"] = over([group], lambda row: prefill_flops(shape, row))
        out["decode"] = over([group], lambda row: decode_flops(shape, row))
    rows = pieces if work.packed else [group]
    # a reference beside a trained tower has its own tower; old log-probs use the features of the rollout
    passes = {"reference": (work.reference, tower), "old log-probs": (work.recompute_old, False)}
    for name, (wanted, vision) in passes.items():
        if wanted:
            again = vision or not work.packed
            out[name] = over(rows, lambda row, again=again: forward_flops(shape, row, work.packed, again))
    return out | {"training, packed": train(True), "training, plain": train(False)}


def pieces_of(work: Work) -> list[RowLengths]:
    """The rows of one group: one, or as many as the budget requires."""
    counts = [work.row_completions] * (work.group_size // work.row_completions)
    rest = work.group_size % work.row_completions
    return [
        RowLengths(work.prompt_tokens, (work.completion_tokens,) * count, work.images)
        for count in [*counts, *([rest] if rest else [])]
    ]


def bytes_per_decode_step(shape: ModelShape, work: Work) -> float:
    """Weights once, each prompt's keys and values once, and half of what completions will have (their mean length)."""
    language = (shape.parameters["language"] - (0 if shape.tied else shape.head_weights)) * work.bytes
    if work.quantized:  # read, then written and read again in the model's dtype
        language += quantized_weights(shape) * (NF4 + work.bytes)
    language += work.adapters.get("language", 0) * work.bytes
    prompts = work.prompts_in_flight * work.prompt_tokens
    completions = work.decoded_at_once * work.completion_tokens / 2
    return language + (prompts + completions) * shape.kv_size * work.bytes
