"""What a recipe needs, before it runs: parameters, operations, memory and time, predicted from the model's
configuration only. docs/plan.md lists what is counted and the errors against measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from saccade.planning.flops import ModelShape
from saccade.planning.memory import trainable
from saccade.planning.stages import (
    SFT_TOKENS,
    Recipe,
    Setting,
    StagePlan,
    chosen_layers,
    form_of,
    peak_tflops,
    stages_of,
    works,
)
from saccade.planning.work import ForwardKind
from saccade.rollout.config import BuiltinEngineConfig
from saccade.training.config import RLRecipe, SFTRecipe


@dataclass(frozen=True, slots=True)
class Advice:
    """One change, and what the largest stage needs when it and all before it are applied."""

    change: str
    """A dotted override of the recipe; several, with a space between them, for LoRA."""
    peak: float
    fits: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole prediction."""

    parameters: Mapping[str, int]
    trainable: int
    setting: Setting
    peak_tflops: float
    form: ForwardKind
    assumptions: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    advice: tuple[Advice, ...]

    @property
    def worst(self) -> StagePlan:
        """The stage that determines whether the recipe fits."""
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


def plan(recipe: Recipe, shape: ModelShape, setting: Setting, *given: str) -> Plan:
    """Predicts a run of `recipe` on a model of `shape`; with advice when it does not fit. `given` are the caller's
    assumptions.
    """
    stages = stages_of(recipe, shape, setting)
    first = Plan(
        parameters=shape.parameters,
        trainable=trainable(shape, works(recipe, shape, setting)[0]),
        setting=setting,
        peak_tflops=peak_tflops(recipe, setting),
        form=form_of(recipe, shape),
        assumptions=(*given, *assumptions(recipe, shape, setting)),
        stages=stages,
        advice=(),
    )
    return first if first.fits else replace(first, advice=tuple(advise(recipe, shape, setting)))


def assumptions(recipe: Recipe, shape: ModelShape, setting: Setting) -> Iterator[str]:
    """The assumptions, a sentence each."""
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
    yield (
        f"{setting.utilization:.0%} of {peak_tflops(recipe, setting):g} TFLOPS in {recipe.model.dtype}; decoding reads "
        f"{setting.memory_tbs:g} TB/s; rewards and data take no time"
    )
    if recipe.model.device == "cpu":
        yield "the times are those of a GPU, but the recipe says device: cpu: a step of the run says how long one takes"
    if isinstance(recipe, RLRecipe) and not isinstance(recipe.rollout.engine, BuiltinEngineConfig):
        yield "replies come from vLLM, whose memory and time are not predicted"
    if setting.gpus > 1:
        links = setting.links
        yield (
            f"{setting.gpus} GPUs, {links.node_gpus} to a node: every number is that of the busiest GPU; "
            f"{links.link_gbs:g} GB/s inside a node and {links.network_gbs:g} GB/s of network for each GPU, of which "
            f"{links.efficiency:.0%} are reached; all wait for the slowest, whose replies are as long as the others'"
        )
    form = form_of(recipe, shape)
    if form == "split":
        yield f"no flash kernel in {recipe.model.dtype} on a GPU: packed rows copy the prompt's keys and values"
    if (lora := recipe.model.lora) is not None:
        layers = sum(len(names) for _, names, _ in chosen_layers(lora, shape))
        yield f"adapters of rank {lora.rank} on {layers} layers; the reference is the same model with them off"
    if recipe.model.quantize is not None:
        yield f"the language model's layers are in {recipe.model.quantize}; each is restored to compute and to decode"
    if shape.sharing in ("masks", "two_phase"):
        yield f"this family shares prompts by {shape.sharing}, whose masks or copies are not counted"
    if shape.attention_layers < shape.language.count:
        yield "the state of linear attention is not counted"
    if shape.sharing is None:
        yield "this family has no adapter, so training would reject it; its parts are inferred from module names"


def advise(recipe: Recipe, shape: ModelShape, setting: Setting) -> Iterator[Advice]:
    """Changes, each on top of those before, until the recipe fits or none saves another 1%: always the cheapest
    that saves, first those that change nothing but time, then precision, then fewer trained parts.
    """
    best = largest(recipe, shape, setting)
    while best > setting.room:
        for key, value in candidates(recipe, shape, setting):
            tried = changed(recipe, key, value)
            peak = largest(tried, shape, setting)
            if peak < 0.99 * best:
                break
        else:
            return
        recipe, best = tried, peak
        yield Advice(" ".join(overrides(key, value)), peak, peak <= setting.room)


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
    if isinstance(recipe, RLRecipe) and isinstance(recipe.rollout.engine, BuiltinEngineConfig):
        for value in halves(recipe.rollout.engine.max_rows, 1):
            yield "rollout.engine.max_rows", value
    if recipe.model.dtype == "float64":
        yield "model.dtype", "float32"
    if recipe.model.dtype == "float32":
        yield "model.dtype", "bfloat16"
    if "language" in recipe.model.train and len(recipe.model.train) > 1:
        yield "model.train", ["language"]
    if recipe.model.lora is None:
        targets = [part for part in recipe.model.train if shape.linear[part]]
        yield "model.lora", {"rank": 64, "alpha": 128, "targets": targets}
    elif recipe.model.quantize is None and recipe.model.dtype != "float64":
        yield "model.quantize", "nf4"


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
    if key == "model.lora":
        data["model"]["train"] = []
    return type(recipe).model_validate(data)


def overrides(key: str, value: Any) -> list[str]:
    """As words of the command line."""
    if key == "model.lora":
        return ["model.train=[]", *(f"{key}.{name}={written(one)}" for name, one in value.items())]
    return [f"{key}={written(value)}"]


def written(value: Any) -> str:
    """As an override is written."""
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
