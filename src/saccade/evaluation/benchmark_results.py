"""From a benchmark's items to `results.json`, to what is said of it, and to the comparison of two runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from saccade.evaluation.benchmark_run import Plan
from saccade.evaluation.benchmarks import Benchmark, Outcome
from saccade.evaluation.benchmarks.scoring import clusters, figures, grouped, mean, mean_bootstrap
from saccade.evaluation.config import BenchmarkRecipe
from saccade.evaluation.items import ItemResult, read_items
from saccade.evaluation.results import SCHEMA, Row, summarise, summarise_attempts
from saccade.evaluation.statistics import compare_paired

SHOWN_IDS = 20
"""Ids that results name of items that need a judge or failed."""
SAME = ("benchmark", "subset", "mode", "prompt_id")
"""What two runs must share to be compared."""


def outcome(item: ItemResult) -> Outcome:
    """An item as scores see it."""
    details = item.details
    return Outcome(
        item.sample_id,
        details.get("slices", {"split": item.split, "task": item.task, "decoding": item.decoding}),
        str(details.get("group", item.sample_id)),
        tuple(float(v is True) for v in item.verdicts),
        details["attempts"][0]["value"] if details.get("attempts") else None,
        tuple(((b[0], b[1], b[2], b[3]), label) for b, label in details.get("boxes", ())),
        item.gold,
        {"crowds": details.get("crowds", ())},
    )


def document(
    recipe: BenchmarkRecipe, plan: Plan, items: Sequence[ItemResult], errors: dict[str, str], seconds: float
) -> Row:
    """The content of `results.json`. Raises ValueError when not one item could be graded."""
    graded = [item for item in items if item.gradable]
    if not graded:
        why = next(iter(errors.values()), "every gold answer cannot be graded")
        raise ValueError(f"no item of {plan.benchmark.name} could be graded ({len(errors)} errors); first: {why}")
    found: Row = {
        "schema": SCHEMA,
        "seconds": round(seconds, 3),
        "seed": recipe.decoding.seed,
        "benchmark": described(recipe, plan),
        "counts": counts(items, errors),
        "scores": figures(plan.benchmark, [outcome(item) for item in graded]),
        "routes": dict(Counter(route for item in items for route in item.routes).most_common()),
        "rows": summarise(graded),
    }
    if attempts := summarise_attempts(graded):
        found["attempts"] = attempts
    if recipe.retries_until_parsed > 1:
        found["first_attempt_accuracy"] = fmean(
            float(one["first_right"] is True) for item in graded for one in item.details["attempts"]
        )
    return found


def described(recipe: BenchmarkRecipe, plan: Plan) -> Row:
    """Everything that a number of this run depends on."""
    mode, decoding = plan.mode, recipe.decoding
    return {
        "benchmark": plan.benchmark.name,
        "headline": plan.benchmark.headline.name,
        "data": str(recipe.data) if recipe.data else None,
        "subset": plan.benchmark.subset(recipe.subset),
        "items_asked": len(plan.samples),
        "items_in_subset": plan.total,
        "mode": mode.name,
        "source": mode.source,
        "verified": mode.verified,
        "verified_reason": mode.reason,
        "deviations": list(mode.deviations),
        "prompt_id": plan.prompt.id,
        "judge": f"{recipe.judge_model} at {recipe.judge}" if recipe.judge else None,
        "sampling": decoding.model_dump(include={"name", "k", "max_new_tokens", "temperature", "top_p", "top_k"}),
        "retries_until_parsed": recipe.retries_until_parsed,
        "model": recipe.model,
        "served_name": recipe.served_name,
        "frame": recipe.frame,
    }


def counts(items: Sequence[ItemResult], errors: dict[str, str]) -> Row:
    """What went otherwise than asked, answered, graded."""
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
    """Boxes that leave their image by more than a hundredth of a side: many of them mean a wrong frame. None without
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


def lines(results: Row, benchmark: Benchmark) -> list[str]:
    """What is said on the terminal."""
    about, count = results["benchmark"], results["counts"]
    said = [
        f"{benchmark.title}: {about['items_asked']} of {about['items_in_subset']} items, subset {about['subset']}, "
        f"mode {about['mode']}, prompt {about['prompt_id']}, {about['sampling']['name']}",
        f"verified against the official script: no ({about['verified_reason']})",
    ]
    for row in results["scores"]:
        name = f"{row['dimension']} = {row['slice']}" if "slice" in row else row["score"]
        said.append(f"  {name:34} {_value(row):30} n {row['n']}")
    for key, words in _NOTICES.items():
        if count[key]:
            said.append(f"{count[key]} {words}")
    return said


