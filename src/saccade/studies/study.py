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
from statistics import fmean
from typing import Any

from rich.console import Console

import saccade
from saccade.config import dump, packaged
from saccade.disk import read_text, write_text, writing
from saccade.evaluation.config import EvalRecipe
from saccade.evaluation.items import ItemResult, read_items
from saccade.evaluation.results import write_json
from saccade.models.policy import resolve_path
from saccade.runs.files import JsonRow
from saccade.runs.lock import locked, refuse_other_kind
from saccade.studies import arms
from saccade.studies.jobs import StudyJob, run_all
from saccade.studies.measures import mean_measure
from saccade.studies.study_recipe import (
    BASE,
    FOLDER,
    BaseArm,
    ColdStartArm,
    Hypothesis,
    RLArm,
    SFTArm,
    StudyRecipe,
    Where,
    evaluation_keys,
    keys_of,
    load_study,
    needs,
    part_of,
    read_by,
)
from saccade.studies.verdict import decide, over_seeds, together
from saccade.training.config import RLRecipe, SFTRecipe

SCHEMAS = {"sft": SFTRecipe, "rl": RLRecipe}
DOCUMENT = "study.json"
COSTS = ("steps", "cpu_s", "tokens")
HEADLINE = ("accuracy", "tokens", "truncated")
"""Measures of the table of all arms, besides those of the hypotheses."""


def run_study(recipe: StudyRecipe, out: Path, seeds: Sequence[int], console: Console, data: str = "data") -> JsonRow:
    """Run or resume a study on `seeds` and return what `study.json` holds. `data` is the folder of the data sets.

    ValueError before any work when the base is missing, an arm's recipe is invalid, or `out` holds another study, or
    results of seeds that are not among these.
    """
    resolve_path(recipe.base)
    check_arms(recipe)
    refuse_other_kind(out, recipe.kind)
    with writing(out, "finished jobs are kept; free some space and run the same command again"), locked(out) as lock:
        earlier = reserve(recipe, out, seeds)
        jobs = run_all(plan(recipe, out, seeds, data), recipe.parallel, console, keep=lock.keep)
        document = conclude(recipe, out, seeds, jobs, earlier)
        write_json(out / DOCUMENT, document)
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
                read = read_by(recipe, evaluation_keys(recipe, evaluation))
                before = tuple(f"{at}/{other}" for other in dict.fromkeys([part_of(name)[0], *read]) if other != BASE)
                given = {"recipe": recipe, "evaluation": evaluation, "name": name, "seed": seed, "data": data}
                where = folder / "eval" / evaluation / name
                jobs.append(StudyJob(f"{at}/eval/{evaluation}/{name}", arms.run_evaluation, where, given, before, 1))
    return jobs


def _steps(given: Mapping[str, Any]) -> int:
    """Steps of an arm for its progress bar; a matched one is a guess."""
    ends = [until["step"] for stage in given.get("stages", ()) if "step" in (until := stage.get("until") or {})]
    return int(given.get("num_steps") or max(ends, default=100))


def check_arms(recipe: StudyRecipe) -> None:
    """ConfigError or ValueError, with the arm's name, when a recipe of an arm or an evaluation is invalid, or when a
    hypothesis asks for items that no evaluation gives."""
    places = arms.Places(Path("arms"), "data")
    for name, arm in recipe.arms.items():
        if isinstance(arm, ColdStartArm):
            arms.coldstart_recipe(recipe, name, places, 0)
        elif isinstance(arm, BaseArm):
            arms.base_recipe(recipe, name, places, 0)
        else:
            found = arms.arm_recipe(SCHEMAS[arm.kind], recipe, name, places, 0, 1 if arm.match else None)
            if arm.kind == "rl" and arm.match and (found.optim.decay != "constant" or found.optim.warmup_ratio):
                raise ValueError(
                    f"arms.{name}.recipe.optim: with 'match' the last step is not known; use a constant rate"
                )
    asked = {name: arms.evaluation_recipe(recipe, name, BASE, places, 0) for name in recipe.evaluations}
    for number, one in enumerate(recipe.hypotheses):
        for cell in one.contrast:
            _check_where(f"hypotheses.{number}.where", one.where, asked[cell.partition("/")[0]])


def _check_where(place: str, where: Where, asked: EvalRecipe) -> None:
    world = asked.world
    known = {
        "decoding": [decoding.name for decoding in asked.decodings()],
        "split": world.splits if world else [entry.title for entry in asked.data],
        "task": world.tasks if world else [entry.task for entry in asked.data if entry.task],
    }
    for key, value in where.items():
        if value not in known[key]:
            found = ", ".join(map(str, known[key]))
            raise ValueError(f"{place}.{key}: got '{value}'; the evaluation has {found}")


def fingerprint(recipe: StudyRecipe, seeds: bool = True) -> str:
    """SHA-256 of all that was fixed before the run. Without `seeds`: of what every seed does. Cost, number of processes
    and further columns of the table do not belong to it."""
    free = {"cpu_minutes_per_seed", "parallel", "also", *(() if seeds else ("seeds", "development_seeds"))}
    fixed = recipe.model_dump(mode="json", exclude=free, exclude_defaults=True)
    fixed |= {"seeds": list(recipe.seeds)} if seeds else {}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def is_recorded(recipe: StudyRecipe, seeds: Sequence[int]) -> bool:
    """Whether these are all seeds of a packaged study, unchanged."""
    same = (fingerprint(load_study(name)) for name in packaged() if name.startswith(FOLDER))
    return list(seeds) == list(recipe.seeds) and fingerprint(recipe) in same


