"""From a benchmark's items to `results.json`, its printed table, and the comparison of two runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from saccade.evaluation.benchmarks import Benchmark, ItemOutcome
from saccade.evaluation.benchmarks.scoring import clusters, figures, grouped, mean, mean_bootstrap
from saccade.evaluation.config import EvalRecipe
from saccade.evaluation.eval_plan import EvalPlan
from saccade.evaluation.items import ItemResult, read_items
from saccade.evaluation.results import SCHEMA, summarize, summarize_attempts
from saccade.evaluation.statistics import compare_paired
from saccade.runs.files import JsonRow, item_files, read_config

SHOWN_IDS = 20
"""Ids listed in results of items that need a judge or failed."""
SAME = ("benchmark", "subset", "mode", "prompt_id")
"""What must be equal in two runs to compare them."""


def outcome(item: ItemResult) -> ItemOutcome:
    """An item as scores use it."""
    details = item.details
    return ItemOutcome(
        item.sample_id,
        {**details.get("slices", {"split": item.split, "task": item.task}), "decoding": item.decoding},
        str(details.get("group", item.sample_id)),
        tuple(float(v is True) for v in item.verdicts),
        details["attempts"][0]["value"] if details.get("attempts") else None,
        tuple(((b[0], b[1], b[2], b[3]), label) for b, label in details.get("boxes", ())),
        item.gold,
        {"crowds": details.get("crowds", ())},
    )


def document(
    recipe: EvalRecipe, plan: EvalPlan, items: Sequence[ItemResult], errors: dict[str, str], seconds: float
) -> JsonRow:
    """The content of `results.json`. Raises ValueError when no item could be graded."""
    graded = [item for item in items if item.gradable]
    if not graded:
        why = next(iter(errors.values()), "no gold answer can be graded")
        raise ValueError(f"no item of {plan.benchmark.name} could be graded ({len(errors)} errors); first: {why}")
    found: JsonRow = {
        "schema": SCHEMA,
        "seconds": round(seconds, 3),
        "seed": recipe.seed,
        "benchmark": described(recipe, plan),
        "counts": counts(items, errors),
        "scores": scores(plan.benchmark, graded),
        "routes": dict(Counter(route for item in items for route in item.routes).most_common()),
        "rows": summarize(graded),
    }
    if attempts := summarize_attempts(graded):
        found["attempts"] = attempts
    if recipe.retries_until_parsed > 1:
        found["first_attempt_accuracy"] = fmean(
            float(one["first_right"] is True) for item in graded for one in item.details["attempts"]
        )
    return found


def scores(benchmark: Benchmark, items: Sequence[ItemResult]) -> list[JsonRow]:
    """The benchmark's figures; with two decodings, for each of them, under the key `decoding`."""
    parts: dict[str, list[ItemOutcome]] = {}
    for item in items:
        parts.setdefault(item.decoding, []).append(outcome(item))
    names = {name: {"decoding": name} if len(parts) > 1 else {} for name in parts}
    return [names[name] | row for name, outcomes in parts.items() for row in figures(benchmark, outcomes)]


def described(recipe: EvalRecipe, plan: EvalPlan) -> JsonRow:
    """Everything that a number of this run depends on."""
    mode, judge, server = plan.mode, recipe.judge, recipe.server
    return {
        "benchmark": plan.benchmark.name,
        "title": plan.benchmark.title,
        "headline": plan.benchmark.headline.name,
        "data": str(recipe.path) if recipe.path else None,
        "subset": plan.benchmark.subset(recipe.subset),
        "items_asked": len(plan.samples),
        "items_in_subset": plan.total,
        "mode": mode.name,
        "source": mode.source,
        "verified": mode.verified,
        "verified_reason": mode.reason,
        "deviations": list(mode.deviations),
        "prompt_id": plan.prompt.id,
        "judge": f"{judge.name} at {judge.url}" if judge else None,
        "sampling": [{"name": one.name} | one.model_dump(mode="json") for one in recipe.decodings()],
        "retries_until_parsed": recipe.retries_until_parsed,
        "model": recipe.model.path,
        "served_name": server.name if server else None,
        "frame": server.frame if server else None,
    }


def counts(items: Sequence[ItemResult], errors: dict[str, str]) -> JsonRow:
    """Errors, ungradable items, truncations and the like."""
    attempts = [(item, one) for item in items for one in item.details["attempts"]]
    open_ = list(dict.fromkeys(item.sample_id for item, one in attempts if one["needs_judge"]))
    ungradable = [item.sample_id for item in items if not item.gradable]
    return {
        "items": len(items),
        "errors": len(errors),
        "first_error": next(iter(errors.values()), None),
        "error_ids": list(errors)[:SHOWN_IDS],
        "ungradable": len(ungradable),
        "ungradable_ids": ungradable[:SHOWN_IDS],
        "needs_judge": len(open_),
        "needs_judge_ids": open_[:SHOWN_IDS],
        "judge_replies": sum(len(one["judged"]) for _, one in attempts),
        "parse_failures": sum(one["extracted"] is None and not one["needs_judge"] for _, one in attempts),
        "truncated": sum(one["finish_reason"] == "length" for _, one in attempts),
        "tries": sum(one["tries"] for _, one in attempts),
        "outside_boxes": outside(items),
    }


def outside(items: Sequence[ItemResult]) -> int | None:
    """Boxes that exceed their image by more than a hundredth of a side: many of them mean a wrong frame. None without
    boxes."""
    found, seen = 0, 0
    for item in items:
        frames = item.details.get("frames") or []
        if not frames:
            continue
        width, height = frames[item.box_image][1]
        for x1, y1, x2, y2 in item.boxes:
            seen += 1
            found += min(x1, y1) < 0 or x2 > 1.01 * width or y2 > 1.01 * height
    return found if seen else None


