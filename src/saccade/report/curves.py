"""The curves of a run: a table of panels, filled from the metrics in metrics.jsonl."""

from __future__ import annotations

import math
import re
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from markupsafe import Markup

from saccade.report.charts import Series, line_chart, number, smooth, window

LINES = 6
"""Most lines in one chart, limited by the palette's colors; further ones go to a second chart."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart: its title, a pattern of metrics to show (whose group is the line's name), and a note."""

    title: str
    pattern: str
    note: str = ""
    percent: bool = False


PANELS = (
    Panel(
        "Held-out accuracy",
        r"eval/(score)|eval/accuracy/(.+)|eval/(accuracy)|eval/(blind)",
        "On questions that training never sees; blind: without their image",
        percent=True,
    ),
    Panel("Held-out loss", r"eval/(loss)", "Nats per token"),
    Panel("Held-out reply length", r"eval/(length)", "Tokens"),
    Panel("Reward by part", r"reward/(.+)", "Mean over the step's rollouts"),
    Panel("Accuracy by task", r"accuracy/(.+)", "Sampled, on training questions", percent=True),
    Panel("Strict format", r"format/(strict)", "Share of replies with one thought and one answer", percent=True),
    Panel("Accuracy by source", r"source/(.+)/accuracy", "Sampled, on training questions", percent=True),
    Panel("Reward by source", r"source/(.+)/reward"),
    Panel("Loss", r"(?:policy|sft|train)/(loss)|loss/(.+)|(loss)"),
    Panel("Negative log-likelihood", r"nll/(.+)", "Nats per token"),
    Panel("Reply length", r"length/(.+)", "Tokens; all, right and wrong replies"),
    Panel("Truncated replies", r"truncated/(share)", "Share cut off by the stage's token cap", percent=True),
    Panel(
        "Groups without signal",
        r"groups/(zero_variance)",
        "Share of groups in which all rewards are equal",
        percent=True,
    ),
    Panel("Boxes per reply", r"boxes/(per_reply|gold)", "gold: the true number"),
    Panel("Precision and recall of boxes", r"boxes/(precision|recall)", "At IoU 0.5", percent=True),
    Panel("Reflection words", r"words/(reflection)", "Share of replies with a word like wait, again", percent=True),
    Panel(
        "Signs of cheating",
        r"replies/(repetition)|answers/(excess)|boxes/(copied)",
        "Repetitive replies; constant answers and copied boxes, above the share for which they are true",
    ),
    Panel("Policy entropy", r"policy/(entropy)", "Nats per token"),
    Panel("KL to the reference", r"policy/(kl)", "Nats per token"),
    Panel("Clip fraction", r"policy/(clip_fraction)", "Share of tokens whose ratio was clipped", percent=True),
    Panel("Gradient norm", r"policy/(grad_norm)|(grad_norm)", "Before clipping"),
    Panel("Sampler against trainer", r"sampler/gap_(.+)", "Difference of log-probs for the same tokens and weights"),
    Panel("Replies far from the trainer's log-probs", r"sampler/cause/(.+)", "Number in a step, by likely cause"),
    Panel("Time by phase", r"time/(.+)_s", "Seconds per step"),
    Panel("Learning rate", r"(?:policy|sft|train|optim)/(lr)|(lr)"),
    Panel("Throughput", r"tokens/(per_s)", "Tokens per second"),
    Panel("Memory", r"memory/(.+)_mb", "Peak, MB"),
)


LEAD = (
    ("Held-out accuracy", "Held-out loss", "Accuracy by task"),
    ("Reward by part", "Loss"),
    ("Reply length", "Gradient norm"),
    ("Groups without signal", "Learning rate"),
)
"""The four charts that a page opens with: of each the first that the run has."""


NAMES = {"score": "all tasks", "zero_variance": "equal rewards", "per_s": "all", "peak": "most"}
"""Names of lines where that of the metric says little."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn panel. `legend` holds (line name, color, value at the end of the smoothed line)."""

    title: str
    note: str
    svg: Markup
    legend: tuple[tuple[str, int, str], ...]
    panel: str = ""
    """Title of its panel; `title` adds which part it is of one with too many lines."""


@dataclass(frozen=True, slots=True)
class Curves:
    """All figures of one run: `lead` of LEAD, `figures` of the other panels; `rest` are metrics that match none."""

    lead: tuple[Figure, ...] = ()
    figures: tuple[Figure, ...] = ()
    rest: tuple[Figure, ...] = ()
    window: int = 1
    steps: int = 0
    stages: tuple[str, ...] = field(default=())


