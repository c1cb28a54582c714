"""The live view of a run in a terminal, made from its files alone: while it trains, after it ended, after a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from PIL import Image, ImageDraw
from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from saccade.data.images import ImageError, load_image
from saccade.disk import skip_hole
from saccade.evaluation.boxes import gold_boxes
from saccade.report.charts import number
from saccade.report.page import demo_parts
from saccade.report.pictures import boxes_of
from saccade.runs.alarms import Alarm, read_alarms
from saccade.runs.files import LONGEST_LINE, JsonRow, RunFiles, read_config
from saccade.runs.lock import is_held
from saccade.runs.shapes import GROUP, ROLLOUT, fitted, fitted_metrics
from saccade.schemas import SCHEMAS

RECENT = 10
"""Steps whose means are shown, and those of the run's beginning."""
TAIL = 400_000
"""Bytes at the end of rollouts.jsonl and groups.jsonl in which the last reply with an image is looked for."""
QUIET_S = 600.0
"""Seconds without a new row after which a run on another machine counts as not running."""
BARS = "▁▂▃▄▅▆▇█"
SHOWN = (
    ("eval/score", "held-out accuracy", True),
    ("eval/blind", "  without the image", True),
    ("accuracy/all", "training accuracy", True),
    ("format/strict", "strict format", True),
    ("reward/total", "reward", False),
    ("loss/train", "loss", False),
    ("length/mean", "reply length", False),
    ("truncated/share", "truncated", True),
    ("groups/zero_variance", "groups without signal", True),
    ("policy/entropy", "entropy", False),
    ("tokens/per_s", "tokens per second", False),
    ("memory/peak_mb", "peak memory, MB", False),
)
KEPT = ("step", "stage", "time/step_s", "time/eval_s", *(key for key, _, _ in SHOWN))
"""Metrics of a row that are kept: long runs have gigabytes of others."""
Safe = Callable[[str], str]
"""Text of a model or of data without what could steer a terminal."""


