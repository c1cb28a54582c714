"""Runs a study: every arm and evaluation of every seed as a job, then the verdict.

seed-1/sft seed-1/rl ...            runs, as `saccade rl` writes them
seed-1/eval/home/rl ...             evaluations, as `saccade eval` writes them
study.json                          hypotheses with the values of each seed, intervals, verdict, cost
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from saccade.config import dump
from saccade.disk import write_text, writing
from saccade.evaluation.items import ItemResult, read_items
from saccade.evaluation.measures import mean_measure
from saccade.evaluation.results import write_json
from saccade.models.policy import resolve_path
from saccade.runs.files import JsonRow
from saccade.runs.lock import locked
from saccade.studies import arms
from saccade.studies.jobs import StudyJob, run_all
from saccade.studies.study_recipe import (
    BASE,
    BaseArm,
    ColdStartArm,
    Hypothesis,
    StudyRecipe,
    keys_of,
    load_study,
    needs,
)
from saccade.studies.verdict import decide, over_seeds, together
from saccade.training.config import RLRecipe, SFTRecipe

SCHEMAS = {"sft": SFTRecipe, "rl": RLRecipe}
COSTS = ("steps", "cpu_s", "tokens")
HEADLINE = ("accuracy", "tokens", "truncated")
"""Measures of the table of all arms, besides those of the hypotheses."""


def run_study(recipe: StudyRecipe, out: Path, seeds: Sequence[int], console: Console, data: str = "data") -> JsonRow:
    """Run or resume a study on `seeds` and return what `study.json` holds. `data` is the folder of the data sets.

    ValueError before any work when the base is missing, an arm's recipe is invalid, or `out` holds another study.
    """
    resolve_path(recipe.base)
    check_arms(recipe)
    with writing(out, "finished jobs are kept; free some space and run the same command again"), locked(out):
        _reserve(recipe, out)
        jobs = run_all(plan(recipe, out, seeds, data), recipe.parallel, console)
        document = conclude(recipe, out, seeds, jobs)
        write_json(out / "study.json", document)
    return document


def plan(recipe: StudyRecipe, out: Path, seeds: Sequence[int], data: str = "data") -> list[StudyJob]:
    """All jobs, seed after seed, so that an interrupted study has whole seeds."""
    jobs: list[StudyJob] = []
    for seed in seeds:
        at, folder = f"seed-{seed}", out / f"seed-{seed}"
        for name, arm in recipe.arms.items():
            before = tuple(f"{at}/{other}" for other in needs(recipe, name))
            given = {"recipe": recipe, "name": name, "seed": seed, "data": data}
            total = _steps(keys_of(recipe, name)) if arm.kind in SCHEMAS else 1
            jobs.append(StudyJob(f"{at}/{name}", arms.run_arm, folder / name, given, before, total))
        for evaluation, measured in recipe.evaluations.items():
            for name in measured.arms:
                before = () if name == BASE else (f"{at}/{name}",)
                given = {"recipe": recipe, "evaluation": evaluation, "name": name, "seed": seed, "data": data}
                where = folder / "eval" / evaluation / name
                jobs.append(StudyJob(f"{at}/eval/{evaluation}/{name}", arms.run_evaluation, where, given, before, 1))
    return jobs


def _steps(given: Mapping[str, Any]) -> int:
    """Steps of an arm for its progress bar; a matched one is a guess."""
    ends = [stage["until"]["step"] for stage in given.get("stages", ()) if "step" in stage.get("until", {})]
    return int(given.get("num_steps") or max(ends, default=100))


def check_arms(recipe: StudyRecipe) -> None:
    """ConfigError, with the arm's name, when a recipe of an arm or an evaluation is invalid."""
    places = arms.Places(Path("arms"), "data")
    for name, arm in recipe.arms.items():
        if isinstance(arm, ColdStartArm):
            arms.coldstart_recipe(recipe, name, places, 0)
        if isinstance(arm, BaseArm):
            arms.base_recipe(recipe, name, places, 0)
        if isinstance(arm, ColdStartArm | BaseArm):
            continue
        found = arms.arm_recipe(SCHEMAS[arm.kind], recipe, name, places, 0, 1 if arm.match else None)
        if arm.kind == "rl" and arm.match and found.optim.decay != "constant":
            raise ValueError(f"arms.{name}.recipe.optim.decay: with 'match' the end is not known; use constant")
    for name in recipe.evaluations:
        arms.evaluation_recipe(recipe, name, BASE, places, 0)


def fingerprint(recipe: StudyRecipe) -> str:
    """SHA-256 of all that was fixed before the run; its cost and the number of processes do not belong to that."""
    fixed = recipe.model_dump(mode="json", exclude={"cpu_minutes_per_seed", "parallel"})
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def _reserve(recipe: StudyRecipe, out: Path) -> None:
    config = out / "config.yaml"
    if config.exists() and fingerprint(load_study(str(config))) != fingerprint(recipe):
        raise ValueError(f"{out} contains another study, or another version of this one; choose another --out")
    write_text(config, dump(recipe))


