"""The jobs of the demo. Each runs in a process of its own with its directory, and returns what `job.json` keeps."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from saccade.data import DataConfig
from saccade.evaluation.config import EvalRecipe, WorldBenchmark
from saccade.evaluation.recipe import run_eval
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.config import Sampling
from saccade.rollout.stages import Stage, Until
from saccade.studies.chains import ChainSource, write_chains
from saccade.studies.demo_recipe import DemoRecipe
from saccade.studies.rejection import sample_right
from saccade.training import rl as rl_loop
from saccade.training import sft as sft_loop
from saccade.training.config import CheckpointConfig, EvalConfig, ExampleConfig, SFTRecipe
from saccade.training.examples import draw_from
from saccade.world import World
from saccade.world.splits import find_split

Left = dict[str, Any]
WATCHED, WATCH_EVERY, WATCH_SEED = 24, 20, 5
"""Questions per task, steps between looks, and the seed of the questions that RL runs answer on their way."""


def tasks_of(recipe: DemoRecipe, split: str) -> list[str]:
    """The recipe's tasks that a split has."""
    return [task for task in recipe.tasks if task in find_split(split).tasks]


def matched_steps_guess(recipe: DemoRecipe) -> int:
    """For the progress bar only: the real number of steps follows from measured CPU seconds."""
    return 2 * recipe.sft_steps


