"""Text of rows, names, replies and servers as a terminal or a log may show it: no control characters, and cut to a
screen."""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.request import getproxies

SCREEN = 4_000
"""Characters of one message."""
LINES = 40
"""Lines of one message."""
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that are shown as escapes: control codes, changes of direction, what has no width (tags can hide
whole sentences), surrogates, what is not assigned, line separators."""
_ADDRESS = re.compile(r":/{2,9}|(?<=[A-Za-z0-9]{2}):/(?!/)")
"""What is before the user and the host; an address that was taken for a path has one slash."""
_USER = re.compile(r"[^/\s:]{0,99}:(?![0-9]{1,5}/)")
"""A user before a password, which may hold @, and where it was not encoded also a slash; no port is one."""
_JOINERS = frozenset("\u200c\u200d")
"""Part of how words and emoji are spelled."""


def printable(text: str) -> str:
    """`text` with every character as an escape that could steer a terminal or hide text; breaks and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in "\n\t" or _harmless(char) else _escape(char) for char in text)


def _harmless(char: str) -> bool:
    return unicodedata.category(char) not in _UNSEEN or char in _JOINERS


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def cut(text: str) -> str:
    """`text` up to a screen: the beginning and the end, since a message ends with the way out."""
    lines = text.split("\n")
    if len(lines) > LINES:
        lines = [*lines[: LINES // 2], f"... ({len(lines) - LINES:,} lines more)", *lines[-LINES // 2 :]]
        text = "\n".join(lines)
    half = SCREEN // 2
    left_out = f"\n... ({len(text) - SCREEN:,} characters more)\n"
    return text if len(text) <= SCREEN else f"{text[:half]}{left_out}{text[-half:]}"


def without_password(text: str) -> str:
    """`text` without user names and passwords in its addresses, without the logins of proxies, and without the token of
    the hub: in their errors libraries quote those of their settings (a tracker's or a proxy's variable) and what a
    server answers."""
    if "@" in text and ":/" in text:
        text = re.sub(r"\S+", lambda word: _without_user(word[0]), text)
    secrets = tuple(address for address in getproxies().values() if "@" in address)
    if (hub := sys.modules.get("huggingface_hub")) is not None:
        with suppress(Exception):  # whatever is in the place of its file
            secrets += (hub.get_token() or "",)
    return _mask(secrets).text(text) if any(secrets) else text


@lru_cache(maxsize=4)
def _mask(secrets: tuple[str, ...]) -> Any:
    from saccade.endpoint.secrets import KeyMask, proxy_logins  # loads the client

    return KeyMask(*proxy_logins(), *(one for one in secrets if "@" not in one))


def _without_user(word: str) -> str:
    """A word without what is before the host of the addresses in it."""
    parts, done, begin, last = list[str](), 0, 0, word.rfind("@")
    while begin < last and (scheme := _ADDRESS.search(word, begin)) is not None and scheme.end() < last:
        begin = scheme.end()
        user, slash = _USER.match(word, begin), word.find("/", begin, last)
        if user is None or user.end() == last:
            end = word.rfind("@", begin + 1, last + 1 if slash < 0 else slash)
        else:
            end = last
        if end > begin:
            parts += [word[done:begin], "[key]"]
            begin = done = end
    return "".join([*parts, word[done:]])


def safe(text: str) -> str:
    """`text` as one message that a terminal can show."""
    return cut(without_password(printable(text)))


class SafeFormatter(logging.Formatter):
    """Log lines that a terminal can show."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))
