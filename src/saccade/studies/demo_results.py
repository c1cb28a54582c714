"""Results of the demo: the table of all models and controls, paired comparisons, and samples before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.data.images import load_image
from saccade.evaluation.benchmarks.own import world_suite
from saccade.evaluation.items import ItemResult, read_items
from saccade.evaluation.results import compare, comparison_row, mean_listings, summarize, write_json, write_results
from saccade.studies.demo_recipe import DemoRecipe

MODELS = ("base", "sft", "rl", "more_sft", "rejection", "short_cap")
SAMPLE_MODELS = ("base", "sft", "rl")
SAMPLES_PER_TASK = 3


def write_demo(recipe: DemoRecipe, out: Path, seed: int, jobs: Mapping[str, Mapping[str, Any]], seconds: float) -> None:
    """Write results.json, demo.json and samples.json from the items of all evaluations."""
    items = {name: _items(out, name, "free") for name in MODELS}
    forced = {name: _items(out, name, "forced") for name in MODELS}
    everything = [item for name in MODELS for item in (*items[name], *forced[name])]
    spent = float(sum(job["cpu_s"] for job in jobs.values()))
    write_results(out / "results.json", summarize(everything), seconds=seconds, seed=seed)
    write_json(
        out / "demo.json",
        {
            "title": "Saccade demo",
            "seed": seed,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(spent, 1),
            "comparisons": comparisons(recipe, items, forced),
            "listings": {
                name: round(mean_listings(_pick(items[name], recipe.splits[0], "sampled")), 3) for name in MODELS
            },
            "habits": {name: _habits(_pick(items[name], recipe.splits[0], "sampled")) for name in MODELS},
            "compute": {name: dict(job) for name, job in jobs.items()},
            "notes": notes(recipe, jobs),
            "commands": f"saccade demo --seed {seed}",
        },
    )
    write_json(out / "samples.json", _samples(recipe, out, items))


def comparisons(
    recipe: DemoRecipe, items: Mapping[str, Sequence[ItemResult]], forced: Mapping[str, Sequence[ItemResult]]
) -> list[dict[str, Any]]:
    """Paired differences on the same questions, the headline first."""
    home, *others = recipe.splits
    rows: list[dict[str, Any]] = []

    def row(words: str, of: Mapping[str, Sequence[ItemResult]], a: str, b: str, split: str, decoding: str) -> None:
        pair = (_pick(of[name], split, decoding) for name in (a, b))
        rows.append(comparison_row(compare(f"{words}, {split}, {decoding}", *pair)))

    for split in (home, *others):
        for decoding in ("sampled", "greedy"):
            row("RL - SFT", items, "rl", "sft", split, decoding)
    for other, words in (("more_sft", "more SFT"), ("rejection", "rejection-sampling SFT")):
        for decoding in ("sampled", "greedy"):
            row(f"RL - {words} (equal compute)", items, "rl", other, home, decoding)
        row(f"RL - {words}, both forced to the same habit", forced, "rl", other, home, "greedy")
    row("RL - SFT, both forced to the same habit", forced, "rl", "sft", home, "greedy")
    for split in (home, *others):
        row("longer second stage - short cap (equal tokens)", items, "rl", "short_cap", split, "sampled")
    return rows


def notes(recipe: DemoRecipe, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Notes on the setup, for reading the numbers."""
    rl = results["rl"]
    more, rejection, short = (results[f"controls/{name}"] for name in ("more_sft", "rejection", "short_cap"))
    return [
        f"All models answer the same {recipe.n} held-out questions per split and task, which influenced no choice.",
        f"Training CPU seconds: RL {rl['train_cpu_s']:.0f}, more SFT {more['train_cpu_s']:.0f}, rejection-sampling SFT "
        f"{rejection['train_cpu_s']:.0f} ({rejection['kept']} right replies kept of {rejection['drawn']} sampled).",
        f"Control 'forced': every reply begins with '{recipe.forced}', so all models use the same habit. "
        "A difference that disappears when forced comes from the choice of habit, not from better skill.",
        f"Control 'short cap': from the end of the first stage, {short['steps']} more steps under the first cap, "
        "about as many sampled tokens as the second stage used, with a new optimizer state.",
        "Every reply in the cold-start set ends in the true answer; habits differ only in the text before it.",
        "The results hold for this base model and this world only.",
    ]


def _items(out: Path, name: str, part: str) -> list[ItemResult]:
    folder = out / "eval" / name
    found = read_items(folder / part / "items.jsonl")
    if not found:
        raise ValueError(f"{folder / part}/items.jsonl is empty; remove {folder} and run again")
    return found


def _pick(items: Sequence[ItemResult], split: str, decoding: str) -> list[ItemResult]:
    return [item for item in items if item.split == split and item.decoding == decoding]


def _habits(items: Sequence[ItemResult]) -> dict[str, float]:
    """Share of replies by habit."""
    named = [habit for item in items for habit in item.habits]
    return {habit: round(named.count(habit) / len(named), 3) for habit in sorted(set(named))}


def _samples(recipe: DemoRecipe, out: Path, items: Mapping[str, Sequence[ItemResult]]) -> list[dict[str, Any]]:
    """The first held-out questions of each task with the greedy replies of base, SFT and RL, and their images."""
    split = recipe.splits[0]
    by_id = {name: {item.sample_id: item for item in _pick(items[name], split, "greedy")} for name in SAMPLE_MODELS}
    suite = world_suite([split], recipe.tasks, SAMPLES_PER_TASK, recipe.benchmark_seed)
    folder = out / "samples"
    folder.mkdir(exist_ok=True)
    rows = []
    for turn in sorted(range(len(suite)), key=lambda i: i % SAMPLES_PER_TASK):
        sample = suite[turn]
        name = sample.id.replace("/", "-") + ".png"
        load_image(sample.images[-1]).save(folder / name)
        found = {model: by_id[model][sample.id] for model in SAMPLE_MODELS}
        gold = found["rl"].gold_boxes
        rows.append(
            {
                "sample_id": sample.id,
                "task": sample.task,
                "split": split,
                "question": sample.question,
                "image": f"samples/{name}",
                "gold": sample.answer,
                "gold_box": list(gold[0]) if gold else None,
                "replies": {model: _reply(item) for model, item in found.items()},
            }
        )
    return rows


def _reply(item: ItemResult) -> dict[str, Any]:
    return {"text": item.text, "box": list(item.boxes[0]) if item.boxes else None, "right": item.verdicts[0]}
