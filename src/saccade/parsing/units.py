"""Units of measure as replies write them: which dimension, and how much of its first unit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Unit:
    """`factor` of these make one of the dimension's first unit: (length, 0.01) is a centimeter."""

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
    "count": {1.0: "apple apples object objects item items people persons 个 只 条 人 件 辆 本 张 块钱"},
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


@dataclass(frozen=True, slots=True)
class Measure:
    """A unit in powers of base units, such as m/s^2; or a noun that is counted."""

    powers: tuple[tuple[str, int], ...]
    """(base, power) in order of the bases; empty for a noun."""
    factor: float = 1.0
    noun: str = ""
    """The words behind a number that are no unit, folded and without a plural s."""

    def fits(self, other: Measure) -> bool:
        """Whether both measure the same thing. Plain 'units' fit every unit, a noun fits one with more words."""
        if self.noun or other.noun:
            mine, theirs = set(self.noun.split()), set(other.noun.split())
            return bool(self.noun and other.noun) and (mine <= theirs or theirs <= mine)
        return self.powers == other.powers or any(
            one.unnamed and (one.powers[0][1] == 1 or two.powers == (("m", one.powers[0][1]),))
            for one, two in ((self, other), (other, self))
        )

    @property
    def unnamed(self) -> bool:
        """'units', and 'square units', which fit every area."""
        return len(self.powers) == 1 and self.powers[0][0] == "unit"


_BASES = {"length": ("m", 1), "volume": ("m", 3)}
_PREFIXED = {
    "m": ("m", 1, 1.0),
    "g": ("g", 1, 1.0),
    "s": ("s", 1, 1.0),
    "L": ("m", 3, 1e-3),
    "l": ("m", 3, 1e-3),
    "A": ("A", 1, 1.0),
    "K": ("K", 1, 1.0),
    "mol": ("mol", 1, 1.0),
    "cd": ("cd", 1, 1.0),
    "B": ("byte", 1, 1.0),
    "bit": ("byte", 1, 0.125),
}
_DERIVED = {
    "N": ("newton", {"g": 1, "m": 1, "s": -2}, 1e3),
    "J": ("joule", {"g": 1, "m": 2, "s": -2}, 1e3),
    "W": ("watt", {"g": 1, "m": 2, "s": -3}, 1e3),
    "Pa": ("pascal", {"g": 1, "m": -1, "s": -2}, 1e3),
    "Hz": ("hertz", {"s": -1}, 1.0),
    "C": ("coulomb", {"A": 1, "s": 1}, 1.0),
    "V": ("volt", {"g": 1, "m": 2, "s": -3, "A": -1}, 1e3),
    "Ω": ("ohm", {"g": 1, "m": 2, "s": -3, "A": -2}, 1e3),
    "F": ("farad", {"g": -1, "m": -2, "s": 4, "A": 2}, 1e-3),
    "T": ("tesla", {"g": 1, "s": -2, "A": -1}, 1e3),
    "Wb": ("weber", {"g": 1, "m": 2, "s": -2, "A": -1}, 1e3),
    "H": ("henry", {"g": 1, "m": 2, "s": -2, "A": -2}, 1e3),
    "eV": ("electronvolt", {"g": 1, "m": 2, "s": -2}, 1.602176634e-16),
    "cal": ("calorie", {"g": 1, "m": 2, "s": -2}, 4184.0),
    "Wh": ("watthour", {"g": 1, "m": 2, "s": -2}, 3.6e6),
}
_PREFIXES = {
    **{"f": 1e-15, "p": 1e-12, "n": 1e-9, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "c": 1e-2, "d": 0.1},
    **{"h": 1e2, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "a": 1e-18},
}
_LONG_PREFIXES = {
    **{"femto": 1e-15, "pico": 1e-12, "nano": 1e-9, "micro": 1e-6, "milli": 1e-3, "centi": 1e-2, "deci": 0.1},
    **{"hecto": 1e2, "kilo": 1e3, "mega": 1e6, "giga": 1e9, "tera": 1e12},
}
_LONG = {
    **{"meter": "m", "metre": "m", "gram": "g", "second": "s", "liter": "L", "litre": "L", "ampere": "A", "amp": "A"},
    **{"kelvin": "K", "mole": "mol", "byte": "B", "bit": "bit"},
    **{long: short for short, (long, _, _) in _DERIVED.items()},
}
_ALONE: dict[str, tuple[dict[str, int], float]] = {
    **{
        "mph": ({"m": 1, "s": -1}, 0.44704),
        "kph": ({"m": 1, "s": -1}, 1 / 3.6),
        "atm": ({"g": 1, "m": -1, "s": -2}, 1.01325e8),
    },
    **{
        "week": ({"s": 1}, 604800.0),
        "year": ({"s": 1}, 31557600.0),
        "yr": ({"s": 1}, 31557600.0),
        "month": ({"month": 1}, 1.0),
    },
    **{
        "lb": ({"g": 1}, 453.59237),
        "pound": ({"g": 1}, 453.59237),
        "oz": ({"g": 1}, 28.349523125),
        "ounce": ({"g": 1}, 28.349523125),
    },
    **{
        "gallon": ({"m": 3}, 0.003785411784),
        "acre": ({"m": 2}, 4046.8564224),
        "hectare": ({"m": 2}, 1e4),
        "ha": ({"m": 2}, 1e4),
    },
    **{
        "$": ({"dollar": 1}, 1.0),
        "usd": ({"dollar": 1}, 1.0),
        "dollar": ({"dollar": 1}, 1.0),
        "buck": ({"dollar": 1}, 1.0),
    },
    **{
        "¢": ({"dollar": 1}, 0.01),
        "cent": ({"dollar": 1}, 0.01),
        "€": ({"euro": 1}, 1.0),
        "euro": ({"euro": 1}, 1.0),
        "eur": ({"euro": 1}, 1.0),
    },
    **{"£": ({"pound": 1}, 1.0), "gbp": ({"pound": 1}, 1.0), "¥": ({"yuan": 1}, 1.0), "rupee": ({"rupee": 1}, 1.0)},
    **{"₹": ({"rupee": 1}, 1.0), "yen": ({"yuan": 1}, 1.0), "Å": ({"m": 1}, 1e-10), "nautical": ({"m": 1}, 1852.0)},
    **{"℃": ({"celsius": 1}, 1.0), "°C": ({"celsius": 1}, 1.0), "celsius": ({"celsius": 1}, 1.0)},
    **{"°F": ({"fahrenheit": 1}, 1.0), "fahrenheit": ({"fahrenheit": 1}, 1.0), "℉": ({"fahrenheit": 1}, 1.0)},
    **{
        "\\Omega": (_DERIVED["Ω"][1], 1e3),
        "unit": ({"unit": 1}, 1.0),
        "rev": ({"turn": 1}, 1.0),
        "rpm": ({"turn": 1, "s": -1}, 1 / 60),
    },
    **{"u": ({"g": 1}, 1.66053906892e-24), "bar": ({"g": 1, "m": -1, "s": -2}, 1e8)},
}
_TIGHT = re.compile(
    r"\s*(?:((?:square|sq|cubic|cu)\b|平方|立方)\.?\s*)?(\\?[A-Za-zΩµμÅ℃℉°$€£¥₹¢\u4e00-\u9fff]+)\.?"
    r"\s*(?:\^?\s?\{?\s?(-?[1-4])\s?\}?(?!\d)|(squared|cubed))?"
)
_JOIN = re.compile(r"\s*(?:(/|\\/|\bper\b|\ban?\b(?=\s))|\*|\\cdot|·|\.|-|~|\\[,;:! ])?\s*")
_WORD = re.compile(r"[^\W\d_]+")
LONGEST_PHRASE = 60
"""Characters of a phrase that may be a unit."""


