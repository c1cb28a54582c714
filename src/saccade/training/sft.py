"""Supervised fine-tuning: the loss is on replies only, and replies about one prompt share its row."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saccade.data import Prefetch
from saccade.data.kept import Kept
from saccade.models.adapter import Adapter
from saccade.models.feature_cache import FeatureCache
from saccade.models.packing import Branch
from saccade.models.policy import Policy, load_adapter
from saccade.rollout.engine import Engine
from saccade.rollout.prompts import Prompt
from saccade.rollout.seeds import derive_seed
from saccade.runs.environment import hash_contents, hash_images, numbered
from saccade.runs.progress import ProgressFn, progress
from saccade.runs.stopping import Stop
from saccade.tasks.templates import find_template
from saccade.training.clocks import Stopwatch, peak_memory_mb
from saccade.training.config import SFTRecipe
from saccade.training.example_feed import ExampleFeed, screened
from saccade.training.examples import (
    Draw,
    EncodedStep,
    EncodedUnit,
    Example,
    encode_step,
    encode_usable,
    read_examples,
    too_long_for,
)
from saccade.training.heldout import build_heldout
from saccade.training.loop import Evaluate, RunResult, Session, open_session, same_rows
from saccade.training.opening import check_shard
from saccade.training.optim import learning_rate
from saccade.training.ranks import Ranks, join
from saccade.training.resuming import Resume
from saccade.training.step import MicroBatch, StepRunner, Unit

log = logging.getLogger(__name__)


def train(
    recipe: SFTRecipe,
    run_dir: Path,
    draw: Draw | None = None,
    evaluate: Evaluate | None = None,
    resume: bool | Resume = False,
    stop: Stop | None = None,
) -> RunResult:
    """Trains as the recipe says and writes a run directory.

        result = train(load_recipe("sft.yaml"), Path("runs/sft"))

    `draw` gives the examples instead of the recipe's `data`; `evaluate` replaces the accuracy on `eval.data`; `stop`
    ends the run on request (RunStopped). The best checkpoint is the one with the highest score, or without a scoring
    evaluation the lowest held-out loss. Under torchrun the processes share the run: each makes the same call, and the
    first writes the directory.
    """
    with open_trainer(recipe, run_dir, draw, evaluate, resume, stop) as trainer:
        session, step = trainer.session, trainer.start
        while step < trainer.num_steps and not session.ended:
            step += 1
            watch = Stopwatch()
            with watch.phase("examples"):
                encoded = trainer.encoded(step - 1)
                check_cutoff(recipe, encoded.over_cutoff, f"step {step}")
            with watch.phase("update"):
                lr = learning_rate(recipe.optim, step, trainer.num_steps)
                metrics = sft_step(trainer.runner, encoded.units, lr, noise_seed(recipe.seed, step, session.ranks))
            metrics["examples/over_cutoff"] = float(len(encoded.over_cutoff))
            metrics["data/skipped"] = float(trainer.skipped + len(encoded.skipped))
            trainer.record(step, metrics, watch, encoded)
        return session.result(step)


@dataclass(eq=False)
class SFTTrainer:
    """The parts of an SFT run."""

    session: Session
    runner: StepRunner[MicroBatch]
    encoded: Prefetch[EncodedStep]
    """Step from 0 -> this process's share of its prompts and replies, encoded one step ahead."""
    report: ProgressFn
    start: int
    """Completed steps."""
    num_steps: int

    skipped: int = 0
    """Prompts that were skipped before the first step."""

    def record(self, step: int, metrics: dict[str, float], watch: Stopwatch, encoded: EncodedStep) -> None:
        times = watch.metrics()
        row = {
            **metrics,
            **times,
            "tokens/per_s": metrics["tokens/count"] / times["time/step_s"],
            "memory/peak_mb": peak_memory_mb(self.session.policy.device),
        }
        state: dict[str, Any] = {"step": step, "skipped": [list(one) for one in encoded.skipped]}
        if encoded.position is not None:
            state["position"] = encoded.position
        self.session.end_step(step, row, state, step == self.num_steps, dict)
        glance = {"loss": metrics["loss/train"]} if "loss/train" in metrics else {}
        if self.session.best_score is not None:
            glance["best"] = self.session.best_score
        self.report(step, glance)


