"""The body of a response: bounded in size, never decompressed, and text whatever encoding its headers claim."""

from __future__ import annotations

from collections.abc import Mapping

MOST_BYTES = 256 << 20
"""Of one response; those of the largest groups with all their log-probs have a tenth of it."""
AS_IT_IS = {"accept-encoding": "identity"}
"""Asks for no compression: a few kilobytes can decompress to more than the memory."""


class BodyError(Exception):
    """A body that is not read to its end."""


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