_NOTICES = {
    "errors": "questions were not answered by the server and count nowhere; start again to ask them",
    "ungradable": "items have a gold that cannot be graded and count nowhere",
    "needs_judge": "items want a judge and there was no decision: counted as not right (give --judge)",
    "truncated": "replies were cut off by max_new_tokens",
    "parse_failures": "replies gave no answer that could be read",
    "outside_boxes": "boxes lie outside their image: compare the frame with what the model writes",
}


def _value(row: Row) -> str:
    factor, unit = (1.0, "") if row["scale"] == "points" else (100.0, " %")
    ends = ""
    if row["low"] is not None:
        ends = f" [{factor * row['low']:.1f}, {factor * row['high']:.1f}]"
    return f"{factor * row['value']:.1f}{unit}{ends}"


# ---------------------------------------------------------------------------------------------------------- comparison


def compare_runs(left: Path, right: Path) -> Row:
    """The paired difference of two runs' accuracies, `left - right`, over the items that both answered, in all and per
    slice.

    Raises ValueError for directories that hold no items, or whose benchmark, subset, mode or prompt differ.
    """
    a, b = _run(left), _run(right)
    for key in SAME:
        if a[0].get(key) != b[0].get(key):
            raise ValueError(
                f"{left} has {key} {a[0].get(key)!r}, {right} has {b[0].get(key)!r}; only runs of the same are compared"
            )
    shared = [key for key in a[1] if key in b[1] and a[1][key].gradable and b[1][key].gradable]
    if not shared:
        raise ValueError(f"{left} and {right} share no graded item")
    differences = [_difference(a[1][key], b[1][key]) for key in shared]
    rows = [_row("all", differences)]
    for dimension in dict.fromkeys(name for one in differences for name in one.slices):
        parts = grouped(clusters(differences), dimension)
        rows += [_row(f"{dimension} = {value}", [o for g in some for o in g]) for value, some in sorted(parts.items())]
    return {
        "left": str(left),
        "right": str(right),
        **{key: a[0].get(key) for key in SAME},
        "only_left": len(a[1]) - len(shared),
        "only_right": len(b[1]) - len(shared),
        "rows": rows,
        "p": _p(a[1], b[1], shared),
    }


def _run(path: Path) -> tuple[Row, dict[tuple[str, ...], ItemResult]]:
    """(what the run is, items by key) of a directory."""
    file = path / "items.jsonl" if path.is_dir() else path
    items = read_items(file)
    if not items:
        raise ValueError(f"{file}: holds no items; give the directory of a finished evaluation")
    config = file.parent / "config.yaml"
    held = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    about = {"benchmark": held.get("benchmark"), "subset": held.get("subset")}
    about |= {key: items[0].details.get(key) for key in ("mode", "prompt_id")}
    keyed = {(item.decoding if not item.details else "", item.split, item.task, item.sample_id): item for item in items}
    return about, keyed


def _difference(a: ItemResult, b: ItemResult) -> Outcome:
    found = outcome(a)
    return Outcome(found.id, found.slices, found.group, (a.accuracy - b.accuracy,))


def _row(name: str, differences: Sequence[Outcome]) -> Row:
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


def comparison_lines(found: Row) -> list[str]:
    said = [f"{found['left']} minus {found['right']}, {found['rows'][0]['n']} items that both answered"]
    if found["only_left"] or found["only_right"]:
        said.append(f"left out: {found['only_left']} and {found['only_right']} items that only one of them has")
    for row in found["rows"]:
        ends = f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        star = " *" if row["shown"] else ""
        said.append(f"  {row['name']:34} {100 * (row['difference'] or 0.0):+.1f}{ends}{star}   n {row['n']}")
    if found["p"] is not None and math.isfinite(found["p"]):
        said.append(f"McNemar's exact p: {found['p']:.4g}")
    said.append("* the 95 % interval leaves 0 out")
    return said