def conclude(recipe: StudyRecipe, out: Path, seeds: Sequence[int], jobs: Mapping[str, JsonRow]) -> JsonRow:
    """The document of `study.json`, from the items of all evaluations."""
    cells = {
        (seed, f"{evaluation}/{name}"): read_items(out / f"seed-{seed}" / "eval" / evaluation / name / "items.jsonl")
        for seed in seeds
        for evaluation, measured in recipe.evaluations.items()
        for name in measured.arms
    }
    spent = float(sum(job["cpu_s"] for job in jobs.values()))
    rows = [_tested(one, cells, seeds, spent / len(seeds)) for one in recipe.hypotheses]
    verdict = together([row["verdict"] for row in rows if row["primary"]])
    return {
        "schema": 1,
        "title": recipe.title,
        "paper": recipe.paper,
        "claim": recipe.claim,
        "question": recipe.question,
        "limits": recipe.limits,
        "verdict": verdict,
        "sentence": recipe.verdict[verdict],
        "recorded": list(seeds) == list(recipe.seeds),
        "recipe_sha256": fingerprint(recipe),
        "seeds": list(seeds),
        "hypotheses": rows,
        "table": _table(recipe, cells, seeds),
        "cpu_minutes": round(spent / 60, 1),
        "costs": {name: {key: job[key] for key in COSTS if key in job} for name, job in jobs.items()},
        "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()},
    }


def _picked(items: Sequence[ItemResult], where: Mapping[str, str]) -> list[ItemResult]:
    return [item for item in items if all(str(getattr(item, key)) == value for key, value in where.items())]


def _tested(one: Hypothesis, cells: Mapping[Any, Sequence[ItemResult]], seeds: Sequence[int], cost: float) -> JsonRow:
    """A hypothesis: the contrast of every seed, the interval, the verdict, and what more seeds would cost."""

    def value(seed: int) -> float:
        means = {cell: mean_measure(one.measure, _picked(cells[seed, cell], one.where)) for cell in one.contrast}
        return sum(weight * means[cell] for cell, weight in one.contrast.items())

    values = [value(seed) for seed in seeds]
    row: JsonRow = {
        "name": one.name,
        "measure": one.measure,
        "contrast": dict(one.contrast),
        "where": dict(one.where),
        "above": one.above,
        "primary": one.primary,
        "values": {str(seed): found for seed, found in zip(seeds, values, strict=True)},
    }
    if len(seeds) < 2:
        return {**row, "verdict": "inconclusive", "mean": values[0], "low": None, "high": None, "more_cpu_hours": None}
    found = decide(values, one.above)
    interval = found.interval
    more = None if found.seeds_needed is None else round((found.seeds_needed - len(seeds)) * cost / 3600, 2)
    row |= {"mean": interval.mean, "low": interval.low, "high": interval.high, "verdict": found.verdict}
    return row | {"seeds_needed": found.seeds_needed, "more_cpu_hours": more}


def _table(recipe: StudyRecipe, cells: Mapping[Any, Sequence[ItemResult]], seeds: Sequence[int]) -> list[JsonRow]:
    """A row per evaluation, arm, split and decoding: measures as means over seeds, with the ends of their interval."""
    names = list(dict.fromkeys([*HEADLINE, *(one.measure for one in recipe.hypotheses)]))
    rows: list[JsonRow] = []
    for evaluation, measured in recipe.evaluations.items():
        for name in measured.arms:
            first = cells[seeds[0], f"{evaluation}/{name}"]
            for split, decoding in dict.fromkeys((item.split, item.decoding) for item in first):
                where = {"split": split, "decoding": decoding}
                row: JsonRow = {"evaluation": evaluation, "arm": name, **where}
                for measure in names:
                    row[measure] = _cell(measure, [_picked(cells[s, f"{evaluation}/{name}"], where) for s in seeds])
                rows.append(row)
    return rows


def _cell(measure: str, items: Sequence[Sequence[ItemResult]]) -> list[float] | None:
    """[mean, low, high] over seeds; None where the measure applies to no item, low and high equal with one seed."""
    try:
        values = [mean_measure(measure, one) for one in items]
    except ValueError:
        return None
    if len(values) < 2:
        return [values[0]] * 3
    interval = over_seeds(values)
    return [interval.mean, interval.low, interval.high]


def read_study(folder: Path) -> JsonRow:
    """What `study.json` holds. ValueError when the study is not finished."""
    path = folder / "study.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no finished study (no study.json); run the same `saccade study` again")
    return json.loads(path.read_text(encoding="utf-8"))
