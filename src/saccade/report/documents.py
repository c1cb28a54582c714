"""One self-contained HTML document: templates, style, data and scripts in one file that asks nothing of anyone.

Scripts are ours alone and run by their hash; data is JSON that no text can break out of.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError
from markupsafe import Markup

SCRIPTS = ("build.js", "charts.js", "text.js", "groups.js", "heldout.js", "page.js")
"""Files of templates/scripts/, in the order in which they run; together one script."""


CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), "\ufffd")
CONTROLS |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")
"""For `str.translate`: characters that HTML may not have and that steer a terminal which shows the file, and changes of
direction, which make a text look like another."""
_ODD = (AttributeError, LookupError, TypeError, ArithmeticError, RecursionError, TemplateError)
"""What values raise that no run writes: run directories, and their summaries above all, may be edited or of others."""


@contextmanager
def odd_values_named(*folders: Path) -> Iterator[None]:
    """ValueError of one line for a page of directories whose files hold other values than a run writes."""
    try:
        yield
    except _ODD as error:
        what = f"{', '.join(map(str, folders))}: a file holds other values than a run writes"
        raise ValueError(f"{what} ({type(error).__name__}: {error}); see where with --debug") from error


@cache
def environment() -> Environment:
    found = Environment(
        loader=PackageLoader("saccade.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["json_text"] = json_text
    return found


def json_text(value: Any) -> Markup:
    """JSON for a script element of type application/json: no text in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _file(name: str) -> str:
    return resources.files("saccade.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def script() -> Markup:
    """All scripts as one."""
    return Markup('"use strict";\n' + "".join(_file(f"scripts/{name}") for name in SCRIPTS))


def style(*names: str) -> Markup:
    return Markup("".join(_file(name) for name in names))


def policy(style_text: str, script_text: str, connect: bool = False) -> str:
    """The content-security policy of a page: its own script and style by hash, images in the file, nothing else. With
    `connect` the script may ask the server that the page came from."""
    rules = [
        "default-src 'none'",
        f"script-src '{_sha(script_text)}'",
        f"style-src '{_sha(style_text)}'",
        "img-src data:",
        "connect-src 'self'" if connect else "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return "; ".join(rules)


def _sha(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
