"""A tiny chat server for tests: answers each request with a scripted response."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """A scripted response."""

    text: str = "fine"
    status: int = 200
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    n: int = 1
    drip: bool = False

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        choices = [
            {"message": {"content": f"{self.text}{i or ''}"}, "finish_reason": "stop", "logprobs": {"content": [i]}}
            for i in range(self.n)
        ]
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        return json.dumps({"model": "tiny", "choices": choices, "usage": usage}).encode()


@dataclass
class Server:
    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies, with the headers under 'headers' and the path under 'path'."""
    busiest: int = 0
    """Maximum number of concurrent requests."""


@contextmanager
def chat_server(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[Server]:
    """Serves `answer(number of previous requests, request)` on a free local port until the block ends."""
    lock, busy = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(server.requests)
                server.requests.append({**body, "headers": dict(self.headers), "path": self.path})
                busy[0] += 1
                server.busiest = max(server.busiest, busy[0])
            try:
                self.send(answer(number, body))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with lock:
                    busy[0] -= 1

        def send(self, said: Answer) -> None:
            content = said.body()
            if not said.drip:
                time.sleep(said.wait_s)
            self.send_response(said.status)
            for name, value in {"content-length": str(len(content)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for i in range(0, len(content), 1 if said.drip else max(1, len(content))):
                self.wfile.write(content[i : i + 1] if said.drip else content)
                self.wfile.flush()
                if said.drip:
                    time.sleep(said.wait_s)

        def log_message(self, *_: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