def reserve(recipe: StudyRecipe, out: Path, seeds: Sequence[int]) -> list[int]:
    """Writes the recipe; the seeds of earlier results in `out`, which a study keeps."""
    config, document = out / "config.yaml", out / DOCUMENT
    if config.exists() and fingerprint(load_study(str(config)), seeds=False) != fingerprint(recipe, seeds=False):
        raise ValueError(f"{out} contains another study, or another version of this one; choose another --out")
    try:
        before = json.loads(read_text(document)) if document.exists() else {}
        known, earlier = (list(before.get(name) or []) for name in ("seeds", "earlier_seeds"))
        if odd := [one for one in (*known, *earlier) if type(one) is not int]:
            raise ValueError(odd)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError(
            f"{document}: expected the results of this study, got another or a damaged file; move it away and run the "
            "same command again: finished parts are kept"
        ) from None
    if lost := set(known) - set(seeds):
        raise ValueError(
            f"{out} has results of seeds {known}, and {sorted(lost)} are not among seeds {list(seeds)}; seeds can be "
            "added, not dropped: add them, or choose another --out"
        )
    write_text(config, dump(recipe))
    return earlier or (known if len(known) < len(seeds) else [])


def conclude(
    recipe: StudyRecipe, out: Path, seeds: Sequence[int], jobs: Mapping[str, JsonRow], earlier: Sequence[int] = ()
) -> JsonRow:
    """The document of `study.json`, from the items of all evaluations. `earlier`: seeds of results before it was
    extended."""
    cells = {
        (seed, f"{evaluation}/{name}"): _items(out / f"seed-{seed}" / "eval" / evaluation / name)
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
        "recorded": is_recorded(recipe, seeds),
        "recipe_sha256": fingerprint(recipe),
        "version": saccade.__version__,
        "seeds": list(seeds),
        "earlier_seeds": list(earlier),
        "hypotheses": rows,
        "table": _table(recipe, cells, seeds),
        "starts": {name: arm.start for name, arm in recipe.arms.items() if isinstance(arm, SFTArm | RLArm)},
        "cpu_minutes": round(spent / 60, 1),
        "costs": {name: {key: job[key] for key in COSTS if key in job} for name, job in jobs.items()},
        "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()},
    }


def _items(folder: Path) -> list[ItemResult]:
    """ValueError for a finished evaluation without items."""
    if not (items := read_items(folder / "items.jsonl")):
        raise ValueError(
            f"{folder}: a finished evaluation without items in items.jsonl; remove the folder and run the same command "
            "again"
        )
    return items


def _picked(items: Sequence[ItemResult], where: Where) -> list[ItemResult]:
    return [item for item in items if all(str(getattr(item, key)) == value for key, value in where.items())]


def _tested(one: Hypothesis, cells: Mapping[Any, Sequence[ItemResult]], seeds: Sequence[int], cost: float) -> JsonRow:
    """A hypothesis: the contrast of every seed, the interval, the verdict, and what more seeds would cost. A seed for
    which the measure applies to no item of an arm has the value null, and nothing is decided."""

    def value(seed: int) -> float | None:
        means = {cell: mean_measure(one.measure, _picked(cells[seed, cell], one.where)) for cell in one.contrast}
        found = [weight * mean for cell, weight in one.contrast.items() if (mean := means[cell]) is not None]
        return sum(found) if len(found) == len(means) else None

    values = {str(seed): value(seed) for seed in seeds}
    row: JsonRow = {**one.model_dump(), "values": values}
    known = [found for found in values.values() if found is not None]
    if len(known) < max(2, len(seeds)):
        mean = fmean(known) if known else None
        return row | {"verdict": "inconclusive", "mean": mean, "low": None, "high": None, "more_cpu_hours": None}
    found = decide(known, one.above)
    more = None if found.seeds_needed is None else round((found.seeds_needed - len(seeds)) * cost / 3600, 2)
    ends = {"mean": found.interval.mean, "low": found.interval.low, "high": found.interval.high}
    return row | ends | {"verdict": found.verdict, "seeds_needed": found.seeds_needed, "more_cpu_hours": more}


def _table(recipe: StudyRecipe, cells: Mapping[Any, Sequence[ItemResult]], seeds: Sequence[int]) -> list[JsonRow]:
    """A row per evaluation, arm, split and decoding: measures as means over seeds, with the ends of their interval."""
    names = list(dict.fromkeys([*HEADLINE, *(one.measure for one in recipe.hypotheses), *recipe.also]))
    rows: list[JsonRow] = []
    for evaluation, measured in recipe.evaluations.items():
        for name in measured.arms:
            first = cells[seeds[0], f"{evaluation}/{name}"]
            for split, decoding in dict.fromkeys((item.split, item.decoding) for item in first):
                where: Where = {"split": split, "decoding": decoding}
                row: JsonRow = {"evaluation": evaluation, "arm": name, **where}
                for measure in names:
                    row[measure] = _cell(measure, [_picked(cells[s, f"{evaluation}/{name}"], where) for s in seeds])
                rows.append(row)
    return rows


def _cell(measure: str, items: Sequence[Sequence[ItemResult]]) -> list[float] | None:
    """[mean, low, high] over seeds; None where the measure applies to no item, low and high equal with one seed."""
    values = [value for one in items if (value := mean_measure(measure, one)) is not None]
    if len(values) < 2:
        return values * 3 or None
    interval = over_seeds(values)
    return [interval.mean, interval.low, interval.high]
