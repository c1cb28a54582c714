"""Assembles the page: what was trained, whether it learned, and the evidence.

A demo directory holds runs (`sft/`, `rl/`, `controls/<name>/`) and beside them

- `results.json`: the table of all models, docs/design.md;
- `samples.json`: a list of {sample_id, task, split, question, image (a path inside the directory), gold, gold_box,
  replies: {model: {text, box, right}}}; boxes are pixels of the original image or null;
- `demo.json`: {title, headline: {name: text or number}, comparisons: [{name, difference, low, high, n}],
  listings: {model: mean}, notes: [text], commands: [text], seed}; every key may be missing, and the first comparison
  is the headline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.disk import write_text
from saccade.report.behavior import with_behavior
from saccade.report.browser import BUDGET, Groups, group_data
from saccade.report.cautions import alarms_of, cautions, facts
from saccade.report.charts import forest_axis
from saccade.report.curves import Curves, curves
from saccade.report.documents import CONTROLS, environment, odd_values_named, policy, script, style
from saccade.report.formulas import formulas_of
from saccade.report.headlines import Headline, demo_headline, run_headline
from saccade.report.heldout import Items, run_items, sample_items
from saccade.report.hero import Hero, hero
from saccade.report.outcome import blind_words
from saccade.report.pictures import Pictures
from saccade.report.tables import Comparison, SplitTable, differences, tables
from saccade.runs.alarms import Alarm
from saccade.runs.files import JsonRow, read_json, read_run

if TYPE_CHECKING:
    from saccade.report.study_page import StudyTables


@dataclass(frozen=True, slots=True)
class RunSection:
    """The curves of one run (or of one part of a demo)."""

    name: str
    curves: Curves


@dataclass(frozen=True, slots=True)
class Live:
    """A page that a server keeps up to date."""

    seconds: float
    """Between two questions whether the run's files changed."""
    version: str
    """Of the files that this page was made from."""


