"""The top of a page: one sentence, the numbers under it, and what the controls say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saccade.report.charts import number
from saccade.report.curves import ends
from saccade.report.outcome import blind_words, outcome
from saccade.report.tables import is_shown
from saccade.runs.files import JsonRow, RunFiles


@dataclass(frozen=True, slots=True)
class Headline:
    """The top of the page."""

    verdict: str
    detail: str
    tiles: tuple[tuple[str, str, str], ...] = ()
    """(name, value, small print)."""
    controls: tuple[str, ...] = ()
    """What the controls say, a sentence each."""


def run_headline(run: RunFiles) -> Headline:
    """What the run's numbers say: held-out accuracy before and after where it was measured."""
    evaluations = run.evaluations()
    if (found := outcome(evaluations)) is not None:
        last, n = found.last, found.change.n
        tiles = (
            ("held-out accuracy", f"{100 * last.mean:.0f}%", f"{100 * last.low:.0f} to {100 * last.high:.0f}, n = {n}"),
            ("before", f"{100 * found.first.mean:.0f}%", f"step {found.first_step}"),
            *(t for key, label, share in _TILES if (t := _tile(run.metrics, key, label, share))),
        )
        return Headline(found.verdict, found.detail, tiles[:5], (blind_words(run, evaluations),))
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


def _value(value: Any) -> str:
    """A headline number: a float in [0, 1] is a share, shown as percent; text is unchanged."""
    if isinstance(value, float) and 0.0 <= value <= 1.0:
        return f"{100 * value:.1f}%"
    return number(value) if isinstance(value, (int, float)) else str(value)


def demo_headline(demo: JsonRow, results: JsonRow, blind: str = "") -> Headline:
    """RL minus its SFT start, claiming only what the interval supports. The first comparison of demo.json is the
    headline, the others are controls."""
    tiles = [(str(name).replace("_", " "), _value(value), "") for name, value in demo.get("headline", {}).items()]
    tiles += _accuracies(results)
    if "seconds" in results:
        tiles.append(("wall clock", f"{results['seconds'] / 60:.1f} min", f"seed {results.get('seed', '?')}"))
    comparisons = demo.get("comparisons", [])
    if not comparisons:
        words = "There is no paired comparison in demo.json, so the page makes no claim."
        return Headline("Did it learn?", words, tuple(tiles))
    first = comparisons[0]
    bounds = f"{100 * first['low']:+.1f} to {100 * first['high']:+.1f} points"
    interval = f"95% interval {bounds}, {first['n']} held-out questions, paired"
    controls = tuple(words for words in (_control_words(comparisons[1:]), blind) if words)
    if not is_shown(first):
        return Headline(f"{first['name']}: not shown", f"The interval contains 0 ({interval}).", tuple(tiles), controls)
    gain = f"{first['name']}: {100 * first['difference']:+.1f} points"
    return Headline(gain, interval + ".", tuple(tiles), controls)


def _accuracies(results: JsonRow) -> list[tuple[str, str, str]]:
    """Held-out accuracy of the base, SFT and RL on the first split, sampled: what the headline compares."""
    rows = [row for row in results.get("rows", []) if row["task"] == "all" and not row.get("control")]
    rows = [row for row in rows if row["split"] == rows[0]["split"] and row["decoding"] == "sampled"]
    shown = {row["model"]: row for row in rows}
    return [
        (
            f"{model.upper() if model != 'base' else model}, held out",
            f"{100 * row['accuracy']:.0f}%",
            f"{100 * row['low']:.0f} to {100 * row['high']:.0f}, n = {row['n']}",
        )
        for model in ("base", "sft", "rl")
        if (row := shown.get(model))
    ]


def _control_words(comparisons: Sequence[JsonRow]) -> str:
    """The comparisons with models of equal compute and with habits forced, in a sentence."""
    kept = [one for one in comparisons if "equal compute" in one["name"] or "forced" in one["name"]]
    parts = [f"{one['name']} {100 * one['difference']:+.1f}" if is_shown(one) else f"{one['name']} not shown"
             for one in kept[:4]]  # fmt: skip
    return f"Controls, in points: {'; '.join(parts)}." if parts else ""
