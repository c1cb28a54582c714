"""Alarms of a training run: signs in its metrics that it learns to cheat, or nothing at all.

Each rule compares the mean of the last `window` steps with a limit, and where it says so with the first `window` steps
of the run or of the stage. The same rules watch a run while it trains and judge the metrics of an old one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from saccade.config import Config
from saccade.disk import write_text
from saccade.runs import alarm_rules as rule
from saccade.runs.alarm_rules import Row, Rule, Trend
from saccade.runs.files import rows_of
from saccade.runs.lock import keep_lock
from saccade.runs.shapes import fitted_metrics

if TYPE_CHECKING:
    from saccade.runs.records import Run  # which imports torch

log = logging.getLogger(__name__)

ALARMS = "alarms.jsonl"
"""File of a run: a row per alarm, in the order in which they went off."""
KEPT = 64
"""Windows of rows that are kept before the first are dropped."""


class AlarmConfig(Config):
    """Limits of the alarms; null turns one off. An alarm goes off once in a run."""

    on: Literal["warn", "stop"] = "warn"
    """What follows: a warning in the log, or the end of the run after a checkpoint; `saccade resume` continues it."""
    window: int = Field(default=10, ge=2)
    """Steps whose means are compared."""
    format_alone: float | None = Field(default=0.2, gt=0)
    """Rise of the share of well-formed replies, with the reward but without accuracy."""
    length_collapse: float | None = Field(default=0.25, gt=0, lt=1)
    """Reply length as a share of that at the beginning, without a rise of accuracy."""
    length_explosion: float | None = Field(default=3.0, gt=1)
    """Reply length as a multiple of that at the stage's beginning, without a rise of accuracy."""
    repetition: float | None = Field(default=0.3, gt=0, le=1)
    """Share of replies most of whose four-word sequences are repeats."""
    box_inflation: float | None = Field(default=2.0, gt=1)
    """Boxes per reply as a multiple of the true number."""
    constant_answer: float | None = Field(default=0.5, gt=0, le=1)
    """Share of the replies of a step that give its most common answer, above the share for which it is true."""
    copied_box: float | None = Field(default=0.5, gt=0, le=1)
    """Share of the prompts of a step answered with the same box, above the share for which it is true."""
    no_signal: float | None = Field(default=0.95, gt=0, le=1)
    """Share of groups whose rewards are all equal."""
    kl_explosion: float | None = Field(default=0.5, gt=0)
    """KL to the reference model, nats per token."""
    sampler_gap: float | None = Field(default=0.05, gt=0)
    """Mean distance of the sampler's and the trainer's log-probs, nats per token."""
    entropy_collapse: float | None = Field(default=0.05, gt=0, lt=1)
    """Entropy as a share of that at the beginning, without a rise of accuracy."""
    heldout_falls: float | None = Field(default=0.03, gt=0, lt=1)
    """Fall of held-out accuracy below its best, beyond chance, while the reward rises."""
    masked_share: float | None = Field(default=0.25, gt=0, le=1)
    """Share of rollouts excluded from training."""
    throughput_drop: float | None = Field(default=0.15, gt=0, lt=1)
    """Tokens per second as a share of the median at the stage's beginning."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What went off, and what to do about it."""

    name: str
    step: int
    reason: str
    """One sentence with the numbers."""
    advice: str
    """What to try."""

    def __str__(self) -> str:
        return f"alarm {self.name} at step {self.step}: {self.reason}; try: {self.advice}"


def rules(config: AlarmConfig) -> list[tuple[str, Rule, float | None]]:
    """(name, rule, its limit)."""
    return [
        ("format_alone", rule.format_alone, config.format_alone),
        ("length_collapse", rule.length_collapse, config.length_collapse),
        ("length_explosion", rule.length_explosion, config.length_explosion),
        ("repetition", rule.repetition, config.repetition),
        ("box_inflation", rule.box_inflation, config.box_inflation),
        ("constant_answer", rule.constant_answer, config.constant_answer),
        ("copied_box", rule.copied_box, config.copied_box),
        ("no_signal", rule.no_signal, config.no_signal),
        ("kl_explosion", rule.kl_explosion, config.kl_explosion),
        ("sampler_gap", rule.sampler_gap, config.sampler_gap),
        ("entropy_collapse", rule.entropy_collapse, config.entropy_collapse),
        ("heldout_falls", rule.heldout_falls, config.heldout_falls),
        ("masked_share", rule.masked_share, config.masked_share),
        ("throughput_drop", rule.throughput_drop, config.throughput_drop),
    ]