@dataclass(frozen=True, slots=True)
class Page:
    """The data of the page template."""

    title: str
    headline: Headline
    hero: Hero | None
    alarms: tuple[Alarm, ...]
    runs: tuple[RunSection, ...]
    """The first with its four charts open, the others folded."""
    tables: tuple[SplitTable, ...]
    attempts: tuple[JsonRow, ...]
    comparisons: tuple[Comparison, ...]
    listings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    groups: Groups
    items: Items
    pictures: Pictures
    environment: tuple[tuple[str, str], ...]
    configs: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of several runs: recipe keys that differ, with a value for each run."""
    names: tuple[str, ...] = ()
    """Of several runs."""
    study: StudyTables | None = None


def build_report(
    run_dir: str | Path, out: str | Path | None = None, *others: str | Path, live: Live | None = None
) -> Path:
    """Write the report of a run or of a demo directory, or of several runs beside each other; by default `report.html`
    inside the first. Returns its path.

    Raises ValueError when a directory holds none of the files that a run leaves.
    """
    folder = Path(run_dir)
    html = report_text([folder, *map(Path, others)], live)
    target = Path(out) if out else folder / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, html, errors="replace")
    return target


def report_text(folders: Sequence[Path], live: Live | None = None) -> str:
    """The page of one run or demo, or of several runs, as HTML. ValueError for values that no run writes."""
    with odd_values_named(*folders):
        for folder in folders:
            _check(folder)
        return _text(folders, live)


def _text(folders: Sequence[Path], live: Live | None) -> str:
    if len(folders) > 1:
        from saccade.report.several import several_page  # which builds on this file

        return render(several_page(folders), live)
    (folder,) = folders
    if (folder / "study.json").exists():
        from saccade.report.study_page import study_page  # which builds on this file

        return render(study_page(folder), live)
    parts = demo_parts(folder)
    return render(demo_page(folder, parts) if parts else run_page(folder), live)


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a directory; expected a run directory such as runs/demo")
    files = ("config.yaml", "metrics.jsonl", "results.json", "study.json")
    if not demo_parts(folder) and not any((folder / name).exists() for name in files):
        raise ValueError(f"{folder} contains no config.yaml, metrics.jsonl or results.json; expected a run directory")


def render(page: Page, live: Live | None = None) -> str:
    """The page as self-contained HTML."""
    warnings = list(page.warnings)
    texts = [item["q"] for item in page.items.data] + [group["q"] for group in page.groups.data]
    texts += [one["gold"] for one in (*page.items.data, *page.groups.data)]
    texts += [option for one in (*page.items.data, *page.groups.data) for _, option in one["options"]]
    texts += [reply["t"] for one in (*page.items.data, *page.groups.data) for reply in one["r"]]
    data = {
        "groups": page.groups.data,
        "items": page.items.data,
        "pictures": page.pictures.found,
        "formulas": formulas_of(texts, warnings),
        "names": page.names,
        "live": None if live is None else {"seconds": live.seconds, "version": live.version},
    }
    css, code = style("style.css", "browser.css"), script()
    template = environment().get_template("page.html")
    html = template.render(
        page=replace(page, warnings=tuple(warnings)),
        axis=forest_axis(),
        data=data,
        style=css,
        script=code,
        policy=policy(css, code, connect=live is not None),
    )
    return html.translate(CONTROLS)


def demo_parts(folder: Path) -> list[Path]:
    """Runs inside a demo directory, RL first, then SFT; [] for a single run."""
    if (folder / "metrics.jsonl").exists():
        return []
    found = {path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/metrics.jsonl")}
    order = {"rl": 0, "sft": 1}
    return sorted(found, key=lambda path: (order.get(str(path.relative_to(folder)), 2), str(path)))


# ------------------------------------------------------------------------------------------------------- a single run


def run_page(folder: Path) -> Page:
    """The page of one training run or one evaluation."""
    needs = (
        ("config.yaml", "results.json", "items.jsonl")
        if (folder / "items.jsonl").exists()
        else ("config.yaml", "environment.json", "metrics.jsonl")
    )
    run, name = read_run(folder, needs), folder.resolve().name
    if run.kind == "rl" and not (folder / "rollouts.jsonl").exists():
        run.warnings.append("rollouts.jsonl is missing: no groups to browse")
    pictures = Pictures()
    items = run_items(run, pictures)
    groups = group_data(run, pictures, BUDGET - pictures.bytes)
    return Page(
        title=name,
        headline=run_headline(run),
        hero=hero(items.data, pictures),
        alarms=tuple(alarms_of(run)),
        runs=(RunSection(name, curves(with_behavior(run))),) if run.metrics else (),
        tables=tuple(tables(run.results.get("rows", []))),
        attempts=tuple(run.results.get("attempts", ())),
        comparisons=(),
        listings=(),
        notes=(),
        groups=groups,
        items=items,
        pictures=pictures,
        environment=facts(run.environment),
        configs=((f"{name}/config.yaml", run.config_text),) if run.config_text else (),
        warnings=tuple(dict.fromkeys([*run.warnings, *cautions(run), *_unseen(groups)])),
    )


# ------------------------------------------------------------------------------------------------------------- a demo


def demo_page(folder: Path, parts: Sequence[Path]) -> Page:
    """The page of a demo directory: SFT, RL and controls beside the table that compares them."""
    runs = {str(path.relative_to(folder)): read_run(path, ("config.yaml", "environment.json")) for path in parts}
    warnings = [warning for run in runs.values() for warning in run.warnings]
    warnings += [
        f"{name} is missing" for name in ("results.json", "samples.json", "demo.json") if not (folder / name).exists()
    ]
    results, demo = read_json(folder / "results.json", warnings), read_json(folder / "demo.json", warnings)
    pictures, rl = Pictures(), runs.get("rl")
    samples = sample_items(read_json(folder / "samples.json", warnings) or [], folder, pictures, warnings)
    of_run = run_items(rl, pictures) if rl else Items([], 0)
    items = Items([*samples, *of_run.data], len(samples) + of_run.total)
    groups = group_data(rl, pictures, BUDGET - pictures.bytes) if rl else Groups([], "")
    for name, run in runs.items():
        warnings += [f"{name}: {caution}" for caution in cautions(run)]
    recorded = next((run.environment for run in runs.values() if run.environment), {})
    blind = blind_words(rl, rl.evaluations()) if rl else ""
    return Page(
        title=str(demo.get("title", folder.resolve().name)),
        headline=demo_headline(demo, results, blind),
        hero=hero(samples, pictures),
        alarms=tuple(alarms_of(rl)) if rl else (),
        runs=tuple(RunSection(n, curves(with_behavior(r))) for n, r in runs.items()),
        tables=tuple(tables(results.get("rows", []))),
        attempts=tuple(results.get("attempts", ())),
        comparisons=tuple(differences(demo.get("comparisons", []))),
        listings=tuple((str(model), f"{count:.2f}") for model, count in demo.get("listings", {}).items()),
        notes=tuple(str(note) for note in demo.get("notes", [])),
        groups=groups,
        items=items,
        pictures=pictures,
        environment=facts({**recorded, **{k: demo[k] for k in ("commands", "seed") if k in demo}}),
        configs=tuple((f"{n}/config.yaml", r.config_text) for n, r in runs.items() if r.config_text),
        warnings=tuple(dict.fromkeys([*warnings, *_unseen(groups)])),
    )


def _unseen(groups: Groups) -> list[str]:
    if not groups.without_image:
        return []
    return [
        f"{groups.without_image} of {len(groups.data)} groups are shown without their image: the run did not keep it"
    ]
