"""How the cost of a step grows with the size of the group, the image and the replies: log-log slopes, and a plot."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from benchmarks.measure import Cost, alternate
from benchmarks.saccade_arm import saccade_step
from benchmarks.setting import Setting, checkpoint
from benchmarks.table import Row, finish, options, parse, row
from saccade.models.config import SharedPrefix

CENTRE = Setting(256, 64, 8)
AXES: dict[str, tuple[int, ...]] = {
    "group_size": (2, 4, 8, 16, 32),
    "visual_tokens": (64, 144, 256, 576, 1024),
    "new_tokens": (16, 32, 64, 128, 256),
}
QUICK_CENTRE = Setting(64, 8, 4)
QUICK_AXES: dict[str, tuple[int, ...]] = {"group_size": (2, 4), "visual_tokens": (16, 64), "new_tokens": (4, 8)}
WORDS = {"group_size": "completions per prompt", "visual_tokens": "visual tokens", "new_tokens": "new tokens"}
ARMS: tuple[Literal["packed", "plain"], ...] = ("packed", "plain")
SHARED: dict[str, SharedPrefix] = {"packed": "on", "plain": "off"}
Curves = dict[str, dict[str, list[tuple[int, Cost]]]]
"""axis -> arm -> (value, cost) in order."""


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x: 1 is proportional, 0 is free. ValueError for fewer than two x."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if spread == 0:
        raise ValueError(f"got {len(points)} points of one x; a slope needs two different ones")
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


def measure(directory: Path, setting: Setting, repeats: int, arms: Sequence[str]) -> tuple[dict[str, Cost], list[Row]]:
    """A whole step by each path of the update, by turns; the rollout is the same in both."""
    steps = {arm: saccade_step(directory, setting, shared_prefix=SHARED[arm]) for arm in ARMS if arm in arms}
    paths = {arm: step.path() for arm, step in steps.items()}
    costs = alternate(steps, repeats, warm=False)
    against = costs.get("plain", costs["packed"])
    return costs, [row(setting.name, f"update {arm}", costs[arm], against, paths[arm]) for arm in steps]


def sweep(
    directory: Path, centre: Setting, axes: dict[str, tuple[int, ...]], repeats: int, arms: Sequence[str]
) -> tuple[Curves, list[Row]]:
    """All axes around one setting; a setting on several axes is measured once."""
    done: dict[Setting, dict[str, Cost]] = {}
    curves: Curves = {axis: {arm: [] for arm in arms} for axis in axes}
    rows: list[Row] = []
    for axis, values in axes.items():
        for value in values:
            setting = replace(centre, **{axis: value})
            if setting not in done:
                done[setting], new = measure(directory, setting, repeats, arms)
                rows += new
            for arm, cost in done[setting].items():
                curves[axis][arm].append((value, cost))
    return curves, rows


def slopes(curves: Curves) -> list[str]:
    """A line per axis and arm: how CPU seconds and memory grow."""
    lines = []
    for axis, by_arm in curves.items():
        for arm, points in by_arm.items():
            cpu = slope([(value, cost.cpu_seconds) for value, cost in points])
            memory = slope([(value, max(cost.peak_mb, 1e-3)) for value, cost in points])
            lines.append(f"update {arm}: over {WORDS[axis]}, CPU grows with exponent {cpu:.2f}, memory {memory:.2f}")
    return lines


def plot(curves: Curves, path: Path) -> None:
    """CPU seconds of a step over each axis, log-log, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 3.6), layout="constrained")
    seconds = [cost.cpu_seconds for by_arm in curves.values() for points in by_arm.values() for _, cost in points]
    powers = [2.0**k for k in range(math.floor(math.log2(min(seconds))), math.ceil(math.log2(max(seconds))) + 1)]
    for panel, (axis, by_arm) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        for arm, points in by_arm.items():
            cpu = [(value, cost.cpu_seconds) for value, cost in points]
            panel.plot(*zip(*cpu, strict=True), marker="o", label=f"update {arm}, exponent {slope(cpu):.2f}")
        panel.set(xscale="log", yscale="log", xlabel=WORDS[axis])
        ticks = [value for value, _ in next(iter(by_arm.values()))]
        panel.set_xticks(ticks, [str(value) for value in ticks])
        panel.set_yticks(powers, [f"{power:g}" for power in powers])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.supylabel("CPU seconds of a step", fontsize="medium")
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--plot", type=Path, help="write a plot (PNG) here; needs matplotlib")
    parser.add_argument(
        "--packed-only", action="store_true", help="leave the plain path out, which is most of the time"
    )
    args = parse(parser, argv)
    if args.plot and find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed; it comes with: pip install -e '.[bench]' -c constraints.txt")
    arms = ARMS[:1] if args.packed_only else ARMS
    centre, axes = (QUICK_CENTRE, QUICK_AXES) if args.quick else (CENTRE, AXES)
    with tempfile.TemporaryDirectory() as folder:
        curves, rows = sweep(checkpoint(Path(folder) / "model"), centre, axes, args.repeats, arms)
    if args.plot:
        plot(curves, args.plot)
    finish("scaling", args, rows, slopes(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
