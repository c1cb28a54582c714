"""Why a request failed, with a hint."""

from __future__ import annotations

BODY_SHOWN = 300
"""Characters of the response quoted by an error."""
HINTS = {
    400: "the server rejected the request: check the model name, its context length and the options against its log",
    401: "the key is missing or wrong: pass api_key (on the command line: the variable OPENAI_API_KEY)",
    403: "the key has no access to this model: ask the operator of the server",
    404: "check the address (it usually ends in /v1) and the model name against GET <address>/models",
    413: "the request is too large: send smaller images or a shorter text",
    422: "the server does not support one of the options: remove it",
    429: "the rate limit is exceeded: lower the concurrency or wait",
}


class EndpointError(OSError):
    """A request that failed after all attempts."""

    def __init__(
        self,
        url: str,
        what: str,
        attempts: int = 1,
        status: int | None = None,
        body: str = "",
        method: str = "POST",
    ) -> None:
        """`what`: the error of the last attempt; `body` and `status`: the HTTP response, if any."""
        self.url, self.status, self.attempts, self.body = url, status, attempts, body
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        response = f"; response: {body[:BODY_SHOWN]!r}" if body else ""
        text = f"{method} {url} failed after {times}: {what}{response}; {_hint(status)}"
        super().__init__(text.encode("utf-8", "replace").decode())


def not_started(error: Exception) -> str:
    """Why no client could be made. A proxy's address may contain a password, which errors about it quote."""
    what = f"{error}" if isinstance(error, ImportError) else type(error).__name__
    return f"proxy or certificates cannot be used ({what}); see HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"


def _hint(status: int | None) -> str:
    if status is None:
        return "check that the server runs at this address and responds in time, or increase the timeout"
    return HINTS.get(status, "check the server log" if status >= 500 else "check the address and the options")
