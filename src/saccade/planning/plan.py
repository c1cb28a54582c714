"""What a recipe will need before it runs: parameters, operations, memory and time, predicted from the model's
configuration alone. docs/plan.md says what is counted and how far predictions were from measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

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
from saccade.planning.memory import Form, Parts, Work, memory, total
from saccade.rollout.stages import Stage
from saccade.training.config import RLRecipe, SFTRecipe

Recipe = RLRecipe | SFTRecipe
GB = 1e9
PEAK_TFLOPS = {"bfloat16": 989.0, "float32": 67.0, "float64": 67.0}
"""Of one H100 SXM, dense, by the recipe's dtype; torch keeps TF32 off unless told otherwise, so float32 is float32."""
SFT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Setting:
    """What the recipe does not say."""

    images: tuple[int, ...]
    """Visual tokens of each image of a prompt."""
    text_tokens: int = 64
    completion_tokens: int | None = None
    """Mean length; None is the stage's cap, or SFT_TOKENS for SFT."""
    gpus: int = 1
    memory_gb: float = 80.0
    headroom: float = 0.1
    """Share of the memory that is left alone: the CUDA context, fragments, errors of the prediction."""
    utilization: float = 0.4
    peak_tflops: float | None = None
    """None: by dtype from PEAK_TFLOPS."""
    memory_tbs: float = 3.35
    """TB/s at which decoding reads weights, keys and values."""

    @property
    def room(self) -> float:
        """Bytes that a GPU may be asked for."""
        return self.memory_gb * GB * (1 - self.headroom)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of RL, or the one of SFT; operations are those of all GPUs together, memory that of one."""

    name: str
    steps: int | None
    groups: int
    group_size: int
    completion_tokens: int
    packed_row: int
    """Tokens of one micro-batch."""
    micro_batches: int
    """Per GPU and update."""
    flops: Mapping[str, Flops]
    """Phase of one step -> operations; `training, packed` and `training, plain` stand side by side."""
    decode_steps: int
    """One after the other, on each GPU; when every completion has the mean length."""
    memory: Mapping[str, Parts]
    """Phase -> part -> bytes."""
    seconds: Mapping[str, float]
    """Phase of one step -> time."""

    @property
    def peak_phase(self) -> str:
        return max(self.memory, key=lambda phase: total(self.memory[phase]))

    @property
    def peak(self) -> float:
        return total(self.memory[self.peak_phase])

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Advice:
    """One change, and what the largest stage needs when it and all before it are made."""

    change: str
    """A dotted override, or an option of the command."""
    peak: float
    fits: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole prediction."""

    parameters: Mapping[str, int]
    trainable: int
    setting: Setting
    peak_tflops: float
    form: Form
    assumptions: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    advice: tuple[Advice, ...]

    @property
    def worst(self) -> StagePlan:
        """The stage that decides whether the recipe fits."""
        return max(self.stages, key=lambda stage: stage.peak)

    @property
    def fits(self) -> bool:
        return self.worst.peak <= self.setting.room

    def to_dict(self) -> dict[str, Any]:
        """Plain data; bytes, seconds, operations."""
        return asdict(self) | {
            "fits": self.fits,
            "room": self.setting.room,
            "stages": [
                asdict(stage) | {"peak": stage.peak, "peak_phase": stage.peak_phase, "step_seconds": stage.step_seconds}
                for stage in self.stages
            ],
        }


def plan(recipe: Recipe, shape: ModelShape, setting: Setting, *said: str) -> Plan:
    """Predicts a run of `recipe` on a model of `shape`; with advice when it does not fit. `said` are assumptions of the
    caller.
    """
    stages = stages_of(recipe, shape, setting)
    first = Plan(
        parameters=shape.parameters,
        trainable=sum(shape.parameters[part] for part in recipe.model.train),
        setting=setting,
        peak_tflops=peak_tflops(recipe, setting),
        form=form_of(recipe, shape),
        assumptions=(*said, *assumptions(recipe, shape, setting)),
        stages=stages,
        advice=(),
    )
    return first if first.fits else replace(first, advice=tuple(advise(recipe, shape, setting)))


def peak_tflops(recipe: Recipe, setting: Setting) -> float:
    return setting.peak_tflops or PEAK_TFLOPS[recipe.model.dtype]


def form_of(recipe: Recipe, shape: ModelShape) -> Form:
    """What the run would decide on its first batch, if that proves the packed path exact (`models.sharing`)."""
    mode = recipe.update.shared_prefix if isinstance(recipe, RLRecipe) else recipe.shared_prefix
    if mode == "off" or shape.sharing in (None, "none"):
        return "plain"
    device = torch.device("cpu" if recipe.model.device == "cpu" else "cuda")
    return fastest_kernel(device, getattr(torch, recipe.model.dtype))


