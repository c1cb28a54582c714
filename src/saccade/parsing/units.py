"""Units of measure as replies write them: which dimension, and how much of its first unit."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """`factor` of these make one of the dimension's first unit: (length, 0.01) is a centimetre."""

    dimension: str
    factor: float


_LENGTHS = {
    0.001: "mm millimeter millimeters millimetre millimetres 毫米",
    0.01: "cm centimeter centimeters centimetre centimetres 厘米",
    0.1: "dm decimeter decimeters decimetre decimetres 分米",
    1.0: "m meter meters metre metres 米",
    1000.0: "km kilometer kilometers kilometre kilometres 千米 公里",
    0.0254: "in inch inches 英寸",
    0.3048: "ft foot feet 英尺",
    0.9144: "yd yard yards",
    1609.344: "mi mile miles 英里",
}
_OTHERS = {
    "mass": {1e-3: "mg", 1.0: "g gram grams 克", 1e3: "kg kilogram kilograms 千克 公斤", 1e6: "t ton tons tonnes 吨"},
    "time": {
        1.0: "s sec secs second seconds 秒",
        60.0: "min mins minute minutes 分钟",
        3600.0: "h hr hrs hour hours 小时",
        86400.0: "day days 天",
    },
    "volume": {1e-6: "ml mL milliliter milliliters 毫升", 1e-3: "l L liter liters litre litres 升"},
    "angle": {1.0: "° deg degree degrees 度", 57.29577951308232: "rad radian radians 弧度"},
    "money": {1.0: "dollar dollars", 0.01: "cent cents"},
    "yuan": {1.0: "yuan rmb 元 块"},
    "count": {1.0: "unit units apple apples object objects item items people persons 个 只 条 人 件 辆 本 张 块钱"},
}
UNITS = {name: Unit("length", factor) for factor, names in _LENGTHS.items() for name in names.split()}
UNITS |= {n: Unit(d, factor) for d, table in _OTHERS.items() for factor, names in table.items() for n in names.split()}
POWERS = {"2": "area", "3": "volume"}
_NAMES = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
_UNIT = re.compile(
    rf"(square|sq\.?|cubic|cu\.?|平方|立方)?\s?({_NAMES})(?![A-Za-z\u4e00-\u9fff])\s?(?:\^?\s?\{{?([23])\}}?)?(?![\d/])"
)
_RAISED = {"square": "2", "sq": "2", "cubic": "3", "cu": "3", "平方": "2", "立方": "3"}


def read_unit(text: str, start: int = 0) -> tuple[Unit, int] | None:
    """The unit that begins at `start` of a plain text and where it ends, or None; areas and volumes included."""
    match = _UNIT.match(text, start)
    if match is None:
        return None
    unit, power = UNITS[match[2]], match[3] or _RAISED.get((match[1] or "").rstrip("."), "")
    if not power:
        return unit, match.end()
    if unit.dimension != "length":
        return None
    return Unit(POWERS[power], unit.factor ** int(power)), match.end()