class AlarmWatch:
    """Takes a run's rows one by one; `after` returns the alarms that a row sets off.

    watch = AlarmWatch(AlarmConfig())
    found = [alarm for row in metrics for alarm in watch.after(row)]
    """

    def __init__(self, config: AlarmConfig, rows: Sequence[Row] = (), known: Sequence[str] = ()) -> None:
        """`rows` and `known`: those of a run that resumes, and the names of its alarms so far."""
        self.config, self.known = config, set(known)
        self.rows, self.evaluated = list[Row](), list[Row]()
        self.enough = KEPT * config.window
        for row in rows:
            self._keep(row)

    def _keep(self, row: Row) -> None:
        if "reward/total" in row:
            self.rows.append(row)
        if "eval/score" in row:
            self.evaluated.append(row)
        if len(self.rows) > self.enough:
            self._forget()
            self.enough = 2 * len(self.rows) + KEPT * self.config.window

    def _forget(self) -> None:
        """Drops the rows that no rule looks at, so that a long run takes no more memory: all but the first ones, those
        of the stage's beginning, those before each evaluation, and the last."""
        window, end = self.config.window, len(self.rows)
        stage = next((i for i in range(end, 0, -1) if self.rows[i - 1].get("stage") != self.rows[-1].get("stage")), 0)
        steps = {row["step"] for row in self.evaluated}
        kept = {*range(window), *range(stage, stage + 2 * window), *range(end - rule.LONG * window, end)}
        for place, row in enumerate(self.rows):
            if row["step"] in steps:
                kept.update(range(place - window + 1, place + 1))
        self.rows = [row for place, row in enumerate(self.rows) if place in kept]

    def after(self, row: Row) -> list[Alarm]:
        self._keep(row)
        if len(self.rows) < self.config.window or "reward/total" not in row:
            return []
        trend, found = Trend(self.rows, self.evaluated, self.config.window), list[Alarm]()
        for name, judged, limit in rules(self.config):
            if limit is not None and name not in self.known and (words := judged(trend, limit)) is not None:
                self.known.add(name)
                found.append(Alarm(name, int(row["step"]), *words))
        return found

    def report(self, run: Run, row: Row) -> str | None:
        """Logs and records the alarms that a row sets off; the first one in words if the run shall stop for it. Only
        the process that writes the run watches it."""
        found = self.after(row) if run.writes else []
        for alarm in found:
            log.warning("%s", alarm)
        if found:
            run.append(ALARMS, [asdict(alarm) for alarm in found], int(row["step"]))
        return str(found[0]) if found and self.config.on == "stop" else None


def open_alarms(directory: Path, config: AlarmConfig, step: int) -> AlarmWatch:
    """The watch of a run, with what it has seen when the run resumes after `step`: alarms of steps that are made again
    are dropped."""
    warnings: list[str] = []
    rows = list(fitted_metrics(rows_of(directory / "metrics.jsonl", warnings)))
    kept = [alarm for alarm in read_alarms(directory) if alarm.step <= step]
    if (directory / ALARMS).exists():
        keep_lock(directory)
        write_text(directory / ALARMS, "".join(json.dumps(asdict(alarm)) + "\n" for alarm in kept))
    return AlarmWatch(config, rows, [alarm.name for alarm in kept])


def read_alarms(directory: Path) -> list[Alarm]:
    """The alarms of a run, in the order in which they went off; rows of another form are skipped."""
    rows = rows_of(directory / ALARMS, [])
    texts = ("name", "reason", "advice")
    return [
        Alarm(row["name"], row["step"], row["reason"], row["advice"])
        for row in rows
        if isinstance(row.get("step"), int) and all(isinstance(row.get(key), str) for key in texts)
    ]


def judge(metrics: Sequence[Row]) -> list[Alarm]:
    """The alarms of a run that was trained without them, by the default limits."""
    watch = AlarmWatch(AlarmConfig())
    return [alarm for row in metrics for alarm in watch.after(row)]