@contextmanager
def open_trainer(
    recipe: SFTRecipe,
    run_dir: Path,
    draw: Draw | None,
    evaluate: Evaluate | None,
    resume: bool | Resume,
    stop: Stop | None,
) -> Iterator[SFTTrainer]:
    """Everything that a run needs, cheapest checks first, validated before anything is written."""
    ranks = join()
    check_shard(recipe, ranks)
    if recipe.template is not None:
        find_template(recipe.template)  # a mistake of the recipe, not of its first row
    ranks.check_share(recipe.prompts_per_step, "prompts_per_step")
    if (draw is None) == (not recipe.data):
        raise ValueError("expected examples from one place: 'data' in the recipe, or a function that draws them")
    num_steps, n = recipe.num_steps or 0, recipe.prompts_per_step
    wording = (recipe.template, recipe.system_prompt, Kept())
    names = numbered(file.title for file in recipe.data)
    files = {name: read_examples(file, *wording) for name, file in zip(names, recipe.data, strict=True)}
    examples = [one for found in files.values() for one in found]
    known = screened(load_adapter(recipe.model), examples, recipe.cutoff_len) if not resume and examples else None
    heldout = [one for file in recipe.heldout for one in read_examples(file, *wording)]
    scored = evaluate or build_heldout(recipe.eval, recipe.template, run_dir, recipe.system_prompt, ranks)
    data = {
        "data_hash": {name: hash_contents(one.content for one in found) for name, found in files.items()},
        "images": {name: hash_images(image for one in found for image in one.images) for name, found in files.items()},
    }
    with ExitStack() as stack:
        session = stack.enter_context(open_session(recipe, run_dir, data, scored, resume, stop=stop))
        policy = session.policy
        cache = FeatureCache(recipe.features, policy, run_dir / "features") if recipe.features.wanted else None
        runner = StepRunner[MicroBatch](
            policy, session.optimizer, recipe.tokens_per_micro_batch, recipe.shared_prefix, ranks, cache
        )

        workers = stack.enter_context(ThreadPoolExecutor(recipe.image_workers, thread_name_prefix="encode"))
        state = session.state or {"step": 0}
        if draw is None:
            known = known or screened(policy.adapter, examples, recipe.cutoff_len)
            if not same_rows(session, [("data", len(examples), len(known.unusable))], resume):
                state = {**state, "skipped": []}  # they are other rows now
            feed = ExampleFeed(known, recipe.seed, n, state, workers)
            num_steps = num_steps or feed.updates(recipe.epochs or 0)
            log.info(
                "%d replies to %d prompts, %d prompts a step: %.3g epochs, %d updates",
                *(len(examples), feed.prompts, n, feed.position(num_steps) / max(feed.prompts, 1), num_steps),
            )
        else:
            feed = partial(encode_drawn, policy.adapter, draw, recipe, workers)

        def encode(step: int) -> EncodedStep:
            found = feed(step)
            return replace(found, units=share_of(found.units, ranks))

        if heldout:
            session.evaluate = with_heldout_loss(heldout, scored, runner, recipe)
            # by training data: held-out prompts may have fewer replies to share
            runner.choose(units_of(encode(int(state["step"])).units))
        session.baseline(state, dict)
        yield SFTTrainer(
            session=session,
            runner=runner,
            encoded=stack.enter_context(Prefetch(encode, stop=num_steps)),
            report=stack.enter_context(progress(f"sft {session.run.name}", num_steps, shown=ranks.is_first)),
            start=int(state["step"]),
            num_steps=num_steps,
            skipped=0 if known is None else len(known.unusable),
        )


def encode_drawn(adapter: Adapter, draw: Draw, recipe: SFTRecipe, workers: Executor, step: int) -> EncodedStep:
    """The prompts of a step that a caller's function draws."""
    return encode_step(adapter, draw(step, recipe.prompts_per_step), recipe.cutoff_len, workers)


def share_of(units: Sequence[EncodedUnit], ranks: Ranks) -> list[EncodedUnit]:
    """This process's share: prompts stay whole, and the longest are dealt out first, back and forth."""
    if ranks.size == 1:
        return list(units)
    longest = sorted(units, key=lambda unit: -(len(unit.prompt) + unit.reply_tokens))
    turn = 2 * ranks.size
    return [unit for i, unit in enumerate(longest) if ranks.rank in (i % turn, turn - 1 - i % turn)]


