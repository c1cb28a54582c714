"""The body of a response: bounded in size, never decompressed, and text whatever encoding its headers claim. Cookies,
which servers set in the headers, are neither kept nor sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.cookiejar import CookieJar
from typing import Any

MOST_BYTES = 64 << 20
"""Of one response, four times as much as text; those of the largest groups with all their log-probs have 26 MB."""
MOST_ELEMENTS = 8_000_000
"""Of the JSON of one response, counted by its brackets and commas: they take up to 30 times their bytes. Those of the
largest groups with all their log-probs have a quarter of it."""
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


def read_json(content: bytes) -> Any:
    """The value in a body. BodyError for anything else, and beyond the limits of elements and levels."""
    if sum(map(content.count, (b"[", b"{", b","))) > MOST_ELEMENTS:
        raise BodyError(f"the response is JSON of more than {MOST_ELEMENTS:,} elements")
    try:
        value = json.loads(content)
    except RecursionError:
        raise BodyError("the response is JSON nested too deeply") from None
    except ValueError:
        raise BodyError("the response is not JSON") from None
    if _too_deep(value):
        raise BodyError("the response is JSON nested too deeply")
    return value


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
