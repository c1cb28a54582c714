"""The client: bounded concurrency, retries with backoff, a deadline for every request, an optional disk cache."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import httpx2

from saccade.endpoint.body import (
    AS_IT_IS,
    LARGE,
    MOST_BYTES,
    MOST_TAKEN,
    Body,
    BodyError,
    NoCookies,
    as_text,
    read_json,
)
from saccade.endpoint.cache import ReplyCache, request_key
from saccade.endpoint.errors import EndpointError, not_started
from saccade.endpoint.messages import ChatResponse, Message, parse_response
from saccade.endpoint.secrets import KeyMask, check_no_secret, clean_key, proxy_logins

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that are retried."""

MOST_LETTERS, MORE_LETTERS = 100, 10_000
"""Characters of a reply for each token of `max_tokens`, and in addition; a longer one ignores that limit."""
BYTES_OF_TOKEN, TAKEN_OF_TOKEN = 128, 4096
"""Bytes that a token may take in JSON, whose letters may be escapes of 12; and in memory while that is read, where it
may be eight percent signs."""
BODY_KEPT = 20_000
"""Characters of an error's response that are kept."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Concurrency, timeouts and retries of a client."""

    concurrency: int = 16
    """Maximum number of concurrent requests."""
    timeout_s: float = 120.0
    """Timeout of one attempt."""
    deadline_s: float = 600.0
    """Limit for one request including retries and pauses, excluding the wait for a free slot."""
    retries: int = 4
    """Maximum number of retries after the first attempt."""
    backoff_s: float = 0.5
    """Delay before the first retry; doubled each time, with jitter. `Retry-After` is respected."""
    max_backoff_s: float = 30.0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.retries < 0 or min(self.timeout_s, self.deadline_s) <= 0 or self.backoff_s < 0:
            raise ValueError(f"got {self}; expected concurrency >= 1, retries >= 0, timeouts > 0 and backoff_s >= 0")


