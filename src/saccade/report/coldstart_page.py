"""The page of a cold-start set: what came out, what was dropped and why, the worth of the bridge, samples side by side.

Made only from the files of the set's directory: `summary.json`, `statistics.json`, `drafts.jsonl`, `config.yaml` and
its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from saccade.disk import write_text
from saccade.report.charts import forest, forest_axis, number
from saccade.report.coldstart_samples import SampleCard, chosen_samples, sample_card
from saccade.report.documents import CONTROLS, environment, odd_values_named
from saccade.report.histogram import Shape, histogram
from saccade.runs.drafts import ARMS, DRAFTS, FILTER_NAMES, STATISTICS
from saccade.runs.files import JsonRow, read_config, read_json

ARM_NAMES = {"bridged": "bridged description", "caption": "plain caption, same budget", "none": "the question alone"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a bar chart made of boxes: `parts` are (share 0..1, class)."""

    name: str
    value: str
    small: str
    parts: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class FilterRow:
    """A filter with its reasons; `before` chains came to it, `dropped` did not leave."""

    name: str
    before: int
    dropped: int
    share: str
    width: float
    reasons: tuple[JsonRow, ...]


@dataclass(frozen=True, slots=True)
class ColdStartPage:
    """Everything the template needs."""

    title: str
    verdict: str
    lead: str
    tiles: tuple[tuple[str, str, str], ...]
    cautions: tuple[str, ...]
    funnel: tuple[Bar, ...]
    filters: tuple[FilterRow, ...]
    accuracy: tuple[JsonRow, ...]
    gaps: tuple[str, ...]
    by_source: tuple[JsonRow, ...]
    words: tuple[JsonRow, ...]
    word_notes: tuple[str, ...]
    lengths: Markup | None
    length_rows: tuple[JsonRow, ...]
    samples: tuple[SampleCard, ...]
    steps: tuple[JsonRow, ...]
    prompts: tuple[str, ...]
    config: str
    warnings: tuple[str, ...]


