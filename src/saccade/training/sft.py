"""Supervised fine-tuning: the loss is on replies alone, and replies about one prompt share its row."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saccade.config import Config, dump
from saccade.data import Prefetch
from saccade.models.feature_cache import FeatureCache, FeatureCacheConfig
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import ModelConfig, Policy
from saccade.models.sharing import Decision, SharedPrefix, decide
from saccade.runs.environment import hash_source
from saccade.runs.progress import Report, progress
from saccade.training.batching import Row, micro_batches, repeated_cost, rows, shared_cost
from saccade.training.checkpoint import CheckpointConfig
from saccade.training.examples import (
    Draw,
    EncodedStep,
    EncodedUnit,
    Example,
    ExampleConfig,
    draw_from,
    encode_step,
    read_examples,
)
from saccade.training.heldout import EvalConfig, build_heldout
from saccade.training.loop import Evaluate, Opening, Outcome, Session, Stopwatch, open_session, peak_memory_mb
from saccade.training.optim import OptimConfig, learning_rate

log = logging.getLogger(__name__)


class SFTOptimConfig(OptimConfig):
    """As for RL, but the rate falls along a cosine."""

    decay: str = "cosine"


class SFTRecipe(Config):
    """A supervised run. Give `data`, or a function that draws examples to `train`."""

    kind: Literal["sft"] = "sft"
    seed: int = 0
    model: ModelConfig
    data: tuple[ExampleConfig, ...] = ()
    """Files of examples."""
    heldout: tuple[ExampleConfig, ...] = ()
    """Files of examples whose loss is measured with every evaluation (`eval/loss`)."""
    template: str | None = None
    """Wording of prompts that are made from questions; None is each task's own."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Prompts of one optimiser step, each with all of its replies."""
    cutoff_len: int | None = Field(default=None, ge=1)
    """Tokens of one example, its prompt with the images and its reply together, at most; null is any number. Nothing is
    cut short: see `over_cutoff`."""
    over_cutoff: Literal["drop", "error"] = "drop"
    """Longer examples: leave them out and count them (`examples/over_cutoff`), or stop and name them."""
    epochs: float | None = Field(default=None, gt=0.0)
    """Passes over the files; or else num_steps."""
    num_steps: int | None = Field(default=None, ge=1)
    tokens_per_micro_batch: int = Field(default=8192, ge=1)
    """Tokens of one forward and backward pass, see `update.tokens_per_micro_batch` of RL; never changes the step."""
    shared_prefix: SharedPrefix = "auto"
    """auto: replies about one prompt share it where it pays and the first batch proves it exact; on: without the proof;
    off: a row per reply, the slow reference."""
    features: FeatureCacheConfig = FeatureCacheConfig()
    """Keeping the features of a frozen vision side for later epochs."""
    optim: SFTOptimConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _one_length(self) -> SFTRecipe:
        if (self.epochs is None) == (self.num_steps is None):
            raise ValueError("expected exactly one of epochs and num_steps")
        if self.epochs is not None and not self.data:
            raise ValueError("epochs: got no data to count them by; give data, or num_steps")
        if self.cutoff_len is None and self.over_cutoff == "error":
            raise ValueError("over_cutoff: error means nothing without a cutoff_len")
        return self


def train(
    recipe: SFTRecipe,
    run_dir: Path,
    draw: Draw | None = None,
    evaluate: Evaluate | None = None,
    resume: bool = False,
) -> Outcome:
    """Trains as the recipe says and leaves a run directory.

    `draw` gives the examples instead of the recipe's `data`; `evaluate` replaces the accuracy on `eval.data`. The best
    checkpoint is the one with the highest score, or without a scoring evaluation the lowest held-out loss.
    """
    with open_trainer(recipe, run_dir, draw, evaluate, resume) as trainer:
        session = trainer.session
        for step in range(trainer.start + 1, trainer.num_steps + 1):
            watch = Stopwatch()
            with watch.phase("examples"):
                encoded = trainer.encoded(step - 1)
                check_cutoff(recipe, encoded, f"step {step}")
            with watch.phase("update"):
                lr = learning_rate(recipe.optim, step, trainer.num_steps)
                metrics = sft_step(session, encoded.units, trainer.passes, lr)
            metrics["examples/over_cutoff"] = float(len(encoded.over_cutoff))
            trainer.record(step, metrics, watch)
        return session.outcome(max(trainer.start, trainer.num_steps))