class Endpoint:
    """One model on one OpenAI-compatible server. Thread-safe; close it, or use it in a `with` block.

    All network traffic runs in one background thread that starts with the first request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        cache: ReplyCache | None = None,
        limits: RequestLimits | None = None,
    ) -> None:
        """`url`: the server's base address, such as 'http://host:8000' or 'https://host/v1'. White space around the key
        is removed; ValueError for a key that no header can carry. No reply, error or cache entry contains the key."""
        self.url, self.model = chat_url(url), model
        self.cache, self.limits = cache, limits or RequestLimits()
        self._api_key = clean_key(api_key)
        self._mask = mask_of(self.url, self._api_key)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: httpx2.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None
        self._in_flight: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # ------------------------------------------------------------------------------------------------ requests

    def chat(self, messages: Sequence[Message], **options: Any) -> ChatResponse:
        """The response to a conversation. `options` are added to the request unchanged: n, max_tokens, temperature,
        top_p, seed, stop, logprobs, and anything else the server accepts.

        Raises EndpointError when all attempts fail.
        """
        return self._wait(self._chat(messages, options))

    async def achat(self, messages: Sequence[Message], **options: Any) -> ChatResponse:
        """As `chat`, for a caller with its own event loop."""
        return await asyncio.wrap_future(self._begin(self._chat(messages, options)))

    def close(self) -> None:
        """Stops the background thread and closes the connections; requests in flight fail."""
        with self._lock:
            loop, thread, client = self._loop, self._thread, self._client
            self._loop = self._thread = self._client = self._slots = None
        if loop is None or thread is None:
            return
        if client is not None:
            asyncio.run_coroutine_threadsafe(_shut_down(client), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ one request

    async def _chat(self, messages: Sequence[Message], options: Mapping[str, Any]) -> ChatResponse:
        if options.get("stream"):
            raise ValueError("stream=True is not supported: this client reads complete responses; remove 'stream'")
        body = {"model": self.model, "messages": [dict(message) for message in messages], **options}
        if self.cache is None:
            return (await self._ask(body))[1]
        key = request_key(self.url, body)
        async with self._in_flight.setdefault(key, asyncio.Lock()):  # concurrent identical requests are sent once
            stored = await asyncio.to_thread(self.cache.get, key, lambda body: parse_response(self._mask.json(body)))
            if stored is not None:
                return replace(stored, cached=True, attempts=0)
            answer, reply = await self._ask(body)
            await asyncio.to_thread(self.cache.put, key, self.model, answer)
            return reply

    async def _ask(self, body: Mapping[str, Any]) -> tuple[Any, ChatResponse]:
        """The JSON of the response and its parsed form, after waiting for a free slot."""
        assert self._slots is not None
        async with self._slots:
            started = time.monotonic()
            answer, reply, attempts = await self._with_retries(body, started + self.limits.deadline_s)
        return answer, replace(reply, attempts=attempts, seconds=time.monotonic() - started)

    async def _with_retries(self, body: Mapping[str, Any], until: float) -> tuple[Any, ChatResponse, int]:
        """The JSON of the response, its parsed form, and the number of attempts."""
        content, most = json.dumps(body).encode(), _Most.of(body)
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._attempt(content, until, most)
                return answer, _parse_response(answer, body.get("max_tokens")), attempt
            except _AttemptFailure as failure:
                pause_s = self._backoff_s(attempt) if failure.pause_s is None else failure.pause_s
                if not failure.retry or attempt > self.limits.retries or time.monotonic() + pause_s >= until:
                    raise self._error(failure, attempt) from None
            await asyncio.sleep(pause_s)

    async def _attempt(self, content: bytes, until: float, most: _Most) -> Any:
        """The JSON of one response. Raises `_AttemptFailure`."""
        seconds = max(0.001, min(self.limits.timeout_s, until - time.monotonic()))
        try:
            async with asyncio.timeout(seconds):
                response, body = await self._post(content, most.sent)
        except (TimeoutError, httpx2.TimeoutException):
            raise _AttemptFailure(f"no response within {seconds:.3g} s") from None
        except httpx2.HTTPError as error:
            raise _AttemptFailure(f"{type(error).__name__}: {error}") from None
        except BodyError as error:
            raise _AttemptFailure(str(error), 200) from None
        text = as_text(body[: 4 * BODY_KEPT])
        if response.status_code != 200:
            retry = response.status_code in RETRIED or 200 < response.status_code < 300  # of a proxy, without a reply
            what = f"status {response.status_code} {response.reason_phrase}".rstrip()
            pause_s = _retry_after(response.headers.get("retry-after"), self.limits.max_backoff_s)
            raise _AttemptFailure(what, response.status_code, text, retry, pause_s)
        try:
            read = partial(read_json, body, self._mask.json, most.taken)
            return await asyncio.to_thread(read) if len(body) > LARGE else read()
        except BodyError as error:
            raise _AttemptFailure(str(error), 200, text) from None

    async def _post(self, content: bytes, most: int | None) -> tuple[httpx2.Response, bytes]:
        """The response and its body. Raises BodyError."""
        assert self._client is not None
        async with self._client.stream("POST", self.url, content=content) as response:
            body = Body(response.headers, most)
            async for chunk in response.aiter_raw():
                body.add(chunk)
        return response, body.content

    def _error(self, failure: _AttemptFailure, attempts: int) -> EndpointError:
        """The error of the last attempt. Every text of a failure passes here, and leaves the key behind."""
        what, body = self._mask.text(failure.what), self._mask.body(failure.body[:BODY_KEPT])
        return EndpointError(self._mask.text(self.url), what, attempts, failure.status, body)

    def _backoff_s(self, attempt: int) -> float:
        """Seconds before the next attempt: exponential backoff, between 50 % and 100 % of it at random."""
        longest = min(self.limits.backoff_s * 2 ** (attempt - 1), self.limits.max_backoff_s)
        return longest * (0.5 + random.random() / 2)

    # ------------------------------------------------------------------------------------------------ the thread

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C must not leave the request behind
            raise

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._running())
        except EndpointError:
            work.close()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop of the background thread, started on first use."""
        with self._lock:
            if self._loop is None:
                self._client = self._new_client()  # first, since it may fail
                self._slots = asyncio.Semaphore(self.limits.concurrency)
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="saccade-endpoint", daemon=True)
                self._thread.start()
            return self._loop

    def _new_client(self) -> httpx2.AsyncClient:
        headers = {"content-type": "application/json", **AS_IT_IS}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        try:
            return httpx2.AsyncClient(
                headers=headers,
                cookies=NoCookies(),
                timeout=None,  # each attempt has its own deadline around the call, which also stops slow drips
                limits=httpx2.Limits(max_connections=self.limits.concurrency),
                trust_env=not is_local(self.url),  # a proxy from the environment cannot reach localhost
            )
        except Exception as error:  # noqa: BLE001 - whatever proxies and certificates of the environment cause
            raise EndpointError(self.url, not_started(error)) from None


