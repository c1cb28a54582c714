"""The page of a cold-start set: what came out, what was dropped and why, the worth of the bridge, samples side by side.

Made only from the files of the set's directory: `summary.json`, `statistics.json`, `drafts.jsonl`, `config.yaml` and
its images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from saccade.coldstart.drafts import Chain, Draft
from saccade.coldstart.filters import FILTERS
from saccade.coldstart.statistics import ARMS, FILE, WORDS, read_drafts
from saccade.report.cards import picture
from saccade.report.charts import forest, forest_axis, number
from saccade.report.histogram import Shape, histogram
from saccade.runs.files import Row, read_json

SAMPLES = 12
PER_SOURCE = 2
"""Samples of each source that are in the set; one more that is not."""
ARM_NAMES = {"bridged": "bridged description", "caption": "plain caption, same budget", "none": "the question alone"}
LONGEST_DIFF = 1500
"""Words of a chain whose changes are marked; comparing is quadratic."""


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
    reasons: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class SampleCard:
    """One question with everything that was written about it."""

    id: str
    source: str
    question: str
    options: tuple[str, ...]
    gold: str
    pictures: tuple[Markup, ...]
    difficulty: str
    pseudo_cot: str
    description: str
    chain: Markup
    answer: str
    right: bool | None
    in_set: bool
    reason: str
    facts: tuple[tuple[str, str], ...]


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
    accuracy: tuple[Row, ...]
    gaps: tuple[str, ...]
    by_source: tuple[Row, ...]
    words: tuple[Row, ...]
    word_notes: tuple[str, ...]
    lengths: Markup | None
    length_rows: tuple[Row, ...]
    samples: tuple[SampleCard, ...]
    steps: tuple[Row, ...]
    prompts: tuple[str, ...]
    config: str
    warnings: tuple[str, ...]


def build_page(directory: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a set, by default `report.html` inside its directory; returns its path.

    ValueError when the directory holds no `summary.json` and `statistics.json`.
    """
    folder = Path(directory)
    missing = [name for name in ("summary.json", FILE, "drafts.jsonl") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {' and no '.join(missing)}; expected a set made by saccade coldstart")
    warnings: list[str] = []
    page = _page(folder, read_json(folder / "summary.json", warnings), read_json(folder / FILE, warnings), warnings)
    environment = Environment(
        loader=PackageLoader("saccade.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("coldstart.html").render(page=page, axis=forest_axis())
    target = Path(out) if out else folder / "report.html"
    beside = target.with_name(target.name + ".part")
    beside.write_text(html, encoding="utf-8", errors="replace")
    os.replace(beside, target)
    return target


def _page(folder: Path, summary: Row, found: Row, warnings: list[str]) -> ColdStartPage:
    text = (folder / "config.yaml").read_text(encoding="utf-8") if (folder / "config.yaml").is_file() else ""
    config = yaml.safe_load(text) or {}
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


def _teacher(config: Row, name: str) -> str:
    part = config.get(name) or {}
    return "the world's ground truth" if part.get("teacher") == "world" else str(part.get("model", "not recorded"))


def _lead(config: Row, found: Row) -> str:
    sees, thinks = _teacher(config, "vision"), _teacher(config, "reasoner")
    told = found["saw_answer"]
    knew = "No step saw the answer." if not told else f"A step saw the answer in {told:,} rows."
    both = f"{sees} describes the pictures; {thinks}, which sees none, reasons from its words."
    if sees == thinks:
        both = f"{sees} describes the pictures, then reasons without them from its own words."
    return f"{both} {knew}"


def _tiles(summary: Row) -> tuple[tuple[str, str, str], ...]:
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


def _cautions(config: Row, found: Row) -> tuple[str, ...]:
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


def _funnel(summary: Row) -> tuple[Bar, ...]:
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


def filter_rows(found: Row, kept: int, config: Row) -> tuple[FilterRow, ...]:
    """Filters in the order they were asked. A chain is dropped by the first that objects, so that the numbers go down
    like a stair."""
    order = list(config.get("filters") or FILTERS)
    by_name: dict[str, list[Row]] = {}
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


def _accuracy_rows(accuracy: Row) -> tuple[Row, ...]:
    rows = []
    for arm in ARMS if accuracy else ():
        one = accuracy[arm]
        plot = forest([(one["accuracy"], one["low"], one["high"], 0)])
        rows.append({"name": ARM_NAMES[arm], "n": accuracy["n"], "plot": plot, **one})
    return tuple(rows)


def _gaps(accuracy: Row) -> tuple[str, ...]:
    found = []
    for arm in ARMS[1:] if accuracy else ():
        gap = accuracy[f"bridged - {arm}"]
        words = f"{100 * gap['difference']:+.1f} points [{100 * gap['low']:.1f}, {100 * gap['high']:.1f}]"
        shown = gap["low"] > 0 or gap["high"] < 0
        found.append(
            f"bridged minus {ARM_NAMES[arm]}: {words}{'' if shown else ', not shown: the interval contains 0'}"
        )
    return tuple(found)


def _source_rows(sources: Row) -> tuple[Row, ...]:
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


def _word_rows(words: Row) -> tuple[Row, ...]:
    published, ours = words["published"], words["ours"]
    rows = []
    for word in WORDS:
        cells = [_rate(one["per_1k_samples"][word]) for one in published.values()]
        mine = [_rate(ours[key][word]) if key in ours else "-" for key in ("per_1k_samples", "per_1k_tokens")]
        rows.append({"word": word, "cells": [*cells, *mine]})
    return tuple(rows)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.05 or value == 0 else f"{value:.3f}"


def _word_notes(words: Row) -> tuple[str, ...]:
    ours = words["ours"]
    if "share_with_any" not in ours:
        return ("The set is empty.",)
    return (
        f"Ours: {ours['samples']:,} chains, {ours['tokens']:,} tokens as the server counted them; "
        f"{100 * ours['share_with_any']:.0f}% of the chains hold one of the words.",
    )


def _length_chart(lengths: Row) -> Markup | None:
    colors = {"in the set": 0, "right": 2, "wrong": 1}
    shapes = [Shape(name, tuple(map(tuple, one["bars"])), colors[name]) for name, one in lengths.items() if one["n"]]
    return histogram(shapes, "lengths of chains in words") if shapes else None


# ------------------------------------------------------------------------------------------------------------- samples


def chosen_samples(folder: Path) -> tuple[list[Draft], tuple[str, ...]]:
    """Drafts to show (of each source the first that are in the set, and the first that is not), and every version of a
    prompt that wrote any."""
    kept: dict[str, list[Draft]] = {}
    dropped: dict[str, Draft] = {}
    prompts: set[str] = set()
    for draft in read_drafts(folder):
        prompts.update(step.prompt_version for step in draft.steps)
        if draft.chosen:
            of_source = kept.setdefault(draft.source, [])
            if len(of_source) < PER_SOURCE:
                of_source.append(draft)
        elif draft.of_arm("bridged"):
            dropped.setdefault(draft.source, draft)
    rounds = [[drafts[i] for drafts in kept.values() if i < len(drafts)] for i in range(PER_SOURCE)]
    good = [draft for one in rounds for draft in one]
    bad = list(dropped.values())[: SAMPLES // 3]
    return [*good[: SAMPLES - len(bad)], *bad], tuple(sorted(prompts))


def sample_card(draft: Draft, folder: Path, warnings: list[str]) -> SampleCard:
    """The chosen chain, or the one whose rejection says most: a right one that a filter dropped before a wrong one."""
    chain = _telling(draft)
    pictures = [picture(folder / name) for name in draft.images]
    if None in pictures:
        warnings.append(f"sample {draft.id}: an image cannot be read")
    first = chain.rejections[0] if chain.rejections else None
    bridged = draft.of_arm("bridged")
    facts = [("right", f"{sum(bool(one.right) for one in bridged)} of {len(bridged)}"), ("tokens", f"{chain.tokens:,}")]
    knew = [step.stage for step in draft.steps if step.saw_answer]
    if knew:
        facts.append(("saw the answer", ", ".join(dict.fromkeys(knew))))
    options = draft.meta.get("options")
    return SampleCard(
        id=draft.id,
        source=draft.source,
        question=draft.question.replace("<image>", "").strip(),
        options=tuple(map(str, options)) if isinstance(options, list | tuple) else (),
        gold=_plain(draft.answer),
        pictures=tuple(one for one in pictures if one is not None),
        difficulty=draft.difficulty or "not graded",
        pseudo_cot=draft.pseudo_cot or "",
        description=draft.description or "",
        chain=marked(chain),
        answer=chain.answer or "none",
        right=chain.right,
        in_set=bool(draft.chosen),
        reason=f"{first.filter.replace('_', ' ')}: {first.reason}" if first else "",
        facts=tuple(facts),
    )


def _telling(draft: Draft) -> Chain:
    if draft.chosen:
        return draft.chains[draft.chosen[0]]
    bridged = draft.of_arm("bridged")
    judged = [chain for chain in bridged if chain.rejections] or list(bridged)
    return next((chain for chain in judged if chain.right), judged[0])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def marked(chain: Chain) -> Markup:
    """The thought as it is learned; what polish took out is struck through, what it put in is marked."""
    before, after = _tokens(chain.text), _tokens(chain.words)
    if before == after or len(before) + len(after) > 4 * LONGEST_DIFF:
        return escape(chain.words)
    parts: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = "".join(before[a:b]), "".join(after[c:d])
        if kind == "equal":
            parts.append(str(escape(new)))
            continue
        if old.strip():
            parts.append(f"<del>{escape(old)}</del>")
        if new:
            parts.append(f"<ins>{escape(new)}</ins>")
    return Markup("".join(parts))


def _tokens(text: str) -> list[str]:
    """Words and the spaces between them."""
    pieces: list[str] = []
    word = ""
    for letter in text:
        if letter.isspace() != word[-1:].isspace() and word:
            pieces.append(word)
            word = ""
        word += letter
    return [*pieces, word] if word else pieces


# ------------------------------------------------------------------------------------------------------------- the run


def _step_rows(stages: Row) -> tuple[Row, ...]:
    def row(name: str, one: Row) -> Row:
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
