"""Text of rows, names, replies and servers as a terminal or a log may show it: no control characters, and cut to a
screen."""

from __future__ import annotations

import logging
import os
import re
import unicodedata

SCREEN = 4_000
"""Characters of one message."""
LINES = 40
"""Lines of one message."""
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that are shown as escapes: control codes, changes of direction, what has no width (tags can hide
whole sentences), surrogates, what is not assigned, line separators."""
_USER = re.compile(r"(://|(?<=[A-Za-z0-9]{2}):/(?!/))(?:[^/\s:]{0,99}:(?![0-9]{1,5}/)[^\s]{1,300}|[^/\s]{1,300})@")
"""What is before the host; a password may hold @, and one that was not encoded also a slash, but no port is one. An
address that was taken for a path has one slash."""
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
    """`text` without user names and passwords in its addresses, and without the logins of proxies: in their errors
    libraries quote those of their settings (a tracker's or a proxy's variable) and what a proxy answers."""
    text = _USER.sub(r"\1[key]@", text)
    if any("@" in value for name, value in os.environ.items() if name.lower().endswith("_proxy")):
        from saccade.endpoint.secrets import KeyMask, proxy_logins  # loads the client

        text = KeyMask(*proxy_logins()).text(text)
    return text


def safe(text: str) -> str:
    """`text` as one message that a terminal can show."""
    return cut(without_password(printable(text)))


class SafeFormatter(logging.Formatter):
    """Log lines that a terminal can show."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))