def cold_start(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> Left:
    """The cold-start set: the world's own chains, right answers by every habit of the recipe."""
    policy = load_policy(ModelConfig(path=recipe.base))
    source = ChainSource(World(), policy.adapter, recipe.tasks, recipe.habits, seed)
    path = write_chains(source, directory, recipe.cold_start_rows)
    return {"rows": recipe.cold_start_rows, "path": str(path.relative_to(out))}


def sft(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> Left:
    """SFT of the base on the cold-start set."""
    files = (ExampleConfig(path=out / "coldstart" / "train.jsonl"),)
    return _timed_sft(_sft_recipe(recipe, recipe.base, recipe.sft_steps, seed, files), directory, None)


def rl(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> Left:
    """GRPO from the SFT model through both stages; the end of the first stage is kept as a checkpoint."""
    first, _ = recipe.stage_ends
    began = time.process_time()
    outcome = rl_loop.train(rl_recipe(recipe, _last(out / "sft"), recipe.rl_stages, seed, first), directory)
    return {"steps": outcome.step, "train_cpu_s": time.process_time() - began}


def more_sft(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> Left:
    """Control: from the same SFT model, the CPU seconds of RL spent on more chains of the cold start's kind."""
    steps = max(1, round(_left(out, "rl")["train_cpu_s"] / _sft_step_s(out)))
    policy = load_policy(ModelConfig(path=recipe.base))
    source = ChainSource(World(), policy.adapter, recipe.tasks, recipe.habits, seed + 1_000_000)
    return _timed_sft(_sft_recipe(recipe, _last(out / "sft"), steps, seed), directory, source.draw())


def rejection(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> Left:
    """Control: the CPU seconds of RL spent on sampling from the SFT model and learning its own right answers."""
    budget = float(_left(out, "rl")["train_cpu_s"])
    sampling = Sampling(max_new_tokens=recipe.rl_stages[1].max_new_tokens)
    began = time.process_time()
    kept, drawn = sample_right(
        ModelConfig(path=_last(out / "sft")), _world_data(recipe, seed), sampling, recipe.rejection_k, seed,
        budget * recipe.rejection_sampling_share,
    )  # fmt: skip
    if not kept:
        raise ValueError(f"none of {drawn} sampled replies was right; nothing to fine-tune on")
    left = budget - (time.process_time() - began)
    steps = max(1, round(left / _sft_step_s(out)))
    draw, prompts = draw_from(kept, seed)
    recorded = _timed_sft(_sft_recipe(recipe, _last(out / "sft"), steps, seed), directory, draw)
    recorded["train_cpu_s"] += budget - left
    return {**recorded, "drawn": drawn, "kept": len(kept), "prompts": prompts}


def short_cap(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> Left:
    """Control of the second stage: from the end of the first, the second's tokens spent under the first's cap."""
    first, _ = recipe.stage_ends
    rows = [json.loads(line) for line in (out / "rl" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tokens = {row["step"]: float(row["tokens/count"]) for row in rows if "tokens/count" in row}
    wanted = sum(count for step, count in tokens.items() if step > first)
    tail = [count for step, count in tokens.items() if first - 10 < step <= first]
    steps = max(1, math.ceil(wanted / (sum(tail) / len(tail))))
    stage = recipe.rl_stages[0].model_copy(update={"name": "short cap", "until": Until(step=steps)})
    start = str(out / "rl" / "checkpoints" / f"step-{first:06d}")
    began = time.process_time()
    rl_loop.train(rl_recipe(recipe, start, (stage,), seed + 1, steps), directory)
    return {"steps": steps, "tokens_wanted": wanted, "train_cpu_s": time.process_time() - began}


def evaluate(directory: Path, recipe: DemoRecipe, out: Path, seed: int, model: str, control: str | None) -> Left:
    """One model on the held-out questions: greedy and sampled, then greedy and sampled with the habit forced."""
    path = {"base": recipe.base, "sft": _last(out / "sft"), "rl": _last(out / "rl")}
    where = path.get(model) or _last(out / "controls" / model)
    for forced in (False, True):
        splits = recipe.splits[:1] if forced else recipe.splits
        name = f"forced: {recipe.forced}" if forced else control
        run_eval(
            EvalRecipe(
                model=ModelConfig(path=where, train=()),
                label=model,
                control=name,
                world=WorldBenchmark(splits=splits, tasks=recipe.tasks, n=recipe.n, seed=recipe.benchmark_seed),
                max_new_tokens=recipe.max_new_tokens,
                forced_prefix=recipe.forced if forced else "",
                batch_size=100,
                images=0,
                out=str(directory / ("forced" if forced else "free")),
            ),
            _count_to(directory / "items.jsonl"),
        )
    return {}


def _count_to(path: Path) -> Any:
    """A progress function that adds a line to a file per item, for the study's bar."""
    seen = {"done": 0}

    def tell(decoding: str, done: int, total: int) -> None:
        new = done - seen["done"] if done > seen["done"] else done
        seen["done"] = done
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{decoding}\n" * new)

    return tell


def _sft_recipe(
    recipe: DemoRecipe, model: str, steps: int, seed: int, files: tuple[ExampleConfig, ...] = ()
) -> SFTRecipe:
    return SFTRecipe(
        seed=seed,
        model=ModelConfig(path=model),
        data=files,
        num_steps=steps,
        prompts_per_step=recipe.sft_prompts,
        optim=recipe.sft_optim,
        checkpoint=CheckpointConfig(every=steps, keep=1),
    )


def _timed_sft(recipe: SFTRecipe, directory: Path, draw: Any) -> Left:
    began = time.process_time()
    outcome = sft_loop.train(recipe, directory, draw)
    spent = time.process_time() - began
    return {"steps": outcome.step, "train_cpu_s": spent}


def rl_recipe(
    recipe: DemoRecipe, model: str, stages: tuple[Stage, ...], seed: int, save_every: int
) -> rl_loop.RLRecipe:
    """The RL run of the demo, from `model` through `stages`."""
    last = max(stage.until.step or 1 for stage in stages if stage.until)
    return rl_loop.RLRecipe(
        seed=seed,
        model=ModelConfig(path=model),
        data=_world_data(recipe, seed),
        stages=stages,
        prompts_per_step=recipe.rl_prompts,
        loss=recipe.rl_loss,
        optim=recipe.rl_optim,
        # all are kept, those of a new best score too: a control starts from the first stage's
        checkpoint=CheckpointConfig(every=save_every, keep=math.ceil(last / save_every) + last // WATCH_EVERY),
        images_per_step=1,
        eval=EvalConfig(every=WATCH_EVERY, data=_watched(recipe), greedy=False, max_new_tokens=recipe.max_new_tokens),
    )


def _watched(recipe: DemoRecipe) -> tuple[DataConfig, ...]:
    """Questions that a run answers on its way, under the evaluation's cap: they draw the curves and choose nothing."""
    split = recipe.splits[0]
    return tuple(
        DataConfig(source="world", task=task, split=split, seed=WATCH_SEED, limit=WATCHED)
        for task in tasks_of(recipe, split)
    )


def _world_data(recipe: DemoRecipe, seed: int) -> tuple[DataConfig, ...]:
    """Training questions: the split 'train', a seed away from the cold start's."""
    return tuple(DataConfig(source="world", task=task, seed=seed + 500_000) for task in recipe.tasks)


def _last(run: Path) -> str:
    """The checkpoint at a run's end. No part of the demo chooses a checkpoint by held-out questions."""
    return str(run / "checkpoints" / "last")


def _left(out: Path, name: str) -> Left:
    return json.loads((out / name / "job.json").read_text(encoding="utf-8"))


def _sft_step_s(out: Path) -> float:
    left = _left(out, "sft")
    return float(left["train_cpu_s"]) / int(left["steps"])
