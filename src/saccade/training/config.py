"""The recipes of training and their sections; nothing here imports torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from saccade.algorithm.config import LossConfig
from saccade.config import Config, said
from saccade.data.config import DataConfig, OnBad
from saccade.data.formats import READERS
from saccade.data.images import MAX_PIXELS
from saccade.evaluation.blinding import Blinding
from saccade.evaluation.config import Decoding
from saccade.models.config import FeatureCacheConfig, ModelConfig, Part, ShardConfig, SharedPrefix
from saccade.rewards import RubricConfig
from saccade.rollout.config import RolloutConfig, Sampling
from saccade.rollout.stages import MOST, Schedule, Stage
from saccade.runs.alarms import AlarmConfig
from saccade.runs.sinks import SinkConfig
from saccade.training.update_config import UpdateConfig, check_losses

CUTS = ("top_k", "top_p", "min_p", "min_new_tokens")
"""Keys of sampling that leave tokens out."""
MOST_LR = 1e30
"""A larger one does not fit into float32 beside the weights."""
Decay = Literal["constant", "linear", "cosine"]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
OptimKind = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


class OptimConfig(Config):
    """AdamW with warm-up and decay. Weight decay spares vectors (norms and biases)."""

    kind: OptimKind = "adamw"
    """adamw_8bit: the two moments take 1 byte each instead of 4 (bitsandbytes); paged_adamw_8bit: the same, and they
    move to host memory when a GPU runs short. Neither changes the float32 masters of bfloat16 weights."""
    lr: float = Field(gt=0.0, le=MOST_LR)
    """Peak learning rate."""
    lr_of: dict[Part, Annotated[float, Field(gt=0.0, le=MOST_LR)]] = Field(default_factory=dict)
    """Peak learning rates of parts that differ, such as {vision: 2e-6}; warm-up and decay are the same for all."""
    warmup_steps: int = Field(default=0, ge=0)
    """The rate rises linearly over these steps."""
    warmup_ratio: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Or over this share of all steps, rounded up."""
    decay: Decay = "constant"
    """constant, linear or cosine, from the end of warm-up to the last step."""
    final_lr_ratio: float = Field(default=0.0, ge=0.0, le=1.0)
    """Where linear and cosine end, as a share of lr."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0, le=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients with a larger norm are scaled down to it; .inf never scales."""
    max_nonfinite_in_row: int = Field(default=5, ge=1)
    """A step whose gradient is not finite is skipped; after this many in a row the run stops."""

    @model_validator(mode="after")
    def _one_warmup(self) -> OptimConfig:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("got both warmup_steps and warmup_ratio; expected one of them")
        return self

    def warmup(self, num_steps: int) -> int:
        """Warm-up steps in a run of `num_steps`."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * num_steps - 1e-9)


def check_trained(model: ModelConfig, optim: OptimConfig) -> None:
    """ValueError for keys that contradict what trains, as far as the recipe shows it."""
    model.check_trains()
    if optim.kind != "adamw" and model.dtype == "float64":
        raise ValueError(f"optim.kind {optim.kind!r} has no float64; set model.dtype to bfloat16 or float32")
    if optim.kind == "paged_adamw_8bit" and model.device == "cpu":
        raise ValueError("optim.kind 'paged_adamw_8bit' needs a GPU, but model.device is cpu; use adamw_8bit")
    parts = model.trained_parts
    if parts is None:
        return  # a regular expression decides, on the model's names
    where = "model.train" if model.lora is None else "model.lora.targets"
    if idle := sorted(set(optim.lr_of) - parts):
        raise ValueError(f"optim.lr_of: {', '.join(idle)} does not train; remove it, or add it to {where}")


class CheckpointConfig(Config):
    """When to save, and how many to keep (the best one is always kept)."""

    every: int = Field(default=50, ge=1)
    """Steps between checkpoints; a killed run loses at most these. The last step is always saved."""
    keep: int = Field(default=2, ge=1)


class BlindConfig(Config):
    """The blind control of held-out evaluations: questions asked once more without their images."""

    share: float = Field(default=0.25, ge=0.0, le=1.0)
    """Share of the questions with images; 0 turns it off."""
    image: Blinding = "swap"
    """What the model sees: swap: the image of another question of the task; blank: a gray one."""


class EvalConfig(Config):
    """Held-out evaluation during a run; the best checkpoint is chosen by it."""

    every: int = Field(default=50, ge=1)
    """Steps between evaluations; the last step is always evaluated."""
    data: tuple[DataConfig, ...] = ()
    """Finite sources. Without any (and without the caller's own function) nothing is evaluated."""
    decoding: Decoding = Decoding(max_new_tokens=256)
    batch_size: int = Field(default=64, ge=1)
    """Samples per call of the engine."""
    blind: BlindConfig = BlindConfig()


REPLIES = "replies"


class ExampleConfig(Config):
    """A file of examples, or a data set in any format."""

    source: str = REPLIES
    """'replies': rows as above. Else a format of `saccade.data.READERS`."""
    path: Path | None = None
    hub: str | None = None
    """Instead of `path`, see `DataConfig`."""
    image_folder: Path | None = None
    """What image names are relative to; the folder of `path` when null."""
    limit: int | None = Field(default=None, ge=1)
    """The first rows only."""
    task: str | None = None
    """Task of a format's rows, where the format does not determine it."""
    columns: dict[str, str | list[str]] = Field(default_factory=dict)
    """Source `table`, see `DataConfig`."""
    labels: tuple[str, ...] = ()
    """Boxes (coco, voc, yolo), see `DataConfig`."""
    split: str | None = None
    """Of a Hugging Face data set."""
    on_bad: OnBad = "error"
    """An unusable row, as for RL: stop before the run starts where that can be known, or skip and count it."""
    data_root: Path | None = None
    """See `DataConfig`, as the next two."""
    allow_outside: bool = False
    max_image_pixels: int = Field(default=MAX_PIXELS, ge=1)
    reply: Literal["response", "gold"] = "response"
    """What is learned from a format's rows: the reply that they hold, or the gold answer as the task writes it."""
    turns: Literal["all", "last"] = "all"
    """Of a conversation with several replies: every reply is learned with its history, or the last one only."""

    _FILES: ClassVar[frozenset[str]] = frozenset(
        {"path", "hub", "image_folder", "on_bad", "data_root", "allow_outside", "max_image_pixels"}
    )

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> ExampleConfig:
        if self.source in READERS:
            try:
                self.samples()
            except ValidationError as error:
                raise ValueError(said(error)) from None
            if self.reply == "gold" and self.turns != "all":
                raise ValueError("turns: no effect with reply 'gold', which is the answer to the first question")
            return self
        if self.source != REPLIES:
            raise ValueError(f"source is {self.source!r}, expected one of {', '.join([REPLIES, *READERS])}")
        if self.path is None:
            raise ValueError("source 'replies' needs 'path'")
        for key in ("hub", "task", "columns", "labels", "split", "reply", "turns"):
            if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True):
                raise ValueError(f"'{key}' is not an option of source 'replies'; remove it")
        return self

    def samples(self) -> DataConfig:
        """The entry that reads the samples of a format."""
        return DataConfig(
            **self.model_dump(include={"source", "limit", "task", "columns", "labels", "split", *self._FILES})
        )

    def files(self) -> DataConfig:
        """Where the images of `replies` may be, as an entry of RL says it."""
        return DataConfig(source="vlm_r1", **self.model_dump(include=set(self._FILES)))

    @property
    def title(self) -> str:
        return str(self.path or self.hub)