@dataclass(eq=False)
class Trainer:
    """The parts of a run."""

    session: Session
    passes: Passes
    encoded: Prefetch[EncodedStep]
    """Step from 0 -> its prompts and replies, encoded one step ahead."""
    report: Report
    start: int
    """Steps that are done."""
    num_steps: int

    def record(self, step: int, metrics: dict[str, float], watch: Stopwatch) -> None:
        times = watch.metrics()
        row = {
            **metrics,
            **times,
            "tokens/per_s": metrics["tokens/count"] / times["time/step_s"],
            "memory/peak_mb": peak_memory_mb(self.session.policy.device),
        }
        self.session.end_step(step, row, {"step": step}, last=step == self.num_steps)
        glance = {"loss": metrics["loss/train"]} if "loss/train" in metrics else {}
        if self.session.best_score is not None:
            glance["best"] = self.session.best_score
        self.report(step, glance)


@contextmanager
def open_trainer(
    recipe: SFTRecipe, run_dir: Path, draw: Draw | None, evaluate: Evaluate | None, resume: bool
) -> Iterator[Trainer]:
    """Everything that a run needs, checked from cheap to dear and before anything is written."""
    if (draw is None) == (not recipe.data):
        raise ValueError("expected examples from one place: 'data' in the recipe, or a function that draws them")
    num_steps = recipe.num_steps or 0
    if draw is None:
        examples = [one for file in recipe.data for one in read_examples(file, recipe.template)]
        draw, num_prompts = draw_from(examples, recipe.seed)
        num_steps = recipe.num_steps or math.ceil((recipe.epochs or 0) * num_prompts / recipe.prompts_per_step)
    heldout = [one for file in recipe.heldout for one in read_examples(file, recipe.template)]
    scored = evaluate or build_heldout(recipe.eval, recipe.template)
    passes = Passes(recipe)
    both = with_heldout_loss(heldout, scored, passes) if heldout else scored
    hashes = {file.title: hash_source(file.path, dump(file)) for file in recipe.data}
    opening = Opening(recipe, recipe.model, recipe.optim, recipe.checkpoint, recipe.eval.every, hashes)
    session = open_session(opening, run_dir, both, resume)
    if recipe.features.wanted:
        passes.cache = FeatureCache(recipe.features, session.policy, run_dir / "features")
    adapter, drawn = session.policy.adapter, draw
    if heldout and not resume:  # else the baseline, whose prompts may have fewer replies, would settle it
        first = encode_step(adapter, drawn(0, recipe.prompts_per_step), recipe.cutoff_len).units
        if first:
            passes.settle(session.policy, first)
    session.baseline()
    with ExitStack() as stack:
        encoded = Prefetch(
            lambda step: encode_step(adapter, drawn(step, recipe.prompts_per_step), recipe.cutoff_len), stop=num_steps
        )
        yield Trainer(
            session=session,
            passes=passes,
            encoded=stack.enter_context(encoded),
            report=stack.enter_context(progress(f"sft {session.run.name}", num_steps)),
            start=int(session.state["step"]) if session.state else 0,
            num_steps=num_steps,
        )


