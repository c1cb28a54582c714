"""`saccade eval`: one recipe, one model, its benchmarks; leaves a run directory with items.jsonl and results.json."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from saccade.config import Config, dump
from saccade.data import open_source
from saccade.data.images import image_sha, load_image
from saccade.evaluation.config import EvalRecipe
from saccade.evaluation.evaluator import Label, evaluate, split_of
from saccade.evaluation.items import ItemResult
from saccade.evaluation.results import summarise, summarise_attempts, write_json, write_results
from saccade.evaluation.suites import world_suite
from saccade.models.policy import load_policy
from saccade.rollout.engine import open_engine
from saccade.runs.environment import describe, hash_source
from saccade.types import Sample

Progress = Callable[[str, int, int], None]
"""(decoding, done, total)."""


def run_eval(recipe: EvalRecipe, progress: Progress | None = None) -> Path:
    """Evaluate and return the path of results.json.

        results = json.loads(run_eval(load_recipe("world_eval", ["out=runs/table"])).read_text())

    Started again with the same recipe, it goes on where it was
    stopped.

    Raises ValueError before any answer is drawn when `out` holds another evaluation, or data or model are not right.
    """
    began = time.monotonic()
    out = Path(recipe.out)
    refuse_another(recipe, out)
    samples = benchmark(recipe)
    policy = load_policy(recipe.model)
    engine = open_engine(policy)
    label = Label(recipe.label, recipe.control)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(dump(recipe), encoding="utf-8")
    sources = {config.name or config.source: hash_source(config.path, dump(config)) for config in recipe.data}
    write_json(out / "environment.json", describe(policy, recipe.model.path, sources))
    save_images(samples, recipe.images, out / "images")
    results: list[ItemResult] = []
    for decoding in recipe.decodings():
        tell = (lambda done, total, name=decoding.name: progress(name, done, total)) if progress else None
        results += evaluate(engine, policy.adapter, samples, decoding, label, out / "items.jsonl", tell)
    seconds = time.monotonic() - began
    return write_results(
        out / "results.json",
        summarise(results),
        seconds=seconds,
        seed=recipe.seed,
        attempts=summarise_attempts(results),
    )


def benchmark(recipe: EvalRecipe) -> list[Sample]:
    """The questions of a recipe: data sets first, then the world."""
    samples: list[Sample] = []
    for config in recipe.data:
        source = open_source(config)
        if recipe.n is None and source.size is None:
            raise ValueError(f"data '{source.name}' has no end; give it a 'limit', or the recipe an 'n'")
        size = min(n for n in (recipe.n, source.size) if n is not None)
        samples += [source[i] for i in range(size)]
    if recipe.world:
        samples += world_suite(recipe.world.splits, recipe.world.tasks, recipe.world.n, recipe.world.seed)
    return samples


def refuse_another(recipe: Config, out: Path) -> None:
    """ValueError when `out` belongs to another evaluation; nothing is written yet."""
    config = out / "config.yaml"
    if config.exists() and config.read_text(encoding="utf-8") != dump(recipe):
        raise ValueError(
            f"{out} holds another evaluation (its config.yaml differs); choose a new `out`, or remove that directory"
        )


def save_images(samples: Sequence[Sample], most: int, folder: Path) -> None:
    """Save the images of up to `most` items, named by their hash: the first ones of each split and task in turn."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((split_of(sample), sample.task), []).append(sample)
    each = max(1, most // max(1, len(groups)))
    chosen = [sample for group in groups.values() for sample in group[:each]][:most]
    for source in (source for sample in chosen for source in sample.images):
        folder.mkdir(parents=True, exist_ok=True)
        load_image(source).save(folder / f"{image_sha(source)}.png")