@dataclass
class Watched:
    """What is known of a run; `read` adds what its files gained since."""

    folder: Path
    rows: list[JsonRow] = field(default_factory=list)
    """The values under KEPT."""
    newest: JsonRow = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    """The last value of each metric."""
    total: int | None = None
    read_bytes: int = 0
    run: RunFiles | None = None

    def read(self) -> None:
        if self.run is None or not self.run.config:
            config, text = read_config(self.folder, [])
            self.run = RunFiles(self.folder, config, text, environment={}, metrics=[], results={})
            self.total = total_steps(self.run.config)
        path = self.folder / "metrics.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        if size < self.read_bytes:  # the run resumed from a checkpoint: later rows are gone
            self.read_bytes = 0
        if self.read_bytes == 0:
            self.rows, self.newest, self._names = [], {}, set()
        if size > self.read_bytes:
            self._read(path)

    def _read(self, path: Path) -> None:
        """The rows that are whole, of which only the values that are shown are kept."""
        with path.open("rb") as file:
            file.seek(self.read_bytes)
            for line in iter(partial(file.readline, LONGEST_LINE), b""):
                if not line.endswith(b"\n"):
                    if len(line) < LONGEST_LINE:
                        return  # it is being written
                    skip_hole(file)
                self.read_bytes = file.tell()
                for row in fitted_metrics([_row(line) or {}], self._names):
                    self.newest |= row
                    self.rows.append({key: row[key] for key in KEPT if key in row})

    @property
    def step(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def finished(self) -> bool:
        return self.total is not None and self.step >= self.total

    def running(self) -> bool:
        """Whether its process is alive; on another machine, whether it wrote a row lately."""
        held, path = is_held(self.folder), self.folder / "metrics.jsonl"
        if held is None:
            return path.is_file() and time.time() - path.stat().st_mtime < QUIET_S
        return held

    def eta_s(self) -> float | None:
        """From the median time of recent steps, evaluations included in their share."""
        times = [seconds for row in self.rows[-50:] if (seconds := _seconds(row, "time/step_s"))]
        if self.total is None or not times:
            return None
        others = [_seconds(row, "time/eval_s") for row in self.rows]
        return (self.total - self.step) * (median(times) + sum(others) / max(1, len(self.rows)))


def _seconds(row: JsonRow, key: str) -> float:
    """0 for what is no time."""
    value = row.get(key)
    return value if isinstance(value, (int, float)) and 0 < value < 1e9 else 0.0


def _row(line: bytes) -> JsonRow | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def total_steps(config: JsonRow) -> int | None:
    """Steps of a recipe's run, if every stage lasts as long as possible; None when it does not say."""
    try:
        recipe: Any = SCHEMAS[str(config.get("kind"))]().model_validate(config)
        return recipe.schedule.max_steps  # of RL
    except (ValidationError, ValueError, AssertionError, AttributeError, KeyError):
        steps = config.get("num_steps")
        return steps if isinstance(steps, int) and abs(steps) < 2**63 else None


def latest_run(folder: Path) -> Path:
    """The run itself, or of a demo the part that changed last. ValueError when there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a directory; expected a run directory such as runs/rl")
    if (folder / "metrics.jsonl").is_file():
        return folder
    if parts := demo_parts(folder):
        return max(parts, key=lambda part: (part / "metrics.jsonl").stat().st_mtime)
    if (folder / "config.yaml").is_file():
        return folder  # a run before its first step
    raise ValueError(f"{folder} contains no config.yaml or metrics.jsonl; expected a run directory")


def facts(watched: Watched) -> dict[str, Any]:
    """Where the run is, as plain data: its steps, the newest value of each metric, its alarms."""
    return {
        "run": str(watched.folder),
        "step": watched.step,
        "total": watched.total,
        "running": watched.running(),
        "finished": watched.finished,
        "seconds_left": watched.eta_s(),
        "metrics": watched.newest,
        "alarms": [asdict(alarm) for alarm in read_alarms(watched.folder)],
    }


def view(watched: Watched, safe: Safe, colors: bool) -> RenderableType:
    """Everything at a glance. `colors`: the terminal can show an image as colored characters."""
    parts: list[RenderableType] = [_title(watched, safe)]
    if watched.total:
        parts.append(ProgressBar(total=watched.total, completed=watched.step, width=60))
    parts.append(Padding(_table(watched.rows), (1, 0)))
    parts += [_alarm(alarm, safe) for alarm in read_alarms(watched.folder)]
    if (reply := last_reply(watched)) is not None:
        parts.append(_reply(*reply, safe=safe, colors=colors))
    return Group(*parts)


def _title(watched: Watched, safe: Safe) -> Text:
    stage = next((str(row["stage"]) for row in reversed(watched.rows) if row.get("stage") is not None), "")
    text = Text(safe(watched.folder.resolve().name), "bold")
    text.append(f"  step {watched.step}" + (f"/{watched.total}" if watched.total else ""), "not bold")
    text.append(f"  {safe(stage)}" if stage else "", "not bold")
    if watched.running():
        eta = watched.eta_s()
        text.append("  training", "green")
        text.append(f", {duration(eta)} left" if eta else "", "not bold")
    else:
        text.append("  finished" if watched.finished else "  not running", "green" if watched.finished else "yellow")
    return text


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 120:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"


def _table(rows: Sequence[JsonRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "now", "at first", "over the run"):
        table.add_column(name, justify="right" if name in ("now", "at first") else "left", header_style="dim")
    for key, label, percent in SHOWN:
        values = [float(row[key]) for row in rows if _is_number(row.get(key))]
        if values:
            few = 1 if key.startswith("eval/") else RECENT
            ends = (fmean(values[-few:]), fmean(values[:few]))
            table.add_row(label, *(number(value, percent) for value in ends), Text(sparkline(values), "cyan"))
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Means of at most `width` consecutive parts, as bars from the smallest to the largest."""
    parts = min(width, len(values))
    means = [fmean(values[i * len(values) // parts : (i + 1) * len(values) // parts]) for i in range(parts)]
    low, high = min(means), max(means)
    return "".join(BARS[round((mean - low) / (high - low) * 7) if high > low else 0] for mean in means)


def _alarm(alarm: Alarm, safe: Safe) -> Text:
    text = Text(f"alarm at step {alarm.step}: ", "bold red")
    text.append(f"{safe(alarm.reason[:600])}; ", "not bold default")
    return text.append(f"try: {safe(alarm.advice[:600])}", "dim")


def last_reply(watched: Watched) -> tuple[JsonRow, JsonRow, Path | None] | None:
    """(rollout, its group, its image) of the newest group whose image was saved, else of the newest group."""
    groups = {str(row["group_id"]): row for row in _tail(watched.folder / "groups.jsonl", GROUP)}
    rollouts = _tail(watched.folder / "rollouts.jsonl", ROLLOUT)
    if not rollouts or watched.run is None:
        return None
    for row in reversed(rollouts):
        images = watched.run.images(row.get("image_sha"))
        group = groups.get(str(row["group_id"]))
        if images and group:
            return row, group, images[min(group["meta"].get("image_index") or 0, len(images) - 1)]
    return rollouts[-1], groups.get(str(rollouts[-1]["group_id"]), {}), None


def _tail(path: Path, shape: Any) -> list[JsonRow]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().split(b"\n")[(1 if path.stat().st_size > TAIL else 0) : -1]
    return [whole for line in lines if (row := _row(line)) and (whole := fitted(row, shape))]


def _reply(row: JsonRow, group: JsonRow, image: Path | None, safe: Safe, colors: bool) -> RenderableType:
    words = Text()
    question = " ".join(str(group.get("question", "")).replace("<image>", " ").split())
    words.append(safe(question[:300]), "bold").append(
        f"\ntrue answer {safe(str(group.get('answer', '?'))[:80])}\n", "dim"
    )
    words.append(safe(row["text"][:600]))
    words.append(f"\nreward {number(float(row['reward'] or 0.0))}", "dim")
    for name, why in (row.get("reasons") or {}).items():
        words.append(f", {safe(str(name))}: {safe(str(why)[:80])}", "dim")
    if cause := row.get("sampler_cause"):
        words.append(f", far from the trainer's log-probs, likely cause: {safe(str(cause))}", "dim")
    if image is None or not colors:
        return words
    index = int(group.get("meta", {}).get("image_index") or 0)
    shown = thumbnail(image, gold_boxes(group.get("answer")), boxes_of(row, index))
    if shown is None:
        return words
    beside = Table.grid(padding=(0, 2))
    beside.add_row(shown, words)
    return beside


def thumbnail(
    path: Path, gold: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]], width: int = 32
) -> Text | None:
    """An image of `width` columns, two pixels a character, with its boxes; None when it does not open."""
    try:
        image = load_image(path)
    except ImageError:
        return None
    scale = width / image.width
    height = max(2, round(image.height * scale / 2) * 2)
    if height > 2 * width:
        scale, height = scale * 2 * width / height, 2 * width
    small = image.resize((max(1, round(image.width * scale)), height), Image.Resampling.BOX)
    pen = ImageDraw.Draw(small)
    for boxes, color in ((gold, (0, 176, 127)), (predicted, (240, 106, 0))):
        for box in boxes:
            x1, y1, x2, y2 = (round(min(max(value, -1e6), 1e6) * scale) for value in box)
            pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=color)
    text = Text(no_wrap=True)
    for y in range(0, small.height - 1, 2):
        for x in range(small.width):
            upper, lower = (_color(small.getpixel((x, y + i))) for i in (0, 1))
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text


def _color(pixel: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel[:3])


def follow(folder: Path, show: Callable[[RenderableType], None], safe: Safe, colors: bool, every_s: float) -> None:
    """Shows the run again and again until it is finished; the caller ends it by an exception."""
    watched = Watched(latest_run(folder))
    while True:
        newest = latest_run(folder)
        if newest != watched.folder:
            watched = Watched(newest)
        watched.read()
        show(view(watched, safe, colors))
        if watched.finished and not watched.running():
            return
        time.sleep(every_s)