@dataclass(eq=False)
class Passes:
    """How log-probs of units are computed: the recipe's budget, the decision about shared prompts, kept features."""

    recipe: SFTRecipe
    decision: Decision | None = None
    """Taken on the first batch that is trained on."""
    cache: FeatureCache | None = None

    def settle(self, policy: Policy, units: Sequence[EncodedUnit]) -> Decision:
        """The decision about shared prompts, taken and said once."""
        if self.decision is None:
            batch = [(unit.prompt, [Branch(reply) for reply in unit.replies]) for unit in units]
            self.decision = decide(policy, batch, self.recipe.shared_prefix)
            log.info("%s", self.decision)
        return self.decision

    def cut(self, policy: Policy, units: Sequence[EncodedUnit]) -> list[Packed]:
        """Micro-batches of at most the budget's tokens where possible."""
        cost = shared_cost if self.settle(policy, units).path == "packed" else repeated_cost
        budget = self.recipe.tokens_per_micro_batch
        all_rows: list[Row] = []
        for i, unit in enumerate(units):
            lengths = [(k, len(reply)) for k, reply in enumerate(unit.replies)]
            all_rows += rows(i, len(unit.prompt) + policy.vision_cost(unit.prompt), lengths, budget, cost)
        return [
            pack([(units[r.prompt].prompt, [Branch(units[r.prompt].replies[k]) for k in r.replies]) for r in batch])
            for batch in micro_batches(all_rows, budget)
        ]

    def logprobs(self, policy: Policy, packed: Packed) -> Tensor:
        """(R)"""
        assert self.decision is not None
        features = None if self.cache is None else self.cache.features(policy, packed.prompts)
        decision = self.decision
        return branch_logprobs(policy, packed, features, path=decision.path, form=decision.form)[0]


def accumulate(policy: Policy, units: Sequence[EncodedUnit], passes: Passes) -> float:
    """Adds the gradient of the mean loss per reply token of the whole step, and returns that loss (nats).

    The tokens are counted before any pass, so the result does not depend on how the step is cut into micro-batches.
    """
    tokens = sum(unit.reply_tokens for unit in units)
    value = 0.0
    for packed in passes.cut(policy, units):
        loss = -passes.logprobs(policy, packed).sum() / tokens
        if loss.requires_grad:  # not when only the vision side trains and no prompt has an image
            loss.backward()
        value += float(loss.detach())
    return value


def sft_step(session: Session, units: Sequence[EncodedUnit], passes: Passes, lr: float) -> dict[str, float]:
    """One optimiser step; returns its metrics. Without any example that is short enough nothing moves."""
    counts = {
        "examples/prompts": float(len(units)),
        "examples/replies": float(sum(len(unit.replies) for unit in units)),
        "tokens/count": float(sum(unit.reply_tokens for unit in units)),
    }
    if not units:
        return {"policy/lr": lr, "update/skipped": 1.0, **counts}
    session.optimizer.zero_grad()
    loss = accumulate(session.policy, units, passes)
    norm, stepped = session.optimizer.step(lr, loss)
    session.policy.version += int(stepped)
    return {
        "loss/train": loss,
        "policy/grad_norm": norm,
        "policy/lr": lr,
        "update/skipped": float(not stepped),
        **counts,
    }


def check_cutoff(recipe: SFTRecipe, encoded: EncodedStep, place: str) -> None:
    """Says which examples are too long; ValueError where the recipe wants that to stop the run."""
    if not encoded.over_cutoff:
        return
    told = f"{place}: longer than cutoff_len {recipe.cutoff_len}: {', '.join(map(repr, encoded.over_cutoff))}"
    if recipe.over_cutoff == "error":
        raise ValueError(f"{told}; raise cutoff_len, or leave them out with over_cutoff: drop")
    log.warning("%s; left out", told)


def with_heldout_loss(examples: Sequence[Example], scored: Evaluate | None, passes: Passes) -> Evaluate:
    """An evaluation that measures the loss on `examples` too; its negative is the score when nothing else scores."""

    def evaluate(policy: Policy, step: int) -> dict[str, float]:
        loss = heldout_loss(policy, examples, passes)
        return {"loss": loss, "score": -loss} | dict(scored(policy, step) if scored is not None else {})

    return evaluate


@torch.no_grad()
def heldout_loss(policy: Policy, examples: Sequence[Example], passes: Passes) -> float:
    """Mean loss per reply token (nats)."""
    total, tokens, n = 0.0, 0, passes.recipe.prompts_per_step
    for start in range(0, len(examples), n):
        encoded = encode_step(policy.adapter, examples[start : start + n], passes.recipe.cutoff_len)
        check_cutoff(passes.recipe, encoded, "heldout")
        for packed in passes.cut(policy, encoded.units) if encoded.units else ():
            total -= float(passes.logprobs(policy, packed).sum())
            tokens += packed.num_tokens
    if not tokens:
        raise ValueError(f"heldout: all {len(examples)} examples are longer than cutoff_len {passes.recipe.cutoff_len}")
    return total / tokens
