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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from saccade.disk import write_text
from saccade.report.cards import Card, group_cards, item_cards, masked_reasons, sample_cards
from saccade.report.charts import forest_axis, number
from saccade.report.curves import Curves, curves, ends
from saccade.report.tables import Comparison, SplitTable, differences, is_shown, tables
from saccade.runs.files import JsonRow, RunFiles, read_json, read_run

GAP_ALARM = 0.01
"""Mean |log-prob difference| of sampler and trainer above which their models differ."""


@dataclass(frozen=True, slots=True)
class Headline:
    """The top of the page."""

    verdict: str
    detail: str
    tiles: tuple[tuple[str, str, str], ...] = ()
    """(name, value, small print)."""


@dataclass(frozen=True, slots=True)
class RunSection:
    """The curves of one run (or of one part of a demo)."""

    name: str
    curves: Curves
    open: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """The data of the page template."""

    title: str
    headline: Headline
    runs: tuple[RunSection, ...]
    tables: tuple[SplitTable, ...]
    attempts: tuple[JsonRow, ...]
    comparisons: tuple[Comparison, ...]
    listings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    cards: tuple[Card, ...]
    groups: tuple[Card, ...]
    environment: tuple[tuple[str, str], ...]
    configs: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def build_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run or of a demo directory; by default `report.html` inside it. Returns its path.

    Raises ValueError when the directory holds none of the files that a run leaves.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a directory; expected a run directory such as runs/demo")
    parts = demo_parts(folder)
    if not parts and not any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl", "results.json")):
        raise ValueError(f"{folder} contains no config.yaml, metrics.jsonl or results.json; expected a run directory")
    html = render(demo_page(folder, parts) if parts else run_page(folder))
    target = Path(out) if out else folder / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, html, errors="replace")
    return target


