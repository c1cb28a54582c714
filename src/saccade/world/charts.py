"""Bar charts: a few colored bars over a numbered axis, and questions about them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from saccade.world.config import COLORS, WorldConfig
from saccade.world.glyphs import HEIGHT, WIDTH
from saccade.world.question import Question, Step, TaskKind
from saccade.world.sampling import background, paint
from saccade.world.scene import Background, Bar, Scene, TextLabel
from saccade.world.splits import Split

BARS = (3, 5)
VALUES = tuple(range(1, 10))
RANGES = {"value": (1, 9), "range": (1, 8), "sum": (2, 18)}
"""Question kind -> smallest and largest answer."""


@dataclass(frozen=True, slots=True)
class ChartQuery:
    """`kind` is value (one color), sum (two colors) or range (no color: all bars)."""

    kind: str
    colors: tuple[str, ...] = ()


def sample_chart(rng: Random, cfg: WorldConfig, split: Split, kind: str) -> Scene:
    """A chart scene: 3 to 5 bars of different colors with values 1 to 9."""
    side = cfg.size_px
    scale = max(1, side // 112)
    unit = (side - 8 * scale) // (VALUES[-1] + 1)  # room for half a glyph above the highest line and below the axis
    base = side - 6 * scale
    left = (WIDTH + 5) * scale
    colors = rng.sample(COLORS, rng.randint(*BARS))
    slot = (side - 3 * scale - left) / len(colors)
    width = round(slot * rng.uniform(0.5, 0.8))
    bars = []
    for k, color in enumerate(colors):
        x, value = round(left + slot * k + (slot - width) / 2), rng.choice(VALUES)
        box = (x, base - value * unit, x + width, base)
        bars.append(Bar(color, value, box, paint(rng, color, split.palette_shift)))
    ground = background(rng, split)
    tone = ground.tones[0]
    step = -36 if tone[0] > 100 else 36
    lines = (tone[0] + step, tone[1] + step, tone[2] + step)
    half = HEIGHT * scale // 2
    labels = tuple(TextLabel(str(v), "axis", (2 * scale, base - v * unit - half), scale) for v in (0, *VALUES))
    plain = Background("plain", (tone, lines), ground.seed)
    return Scene(kind, (side, side), cfg.cells, (), plain, bars=tuple(bars), labels=labels)


def ask_chart(query: ChartQuery, scene: Scene) -> Question | None:
    """A value, the sum of two, or the tallest minus the shortest; None when a color has no bar."""
    bars = tuple(bar for bar in scene.bars if not query.colors or bar.color in query.colors)
    if len(bars) < max(1, len(query.colors)):
        return None
    values = [bar.value for bar in bars]
    read = Step(tuple(f"{bar.color} {bar.value}" for bar in bars))
    if query.kind == "value":
        text, answer, steps = f"What is the value of the {bars[0].color} bar?", values[0], (read,)
    elif query.kind == "sum":
        answer = sum(values)
        text = f"What is the sum of the {query.colors[0]} bar and the {query.colors[1]} bar?"
        steps = (read, Step((f"{values[0]} + {values[1]} = {answer}",)))
    else:
        answer = max(values) - min(values)
        text = "What is the tallest bar minus the shortest bar?"
        steps = (read, Step((f"{max(values)} - {min(values)} = {answer}",)))
    return Question("chart", text, str(answer), bars, steps, query, scene, level=query.kind)


def propose_chart(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[ChartQuery]:
    """Every bar, every pair, and the range unless all bars are equal."""
    colors = [bar.color for bar in scene.bars]
    rng.shuffle(colors)
    queries = [ChartQuery("value", (color,)) for color in colors]
    queries += [ChartQuery("sum", (a, b)) for k, a in enumerate(colors) for b in colors[k + 1 :]]
    if len({bar.value for bar in scene.bars}) > 1:
        queries.append(ChartQuery("range"))
    return queries


def _chart_class(rng: Random, cfg: WorldConfig, split: Split) -> tuple[str, int]:
    kind = rng.choice(tuple(RANGES))
    return kind, rng.randint(*RANGES[kind])


KINDS = {
    "chart": TaskKind(("chart",), propose_chart, ask_chart, _chart_class, lambda q: (q.level, int(q.answer))),
}
