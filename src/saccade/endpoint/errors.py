"""Why a request failed, with the way out."""

from __future__ import annotations

BODY_SHOWN = 300
"""Characters of the server's answer that an error quotes."""
WAYS_OUT = {
    400: "the server refuses the request: compare the model's name, its context length and the options with its log",
    401: "the key is missing or wrong: pass api_key (on the command line: the variable OPENAI_API_KEY)",
    403: "the key may not use this model: ask whoever runs the server",
    404: "check the address (it usually ends in /v1) and the model's name against GET <address>/models",
    413: "the request is too large: send smaller images or a shorter text",
    422: "the server does not know one of the options: leave it out",
    429: "the server is over its limit: lower the concurrency or wait",
}


class EndpointError(OSError):
    """A request that has no answer, after all attempts."""

    def __init__(self, url: str, what: str, attempts: int = 1, status: int | None = None, body: str = "") -> None:
        """`what` went wrong the last time; `body`: what the server said; `status`: its HTTP status, if it gave one."""
        self.url, self.status, self.attempts, self.body = url, status, attempts, body
        times = "once" if attempts == 1 else f"{attempts} times"
        said = f"; it said: {body[:BODY_SHOWN]!r}" if body else ""
        super().__init__(f"POST {url}, tried {times}: {what}{said}; {_way_out(status)}")


def _way_out(status: int | None) -> str:
    if status is None:
        return "check that the server runs at this address and answers in time, or raise the timeout"
    return WAYS_OUT.get(status, "look into the server's log" if status >= 500 else "check the address and the options")