def assumptions(recipe: Recipe, shape: ModelShape, setting: Setting) -> Iterator[str]:
    """What was taken for granted, a sentence each."""
    images = f"{len(setting.images)} image(s) of {max(setting.images)} visual tokens" if setting.images else "no image"
    yield f"a prompt is {setting.text_tokens} tokens of text and {images}"
    if setting.completion_tokens is None:
        every = (
            f"reply has {SFT_TOKENS} tokens" if isinstance(recipe, SFTRecipe) else "completion is as long as its cap"
        )
        yield f"every {every} (--completion-tokens gives another length)"
    if isinstance(recipe, SFTRecipe):
        yield "one reply per prompt"
    elif recipe.rollout.resample_rounds:
        yield f"one round of rollout; resample_rounds allows {recipe.rollout.resample_rounds} more"
    if setting.gpus > 1:
        yield (
            f"Saccade trains in one process; {setting.gpus} GPUs stand for FSDP: weights, reference, gradients and "
            "optimiser state divided by their number, groups divided over ranks and none cut, two layers with the "
            "embedding and the head gathered in training, and all weights gathered for the rollout"
        )
    yield (
        f"{setting.utilization:.0%} of {peak_tflops(recipe, setting):g} TFLOPS in {recipe.model.dtype}; decoding reads "
        f"{setting.memory_tbs:g} TB/s; rewards, data and communication take no time"
    )
    form = form_of(recipe, shape)
    if form == "split":
        yield f"no flash kernel in {recipe.model.dtype} on a GPU: packed rows copy the prompt's keys and values"
    if shape.sharing in ("masks", "two_phase"):
        yield f"this family shares prompts by {shape.sharing}, whose masks or copies are not counted"
    if shape.attention_layers < shape.language.count:
        yield "the state of linear attention is not counted"
    if shape.sharing is None:
        yield "this family has no adapter, so training would refuse it; its parts are told by the names of modules"


# ------------------------------------------------------------------------------------------------------------- stages


def works(recipe: Recipe, shape: ModelShape, setting: Setting) -> list[Work]:
    """What one GPU does in each stage; groups are divided over the GPUs, none is cut."""
    base = Work(
        name="sft",
        groups=recipe.prompts_per_step,
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
        gpus=setting.gpus,
        cuda=recipe.model.device != "cpu",
    )
    if base.tower_trains:
        patches = base.visual * shape.patches_per_token
        base = replace(base, vision_cost=round(patches * shape.parameters["vision"] / shape.parameters["language"]))
    if isinstance(recipe, SFTRecipe):
        return [replace(base, rollout=False, budget=recipe.tokens_per_micro_batch, steps=recipe.num_steps)]
    base = replace(
        base,
        budget=recipe.update.tokens_per_micro_batch,
        max_rows=recipe.rollout.engine.max_rows,
        graphs=recipe.rollout.engine.cuda_graphs != "off" and shape.sharing == "attention",
        reference=recipe.loss.kl_coef > 0,
        recompute_old=recipe.update.old_logprobs == "recompute",
        updates=recipe.update.updates_per_rollout,
    )
    return [
        replace(
            base,
            name=stage.name,
            groups=recipe.prompts_in(stage),
            group_size=stage.group_size,
            completion_tokens=min(setting.completion_tokens or stage.max_new_tokens, stage.max_new_tokens),
            longest=stage.max_new_tokens,
            steps=steps,
        )
        for stage, steps in zip(recipe.stages, stage_steps(recipe.stages, recipe.num_steps), strict=True)
    ]


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
    flops = step_flops(shape, work)
    waves = math.ceil(work.prompts * work.group_size / work.decoded_at_once)
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
    return StagePlan(
        name=work.name,
        steps=work.steps,
        groups=work.groups,
        group_size=work.group_size,
        completion_tokens=work.completion_tokens,
        packed_row=work.tokens_at_once,
        micro_batches=work.micro_batches,
        flops={phase: ops.times(work.groups / work.prompts) for phase, ops in flops.items()},
        decode_steps=decode_steps,
        memory=memory(shape, work),
        seconds=seconds,
    )