class _AttemptFailure(Exception):
    """An attempt without a usable response."""

    def __init__(
        self, what: str, status: int | None = None, body: str = "", retry: bool = True, pause_s: float | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.status, self.body, self.retry, self.pause_s = what, status, body, retry, pause_s


@dataclass(frozen=True, slots=True)
class _Most:
    """Of a response."""

    sent: int | None
    """Bytes; None where the request does not say how long it may be."""
    taken: int
    """Bytes that it may take in memory."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> _Most:
        """Those of a reply and of its reasoning, and of log-probs where they were asked for."""
        tokens, n, top = body.get("max_tokens"), body.get("n") or 1, body.get("top_logprobs") or 0
        if not (isinstance(tokens, int) and isinstance(n, int) and isinstance(top, int)):
            return cls(None, MOST_TAKEN)
        lists = 2 * (1 + top) if body.get("logprobs") else 0
        sent = (1 << 20) + n * (2 * 12 * MORE_LETTERS + BYTES_OF_TOKEN * tokens * (2 + lists))
        taken = (32 << 20) + n * TAKEN_OF_TOKEN * tokens * (1 + lists)
        return cls(min(MOST_BYTES, sent), min(MOST_TAKEN, taken))


def _parse_response(answer: Any, max_tokens: Any) -> ChatResponse:
    try:
        return parse_response(answer, MORE_LETTERS + MOST_LETTERS * max_tokens if isinstance(max_tokens, int) else None)
    except ValueError as error:
        raise _AttemptFailure(f"not a chat completion: {error}", 200, json.dumps(answer)) from None


async def _shut_down(client: httpx2.AsyncClient) -> None:
    """Cancels pending tasks and closes the connections."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()
    await asyncio.get_running_loop().shutdown_default_executor()


def _retry_after(value: str | None, longest: float) -> float | None:
    try:
        return None if value is None else min(max(0.0, float(value)), longest)  # in this order NaN is 0
    except ValueError:  # a date, which model servers do not send
        return None


def chat_url(url: str) -> str:
    """The address for chat requests, from the base address of a server or the full address.

    Raises ValueError for anything but http(s) with a host, and for an address that contains a password.
    """
    check_no_secret(url, "pass the key as api_key instead")
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError) as error:
        raise ValueError(f"got the address {url!r} ({error}), expected http://host:port/v1") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"got the address {url!r}, expected http://host:port/v1 or https://host/v1")
    path = parsed.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return str(parsed.copy_with(path=path))


def mask_of(url: str, key: str | None) -> KeyMask:
    """Removes the key of a server, and the logins of the proxies by which it is asked."""
    return KeyMask(key, *(() if is_local(url) else proxy_logins()))


def is_local(url: str) -> bool:
    """Whether an address is one of this machine's own."""
    host = httpx2.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