def build_page(directory: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a set, by default `report.html` inside its directory; returns its path.

    ValueError when the directory holds no `summary.json` and `statistics.json`.
    """
    folder = Path(directory)
    missing = [name for name in ("summary.json", STATISTICS, DRAFTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {' and no '.join(missing)}; expected a set made by saccade coldstart")
    warnings: list[str] = []
    summary, found = (read_json(folder / name, warnings) for name in ("summary.json", STATISTICS))
    with odd_values_named(folder):
        page = _page(folder, summary, found, warnings)
        html = environment().get_template("coldstart.html").render(page=page, axis=forest_axis())
    target = Path(out) if out else folder / "report.html"
    write_text(target, html.translate(CONTROLS), errors="replace")
    return target


def _page(folder: Path, summary: JsonRow, found: JsonRow, warnings: list[str]) -> ColdStartPage:
    config, text = read_config(folder, warnings)
    if not text:
        warnings.append("config.yaml is missing: the recipe is not shown")
    drafts, prompts = chosen_samples(folder)
    samples = tuple(sample_card(draft, folder, warnings) for draft in drafts)
    rows, written = summary.get("rows", {}), summary.get("written", {})
    in_set = written.get("in the set", 0)
    return ColdStartPage(
        title=folder.resolve().name,
        verdict=f"{in_set:,} of {rows.get('all', 0):,} questions have a chain of thought to learn from",
        lead=_lead(config, found),
        tiles=_tiles(summary),
        cautions=_cautions(config, found),
        funnel=_funnel(summary),
        filters=filter_rows(found, sum(one["chains_in_set"] for one in found["sources"].values()), config),
        accuracy=_accuracy_rows(found["accuracy"]),
        gaps=_gaps(found["accuracy"]),
        by_source=_source_rows(found["sources"]),
        words=_word_rows(found["words"]),
        word_notes=_word_notes(found["words"]),
        lengths=_length_chart(found["lengths"]),
        length_rows=tuple({"name": name, **one} for name, one in found["lengths"].items() if one["n"]),
        samples=samples,
        steps=_step_rows(summary.get("stages", {})),
        prompts=prompts,
        config=text,
        warnings=tuple(dict.fromkeys(warnings)),
    )


# ------------------------------------------------------------------------------------------------------------ headline


def _teacher(config: JsonRow, name: str) -> str:
    part = config.get(name) or {}
    return "the world's ground truth" if part.get("teacher") == "world" else str(part.get("model", "not recorded"))


def _lead(config: JsonRow, found: JsonRow) -> str:
    sees, thinks = _teacher(config, "vision"), _teacher(config, "reasoner")
    answer_seen = found["saw_answer"]
    knew = "No step saw the answer." if not answer_seen else f"A step saw the answer in {answer_seen:,} rows."
    both = f"{sees} describes the pictures; {thinks}, which sees none, reasons from its words."
    if sees == thinks:
        both = f"{sees} describes the pictures, then reasons without them from its own words."
    return f"{both} {knew}"


def _tiles(summary: JsonRow) -> tuple[tuple[str, str, str], ...]:
    written, stages = summary.get("written", {}), summary.get("stages", {})
    tokens = sum(one["tokens_in"] + one["tokens_out"] for one in stages.values())
    cost = sum(one.get("cost", 0.0) for one in stages.values())
    return (
        ("chains in the set", f"{summary.get('chains', {}).get('in the set', 0):,}", ""),
        ("easy", f"{written.get('easy', 0):,}", "always right"),
        ("mixed", f"{written.get('mixed', 0):,}", "sometimes right"),
        ("hard", f"{written.get('hard', 0):,}", "never right, kept for RL"),
        ("tokens", number(tokens), f"cost {cost:,.2f}" if cost else ""),
    )


def _cautions(config: JsonRow, found: JsonRow) -> tuple[str, ...]:
    cautions = []
    if "world" in {(config.get(name) or {}).get("teacher") for name in ("vision", "reasoner")}:
        cautions.append(
            "The teachers of this set know the procedural world. The numbers test the pipeline; they are no evidence "
            "about real teachers, nor for a paper."
        )
    if found["saw_answer"]:
        cautions.append(
            "Some steps saw the answer. That a chain ends in the right answer then says little about the chain."
        )
    return tuple(cautions)


# -------------------------------------------------------------------------------------------------------------- funnel


def _funnel(summary: JsonRow) -> tuple[Bar, ...]:
    rows, written = summary.get("rows", {}), summary.get("written", {})
    unusable = sum(summary.get("left_out", {}).values()) - rows.get("failed", 0)
    taken = rows.get("all", 0) + max(0, unusable)
    right = written.get("easy", 0) + written.get("mixed", 0)
    steps = (
        ("read from the data", taken, ""),
        ("usable", rows.get("all", 0), ""),
        (
            "written by the teachers",
            rows.get("done", 0),
            f"{rows.get('failed', 0):,} failed" if rows.get("failed") else "",
        ),
        ("right at least once", right, ""),
        ("in the set", written.get("in the set", 0), ""),
    )
    return tuple(
        Bar(name, f"{n:,}", small or _percent(n, taken), ((n / max(1, taken), "c0"),)) for name, n, small in steps
    )


def _percent(n: int, of: int) -> str:
    return f"{100 * n / of:.1f}%" if of else ""


def filter_rows(found: JsonRow, kept: int, config: JsonRow) -> tuple[FilterRow, ...]:
    """Filters in the order they were asked. A chain is dropped by the first that objects, so that the numbers go down
    like a stair."""
    order = list(config.get("filters") or FILTER_NAMES)
    by_name: dict[str, list[JsonRow]] = {}
    for one in found["filters"]:
        by_name.setdefault(one["filter"], []).append(one)
    names = [*order, *(name for name in by_name if name not in order)]
    left = kept + sum(one["n"] for one in found["filters"])
    most = max((sum(one["n"] for one in reasons) for reasons in by_name.values()), default=1)
    table = []
    for name in names:
        reasons = by_name.get(name, [])
        dropped = sum(one["n"] for one in reasons)
        row = FilterRow(name.replace("_", " "), left, dropped, _percent(dropped, left), dropped / most, tuple(reasons))
        table.append(row)
        left -= dropped
    return tuple(table)


# ------------------------------------------------------------------------------------------------- accuracy and sources


def _accuracy_rows(accuracy: JsonRow) -> tuple[JsonRow, ...]:
    rows = []
    for arm in ARMS if accuracy else ():
        one = accuracy[arm]
        plot = forest([(one["accuracy"], one["low"], one["high"], 0)])
        rows.append({"name": ARM_NAMES[arm], "n": accuracy["n"], "plot": plot, **one})
    return tuple(rows)


def _gaps(accuracy: JsonRow) -> tuple[str, ...]:
    found = []
    for arm in ARMS[1:] if accuracy else ():
        gap = accuracy[f"bridged - {arm}"]
        words = f"{100 * gap['difference']:+.1f} points [{100 * gap['low']:.1f}, {100 * gap['high']:.1f}]"
        shown = gap["low"] > 0 or gap["high"] < 0
        found.append(
            f"bridged minus {ARM_NAMES[arm]}: {words}{'' if shown else ', not shown: the interval contains 0'}"
        )
    return tuple(found)


def _source_rows(sources: JsonRow) -> tuple[JsonRow, ...]:
    rows = []
    for name, one in sources.items():
        dropped = one["rows"] - one["in_set"] - one["never_right"]
        of = max(1, one["rows"])
        parts = ((one["in_set"] / of, "c0"), (max(0, dropped) / of, "c4"), (one["never_right"] / of, "c1"))
        reasons = ", ".join(f"{filter_name.replace('_', ' ')} {n:,}" for filter_name, n in one["rejected"].items())
        accuracy = one["accuracy"]
        gap = f"{100 * accuracy['bridged - caption']['difference']:+.0f}" if accuracy else ""
        bar = Bar(name, f"{one['in_set']:,}", f"of {one['rows']:,}", parts)
        rows.append({"bar": bar, "share": _percent(one["in_set"], one["rows"]), "reasons": reasons, "gap": gap})
    return tuple(rows)


# ---------------------------------------------------------------------------------------------------- words and lengths


def _word_rows(words: JsonRow) -> tuple[JsonRow, ...]:
    published, ours = words["published"], words["ours"]
    rows = []
    for word in ours["count"]:
        cells = [_rate(one["per_1k_samples"][word]) for one in published.values()]
        mine = [_rate(ours[key][word]) if key in ours else "-" for key in ("per_1k_samples", "per_1k_tokens")]
        rows.append({"word": word, "cells": [*cells, *mine]})
    return tuple(rows)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.05 or value == 0 else f"{value:.3f}"


def _word_notes(words: JsonRow) -> tuple[str, ...]:
    ours = words["ours"]
    if "share_with_any" not in ours:
        return ("The set is empty.",)
    return (
        f"Ours: {ours['samples']:,} chains, {ours['tokens']:,} tokens as the server counted them; "
        f"{100 * ours['share_with_any']:.0f}% of the chains hold one of the words.",
    )


def _length_chart(lengths: JsonRow) -> Markup | None:
    colors = {"in the set": 0, "right": 2, "wrong": 1}
    shapes = [Shape(name, tuple(map(tuple, one["bars"])), colors[name]) for name, one in lengths.items() if one["n"]]
    return histogram(shapes, "lengths of chains in words") if shapes else None


# ------------------------------------------------------------------------------------------------------------- the run


def _step_rows(stages: JsonRow) -> tuple[JsonRow, ...]:
    def row(name: str, one: JsonRow) -> JsonRow:
        calls = max(1, one["calls"])
        return {
            "name": name.replace("_", "-"),
            "calls": f"{one['calls']:,}",
            "tokens": f"{number(one['tokens_in'])} / {number(one['tokens_out'])}",
            "seconds": number(one.get("seconds", 0.0) / calls),
            "cut_off": f"{one.get('cut_off', 0):,}",
            "cost": f"{one.get('cost', 0.0):,.2f}",
        }

    order: Sequence[str] = ("pseudo_cot", "description", "caption", "reasoning")
    return tuple(row(name, stages[name]) for name in order if name in stages)