def step_flops(shape: ModelShape, work: Work) -> dict[str, Flops]:
    """Phase -> operations of one GPU in one step. In RL a frozen tower runs once per prompt, in the phase `vision`."""
    group = RowLengths(work.prompt_tokens, (work.completion_tokens,) * work.group_size, work.images)
    pieces = pieces_of(work)
    tower = work.tower_trains or not work.rollout

    def over(rows: Sequence[RowLengths], one: Any) -> Flops:
        return sum((one(row) for row in rows), Flops()).times(work.prompts)

    def train(packed: bool) -> Flops:
        # the plain path runs every image through the tower again, frozen or not
        vision = tower or not packed
        rows = pieces if packed else [group]
        return over(
            rows, lambda row: training_flops(shape, row, packed, work.trained, work.checkpointing, vision)
        ).times(work.updates)

    out: dict[str, Flops] = {}
    if work.rollout:
        seen = forward_flops(shape, RowLengths(0, (), work.images))
        out["vision"] = seen.times(work.prompts)
        out["prefill"] = over([group], lambda row: prefill_flops(shape, row))
        out["decode"] = over([group], lambda row: decode_flops(shape, row))
    rows = pieces if work.packed else [group]
    # a reference beside a trained tower has a tower of its own; old log-probs take the features of the rollout
    passes = {"reference": (work.reference, tower), "old log-probs": (work.recompute_old, False)}
    for name, (wanted, vision) in passes.items():
        if wanted:
            again = vision or not work.packed
            out[name] = over(rows, lambda row, again=again: forward_flops(shape, row, work.packed, again))
    return out | {"training, packed": train(True), "training, plain": train(False)}


def pieces_of(work: Work) -> list[RowLengths]:
    """The rows of one group: one, or as many as the budget makes of it."""
    counts = [work.row_completions] * (work.group_size // work.row_completions)
    rest = work.group_size % work.row_completions
    return [
        RowLengths(work.prompt_tokens, (work.completion_tokens,) * count, work.images)
        for count in [*counts, *([rest] if rest else [])]
    ]


def bytes_per_decode_step(shape: ModelShape, work: Work) -> float:
    """Weights once, each prompt's keys and values once, and half of what completions will have (their mean length)."""
    language = (shape.parameters["language"] - (0 if shape.tied else shape.head_weights)) * work.bytes
    prompts = work.prompts_in_flight * work.prompt_tokens
    completions = work.decoded_at_once * work.completion_tokens / 2
    return language + (prompts + completions) * shape.kv_size * work.bytes


# ------------------------------------------------------------------------------------------------------------- advice


def advise(recipe: Recipe, shape: ModelShape, setting: Setting) -> Iterator[Advice]:
    """Changes in the order in which they cost least, each on top of those before, until the recipe fits: first those
    that change nothing but time, then precision, then fewer trained parts, then more GPUs. One that saves nothing is
    left out; when nothing helps, nothing is said.
    """
    best = largest(recipe, shape, setting)
    for key, value in candidates(recipe, shape, setting):
        tried = changed(recipe, key, value)
        peak = largest(tried, shape, setting)
        if peak < 0.99 * best:
            recipe, best = tried, peak
            yield Advice(f"{key}={written(value)}", peak, peak <= setting.room)
        if best <= setting.room:
            return
    gpus = setting.gpus
    while gpus < 1024:
        gpus *= 2
        peak = largest(recipe, shape, replace(setting, gpus=gpus))
        if peak <= setting.room:
            yield Advice(f"--gpus {gpus}", peak, True)
            return


def largest(recipe: Recipe, shape: ModelShape, setting: Setting) -> float:
    return max(stage.peak for stage in stages_of(recipe, shape, setting))


def candidates(recipe: Recipe, shape: ModelShape, setting: Setting) -> Iterator[tuple[str, Any]]:
    """(key of the recipe's schema, value) in the order of the advice."""
    rl = isinstance(recipe, RLRecipe)
    if not recipe.model.fused_layers:
        yield "model.fused_layers", True
    if not recipe.model.gradient_checkpointing:
        yield "model.gradient_checkpointing", True
    key = "update.tokens_per_micro_batch" if rl else "tokens_per_micro_batch"
    budget = recipe.update.tokens_per_micro_batch if isinstance(recipe, RLRecipe) else recipe.tokens_per_micro_batch
    shortest = max(work.prompt_tokens + work.completion_tokens for work in works(recipe, shape, setting))
    for value in halves(budget, shortest):
        yield key, value
    if isinstance(recipe, RLRecipe):
        for value in halves(recipe.rollout.engine.max_rows, 1):
            yield "rollout.engine.max_rows", value
    if recipe.model.dtype == "float64":
        yield "model.dtype", "float32"
    if recipe.model.dtype == "float32":
        yield "model.dtype", "bfloat16"
    if "language" in recipe.model.train and len(recipe.model.train) > 1:
        yield "model.train", ["language"]


def halves(value: int, least: int) -> list[int]:
    """value/2, value/4, ... down to `least`."""
    return [value >> k for k in range(1, value.bit_length()) if value >> k >= least]


def changed(recipe: Recipe, key: str, value: Any) -> Recipe:
    """The recipe with another value at a dotted key."""
    data = recipe.model_dump()
    at = data
    *path, last = key.split(".")
    for name in path:
        at = at[name]
    at[last] = value
    return type(recipe).model_validate(data)


def written(value: Any) -> str:
    """As an override is written."""
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")