def curves(metrics: Sequence[dict[str, Any]]) -> Curves:
    """Figures of a run from its metric rows (each with `step`)."""
    rows = [row for row in metrics if isinstance(row.get("step"), (int, float))]
    columns = _columns(rows)
    bounds = boundaries(rows)
    figures: list[Figure] = []
    used: set[str] = {"step", "stage"}
    for panel in PANELS:
        matched = {key: m for key in columns if key not in used and (m := re.fullmatch(panel.pattern, key))}
        used |= matched.keys()
        lines = {NAMES.get(name := next(g for g in m.groups() if g), name): columns[key] for key, m in matched.items()}
        figures += figures_of(panel, lines, bounds)
    rest = [f for key in columns if key not in used for f in figures_of(Panel(key, ""), {key: columns[key]}, bounds)]
    longest = max((len(steps) for steps, _ in columns.values()), default=0)
    stages = tuple(dict.fromkeys(str(row["stage"]) for row in rows if "stage" in row))
    lead = [next((f for name in names for f in figures if f.panel == name), None) for names in LEAD]
    first = tuple(figure for figure in lead if figure is not None)
    others = tuple(figure for figure in figures if figure not in first)
    return Curves(first, others, tuple(rest), window(longest), len(rows), stages)


OVERLAID = (
    ("Held-out accuracy", "eval/score", True),
    ("Reward", "reward/total", False),
    ("Reply length", "length/mean", False),
    ("Groups without signal", "groups/zero_variance", True),
    ("Held-out accuracy without the image", "eval/blind", True),
    ("Training accuracy", "accuracy/all", True),
    ("Strict format", "format/strict", True),
    ("Truncated replies", "truncated/share", True),
    ("Policy entropy", "policy/entropy", False),
    ("KL to the reference", "policy/kl", False),
    ("Loss", "loss/train", False),
    ("Gradient norm", "policy/grad_norm", False),
    ("Throughput", "tokens/per_s", False),
)
"""(title, metric, whether it is a share) of the charts that show several runs, a line each; the first four lead."""


def overlaid(runs: Mapping[str, Sequence[dict[str, Any]]]) -> Curves:
    """Figures with a line for each run."""
    columns = {name: _columns(rows) for name, rows in runs.items()}
    figures = []
    for title, key, percent in OVERLAID:
        lines = {name: found[key] for name, found in columns.items() if key in found}
        figures += figures_of(Panel(title, key, percent=percent), lines, [], words=False)
    longest = max((len(rows) for rows in runs.values()), default=0)
    return Curves(tuple(figures[:4]), tuple(figures[4:]), (), window(longest), longest)


def boundaries(rows: Sequence[dict[str, Any]]) -> list[tuple[float, str]]:
    """(first step, label) of every stage; [] for a run with one."""
    found, last = list[tuple[float, str]](), None
    for row in rows:
        stage = row.get("stage")
        if stage is not None and stage != last:
            found.append((float(row["step"]), f"stage {stage}" if isinstance(stage, int) else str(stage)))
        last = stage if stage is not None else last
    return found if len(found) > 1 else []


def ends(metrics: Sequence[dict[str, Any]], key: str) -> tuple[float, float, int] | None:
    """Mean over the first and over the last tenth of the steps (at least one each), and the steps in each; None
    without values."""
    values = [float(row[key]) for row in metrics if _is_drawn(row.get(key))]
    if len(values) < 2:
        return None
    n = max(1, len(values) // 10)
    return fmean(values[:n]), fmean(values[-n:]), n


Column = tuple[Sequence[float], Sequence[float]]
"""The steps and values of a metric."""


def _columns(rows: Sequence[dict[str, Any]]) -> Mapping[str, Column]:
    """The columns of all numeric, finite metrics, in order of first appearance."""
    columns = defaultdict[str, tuple[array, array]](lambda: (array("d"), array("d")))
    for row in rows:
        step = float(row.get("step", 0))
        for key, value in row.items():
            if _is_drawn(value):
                steps, values = columns[key]
                steps.append(step)
                values.append(value)
    return columns


def _is_drawn(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def figures_of(
    panel: Panel,
    lines: Mapping[str, Column],
    bounds: Sequence[tuple[float, str]] = (),
    words: bool = True,
) -> list[Figure]:
    """The lines of a panel, in as many figures as the palette needs. `words`: names of metrics are shown as words,
    those of runs as they are."""
    names = list(lines)
    parts = [names[i : i + LINES] for i in range(0, len(names), LINES)]
    figures = []
    for number_of_part, part in enumerate(parts, 1):
        series = [Series(n, *lines[n], color=i) for i, n in enumerate(part)]
        percent = panel.percent and all(0.0 <= y <= 1.0 for line in series for y in line.ys)
        legend = tuple(
            (
                line.name.replace("_", " ") if words else line.name,
                line.color,
                number(smooth(line.ys, [len(line.ys) - 1])[0], percent),
            )
            for line in series
        )
        title = panel.title if len(parts) == 1 else f"{panel.title} ({number_of_part} of {len(parts)})"
        svg = line_chart(series, bounds, percent=percent, title=title)
        figures.append(Figure(title, panel.note, svg, legend, panel.title))
    return figures
