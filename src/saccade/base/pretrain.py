"""Pre-training on the visual world, of the tiny base or of a model that has a language but does not see: perception
first, then short chains, then a mixture of habits.

Every stage starts from the directory that the one before it wrote. Perception trains in one process. The language model
takes the steps of SFT and RL, which several processes of torchrun can share: each draws its own pictures as a pure
function of (seed, stage, rank, step).
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from saccade.base.config import PretrainRecipe, PretrainStage
from saccade.base.curriculum import draw, row
from saccade.base.perception import Readouts, merge_targets, token_targets
from saccade.base.tiny import build, write_checkpoint
from saccade.config import dump
from saccade.disk import flush, partial_of, read_text, require_space, write_text, writing
from saccade.models.config import ModelConfig, Part, ShardConfig
from saccade.models.forward import vision_features
from saccade.models.policy import Policy, load_policy
from saccade.runs.lock import keep_lock, locked, refuse_in_use, refuse_other_kind
from saccade.runs.records import CONFIG, Run
from saccade.training import checkpoint
from saccade.training.checkpoint import Checkpoint
from saccade.training.config import OptimConfig
from saccade.training.divergence import load_checkpoint, refuse_diverged
from saccade.training.master_weights import MasterAdamW
from saccade.training.optim import GuardedOptimizer, TrainingStopped
from saccade.training.ranks import ONE, Ranks, join
from saccade.training.saved_state import FinishedStage, SavedStage, fault_of
from saccade.training.sharded_checkpoint import ShardWriter
from saccade.training.step import MicroBatch, StepRunner, Unit
from saccade.world import World

log = logging.getLogger(__name__)
STATE = "stage.pt"
"""In the directory of a finished stage: the weights of the read-out heads, and the sizes of the records."""
SEAL = "stage.json"
"""There too: the size and hash of every file."""
TOKENS_PER_MICRO_BATCH = 4096


def train(recipe: PretrainRecipe) -> Path:
    """Train; returns the checkpoint directory. A killed run resumes: perception from the last finished stage, the
    language model from its last save. Under torchrun each process makes the same call.

    ValueError before anything is written when the disk is too full, or `recipe.out` contains a run of another recipe.
    """
    out, ranks = Path(recipe.out), join()
    with ExitStack() as stack:
        stack.enter_context(writing(out, "what was saved is whole; free some space and run the same command again"))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(torch.set_flush_denormal, False)  # the caller's arithmetic has subnormal numbers
        torch.set_num_threads(1)  # small matrices do not use more well
        torch.set_flush_denormal(True)
        ranks.on_first(lambda: _open(out, recipe, stack))
        before = out / "start"
        for number, stage in enumerate(recipe.stages):
            after = _after(out, number, stage)
            if not ranks.on_first(after.is_dir):
                ranks.on_first(partial(_refuse_damaged, before))
                run = StageRun(recipe, number, before, after, ranks)
                try:
                    if stage.loss == "language":
                        run.speak()
                    else:
                        ranks.on_first(run.perceive)
                except (FloatingPointError, TrainingStopped) as error:
                    way = "lower its lr, and choose another 'out' or remove that directory"
                    raise TrainingStopped(f"{out}: stage '{stage.name}': {error}; {way}") from None
            before = after
        ranks.on_first(partial(_refuse_damaged, before))
        ranks.on_first(partial(checkpoint.link, out, "model", before.name))
    return out / "model"


def _after(out: Path, number: int, stage: PretrainStage) -> Path:
    return out / f"stage-{number + 1}-{stage.name}"


def _saves(after: Path) -> Path:
    """The run directory of an unfinished stage."""
    return after.with_name(f"{after.name}-unfinished")


def _open(out: Path, recipe: PretrainRecipe, stack: ExitStack) -> None:
    """Checks the directory, locks it, and writes the recipe and the model to start from."""
    _refuse_other(out, recipe)
    refuse_in_use(out)
    for number, stage in enumerate(recipe.stages):
        after = _after(out, number, stage)
        for path in (after, _saves(after)):
            if os.path.lexists(path) and not path.is_dir():
                raise ValueError(f"{path} is no directory, but stage '{stage.name}' writes one there; move it away")
    given = None if recipe.start is None else load_policy(ModelConfig(path=recipe.start, device="cpu", train=()))
    model = build(recipe.size)[0] if given is None else given.model
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # the start and each stage's end, and twice the saved state with both Adam moments
    require_space(out, weights * (1 + len(recipe.stages) + 2 * 3), "the checkpoints of the base")
    stack.enter_context(locked(out))
    _refuse_other(out, recipe)  # another command may have begun while the model was loaded
    write_text(out / CONFIG, dump(recipe))
    if not (out / "start").exists():
        unfinished = partial_of(out / "start")
        if given is None:
            write_checkpoint(unfinished, recipe.size, recipe.seed)
        else:
            given.save(unfinished)
        _publish(unfinished, out / "start", {})


def _refuse_other(out: Path, recipe: PretrainRecipe) -> None:
    """ValueError when the directory belongs to something else."""
    refuse_other_kind(out, recipe.kind)
    config = out / CONFIG
    if config.exists() and read_text(config) != dump(recipe):
        raise ValueError(f"{out} contains a run of another recipe; choose another `out`, or remove that directory")


def _publish(unfinished: Path, directory: Path, heads: dict[str, Tensor]) -> None:
    """A stage's result appears whole or not at all."""
    torch.save({"heads": heads, "sizes": Run(directory.parent).sizes()}, unfinished / STATE)
    checkpoint.seal(unfinished, {}, SEAL)
    keep_lock(directory)
    unfinished.rename(directory)
    flush(directory.parent)


