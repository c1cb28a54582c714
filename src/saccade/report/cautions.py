"""What to keep in mind when reading a run's numbers: alarms, cautions, and the facts of its environment."""

from __future__ import annotations

from collections.abc import Iterable

from saccade.report.charts import number
from saccade.report.curves import ends
from saccade.runs.alarm_rules import likely_causes
from saccade.runs.alarms import ALARMS, Alarm, judge, read_alarms
from saccade.runs.files import JsonRow, RunFiles

GAP_ALARM = 0.01
"""Mean |log-prob difference| of sampler and trainer above which their models differ."""


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


def alarms_of(run: RunFiles) -> list[Alarm]:
    """Those that the run recorded; of a run that was trained without alarms, what its metrics would have set off."""
    recorded = read_alarms(run.path)
    watched = "alarms" in run.config or (run.path / ALARMS).exists()
    return recorded if watched or run.kind != "rl" else judge(run.metrics)


def cautions(run: RunFiles) -> list[str]:
    """What to keep in mind when reading the numbers."""
    found = []
    odd = sorted({k for row in run.metrics for k, v in row.items() if isinstance(v, float) and v != v})
    if odd:
        found.append(f"metrics are not a number at some steps (omitted from the curves): {', '.join(odd)}")
    gap = ends(run.metrics, "sampler/gap_mean")
    if gap and max(gap[:2]) > GAP_ALARM:
        found.append(
            f"sampler and trainer disagree by {number(max(gap[:2]))} in mean log-prob (alarm above {GAP_ALARM})"
        )
    if causes := likely_causes(run.metrics):
        shown = ", ".join(f"{name} of {n:,.0f}" for name, n in causes.items())
        found.append(f"log-probs of some replies were far from the trainer's; likely cause, by replies: {shown}")
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


def masked_reasons(rows: Iterable[JsonRow]) -> dict[str, int]:
    """Number of rollouts masked in training, by reason."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.get("masked"):
            counts[str(row["masked"])] = counts.get(str(row["masked"]), 0) + 1
    return counts
