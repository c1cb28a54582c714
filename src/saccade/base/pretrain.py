"""Pre-training of the tiny base on the visual world: perception first, then short chains, then a mixture of habits.

Data parallel over CPU processes (small matrices do not use threads well): every process draws its own pictures as a
pure function of (seed, rank, step); gradients are summed over all processes and divided by the global token count.
Shape letters: B images, V visual tokens, R loss tokens.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from saccade.base.config import PretrainRecipe, PretrainStage
from saccade.base.curriculum import draw, row
from saccade.base.perception import Readouts, cell_targets, merge_targets
from saccade.base.tiny import build, write_checkpoint
from saccade.config import dump
from saccade.disk import flush, partial_of, require_space, write_text, writing
from saccade.models.config import ModelConfig
from saccade.models.forward import Features, branch_logprobs
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import Policy, load_policy
from saccade.runs.lock import locked, refuse_in_use
from saccade.world import World

log = logging.getLogger(__name__)
STATE, METRICS = "state.pt", "metrics.jsonl"


StageEvaluator = Callable[[Policy, str], dict[str, float]]
"""(policy, stage name) -> metrics."""


def train(recipe: PretrainRecipe, evaluate: StageEvaluator | None = None) -> Path:
    """Train in `recipe.processes` processes; returns the checkpoint directory. A killed run resumes from its last save.

    ValueError before anything is written when the disk is too full, or `recipe.out` contains a run of another recipe.
    """
    out = Path(recipe.out)
    config = out / "config.yaml"
    refuse_in_use(out)
    if config.exists() and config.read_text(encoding="utf-8") != dump(recipe):
        raise ValueError(f"{out} contains a run of another recipe; choose another `out`, or remove that directory")
    weights = sum(p.numel() * p.element_size() for p in build(recipe.size)[0].parameters())
    # the start, the end and each stage's end, and twice the saved state with both Adam moments
    require_space(out, weights * (2 + len(recipe.stages) + 2 * 3), "the checkpoints of the base")
    with writing(out, "what was saved is whole; free some space and run the same command again"), locked(out):
        write_text(config, dump(recipe))
        if recipe.processes == 1:
            try:
                _worker(0, recipe, evaluate)
            finally:
                torch.set_flush_denormal(False)  # the caller's arithmetic has subnormal numbers
        else:
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
            os.environ["MASTER_PORT"] = str(29500 + os.getpid() % 2000)
            spawn(_worker, (recipe, evaluate), nprocs=recipe.processes)
    return out / "model"


def _worker(rank: int, recipe: PretrainRecipe, evaluate: StageEvaluator | None) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if recipe.processes > 1:
        dist.init_process_group("gloo", rank=rank, world_size=recipe.processes)
    out = Path(recipe.out)
    start = out / "start"
    if rank == 0 and not (start / "config.json").exists():
        _whole(start, lambda path: write_checkpoint(path, recipe.size, recipe.seed))
    _barrier(recipe)
    policy = load_policy(ModelConfig(path=str(start), device="cpu", train=("vision", "projector", "language")))
    torch.manual_seed(recipe.seed)
    readouts = Readouts(policy.model, policy.processors[0])
    done = _restore(rank, out, policy, readouts)
    for number, stage in enumerate(recipe.stages):
        first = done[1] if done[0] == number else 0
        if done[0] <= number:
            _run_stage(rank, recipe, number, policy, readouts, first)
        if rank == 0 and done[0] <= number:
            _save(out, policy, readouts, None, (number + 1, 0))
            _whole(out / f"stage-{number + 1}-{stage.name}", policy.save)
            if evaluate is not None and stage.loss == "language":
                _record(out, {"stage": stage.name, **evaluate(policy, stage.name)})
        _barrier(recipe)
    if rank == 0:
        _whole(out / "model", policy.save)
    if recipe.processes > 1:
        dist.destroy_process_group()


def _whole(directory: Path, write: Callable[[Path], Any]) -> None:
    """Writes a directory beside its place and renames it, so that a killed process leaves none that is incomplete."""
    partial = partial_of(directory)
    write(partial)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def _run_stage(rank: int, recipe: PretrainRecipe, number: int, policy: Policy, readouts: Readouts, first: int) -> None:
    stage = recipe.stages[number]
    parts = policy.parameters_by_part()
    vision = [p for part in ("vision", "projector") for _, p in parts[part]]
    trains_words = stage.loss == "language"
    for parameter in vision:
        parameter.requires_grad_(stage.vision_lr > 0)
    for _, parameter in parts["language"]:
        parameter.requires_grad_(trains_words)
    groups = [{"params": vision, "scale": stage.vision_lr if trains_words else 1.0}] if stage.vision_lr > 0 else []
    groups += [{"params": [p for _, p in parts["language"]], "scale": 1.0}] if trains_words else []
    groups.append({"params": list(readouts.heads.parameters()), "scale": 1.0})
    optimizer = torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True)
    if first:
        optimizer.load_state_dict(_load(Path(recipe.out) / STATE)["optimiser"])
    worlds = [World(recipe.world), World(recipe.world.model_copy(update={"cells": recipe.world.cells + 1}))]
    seen: dict[str, list[float]] = defaultdict(list)
    started = time.perf_counter()
    for step in range(first, stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.lr * group["scale"] * _schedule(stage, step)
        rng = Random(f"{recipe.seed}/{number}/{rank}/{step}")
        # one size per process and step keeps packed rows short; sizes still mix over a run
        world = worlds[rng.random() < recipe.larger_share]
        loss, metrics = (_language if trains_words else _perception)(policy, readouts, stage, world, rng, recipe)
        loss.backward()
        grad_norm = _reduce_and_clip(optimizer, recipe)
        if torch.isfinite(grad_norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        policy.version += 1
        for name, value in metrics.items():
            seen[name].append(value)
        if rank == 0 and ((step + 1) % recipe.log_every == 0 or step + 1 == stage.steps):
            means = {name: round(sum(v) / len(v), 4) for name, v in sorted(seen.items())}
            seconds = round(time.perf_counter() - started, 1)
            _record(Path(recipe.out), {"stage": stage.name, "step": step + 1, "seconds": seconds, **means})
            seen.clear()
        if rank == 0 and (step + 1) % recipe.save_every == 0:
            _save(Path(recipe.out), policy, readouts, optimizer, (number, step + 1))


def _schedule(stage: PretrainStage, step: int) -> float:
    left = (stage.steps - step) / max(1.0, stage.steps * stage.decay)
    return min(1.0, (step + 1) / stage.warmup) * max(0.03, min(1.0, left))


def _perception(
    policy: Policy, readouts: Readouts, stage: PretrainStage, world: World, rng: Random, recipe: PretrainRecipe
) -> tuple[Tensor, dict[str, float]]:
    """Dense read-outs on `stage.rows` pictures."""
    kinds = {k: w for k, w in stage.mixture.scenes.items() if k != "pair"}  # a pair shows only shapes
    scenes = [world.scene(rng.randrange(2**31), i, "train", draw(rng, kinds)) for i in range(stage.rows)]
    prompts = [policy.adapter.encode("<image>", [world.render(s)]) for s in scenes]
    features = torch.cat(policy.adapter.vision(policy.model, prompts))
    loss, accuracy = readouts(features, merge_targets([cell_targets(s) for s in scenes]))
    return loss, {"loss": float(loss.detach()), **{f"sees/{head}": value for head, value in accuracy.items()}}


def _language(
    policy: Policy, readouts: Readouts, stage: PretrainStage, world: World, rng: Random, recipe: PretrainRecipe
) -> tuple[Tensor, dict[str, float]]:
    """Negative log-likelihood per reply token, with the token count summed over processes."""
    rows = [row(world, policy.adapter, stage.mixture, rng, i) for i in range(stage.rows)]
    rows.sort(key=lambda r: sum(len(b.ids) for b in r[1]))
    half = (len(rows) + 1) // 2
    total = torch.tensor(float(sum(len(b.loss_places()) for _, branches, _ in rows for b in branches)))
    if recipe.processes > 1:
        dist.all_reduce(total)
    loss = torch.zeros(())
    metrics: dict[str, list[float]] = defaultdict(list)
    for chunk in (rows[:half], rows[half:]):
        if chunk:
            groups = [(prompt, branches) for prompt, branches, _ in chunk]
            part = _chunk_loss(policy, groups, [name for _, _, names in chunk for name in names], metrics)
            loss = loss + part / total
    # `_reduce_and_clip` averages over processes: undo that here
    return loss * recipe.processes, {name: sum(v) / len(v) for name, v in metrics.items()}


def _chunk_loss(
    policy: Policy, groups: list[tuple[Any, list[Branch]]], names: list[str], metrics: dict[str, list[float]]
) -> Tensor:
    packed: Packed = pack(groups)
    features = [Features(one, policy.version) for one in policy.adapter.vision(policy.model, packed.prompts)]
    logprobs_R, _ = branch_logprobs(policy, packed, features=features)
    detached = logprobs_R.detach()
    sums = torch.zeros(packed.num_branches).index_add_(0, packed.branch_index_R, detached)
    counts = torch.bincount(packed.branch_index_R, minlength=packed.num_branches)
    for name, total, count in zip(names, sums.tolist(), counts.tolist(), strict=True):
        metrics[f"nll/{name}"].append(-total / count)
    return -logprobs_R.sum()


def _reduce_and_clip(optimizer: torch.optim.Optimizer, recipe: PretrainRecipe, limit: float = 1.0) -> Tensor:
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    if recipe.processes > 1:
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= recipe.processes
        at = 0
        for parameter in parameters:
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
    return nn.utils.clip_grad_norm_(parameters, limit)


def _barrier(recipe: PretrainRecipe) -> None:
    if recipe.processes > 1:
        dist.barrier()


def _save(
    out: Path, policy: Policy, readouts: Readouts, optimizer: torch.optim.Optimizer | None, done: tuple[int, int]
) -> None:
    state = {
        "model": policy.model.state_dict(),
        "heads": readouts.heads.state_dict(),
        "optimiser": optimizer.state_dict() if optimizer else None,
        "done": done,
        "metrics": (out / METRICS).stat().st_size if (out / METRICS).exists() else 0,
    }
    partial = partial_of(out / STATE)
    torch.save(state, partial)
    flush(partial)
    partial.rename(out / STATE)


def _restore(rank: int, out: Path, policy: Policy, readouts: Readouts) -> tuple[int, int]:
    """(stage, step) reached by an earlier run in this directory; (0, 0) if there is none."""
    if not (out / STATE).exists():
        return 0, 0
    state = _load(out / STATE)
    policy.model.load_state_dict(state["model"])
    readouts.heads.load_state_dict(state["heads"])
    if rank == 0 and (out / METRICS).exists():
        os.truncate(out / METRICS, min(state["metrics"], (out / METRICS).stat().st_size))  # rows of repeated steps
    number, step = state["done"]
    return number, step


def _load(path: Path) -> dict[str, Any]:
    """The saved state. ValueError, with the way out, for a damaged file."""
    try:
        return torch.load(path, weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: the file is damaged ({reason}); remove it to train from the start") from None


def _record(out: Path, line: dict[str, Any]) -> None:
    with (out / METRICS).open("a") as file:
        file.write(json.dumps(line) + "\n")
    log.info("%s", line)
