"""The body of a response: bounded in size, never decompressed, and text whatever encoding its headers claim. Cookies,
which servers set in the headers, are neither kept nor sent."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from http.cookiejar import CookieJar
from typing import Any

MOST_BYTES = 32 << 20
"""Of one response; those of the largest groups with all their log-probs have 26 MB."""
MOST_TAKEN = 450 << 20
"""Bytes that a response and its JSON may take in memory, as `_taken` estimates them, which is up to 30 times their
number; those of the largest groups with all their log-probs take three quarters of it."""
_COSTS = {b"{": 200, b"[": 100, b",": 41, b'"': 32, b'":': -32, b"\\": 40, b"%": 300, b"&": 160, b"\\u002": 300}
"""Bytes in memory for each of these: objects, lists, their elements, texts, names of fields, which mostly repeat, and
what may be an encoded key."""
LARGE = 1 << 20
"""Bytes of a body that is read beside the loop of the requests, and one at a time in a process, as each may take a
multiple of them."""
_ONE_LARGE = threading.Lock()
MOST_LEVELS = 100
AS_IT_IS = {"accept-encoding": "identity"}
"""Asks for no compression: a few kilobytes can decompress to more than the memory."""


class BodyError(Exception):
    """A body that is not read to its end."""


class NoCookies(CookieJar):
    """Keeps none: a model server needs none, and one that sets new ones all the time would get all of them back."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Does not even read them."""


class Body:
    """Collects the raw bytes of one response."""

    def __init__(self, headers: Mapping[str, str], most: int | None = None) -> None:
        """BodyError for a compressed response."""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise BodyError(f"the response is compressed ({encoding[:40]}), which the request does not accept")
        self._found, self._most = bytearray(), MOST_BYTES if most is None else most

    def add(self, chunk: bytes) -> None:
        """BodyError beyond the limit."""
        self._found += chunk
        if len(self._found) > self._most:
            raise BodyError(f"the response has more than {self._most:,} bytes")

    @property
    def content(self) -> bytes:
        return bytes(self._found)


def as_text(content: bytes) -> str:
    """For error messages: a response may claim any encoding, also ones that are no text."""
    return content.decode("utf-8", "replace")


def read_json(content: bytes, mask: Callable[[Any], Any], most_taken: int = MOST_TAKEN) -> Any:
    """The value in a body, as `mask` leaves it. BodyError for anything else, and beyond the limits of memory (bytes)
    and levels."""
    if _taken(content) > most_taken:
        raise BodyError(f"the response is JSON that may take more than {most_taken:,} bytes of memory")
    with _ONE_LARGE if len(content) > LARGE else nullcontext():
        try:
            value = json.loads(content)
        except RecursionError:
            raise BodyError("the response is JSON nested too deeply") from None
        except ValueError:
            raise BodyError("the response is not JSON") from None
        if _too_deep(value):
            raise BodyError("the response is JSON nested too deeply")
        return mask(value)


def _taken(content: bytes) -> int:
    """An upper estimate of the bytes that JSON and its values take, without reading it."""
    wide = 4 if b"\\u" in content or re.search(rb"[\xf0-\xff]", content) else 1 if content.isascii() else 2
    more_names = max(0, content.count(b'":') - 8 * content.count(b"{"))
    costs = sum(cost * content.count(part) for part, cost in _COSTS.items())
    return (2 + wide) * len(content) + costs + 180 * more_names


def _too_deep(value: Any) -> bool:
    """Whether JSON is nested deeper than a response is; deeper values could not be written again."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inside(one)]
        if not level:
            return False
    return True


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