def render(page: Page) -> str:
    """The page as self-contained HTML."""
    environment = Environment(
        loader=PackageLoader("saccade.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page, axis=forest_axis())


def demo_parts(folder: Path) -> list[Path]:
    """Runs inside a demo directory, SFT and RL first; [] for a single run."""
    if (folder / "metrics.jsonl").exists():
        return []
    found = {path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/metrics.jsonl")}
    order = {"sft": 0, "rl": 1}
    return sorted(found, key=lambda path: (order.get(str(path.relative_to(folder)), 2), str(path)))


# ------------------------------------------------------------------------------------------------------- a single run


def run_page(folder: Path) -> Page:
    """The page of one training run or one evaluation."""
    needs = (
        ("config.yaml", "results.json", "items.jsonl")
        if (folder / "items.jsonl").exists()
        else ("config.yaml", "environment.json", "metrics.jsonl")
    )
    run = read_run(folder, needs)
    if run.kind == "rl" and not (folder / "rollouts.jsonl").exists():
        run.warnings.append("rollouts.jsonl is missing: no groups to browse")
    groups = group_cards(run)
    shown = run.results.get("rows", [])
    warnings = [*run.warnings, *alarms(run), *_unseen(groups, "group")]
    return Page(
        title=folder.resolve().name,
        headline=run_headline(run),
        runs=(RunSection(folder.resolve().name, curves(run.metrics)),) if run.metrics else (),
        tables=tuple(tables(shown)),
        attempts=tuple(run.results.get("attempts", ())),
        comparisons=(),
        listings=(),
        notes=(),
        cards=tuple(item_cards(run)),
        groups=tuple(groups),
        environment=facts(run.environment),
        configs=((f"{folder.resolve().name}/config.yaml", run.config_text),) if run.config_text else (),
        warnings=tuple(warnings),
    )


def run_headline(run: RunFiles) -> Headline:
    """One sentence that summarizes the run's numbers."""
    model = run.config.get("model", {})
    name = model.get("path", "a model") if isinstance(model, dict) else str(model)
    rows = [row for row in run.results.get("rows", []) if row["task"] == "all"]
    if rows and not run.metrics:
        tiles = tuple(
            (
                f"{r['split']}, {r['decoding']}",
                f"{100 * r['accuracy']:.1f}%",
                f"{100 * r['low']:.1f} to {100 * r['high']:.1f}, n = {r['n']}",
            )
            for r in rows
        )
        return Headline(f"Accuracy of {name}", "With 95% intervals. Nothing was trained in this run.", tiles)
    verb = {"rl": "Reinforcement learning", "sft": "Supervised fine-tuning", "pretrain": "Pre-training"}.get(
        run.kind, "Training"
    )
    tiles = tuple(
        tile for key, label, percent in _candidates(run.metrics) if (tile := _tile(run.metrics, key, label, percent))
    )
    if not tiles:
        return Headline(f"{verb} of {name}", "The run has no metrics that say whether it learned.")
    label, last, first = tiles[0]
    where = (
        "on held-out questions"
        if label.startswith("held-out")
        else "on training questions, which is no proof of generalisation"
    )
    means = "Means over the last tenth of the run, and over its first."
    detail = f"{verb} of {name}, {len(run.metrics)} rows of metrics, {where}. {means}"
    return Headline(f"{label.capitalize()} {last}, {first}", detail, tiles)


def _candidates(metrics: Sequence[JsonRow]) -> Sequence[tuple[str, str, bool]]:
    """(metric, its name, whether it is a share) in order of weight: accuracy leads, apart from format and reward."""
    keys = {key for row in metrics for key in row}
    of_tasks = [key for key in keys if key.startswith("accuracy/")]
    accuracy = of_tasks[0] if len(of_tasks) == 1 else "accuracy/all"
    held_out = ("eval/score", "held-out accuracy", True)
    if "eval/loss" in keys and not any(key.startswith("eval/accuracy/") for key in keys):
        held_out = ("eval/loss", "held-out loss", False)  # whose negative is the score
    return (held_out, (accuracy, "training accuracy", True), *_TILES)


_TILES = (
    ("format/strict", "strict format", True),
    ("reward/total", "reward", False),
    ("loss", "loss", False),
    ("loss/total", "loss", False),
    ("loss/train", "loss", False),
    ("length/mean", "reply length", False),
    ("truncated/share", "truncated", True),
)


def _tile(metrics: Sequence[JsonRow], key: str, label: str, percent: bool) -> tuple[str, str, str] | None:
    both = ends(metrics, key)
    return (label, number(both[1], percent), f"from {number(both[0], percent)}") if both else None


# ------------------------------------------------------------------------------------------------------------- a demo


def demo_page(folder: Path, parts: Sequence[Path]) -> Page:
    """The page of a demo directory: SFT, RL and controls beside the table that compares them."""
    runs = [read_run(path, ("config.yaml", "environment.json")) for path in parts]
    names = [str(path.relative_to(folder)) for path in parts]
    warnings = [warning for run in runs for warning in run.warnings]
    warnings += [
        f"{name} is missing" for name in ("results.json", "samples.json", "demo.json") if not (folder / name).exists()
    ]
    results, demo = read_json(folder / "results.json", warnings), read_json(folder / "demo.json", warnings)
    samples = read_json(folder / "samples.json", warnings) or []
    cards = sample_cards(samples, folder, warnings)
    by_name = dict(zip(names, runs, strict=True))
    groups = group_cards(by_name["rl"]) if "rl" in by_name else []
    for name, run in by_name.items():
        warnings += [f"{name}: {alarm}" for alarm in alarms(run)]
    environment = next((run.environment for run in reversed(runs) if run.environment), {})
    comparisons = demo.get("comparisons", [])
    return Page(
        title=str(demo.get("title", folder.resolve().name)),
        headline=demo_headline(demo, results),
        runs=tuple(
            RunSection(n, curves(r.metrics), open=n == "rl")
            for n, r in sorted(by_name.items(), key=lambda p: p[0] != "rl")
        ),
        tables=tuple(tables(results.get("rows", []))),
        attempts=tuple(results.get("attempts", ())),
        comparisons=tuple(differences(comparisons)),
        listings=tuple((str(model), f"{count:.2f}") for model, count in demo.get("listings", {}).items()),
        notes=tuple(str(note) for note in demo.get("notes", [])),
        cards=tuple(cards),
        groups=tuple(groups),
        environment=facts({**environment, **{k: demo[k] for k in ("commands", "seed") if k in demo}}),
        configs=tuple((f"{n}/config.yaml", r.config_text) for n, r in by_name.items() if r.config_text),
        warnings=(*warnings, *_unseen(groups, "group")),
    )


def _value(value: Any) -> str:
    """A headline number: a float in [0, 1] is a share, shown as percent; text is unchanged."""
    if isinstance(value, float) and 0.0 <= value <= 1.0:
        return f"{100 * value:.1f}%"
    return number(value) if isinstance(value, (int, float)) else str(value)


def demo_headline(demo: JsonRow, results: JsonRow) -> Headline:
    """RL minus its SFT start, claiming only what the interval supports. The first comparison of demo.json is the
    headline."""
    tiles = [(str(name).replace("_", " "), _value(value), "") for name, value in demo.get("headline", {}).items()]
    if "seconds" in results:
        tiles.append(("wall clock", f"{results['seconds'] / 60:.1f} min", f"seed {results.get('seed', '?')}"))
    comparisons = demo.get("comparisons", [])
    if not comparisons:
        return Headline(
            "Did it learn?", "There is no paired comparison in demo.json, so the page makes no claim.", tuple(tiles)
        )
    first = comparisons[0]
    bounds = f"{100 * first['low']:+.1f} to {100 * first['high']:+.1f} points"
    interval = f"95% interval {bounds}, {first['n']} held-out questions, paired"
    if not is_shown(first):
        return Headline(f"{first['name']}: not shown", f"The interval contains 0 ({interval}).", tuple(tiles))
    return Headline(f"{first['name']}: {100 * first['difference']:+.1f} points", interval + ".", tuple(tiles))


# --------------------------------------------------------------------------------------------- environment, warnings


def facts(environment: JsonRow, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Flat (key, value) pairs of a nested record."""
    found: list[tuple[str, str]] = []
    for key, value in environment.items():
        if isinstance(value, dict):
            found += facts(value, f"{prefix}{key}.")
        else:
            text = (
                "\n".join(map(str, value))
                if isinstance(value, list)
                else "not recorded"
                if value is None
                else str(value)
            )
            found.append((f"{prefix}{key}", text))
    return tuple(found)


def alarms(run: RunFiles) -> list[str]:
    """Warnings that follow from the numbers."""
    found = []
    odd = sorted({k for row in run.metrics for k, v in row.items() if isinstance(v, float) and v != v})
    if odd:
        found.append(f"metrics are not a number at some steps (omitted from the curves): {', '.join(odd)}")
    gap = ends(run.metrics, "sampler/gap_mean")
    if gap and max(gap[:2]) > GAP_ALARM:
        found.append(
            f"sampler and trainer disagree by {number(max(gap[:2]))} in mean log-prob (alarm above {GAP_ALARM})"
        )
    flat = ends(run.metrics, "groups/zero_variance")
    if flat and flat[1] > 0.8:
        found.append(f"{number(flat[1], True)} of the last groups have no signal: all their rewards are equal")
    cut = ends(run.metrics, "truncated/share")
    if cut and cut[1] > 0.3:
        found.append(f"{number(cut[1], True)} of the last replies are truncated by the token cap")
    found += [
        f"{n} rollouts were masked (an internal failure, not the model's): {why}"
        for why, n in masked_reasons(run.rollouts()).items()
    ]
    return found


def _unseen(cards: Iterable[Card], what: str) -> list[str]:
    cards = list(cards)
    without = sum(not card.pictures for card in cards)
    return (
        [f"{without} of {len(cards)} {what}s are shown without their image: the run did not keep it"] if without else []
    )