_TEMPERATURE = re.compile(r"^(?:°|degrees?)\s*(?:(celsius|fahrenheit)|([CF]))\b", re.I)
"""'degrees Celsius', '° C'."""


@lru_cache(maxsize=4096)
def read_measure(phrase: str) -> Measure | None:
    """What a phrase behind a number measures ('m/s^2', 'square feet', 'kg m', 'coins'), or None when it is neither a
    unit nor one to four words."""
    phrase = phrase.strip().rstrip(".").replace("²", "2").replace("³", "3")
    phrase = _TEMPERATURE.sub(lambda found: (found[1] or "").lower() or f"°{found[2].upper()}", phrase)
    if not phrase or len(phrase) > LONGEST_PHRASE or phrase in ("as", "am"):
        return None
    powers, factor, position, sign = Counter[str](), 1.0, 0, 1
    while position < len(phrase):
        match = _TIGHT.match(phrase, position)
        found = _named(match[2]) if match else None
        if match is None or found is None:
            return _noun(phrase)
        raised = _RAISED.get((match[1] or "").rstrip("."), "1")
        power = sign * int(match[3] or {"squared": 2, "cubed": 3}.get(match[4] or "", raised))
        for base, exponent in found[0].items():
            powers[base] += exponent * power
        factor *= found[1] ** power
        join = _JOIN.match(phrase, match.end())
        position = join.end() if join else match.end()
        sign = -1 if join and join[1] else sign
    return Measure(tuple(sorted((base, power) for base, power in powers.items() if power)), factor)


def _noun(phrase: str) -> Measure | None:
    words = phrase.casefold().replace("-", " ").split()
    if len(words) > 4 or not all(_WORD.fullmatch(word) for word in words) or (len(words[0]) < 2 and words[0].isascii()):
        return None
    return Measure(
        (), noun=" ".join(_singular(word) for word in words if word not in ("of", "the", "in", "total")) or "unit"
    )


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@lru_cache(maxsize=4096)
def _named(name: str) -> tuple[dict[str, int], float] | None:
    """The powers of base units and the factor of one unit's name."""
    if name in _ALONE:
        return _ALONE[name]
    if (unit := UNITS.get(name)) is not None:
        base, power = _BASES.get(unit.dimension, (unit.dimension, 1))
        base = {"mass": "g", "time": "s", "money": "dollar", "angle": "degree"}.get(base, base)
        if unit.dimension != "count":
            return {base: power}, unit.factor
    if (short := _short(name, 1.0)) is not None:
        return short
    if len(name) > 1 and name[0] in _PREFIXES and (short := _short(name[1:], _PREFIXES[name[0]])) is not None:
        return short
    long = _singular(name.casefold())
    if long in _ALONE:
        return _ALONE[long]
    for prefix, size in {"": 1.0, **_LONG_PREFIXES}.items():
        if long.startswith(prefix) and long[len(prefix) :] in _LONG:
            return _short(_LONG[long[len(prefix) :]], size)
    return None


def _short(symbol: str, size: float) -> tuple[dict[str, int], float] | None:
    if symbol in _PREFIXED:
        base, power, factor = _PREFIXED[symbol]
        return {base: power}, factor * size
    if symbol in _DERIVED:
        return _DERIVED[symbol][1], _DERIVED[symbol][2] * size
    return None
