"""The Hugging Face hub when there is no network: its cache is used at once instead of after minutes of retries."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from saccade.faults import first_line

log = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
"""owner/name of a model or data set; anything else is a directory."""
WAIT_S = 1.5
"""For the name of the hub (or of the proxy) to be looked up."""


@lru_cache(maxsize=1)
def use_hub() -> bool:
    """Before the first request to the hub. Whether its name can be looked up; if not, its libraries are set to their
    offline mode, in which they read their cache and fail at once for what it lacks. What the hub, or a mirror, answers
    names no place outside the cache from then on."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client() -> Any:
        found = default_client_factory()
        asked = [*found.event_hooks["request"], _limit_time]
        found.event_hooks = found.event_hooks | {"request": asked, "response": [_refuse_places]}
        return found

    set_client_factory(client)
    if constants.HF_HUB_OFFLINE:
        return False
    address = getproxies().get("https") or constants.ENDPOINT
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    if _known(host):
        return True
    log.warning("%s cannot be reached; only what is in the cache of the hub is used", host)
    os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported later
    constants.HF_HUB_OFFLINE = True
    return False


_NAMES = ("sha", "oid", "sha256", "blobId", "xetHash")
"""Keys of the hub's JSON, at any depth, whose values its library joins to folders as they are."""
LONGEST_WAIT_S, LONGEST_SILENCE_S = 300.0, 120.0
"""Seconds that a server may ask us to wait before the next attempt, and that it may say nothing."""
_INTERFACE = re.compile(r"/api/(?!resolve-cache/)")
"""In the path of an address that answers JSON of the hub's own; behind the other are contents of files."""


def _limit_time(request: Any) -> None:
    limits = request.extensions.get("timeout", {})
    named = {name: limits.get(name) for name in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = {name: LONGEST_SILENCE_S if one is None else one for name, one in named.items()}


def _limit_wait(headers: Any) -> None:
    """A server's wish to be left alone for longer is not heard, so that the library gives up in time."""
    for name, seconds in (("retry-after", r"([0-9.]+)"), ("ratelimit", r".*\bt=([0-9.]+).*")):
        found = re.fullmatch(seconds, headers.get(name, ""))
        if found and (len(found[1]) > 9 or float(found[1].strip(".") or 0) > LONGEST_WAIT_S):
            del headers[name]


def _refuse_places(response: Any) -> None:
    """ValueError for an answer with a name that leads out of the cache, or with an address on another host to which the
    library would send the token."""
    headers, path = response.headers, response.request.url.path
    own, uploads = _INTERFACE.search(path) is not None, path.endswith("/info/lfs/objects/batch")
    _limit_wait(headers)
    names = [headers.get("x-repo-commit", ""), headers.get("x-xet-hash", "")]
    if response.request.method == "HEAD":  # by which it asks for files; other marks of versions may have a slash
        names += [headers.get(one, "").lstrip("W/").strip('"') for one in ("etag", "x-linked-etag")]
    content: Any = None
    if own or uploads:
        response.read()
        with suppress(ValueError, RecursionError):  # the library says so
            content = json.loads(response.content)
    names += _names_in(content) if own else []
    for name in names:
        if "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
            raise ValueError(f"the server names the file {name[:100]!r} in the cache, expected a name without folders")
    addresses = [*(link.get("url", "") for link in response.links.values()), headers.get("x-xet-refresh-route", "")]
    addresses += _checks_of(content) if uploads else []
    if own and "location" in headers:
        addresses.append(headers["location"])
        if not _INTERFACE.search(urlsplit(headers["location"]).path):
            raise ValueError("the server sends its answer from another place, which is none of its interface")
    from huggingface_hub import constants

    hosts = {None, urlsplit(constants.ENDPOINT).hostname, "huggingface.co"}
    for address in addresses:
        if (host := urlsplit(address).hostname) not in hosts:
            raise ValueError(f"the server names the address of another one, {host!r}, to which the token would be sent")


def _checks_of(found: Any) -> list[str]:
    """The addresses by which the library says, with its token, that a file was uploaded."""
    objects = found.get("objects") if isinstance(found, dict) else None
    checks = list[str]()
    for one in objects if isinstance(objects, list) else ():
        with suppress(LookupError, TypeError):
            checks.append(str(one["actions"]["verify"]["href"]))
    return checks


def _names_in(found: Any) -> list[str]:
    names, left = list[str](), [found]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            names += [str(one[key]) for key in _NAMES if key in one]
            left += one.values()
        elif isinstance(one, list):
            left += one
    return names


def of_the_hub(error: Exception) -> str:
    """The first line of an error of the hub's library, which raises anything where an answer is none of the hub's."""
    said = first_line(error)
    if isinstance(error, OSError | ValueError | RuntimeError) or type(error).__module__.startswith("httpx"):
        return said
    return f"the answer is none of the hub's, {type(error).__name__}: {said}"


FOR_A_PLAN = "a plan needs only config.json: set model.path=DIR to a directory that holds one"
WAY_OUT = (
    "check the network, or download the model elsewhere and give its directory; "
    "model.path=base is the tiny model that ships with saccade"
)


def refuse_unreachable(path: str, way_out: str = WAY_OUT) -> None:
    """ValueError, within `WAIT_S`, for a model that is neither here nor in the hub's cache while the hub cannot be
    reached. Imports no torch, so that a verb can ask before it loads anything."""
    named = HUB_NAME.fullmatch(path) is not None and not path.startswith(".")
    if not named or Path(path).exists():
        return
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{path.replace('/', '--')}"
    if not cached.is_dir() and not use_hub():
        raise ValueError(
            f"model.path {path!r}: no such directory, not in the hub's cache ({constants.HF_HUB_CACHE}), and the hub "
            f"cannot be reached; {way_out}"
        )


def _known(host: str) -> bool:
    """Whether a name can be looked up in time; the thread of a slow look-up is left behind."""
    pool = ThreadPoolExecutor(1)
    try:
        pool.submit(socket.getaddrinfo, host, 443).result(WAIT_S)
    except (OSError, UnicodeError, TooLate):
        return False
    finally:
        pool.shutdown(wait=False)
    return True