def lines(results: JsonRow) -> list[str]:
    """The result table, for the terminal."""
    about, count = results["benchmark"], results["counts"]
    said = [
        f"{about['title']}: {about['items_asked']} of {about['items_in_subset']} items, subset {about['subset']}, "
        f"mode {about['mode']}, prompt {about['prompt_id']}, {', '.join(one['name'] for one in about['sampling'])}",
        f"verified against the official script: no ({about['verified_reason']})",
    ]
    for row in results["scores"]:
        name = f"{row['dimension']} = {row['slice']}" if "slice" in row else row["score"]
        name = f"{row['decoding']}: {name}" if "decoding" in row else name
        said.append(f"  {name:44} {_value(row):24} n {row['n']}")
    for key, words in _NOTICES.items():
        if count[key]:
            said.append(f"{count[key]} {words}")
    return said


_NOTICES = {
    "errors": "questions were not asked, not answered or not judged, and are not counted; run again to retry them",
    "ungradable": "items have a gold that cannot be graded and are not counted",
    "needs_judge": "items need a judge's decision and have none: counted as wrong (give judge.url and judge.name)",
    "truncated": "replies were cut off by max_new_tokens",
    "parse_failures": "replies had no readable answer",
    "outside_boxes": "boxes are outside their image: check the frame against the model's output",
}


def _value(row: JsonRow) -> str:
    factor, unit = (1.0, "") if row["scale"] == "points" else (100.0, " %")
    ends = ""
    if row["low"] is not None:
        ends = f" [{factor * row['low']:.1f}, {factor * row['high']:.1f}]"
    return f"{factor * row['value']:.1f}{unit}{ends}"


# ---------------------------------------------------------------------------------------------------------- comparison


def compare_runs(left: Path, right: Path) -> JsonRow:
    """The paired difference of two runs' accuracies, `left - right`, over the items that both answered, overall and per
    slice.

    Raises ValueError for directories that hold no items, or whose benchmark, subset, mode or prompt differ.
    """
    (about, left_items), (other, right_items) = _run(left), _run(right)
    for key in SAME:
        if about[key] != other[key]:
            raise ValueError(
                f"{left} has {key} {about[key]!r}, {right} has {other[key]!r}; only runs with equal values compare"
            )
    several = any(len({item.decoding for item in items}) > 1 for items in (left_items, right_items))
    a, b = ({_key(item, several): item for item in items} for items in (left_items, right_items))
    shared = [key for key in a if key in b and a[key].gradable and b[key].gradable]
    if not shared:
        raise ValueError(f"{left} and {right} share no graded item")
    differences = [_difference(a[key], b[key]) for key in shared]
    rows = [_row("all", differences)]
    for dimension in dict.fromkeys(name for one in differences for name in one.slices):
        parts = grouped(clusters(differences), dimension)
        if len(parts) == 1:
            continue  # it would repeat the row 'all'
        rows += [_row(f"{dimension} = {value}", [o for g in some for o in g]) for value, some in sorted(parts.items())]
    return {
        "left": str(left),
        "right": str(right),
        **about,
        "only_left": len(a) - len(shared),
        "only_right": len(b) - len(shared),
        "rows": rows,
        "p": _p(a, b, shared),
    }


def _run(path: Path) -> tuple[JsonRow, list[ItemResult]]:
    """The run's values of the keys of `SAME`, and its items: for a training run, those of its last evaluation."""
    files = item_files(path) if path.is_dir() else [path] if path.is_file() else []
    items = read_items(files[-1]) if files else []
    if not items:
        raise ValueError(f"{path}: no items found; give the directory of a finished evaluation")
    held = read_config(files[-1].parent, [])[0]
    details = items[0].details
    return {key: held.get(key, details.get(key)) for key in SAME}, items


def _key(item: ItemResult, decoding: bool) -> tuple[str, ...]:
    """Identifies an item in both runs; the decoding is part of it where a run has two."""
    return (item.decoding if decoding else "", item.split, item.task, item.sample_id)


def _difference(a: ItemResult, b: ItemResult) -> ItemOutcome:
    found = outcome(a)
    return ItemOutcome(found.id, found.slices, found.group, (a.accuracy - b.accuracy,))


def _row(name: str, differences: Sequence[ItemOutcome]) -> JsonRow:
    groups = clusters(differences)
    low, high = mean_bootstrap(groups)
    return {
        "name": name,
        "difference": mean(groups),
        "low": low,
        "high": high,
        "n": len(differences),
        "interval": "bootstrap over groups",
        "shown": low > 0 or high < 0,
    }


def _p(a: dict[Any, ItemResult], b: dict[Any, ItemResult], shared: Sequence[Any]) -> float | None:
    """McNemar's exact p; None with several attempts or with items that depend on each other."""
    groups = {a[key].details.get("group", key) for key in shared}
    if len(groups) != len(shared):
        return None
    return compare_paired("p", [a[k].accuracy for k in shared], [b[k].accuracy for k in shared], draws=2).p


def comparison_lines(found: JsonRow) -> list[str]:
    said = [f"{found['left']} minus {found['right']}, {found['rows'][0]['n']} items that both answered"]
    if found["only_left"] or found["only_right"]:
        said.append(f"skipped: {found['only_left']} and {found['only_right']} items that only one of them has")
    for row in found["rows"]:
        ends = f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        star = " *" if row["shown"] else ""
        said.append(f"  {row['name']:34} {100 * (row['difference'] or 0.0):+.1f}{ends}{star}   n {row['n']}")
    if found["p"] is not None and math.isfinite(found["p"]):
        said.append(f"McNemar's exact p: {found['p']:.4g}")
    said.append("* the 95 % interval excludes 0")
    return said
