"""The API key of an endpoint: checked before it becomes a header, and removed from everything that a server sends back.

Servers and proxies repeat keys in error messages, whole, shortened or encoded. The client removes its own key from what
it quotes, keeps, returns or raises, so that no file of a run and no terminal shows it.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from urllib.request import getproxies

MASK = "[key]"
SHORTEST = 6
"""Characters of a secret; shorter keys are placeholders for local servers ('EMPTY', 'none'), which replies may hold."""
FRAGMENT = 12
"""A part of the key is removed when it has this many characters and is at least half of the key."""
MOST_LAYERS = 3
"""Times that one encoding may lie inside itself, as an address does in the query of another."""

APART = 16
"""Letters and digits that a key needs to be looked for with anything else between them; it needs a digit, too. Words
that serve as keys of local servers ('not-needed') would be found in replies."""


class _Kept(dict[int, str]):
    """For `str.translate`: removes all other letters. A regular expression would keep each piece between them."""

    def __missing__(self, letter: int) -> None:
        return None


_COMPACT = _Kept({ord(letter): letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"})
_LETTERS = re.compile(r"[a-z0-9]+")
_ESCAPE = re.compile(
    r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U0{3}([0-9a-fA-F]{5})|[ux]\{0{0,6}([0-9a-fA-F]{1,5})\}|([0-7]{3})"
    r"|([\"'\\/])|[nrtbf])"
)
PIECE = 1 << 18
"""Letters of the texts of a reply, which has one for each token, that are searched together."""


def clean_key(key: str | None, source: str = "the API key") -> str | None:
    """The key without white space around it, None for an empty one. ValueError, which does not show it, for a key that
    a header cannot carry; `source` names where it comes from."""
    stripped = (key or "").strip()
    bad = next((i for i, letter in enumerate(stripped) if not " " <= letter <= "~"), None)
    if bad is not None:
        raise ValueError(
            f"{source}: character {bad + 1} of {len(stripped)} cannot be sent in a header (the key is not shown); "
            "expected one line of ASCII characters: is it the right file or variable?"
        )
    return stripped or None


def check_no_secret(url: str, way_out: str) -> None:
    """ValueError, which does not show it, for an address that may contain one, well-formed or not."""
    if any(mark in str(url) for mark in "@?#"):
        raise ValueError(f"the address contains a user name, a password, a query or a fragment; {way_out}")


def read_key(path: str | Path | None, source: str) -> str | None:
    """The key in a file. ValueError when there is no such file, or its content is no key; it never shows the content,
    nor the path, which is the key itself where somebody mistook one for the other."""
    if path is None:
        return None
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ValueError(f"{source}: the file cannot be read ({why}); expected a file with the server's key") from None
    return clean_key(text, source)


def proxy_logins() -> list[str]:
    """What names a user to the environment's proxies, which may repeat it as servers repeat keys: user and password
    together, and the password alone, or a name without one, where it is no word that a reply may hold."""
    found = list[str]()
    for url in (address for kind, address in getproxies().items() if kind in ("http", "https", "all")):
        login = url.encode(errors="replace").decode().rpartition("@")[0].rpartition("//")[2]
        user, _, password = (unquote(one) for one in login.partition(":"))
        found += [login, f"{user}:{password}"] if password else []
        alone = password or user
        found += [alone] if len(alone) >= (8 if password else APART) and any(map(str.isdigit, alone)) else []
    return found


class KeyMask:
    """Replaces keys in texts and JSON by '[key]': as it is, reversed, in other case or full width, percent-, HTML-,
    backslash-, hex-, base32- or base64-encoded, and any of these with other characters between the letters."""

    def __init__(self, *keys: str | None) -> None:
        forms = dict.fromkeys(form for key in keys if key and len(key) >= SHORTEST for form in _forms(key))
        self._searches = [_search(form) for form in forms]
        compact = dict.fromkeys(form.translate(_LOWER).translate(_COMPACT) for form in forms)
        self._apart = [_search(one) for one in compact if len(one) >= APART and any(map(str.isdigit, one))]

    def text(self, text: str) -> str:
        """The text without the key. When only its decoded form shows the key, that form is returned, masked."""
        if not self._searches:
            return text
        for decode in _DECODERS:
            decoded = decode(text)
            for _ in range(MOST_LAYERS):
                low = decoded.translate(_LOWER)
                for search in self._searches:
                    if found := _found(low, search):
                        text = decoded = _replaced(decoded, [(i, i + search[0]) for i in found])
                        low = decoded.translate(_LOWER)
                if spans := _spans_apart(low, self._apart):
                    text = decoded = _replaced(decoded, spans)
                if (inner := decode(decoded)) == decoded:
                    break
                decoded = inner
        return text

    def json(self, value: Any) -> Any:
        """The value with every text in it masked, names of fields too."""
        if not self._searches:
            return value
        return self._walk(value) if any(self.text(piece) != piece for piece in _pieces(value)) else value

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._walk(one) for one in value]
        if isinstance(value, dict):
            return {self._walk(name): self._walk(one) for name, one in value.items()}
        return value

    def body(self, text: str) -> str:
        """The body of a response, masked: as JSON where it is that, because JSON may write any letter as a number."""
        if not self._searches:
            return text
        try:
            value = json.loads(text)
            masked = self.json(value)
        except (ValueError, RecursionError):
            return self.text(text)
        return self.text(text if masked == value else json.dumps(masked, ensure_ascii=False))


def _pieces(value: Any) -> Iterator[str]:
    """All texts in JSON, names of fields too, each once in a piece, with line breaks between them."""
    texts, size = dict[str, None](), 0
    inside = [iter([value])]
    while inside:
        for one in inside[-1]:
            if isinstance(one, str):
                if one not in texts:
                    texts[one] = None
                    size += len(one)
                    if size > PIECE:
                        yield "\n".join(texts)
                        texts, size = {}, 0
            elif isinstance(one, dict | list):
                inside.append(chain(one, one.values()) if isinstance(one, dict) else iter(one))
                break
        else:
            inside.pop()
    yield "\n".join(texts)


def _forms(key: str) -> Iterator[str]:
    """The key as it is, reversed, and in the encodings that do not decode letter by letter."""
    yield key
    yield key[::-1]
    yield quote(key, safe="")
    yield json.dumps(key)[1:-1]
    data = key.encode()
    yield from (data.hex(), data.hex().upper())
    for offset in range(3):  # base64 depends on how many bytes precede the key
        encoded = base64.b64encode(b"\0" * offset + data).decode()
        start, end = (0, 2, 3)[offset], (offset + len(data)) * 8 // 6
        yield encoded[start:end]
        yield encoded[start:end].translate(str.maketrans("+/", "-_"))
    for offset in range(5):  # base32 too
        encoded = base64.b32encode(b"\0" * offset + data).decode()
        yield encoded[-(-offset * 8 // 5) : (offset + len(data)) * 8 // 5]


_Search = tuple[int, frozenset[str], tuple[str, ...]]
"""Length of the shortest part that is removed, all such parts, and pieces of which every such part holds one."""


_LOWER = {wide: ord(chr(wide - 0xFEE0).lower()) for wide in range(0xFF01, 0xFF5F)}
_LOWER |= {capital: capital + 32 for capital in range(ord("A"), ord("Z") + 1)}
"""For `str.translate`, also of full-width letters: unlike `lower`, it keeps the length of every text."""


@lru_cache(maxsize=256)
def _search(form: str) -> _Search:
    form = form.translate(_LOWER)
    n = min(len(form), max(FRAGMENT, (len(form) + 1) // 2))
    half = (n + 1) // 2
    parts = frozenset(form[i : i + n] for i in range(len(form) - n + 1))
    return n, parts, tuple(dict.fromkeys(form[i : i + half] for i in range(0, len(form) - half + 1, half)))


def _found(low: str, search: _Search) -> list[int]:
    """Where the key's parts begin. Only places around its pieces are looked at: a server may send hundreds of
    megabytes."""
    n, parts, pieces = search
    found: set[int] = set()
    for piece in pieces:
        next_one, at = 0, low.find(piece)
        while at >= 0:
            last = min(at, len(low) - n)
            found.update(i for i in range(max(next_one, at + len(piece) - n, 0), last + 1) if low[i : i + n] in parts)
            next_one, at = last + 1, low.find(piece, at + 1)
    return sorted(found)


def _spans_apart(low: str, searches: Sequence[_Search]) -> list[tuple[int, int]]:
    """Where parts of compact keys are whose letters and digits may have other characters between them."""
    compact = low.translate(_COMPACT)
    found = [(i, i + search[0] - 1) for search in searches for i in _found(compact, search)]
    if not found:
        return []
    wanted = iter(sorted({place for span in found for place in span}))
    places, next_one, before = dict[int, int](), next(wanted), 0
    for run in _LETTERS.finditer(low):
        start, end = run.span()
        while next_one < before + end - start:
            places[next_one] = start + next_one - before
            next_one = next(wanted, len(low))
        before += end - start
    return sorted((places[first], places[last] + 1) for first, last in found)


def _replaced(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text with MASK for each run of overlapping or adjacent spans, of which there is one at least, in order of
    their starts."""
    kept: list[str] = []
    done = end = -1
    for start, stop in spans:
        if start > end or end < 0:
            kept += [text[max(done, 0) : start], MASK]
        done = end = max(end, stop)
    return "".join([*kept, text[done:]])


def _unescape(text: str) -> str:
    return _ESCAPE.sub(_meant, text) if "\\" in text else text


def _meant(found: re.Match[str]) -> str:
    *codes, octal, letter = found.groups()
    code = next((int(one, 16) for one in codes if one), None)
    code = int(octal, 8) if octal else code
    return letter or ("\n" if code is None else chr(code))


_DECODERS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: unquote(text) if "%" in text else text,
    lambda text: html.unescape(text) if "&" in text else text,
    _unescape,
)
