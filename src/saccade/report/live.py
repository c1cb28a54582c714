"""A page that follows a run: made anew from the run's files when someone asks, served on this machine only."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from saccade.report.page import Live, report_text
from saccade.runs.stopping import until_interrupted

REFRESH_S = 5.0
"""Between two questions of an open page whether files changed."""
WATCHED = ("metrics.jsonl", "rollouts.jsonl", "results.json", "items.jsonl", "alarms.jsonl", "demo.json")
HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names by which the server may be asked: a page of another site that resolves its own name to this machine may not
read it."""


def version(folders: Sequence[Path]) -> str:
    """Changes whenever a file of the runs does; cheap enough to be asked often."""
    files = [folder / name for top in folders for folder in (top, *_parts(top)) for name in WATCHED]
    stats = [file.stat() for file in files if file.is_file()]
    return f"{sum(one.st_size for one in stats)}-{max((one.st_mtime_ns for one in stats), default=0)}"


def _parts(folder: Path) -> list[Path]:
    return sorted({path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/metrics.jsonl")})


class PageServer(ThreadingHTTPServer):
    """Serves `/` (the page) and `/version`. `server_close` ends it; requests in progress do not keep it."""

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int = 0) -> None:
        self.folders = list(folders)
        self._made: tuple[str, bytes] | None = None
        self._making = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who leaves before the page is made is no fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def page(self) -> bytes:
        """The page of the files as they are; made once for all who ask at the same time."""
        with self._making:
            now = version(self.folders)
            if self._made is None or self._made[0] != now:
                text = report_text(self.folders, Live(REFRESH_S, now))
                self._made = (now, text.encode("utf-8", "replace"))
            return self._made[1]


class _Handler(BaseHTTPRequestHandler):
    timeout = 30

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, PageServer)
        name, _, port = self.headers.get("Host", "").rpartition(":")
        if name not in HOSTS or port != str(server.server_address[1]):
            self._answer(403, "text/plain", b"This page is for this machine only.")
        elif self.path.split("?")[0] == "/version":
            self._answer(200, "text/plain", version(server.folders).encode())
        elif self.path.split("?")[0] == "/":
            try:
                page = server.page()
            except (ValueError, OSError) as error:
                self._answer(500, "text/plain", str(error).encode("utf-8", "replace"))
                return
            self._answer(200, "text/html", page)
        else:
            self._answer(404, "text/plain", b"There is only one page: /")

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal shows the address and no line per request."""


def serve(folders: Sequence[Path], port: int, say: Callable[[str], None]) -> None:
    """Serves the page until Ctrl-C. ValueError before that for a directory without a run, or a port that is taken."""
    report_text(folders)
    try:
        server = PageServer(folders, port)
    except OSError as error:
        raise ValueError(f"--port {port}: {error.strerror}; choose another, or 0 for any free one") from None
    say(f"{server.address} shows {', '.join(map(str, folders))}; Ctrl-C ends it, training is not affected")
    try:
        with suppress(KeyboardInterrupt), until_interrupted():
            server.serve_forever()
    finally:
        server.server_close()