def _refuse_damaged(directory: Path) -> None:
    """ValueError, with the way out, where a file of a finished stage is not as the stage wrote it."""
    if not (directory / STATE).is_file():
        raise _damaged(directory, "it is missing, or no file", STATE)
    if not (directory / SEAL).exists():
        log.warning(
            "%s was made by an earlier version, without %s: whether its files changed is unknown", directory, SEAL
        )
    elif isinstance(found := checkpoint.sealed(directory, SEAL), str):
        raise _damaged(directory, found)


def _state_of(directory: Path) -> FinishedStage:
    """What `_publish` saved. ValueError, with the way out, for a damaged file."""
    try:
        state = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError, *checkpoint.OF_ANOTHER) as error:
        raise _damaged(directory, str(error) or type(error).__name__, STATE) from None
    if fault := fault_of(state, FinishedStage):
        raise _damaged(directory, f"'{fault}' is missing or odd", STATE)
    return state


def _damaged(directory: Path, reason: str, name: str = "") -> ValueError:
    what = f"{directory / name}: the file" if name else f"{directory}: the stage"
    return ValueError(
        f"{what} is damaged ({reason.splitlines()[0][:200]}); remove {directory} and what came after it, to train "
        "from there"
    )


def _saved_of(saves: Path) -> Checkpoint | None:
    """Where an unfinished stage continues. ValueError, with the way out, for a state of another kind."""
    found = checkpoint.latest(saves)
    if found and (fault := fault_of(found.state, SavedStage)):
        raise ValueError(
            f"{found.path / checkpoint.STATE_FILE}: '{fault}' is missing or odd; remove {saves}, to train that "
            "stage anew"
        )
    return found


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage: where it starts, and where its result goes."""

    recipe: PretrainRecipe
    number: int
    before: Path
    after: Path
    ranks: Ranks

    @property
    def stage(self) -> PretrainStage:
        return self.recipe.stages[self.number]

    @property
    def saves(self) -> Path:
        return _saves(self.after)

    def perceive(self) -> None:
        """Dense read-outs on `stage.rows` pictures a step."""
        stage, run, state = self.stage, Run(self.after.parent), _state_of(self.before)
        run.cut_back(state["sizes"], None)
        policy = self._load(("vision", "projector") if stage.vision_lr > 0 else ())
        torch.manual_seed(self.recipe.seed)
        readouts = Readouts(policy.model, policy.processors[0])
        try:
            readouts.heads.load_state_dict(state["heads"] or readouts.heads.state_dict())
        except RuntimeError as error:
            raise _damaged(self.before, " ".join(str(error).split()), STATE) from None
        vision = [parameter for _, parameter in policy.trainable()]
        optimizer = self._optimizer([{"params": some} for some in (vision, [*readouts.heads.parameters()]) if some])
        kinds = {k: w for k, w in stage.mixture.scenes.items() if k != "pair"}  # a pair shows only shapes

        def update(world: World, rng: Random, lr: float) -> dict[str, float]:
            scenes = [world.scene(rng.randrange(2**31), i, "train", draw(rng, kinds)) for i in range(stage.rows)]
            prompts = [policy.adapter.encode("<image>", [world.render(scene)]) for scene in scenes]
            # of several vectors of a token (Qwen3-VL) the one for the language model's input
            features = [f.values if f.values.ndim == 2 else f.values[:, 0] for f in vision_features(policy, prompts)]
            targets = [token_targets(scene, len(one)) for scene, one in zip(scenes, features, strict=True)]
            loss, accuracy = readouts(torch.cat(features), merge_targets(targets), stage.likeness)
            loss.backward()
            optimizer.step(lr, float(loss.detach()))
            return {"loss": float(loss.detach()), **{f"sees/{head}": value for head, value in accuracy.items()}}

        self._steps(run, 0, 0, {}, update, lambda step, seen: None)
        self._finish(policy, readouts.heads.state_dict(), ONE)

    def speak(self) -> None:
        """The loss of the language model on `stage.rows` pictures a step in each process."""
        stage, ranks, state = self.stage, self.ranks, _state_of(self.before)
        run, found = Run(self.after.parent, ranks.is_first), ranks.on_first(partial(_saved_of, self.saves))
        ranks.on_first(partial(run.cut_back, found.state["sizes"] if found else state["sizes"], None))
        scales: dict[Part, float] = {
            "vision": stage.vision_lr,
            "projector": stage.vision_lr,
            "language": stage.language_lr,
        }
        train: tuple[Part, ...] = ()
        if stage.lora is None:
            train = tuple(part for part, scale in scales.items() if scale > 0)
        policy = self._load(train, found.path if found else None)
        parts = policy.parameters_by_part()
        groups = [{"params": [p for _, p in parts[part]], "scale": scales[part]} for part in train]
        optimizer = self._optimizer(groups or [{"params": [p for _, p in policy.trainable()]}])
        if found:
            checkpoint.restore(found, policy, optimizer)
        runner = StepRunner[MicroBatch](policy, optimizer, TOKENS_PER_MICRO_BATCH, "on", ranks)
        writer = ShardWriter(ranks) if ranks.size > 1 else None

        def update(world: World, rng: Random, lr: float) -> dict[str, float]:
            rows = [row(world, policy.adapter, stage.mixture, rng, i) for i in range(stage.rows)]
            return language_step(runner, rows, lr)

        def saved(path: Path) -> None:
            checkpoint.prune(self.saves, keep=1)

        def save(step: int, seen: dict[str, list[float]]) -> None:
            facts = {"step": step, "sizes": run.sizes(), "seen": seen}
            if writer is None:
                saved(checkpoint.save(self.saves, policy, optimizer, facts))
            else:
                writer.start(self.saves, policy, optimizer, facts, saved)

        first, seen = (found.step, found.state.get("seen")) if found else (0, {})
        if seen is None and first % self.recipe.log_every:
            log.warning(
                "%s: an earlier version saved it without the values since the last row: the next row of stage '%s' "
                "has the means from step %d on",
                *(self.saves, stage.name, first + 1),
            )
        self._steps(run, ranks.rank, first, seen or {}, update, save)
        if writer is not None:
            writer.finish()
        self._finish(policy, state["heads"], ranks)

    def _load(self, train: tuple[Part, ...], saved: Path | None = None) -> Policy:
        """The model of the stage before, or as this stage has saved it."""
        speaks = self.stage.loss == "language"
        shard = ShardConfig() if speaks and self.ranks.size > 1 else None
        dtype = self.recipe.dtype if speaks else "float32"
        model = ModelConfig(path=str(self.before), device="cpu", dtype=dtype, train=train, lora=self.stage.lora)
        return load_checkpoint(model, self.recipe.seed, saved, shard)

    def _optimizer(self, groups: Sequence[dict[str, Any]]) -> GuardedOptimizer:
        lr, decay = self.stage.lr, self.recipe.weight_decay
        adamw = MasterAdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=decay, fused=True)
        return GuardedOptimizer(adamw, OptimConfig(lr=lr))

    def _steps(
        self,
        run: Run,
        rank: int,
        first: int,
        before: dict[str, list[float]],
        update: Callable[[World, Random, float], dict[str, float]],
        save: Callable[[int, dict[str, list[float]]], None],
    ) -> None:
        recipe, stage, started = self.recipe, self.stage, time.perf_counter()
        worlds = [World(recipe.world), World(recipe.world.model_copy(update={"cells": recipe.world.cells + 1}))]
        seen = defaultdict[str, list[float]](list, before)
        for step in range(first, stage.steps):
            rng = Random(f"{recipe.seed}/{self.number}/{rank}/{step}")
            # one size per process and step keeps packed rows short; sizes still mix over a run
            world = worlds[rng.random() < recipe.larger_share]
            for name, value in update(world, rng, stage.lr * _schedule(stage, step)).items():
                seen[name].append(value)
            if (step + 1) % recipe.log_every == 0 or step + 1 == stage.steps:
                means = {name: sum(values) / len(values) for name, values in sorted(seen.items())}
                line = {"stage": stage.name, "seconds": round(time.perf_counter() - started, 1), **means}
                run.metrics(step + 1, line)
                log.info("step %d: %s", step + 1, line)
                seen.clear()
            if (step + 1) % recipe.save_every == 0:
                save(step + 1, {name: [*values] for name, values in seen.items()})

    def _finish(self, policy: Policy, heads: dict[str, Tensor], ranks: Ranks) -> None:
        refuse_diverged(policy, self.stage.steps)
        if not all(head.isfinite().all() for head in heads.values()):
            raise TrainingStopped(f"after step {self.stage.steps}, the last one, the read-outs are not finite")
        unfinished = partial_of(self.after)
        if policy.adapters is None:
            policy.save(unfinished)
        else:  # merged, since the next stage may train adapters of its own
            policy.save(self.saves / "adapters")
            merged = ModelConfig(path=str(self.saves / "adapters"), device="cpu", dtype=self.recipe.dtype, train=())
            ranks.on_first(lambda: load_policy(merged).save(unfinished))
        ranks.on_first(partial(_publish, unfinished, self.after, heads))
        ranks.on_first(partial(shutil.rmtree, self.saves, ignore_errors=True))


def language_step(
    runner: StepRunner[MicroBatch], rows: Sequence[tuple[Unit, list[str]]], lr: float
) -> dict[str, float]:
    """One update on the negative log-likelihood per reply token of the pictures of all processes, each with the names
    of its replies; that loss (nats), and by name in this process the loss (`nll`) and the mean probability of a whole
    reply (`whole`), which is how often sampling would give it word for word. The pictures are new at every step."""
    units, names = [unit for unit, _ in rows], [names for _, names in rows]
    tokens = runner.ranks.sum(sum(len(branch.loss_places()) for unit in units for branch in unit.branches))
    found: dict[str, list[float]] = defaultdict(list)

    def loss_of(batch: MicroBatch) -> Tensor:
        logprobs_R, of_R = runner.logprobs(batch)[0], batch.packed.branch_index_R
        sums = torch.zeros(batch.packed.num_branches).index_add_(0, of_R, logprobs_R.detach()).tolist()
        for (unit, branch), total, count in zip(batch.members, sums, torch.bincount(of_R).tolist(), strict=True):
            found[f"nll/{names[unit][branch]}"].append(-total / count)
            found[f"whole/{names[unit][branch]}"].append(math.exp(total))
        return -logprobs_R.sum() / tokens

    result = runner.step(runner.cut(units), loss_of, lr, begin=found.clear)
    return {"loss": result.loss, **{name: sum(values) / len(values) for name, values in found.items()}}


def _schedule(stage: PretrainStage, step: int) -> float:
    left = (stage.steps - step) / max(1.0, stage.steps * stage.decay)
    return min(1.0, (step + 1) / stage.warmup) * max(0.03, min(1.0, left))