class RLRecipe(Config):
    """A reinforcement-learning run. The defaults are one neutral setting; presets hold those of the papers."""

    kind: Literal["rl"] = "rl"
    seed: int = 0
    model: ModelConfig
    shard: ShardConfig = ShardConfig()
    """How several processes share the model."""
    data: tuple[DataConfig, ...] = Field(min_length=1)
    """Sources, mixed by weight."""
    template: str | None = None
    """Wording of all prompts; None is each task's own."""
    system_prompt: str | None = None
    """System turn of all prompts, in training and in the held-out evaluation. A row's own system turn replaces it."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    num_steps: int | None = Field(default=None, ge=1)
    """Ends the last stage if that has no 'until'."""
    prompts_per_step: int = Field(default=16, ge=1, le=MOST)
    """Groups per step; a stage may override it."""
    rubrics: dict[str, RubricConfig] = Field(default_factory=dict)
    """Rubrics of this recipe, by the names that stages use; they take precedence over the tasks' own."""
    rollout: RolloutConfig = RolloutConfig()
    loss: LossConfig = LossConfig()
    update: UpdateConfig = UpdateConfig()
    features: FeatureCacheConfig = FeatureCacheConfig()
    """Keeping vision features for later steps; within a step they are always shared."""
    optim: OptimConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    alarms: AlarmConfig = AlarmConfig()
    """Signs of cheating and of learning nothing, watched while it trains."""
    sinks: tuple[SinkConfig, ...] = ()
    """Trackers that the run feeds besides its files: - {kind: tensorboard}."""
    max_hours: float | None = Field(default=None, gt=0.0)
    """Wall-clock limit of one process, as a cluster's job has it: the run saves and ends before a step that might
    exceed it, and `saccade resume` continues it."""
    image_workers: int = Field(default=4, ge=1)
    """Threads that read, resize and encode the images of the next step while the model works on this one."""
    keep_tokens: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of groups whose token ids and log-probs are in rollouts.jsonl. Null: all until the file has 2 GB, then one
    group in ten, which a warning says."""
    images_per_step: int = Field(default=2, ge=0)
    """Prompts per step whose images are saved with the records, for the report."""

    @model_validator(mode="after")
    def _trains(self) -> RLRecipe:
        check_trained(self.model, self.optim)
        if self.model.lora is not None and self.model.lora.dropout:
            raise ValueError(
                f"model.lora.dropout: got {self.model.lora.dropout:g}, but the policy samples without dropout, so the "
                "ratio would not start from 1; set it to 0 (SFT may use it)"
            )
        if self.model.lora is not None and self.loss.reference_refresh:
            raise ValueError(
                f"loss.reference_refresh: got {self.loss.reference_refresh} with model.lora, whose reference is the "
                "base model without a copy of its own; set it to 0, or train all weights (model.train)"
            )
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> RLRecipe:
        Schedule(self.stages, self.num_steps)
        unused = set(self.rubrics) - {stage.rubric for stage in self.stages}
        if unused:
            raise ValueError(f"rubrics: no stage uses {', '.join(sorted(unused))}; name it in a stage or remove it")
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> RLRecipe:
        prompts = min(self.prompts_in(stage) for stage in self.stages)
        check_losses(self.objective, self.update, self.rollout.staleness, self.model.dtype, prompts)
        return self

    @model_validator(mode="after")
    def _logprobs_are_of_what_is_trained(self) -> RLRecipe:
        """vLLM gives the log-probs of the distribution that it drew from, after cuts; the built-in engine the whole."""
        correction = self.objective.correction
        old = self.update.resolved(self.objective, self.rollout.staleness).old_logprobs
        if self.rollout.engine.kind == "builtin" or not ((correction and correction.compares) or old == "sampler"):
            return self
        for stage in self.stages:
            drawn = stage.sampling_from(self.rollout.sampling)
            if cuts := [name for name in CUTS if getattr(drawn, name) != Sampling.model_fields[name].default]:
                raise ValueError(
                    f"rollout.sampling.{cuts[0]}: vLLM's log-probs are those after this cut, so they differ from the "
                    "trainer's where nothing is wrong; remove it, or set update.old_logprobs: recompute and "
                    "loss.correction: {kind: none}"
                )
        return self

    @property
    def objective(self) -> LossConfig:
        """The loss with the correction that fits the engine."""
        return self.loss.corrected(self.rollout.engine.kind, self.rollout.staleness)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.stages, self.num_steps)

    def prompts_in(self, stage: Stage) -> int:
        return stage.prompts_per_step or self.prompts_per_step


class SFTOptimConfig(OptimConfig):
    """As for RL, but the rate falls along a cosine."""

    decay: Decay = "cosine"


class SFTRecipe(Config):
    """A supervised run. Give `data`, or a function that draws examples to `train`."""

    kind: Literal["sft"] = "sft"
    seed: int = 0
    model: ModelConfig
    shard: ShardConfig = ShardConfig()
    """How several processes share the model."""
    data: tuple[ExampleConfig, ...] = ()
    """Files of examples."""
    heldout: tuple[ExampleConfig, ...] = ()
    """Files of examples whose loss is measured with every evaluation (`eval/loss`)."""
    template: str | None = None
    """Wording of prompts that are made from questions; None is each task's own."""
    system_prompt: str | None = None
    """System turn of all prompts. A row's own system turn replaces it."""
    prompts_per_step: int = Field(default=32, ge=1, le=MOST)
    """Prompts of one optimizer step, each with all of its replies."""
    cutoff_len: int | None = Field(default=None, ge=1)
    """Tokens of one example, its prompt with the images and its reply together, at most; null means no limit. Nothing
    is truncated: see `over_cutoff`."""
    over_cutoff: Literal["drop", "error"] = "drop"
    """Longer examples: skip and count them (`examples/over_cutoff`), or stop and name them."""
    epochs: float | None = Field(default=None, gt=0.0, le=1e6)
    """How often the files are seen; alternative to num_steps."""
    num_steps: int | None = Field(default=None, ge=1)
    sinks: tuple[SinkConfig, ...] = ()
    """Trackers, see RL."""
    max_hours: float | None = Field(default=None, gt=0.0)
    """Wall-clock limit of one process, see RL."""
    tokens_per_micro_batch: int = Field(default=8192, ge=1)
    """Tokens of one forward and backward pass, see `update.tokens_per_micro_batch` of RL; never changes the step."""
    shared_prefix: SharedPrefix = "auto"
    """auto: replies about one prompt share it where it pays and the first batch proves it exact; on: without the proof;
    off: a row per reply, the slow reference."""
    image_workers: int = Field(default=4, ge=1)
    """Threads that read, resize and encode the images of the next step while the model works on this one."""
    features: FeatureCacheConfig = FeatureCacheConfig()
    """Keeping the features of a frozen vision side for later epochs."""
    optim: SFTOptimConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _trains(self) -> SFTRecipe:
        check_trained(self.model, self.optim)
        return self

    @model_validator(mode="after")
    def _one_length(self) -> SFTRecipe:
        if (self.epochs is None) == (self.num_steps is None):
            raise ValueError("expected exactly one of epochs and num_steps")
        if self.epochs is not None and not self.data:
            raise ValueError("epochs: got no data to count them by; give data, or num_steps")
        if self.cutoff_len is None and self.over_cutoff == "error":
            raise ValueError("over_cutoff: got 'error' without a cutoff_len; set cutoff_len or remove over_cutoff")
        return self
