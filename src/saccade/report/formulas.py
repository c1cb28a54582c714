"""LaTeX as MathML, which browsers show without a library. Only known elements pass: what is written here came from a
model or a row of data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any
from xml.etree import ElementTree

LONGEST, MOST = 400, 3000
"""Characters of a formula, and formulas of a page; what exceeds them is shown as LaTeX."""
FORMULA = re.compile(
    r"\\\\|\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(((?:[^\\]|\\\\|\\(?![\\(]))+?)\\\)|\\\[((?:[^\\]|\\\\|\\(?![\\\[]))+?)\\\]"
)
"""As in scripts/text.js; first a line break, whose second stroke opens nothing."""
ELEMENTS = frozenset(
    (
        *("math", "mrow", "mi", "mo", "mn", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup"),
        *("msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom"),
        *("menclose", "mmultiscripts", "mprescripts", "none"),
    )
)
ATTRIBUTES = frozenset(
    ("display", "mathvariant", "stretchy", "fence", "separator", "linethickness", "accent", "minsize", "maxsize")
)
Tree = list[Any]
"""[element, {attribute: value}, child...]; a child is a tree or a text."""


def formulas_of(texts: Iterable[str], warnings: list[str]) -> dict[str, Tree]:
    """LaTeX -> tree, for every formula in the texts that can be converted."""
    found: dict[str, Tree] = {}
    seen = dict.fromkeys(
        body
        for text in texts
        if "$" in text or "\\" in text
        for match in FORMULA.finditer(text)
        if 0 < len(body := next((group for group in match.groups() if group), "").strip()) <= LONGEST
    )
    if not seen:
        return found
    try:
        convert = import_module("latex2mathml.converter").convert
    except ImportError:
        warnings.append("latex2mathml is not installed: formulas are shown as LaTeX (pip install latex2mathml)")
        return found
    for body in list(seen)[:MOST]:
        try:
            tree = _tree(ElementTree.fromstring(convert(body)))
        except Exception:  # noqa: BLE001 - the library raises what it likes for text that is no formula
            tree = None
        if tree is not None:
            found[body] = tree
    return found


def _tree(element: ElementTree.Element) -> Tree | None:
    """None when it holds an unknown element."""
    name = element.tag.rpartition("}")[2]
    if name not in ELEMENTS:
        return None
    tree: Tree = [name, {key: value for key, value in element.attrib.items() if key in ATTRIBUTES}]
    if element.text and element.text.strip():
        tree.append(element.text)
    for child in element:
        if (found := _tree(child)) is None:
            return None
        tree.append(found)
    return tree
