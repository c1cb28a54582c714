"""The jobs of the demo. Each runs in its own process and directory, and returns the content of `job.json`."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from saccade.data import DataConfig
from saccade.evaluation import benchmarking
from saccade.evaluation.config import Decoding, EvalRecipe, WorldBenchmark
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.config import Sampling
from saccade.rollout.stages import Stage, Until
from saccade.studies.chains import ChainSource, write_chains
from saccade.studies.demo_recipe import DemoRecipe
from saccade.studies.jobs import needed
from saccade.studies.rejection import sample_right
from saccade.training import rl as rl_loop
from saccade.training import sft as sft_loop
from saccade.training.config import CheckpointConfig, EvalConfig, ExampleConfig, SFTRecipe
from saccade.training.examples import draw_from
from saccade.world import World
from saccade.world.splits import find_split

JobResult = dict[str, Any]
EVAL_QUESTIONS, EVAL_EVERY, EVAL_SEED = 24, 20, 5
"""Questions per task, steps between evaluations, and question seed for evaluation during RL runs."""


def tasks_of(recipe: DemoRecipe, split: str) -> list[str]:
    """The tasks of the recipe that a split contains."""
    return [task for task in recipe.tasks if task in find_split(split).tasks]


def matched_steps_guess(recipe: DemoRecipe) -> int:
    """For the progress bar only: the actual number of steps depends on measured CPU seconds."""
    return 2 * recipe.sft_steps


def cold_start(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> JobResult:
    """The cold-start set: chains of the world with right answers in every habit of the recipe."""
    policy = load_policy(ModelConfig(path=recipe.base))
    source = ChainSource(World(), policy.adapter, recipe.tasks, recipe.habits, seed)
    path = write_chains(source, directory, recipe.cold_start_rows)
    return {"rows": recipe.cold_start_rows, "path": str(path.relative_to(out))}


def sft(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> JobResult:
    """SFT of the base on the cold-start set."""
    files = (ExampleConfig(path=out / "coldstart" / "train.jsonl"),)
    return _timed_sft(_sft_recipe(recipe, recipe.base, recipe.sft_steps, seed, files), directory, None)


def rl(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> JobResult:
    """GRPO from the SFT model through both stages; keeps a checkpoint at the end of the first stage."""
    first, _ = recipe.stage_ends
    started = time.process_time()
    outcome = rl_loop.train(rl_recipe(recipe, _last_checkpoint(out / "sft"), recipe.rl_stages, seed, first), directory)
    return {"steps": outcome.step, "train_cpu_s": time.process_time() - started}


def more_sft(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> JobResult:
    """Control: continues SFT on more cold-start chains for as many CPU seconds as RL."""
    steps = max(1, round(needed(out / "rl")["train_cpu_s"] / _sft_step_s(out)))
    policy = load_policy(ModelConfig(path=recipe.base))
    source = ChainSource(World(), policy.adapter, recipe.tasks, recipe.habits, seed + 1_000_000)
    return _timed_sft(_sft_recipe(recipe, _last_checkpoint(out / "sft"), steps, seed), directory, source.draw())


def rejection(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> JobResult:
    """Control: samples from the SFT model and fine-tunes on its own right answers for as many CPU seconds as RL."""
    budget = float(needed(out / "rl")["train_cpu_s"])
    sampling = Sampling(max_new_tokens=recipe.rl_stages[1].max_new_tokens)
    started = time.process_time()
    kept, num_samples = sample_right(
        ModelConfig(path=_last_checkpoint(out / "sft")), _world_data(recipe, seed), sampling, recipe.rejection_k, seed,
        budget * recipe.rejection_sampling_share,
    )  # fmt: skip
    if not kept:
        raise ValueError(f"none of the {num_samples} sampled replies was right; nothing to fine-tune on")
    remaining = budget - (time.process_time() - started)
    steps = max(1, round(remaining / _sft_step_s(out)))
    draw, prompts = draw_from(kept, seed)
    recorded = _timed_sft(_sft_recipe(recipe, _last_checkpoint(out / "sft"), steps, seed), directory, draw)
    recorded["train_cpu_s"] += budget - remaining
    return {**recorded, "drawn": num_samples, "kept": len(kept), "prompts": prompts}


def short_cap(directory: Path, recipe: DemoRecipe, out: Path, seed: int) -> JobResult:
    """Control of the second stage: continues from the end of the first with its short cap for as many tokens."""
    first, _ = recipe.stage_ends
    rows = [json.loads(line) for line in (out / "rl" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tokens = {row["step"]: float(row["tokens/count"]) for row in rows if "tokens/count" in row}
    token_budget = sum(count for step, count in tokens.items() if step > first)
    tail = [count for step, count in tokens.items() if first - 10 < step <= first]
    steps = max(1, math.ceil(token_budget / (sum(tail) / len(tail))))
    stage = recipe.rl_stages[0].model_copy(update={"name": "short cap", "until": Until(step=steps)})
    start = str(out / "rl" / "checkpoints" / f"step-{first:06d}")
    started = time.process_time()
    rl_loop.train(rl_recipe(recipe, start, (stage,), seed + 1, steps), directory)
    return {"steps": steps, "tokens_wanted": token_budget, "train_cpu_s": time.process_time() - started}


def evaluate(directory: Path, recipe: DemoRecipe, out: Path, seed: int, model: str, control: str | None) -> JobResult:
    """One model on the held-out questions: greedy and sampled, then greedy and sampled with the habit forced."""
    paths = {"base": recipe.base, "sft": _last_checkpoint(out / "sft"), "rl": _last_checkpoint(out / "rl")}
    path = paths.get(model) or _last_checkpoint(out / "controls" / model)
    for forced in (False, True):
        splits = recipe.splits[:1] if forced else recipe.splits
        name = f"forced: {recipe.forced}" if forced else control
        benchmarking.evaluate(
            EvalRecipe(
                model=ModelConfig(path=path, train=()),
                label=model,
                control=name,
                world=WorldBenchmark(splits=splits, tasks=recipe.tasks, n=recipe.n, seed=recipe.benchmark_seed),
                decoding=Decoding(greedy=False, max_new_tokens=recipe.max_new_tokens),
                also_greedy=True,
                forced_prefix=recipe.forced if forced else "",
                batch_size=100,
                kept_images=0,
                out=str(directory / ("forced" if forced else "free")),
            ),
            _count_to(directory / "items.jsonl"),
        )
    return {}


def _count_to(path: Path) -> Any:
    """A progress function that appends a line to a file per item, for the progress bar."""
    seen = {"done": 0}
    if path.is_symlink():  # in a folder of others
        path.unlink()

    def report(decoding: str, done: int, total: int) -> None:
        new = done - seen["done"] if done > seen["done"] else done
        seen["done"] = done
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{decoding}\n" * new)

    return report


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


def _timed_sft(recipe: SFTRecipe, directory: Path, draw: Any) -> JobResult:
    started = time.process_time()
    outcome = sft_loop.train(recipe, directory, draw)
    return {"steps": outcome.step, "train_cpu_s": time.process_time() - started}


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
        # keep all, including those of new best scores: a control starts from the end of the first stage
        checkpoint=CheckpointConfig(every=save_every, keep=math.ceil(last / save_every) + last // EVAL_EVERY),
        images_per_step=1,
        eval=EvalConfig(
            every=EVAL_EVERY,
            data=_eval_data(recipe),
            decoding=Decoding(greedy=False, max_new_tokens=recipe.max_new_tokens),
        ),
    )


def _eval_data(recipe: DemoRecipe) -> tuple[DataConfig, ...]:
    """Evaluation questions during a run, under the evaluation's cap: only for the curves, not for selection."""
    split = recipe.splits[0]
    return tuple(
        DataConfig(source="world", task=task, split=split, seed=EVAL_SEED, limit=EVAL_QUESTIONS)
        for task in tasks_of(recipe, split)
    )


def _world_data(recipe: DemoRecipe, seed: int) -> tuple[DataConfig, ...]:
    """Training questions: the split 'train', with seeds that differ from the cold start's."""
    return tuple(DataConfig(source="world", task=task, seed=seed + 500_000) for task in recipe.tasks)


def _last_checkpoint(run: Path) -> str:
    """The checkpoint at the end of a run. The demo never selects a checkpoint by held-out questions."""
    return str(run / "checkpoints" / "last")


def _sft_step_s(out: Path) -> float:
    result = needed(out / "sft")
    return float(result["train_cpu_s"]) / int(result["steps"])