def units_of(units: Sequence[EncodedUnit]) -> list[Unit]:
    """The step's prompts and replies as the step engine takes them."""
    return [Unit(Prompt(None, unit.prompt), tuple(map(Branch, unit.replies))) for unit in units]


def noise_seed(seed: int, step: int, ranks: Ranks) -> int:
    """For the dropout of adapters: processes draw different noise."""
    return derive_seed(seed, step) if ranks.size == 1 else derive_seed(seed, step, ranks.rank)


def sft_step(
    runner: StepRunner[MicroBatch], units: Sequence[EncodedUnit], lr: float, seed: int = 0
) -> dict[str, float]:
    """One optimizer step on the mean loss per reply token (nats); `seed` draws the dropout of adapters, if they have
    any. Without examples the weights do not change."""
    tokens, prompts, replies = (
        runner.ranks.sum(n)
        for n in (sum(u.reply_tokens for u in units), len(units), sum(len(u.replies) for u in units))
    )
    counts = {
        "examples/prompts": float(prompts),
        "examples/replies": float(replies),
        "tokens/count": float(tokens),
    }
    if not tokens:
        return {"policy/lr": lr, "update/skipped": 1.0, **counts}
    batches = runner.cut(units_of(units))  # may check shared prompts, which dropout would blur
    adapters = runner.policy.adapters
    with nullcontext() if adapters is None else adapters.dropping(seed):
        result = runner.step(batches, lambda batch: -runner.logprobs(batch)[0].sum() / tokens, lr)
    return {
        "loss/train": result.loss,
        "policy/grad_norm": result.grad_norm,
        "policy/lr": lr,
        "update/skipped": float(not result.stepped),
        **counts,
    }


def check_cutoff(recipe: SFTRecipe, over_cutoff: Sequence[str], place: str) -> None:
    """Logs which examples are too long; ValueError where the recipe stops the run for them."""
    if not over_cutoff:
        return
    found = f"{place}: longer than cutoff_len {recipe.cutoff_len}: {', '.join(map(repr, over_cutoff))}"
    if recipe.over_cutoff == "error":
        raise ValueError(f"{found}; raise cutoff_len, or skip them with over_cutoff: drop")
    log.warning("%s; skipped", found)


def with_heldout_loss(
    examples: Sequence[Example], scored: Evaluate | None, runner: StepRunner[MicroBatch], recipe: SFTRecipe
) -> Evaluate:
    """An evaluation that measures the loss on `examples` too; its negative is the score when there is no other
    score."""

    def evaluate(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        loss = heldout_loss(runner, examples, recipe, step)
        return {"loss": loss, "score": -loss} | dict(scored(policy, engine, step) if scored is not None else {})

    return evaluate


@torch.no_grad()
def heldout_loss(runner: StepRunner[MicroBatch], examples: Sequence[Example], recipe: SFTRecipe, step: int) -> float:
    """Mean loss per reply token (nats); each process takes its share of the examples. Without any that is usable
    ValueError before the first step, later not a number: images may go away."""
    total, tokens, n, ranks = 0.0, 0, recipe.prompts_per_step, runner.ranks
    adapter = runner.policy.adapter
    known = too_long_for(adapter, recipe.cutoff_len)
    for start in ranks.mine(range(0, len(examples), n)):
        some = examples[start : start + n]
        encoded = encode_usable(adapter, some, recipe.cutoff_len, skip=step > 0, too_long=known)
        check_cutoff(recipe, encoded.over_cutoff, "heldout")
        for batch in runner.cut(units_of(encoded.units)):
            total -= float(runner.logprobs(batch)[0].sum())
            tokens += batch.packed.num_tokens
    total, tokens = ranks.sum(total), ranks.sum(tokens)
    if not tokens:
        why = f"heldout: all {len(examples)} examples are longer than cutoff_len {recipe.cutoff_len} or unusable"
        if step == 0:
            raise ValueError(why)
        log.warning("step %d: %s", step, why)
        return math.nan
    return total / tokens
