"""Single requests to a server's own routes, without retries: the caller decides what a failure means."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import httpx2

from saccade.endpoint.body import AS_IT_IS, Body, BodyError, NoCookies, as_text, read_json
from saccade.endpoint.client import BODY_KEPT, is_local, mask_of
from saccade.endpoint.errors import EndpointError, not_started
from saccade.endpoint.secrets import check_no_secret, clean_key


class PlainClient:
    """One server by its base address, such as 'http://127.0.0.1:8000'. Thread-safe. Redirects are not followed.

    No reply and no error contains the key.
    """

    def __init__(self, url: str, api_key: str | None = None, connections: int = 64) -> None:
        """ValueError for an address that is no base address, a key that no header can carry, and a proxy of the
        environment that cannot be used."""
        self.url = base_url(url)
        key = clean_key(api_key)
        self._mask = mask_of(self.url, key)
        try:
            self._client = httpx2.Client(
                headers=AS_IT_IS | ({"authorization": f"Bearer {key}"} if key else {}),
                cookies=NoCookies(),
                limits=httpx2.Limits(max_connections=connections),
                trust_env=not is_local(self.url),  # a proxy from the environment cannot reach localhost
                follow_redirects=False,
            )
        except Exception as error:  # noqa: BLE001 - whatever proxies and certificates of the environment cause
            raise ValueError(f"{self.url}: {not_started(error)}") from None

    def get(self, path: str, timeout_s: float) -> Any:
        """The JSON of the response, None for an empty one. Raises EndpointError."""
        return self._ask("GET", path, None, timeout_s)

    def post(self, path: str, body: Any, timeout_s: float, plain: bool = False) -> Any:
        """As `get`; `body` is sent as JSON. `plain`: the response is a text, which is not read."""
        return self._ask("POST", path, body, timeout_s, plain)

    def close(self) -> None:
        """Close the connections; requests in flight fail."""
        self._client.close()

    def _ask(self, method: str, path: str, body: Any, timeout_s: float, plain: bool = False) -> Any:
        url = f"{self.url}{path}"
        try:
            response, content = self._answer(method, url, body, timeout_s)
        except (httpx2.TimeoutException, TimeoutError):
            raise EndpointError(url, f"no response within {timeout_s:.3g} s", method=method) from None
        except (httpx2.HTTPError, BodyError, RuntimeError) as error:  # RuntimeError: the client was closed
            what = self._mask.text(f"{type(error).__name__}: {error}")
            raise EndpointError(url, what, method=method) from None
        if response.status_code != 200:
            what = f"status {response.status_code} {response.reason_phrase}".rstrip()
            text = self._mask.body(as_text(content)[:BODY_KEPT])
            raise EndpointError(url, what, status=response.status_code, body=text, method=method)
        if plain or not content:
            return None
        try:
            return read_json(content, self._mask.json)
        except BodyError as error:
            text = self._mask.body(as_text(content[: 4 * BODY_KEPT])[:BODY_KEPT])
            raise EndpointError(url, str(error), status=200, body=text, method=method) from None

    def _answer(self, method: str, url: str, body: Any, timeout_s: float) -> tuple[httpx2.Response, bytes]:
        """The response and its body. Raises BodyError, and TimeoutError when it does not end in time."""
        until = time.monotonic() + timeout_s
        with self._client.stream(method, url, json=body, timeout=timeout_s) as response:
            found = Body(response.headers)
            for chunk in response.iter_raw():
                found.add(chunk)
                if time.monotonic() > until:
                    raise TimeoutError
        return response, found.content


def base_url(url: str) -> str:
    """The address of a server without a path. ValueError for anything but http(s) with a host, and for an address that
    contains a password, a query or a path other than /v1."""
    check_no_secret(url, "expected http://host:port")
    try:
        parsed = urlsplit(url.strip())
        host, port = parsed.hostname, parsed.port
    except ValueError as error:
        raise ValueError(f"got the address {url!r} ({error}), expected http://host:port") from None
    if parsed.scheme not in ("http", "https") or not host or parsed.path.rstrip("/") not in ("", "/v1"):
        raise ValueError(f"got the address {url!r}, expected http://host:port")
    shown = f"[{host}]" if ":" in host else host
    return f"{parsed.scheme}://{shown}" + (f":{port}" if port is not None else "")
