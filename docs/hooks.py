"""What the site does to the pages: links to files of the repository, which are no pages, become their names."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]\n]+)\]\(((?:\.\./|schemas)[^)\n]*)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(_named, markdown)


def _named(link: re.Match[str]) -> str:
    text, target = link.group(1), link.group(2).removeprefix("../").partition("#")[0]
    return text if text.strip("`") == target else f"{text} (`{target}`)"
