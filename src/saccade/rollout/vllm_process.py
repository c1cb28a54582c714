"""Starting vLLM servers for a run, and starting them again when they end."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from saccade.endpoint.errors import EndpointError
from saccade.endpoint.plain import PlainClient
from saccade.rollout.vllm_checks import EXTENSION
from saccade.workers.tied import ending_with_parent

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
"""Servers have routes that change weights, so only this machine may reach them."""
CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
START_S, END_S, QUICK_S, MOST_QUICK = 900.0, 20.0, 60.0, 3
"""Seconds for a start and for an end; a server that ends MOST_QUICK times within QUICK_S of its start is given up."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the servers of a run have in common."""

    executable: str
    model: str
    dtype: str
    images: int = 8
    """Images of a prompt, at most."""
    rows: int | None = None
    """Replies decoded at once, at most; None leaves it to vLLM."""
    context: int | None = None
    """Tokens of a prompt and its reply; None: as many as the model has."""
    lora_rank: int | None = None
    """Serve adapters of up to this rank beside the model."""
    more: tuple[str, ...] = ()
    """Further options of `vllm serve`."""

    def command(self, port: int, cpu: bool) -> list[str]:
        """The command line of one server."""
        command = [self.executable, "serve", self.model, "--served-model-name", "policy", "--host", HOST]
        command += ["--port", str(port), "--dtype", self.dtype, "--enable-scale-out"]
        command += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
        command += ["--worker-extension-cls", EXTENSION]
        command += ["--limit-mm-per-prompt", json.dumps({"image": self.images, "video": 0})]
        command += [] if self.rows is None else ["--max-num-seqs", str(self.rows)]
        command += [] if self.context is None else ["--max-model-len", str(self.context)]
        if self.lora_rank is not None:
            command += ["--enable-lora", "--max-lora-rank", str(lora_rank_limit(self.lora_rank))]
        return [*command, *(ON_A_CPU if cpu else ()), *self.more]


ON_A_CPU = ("--enforce-eager", "--no-enable-chunked-prefill")
"""A prompt with a seed whose prefill is split ends vLLM 0.32 on a CPU, whose random generators have no offset."""


def lora_rank_limit(rank: int) -> int:
    """The least limit of vLLM that holds adapters of this rank. ValueError for a rank beyond them."""
    for limit in (1, 8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= limit:
            return limit
    raise ValueError(f"model.lora.rank: got {rank}; vLLM takes adapters of rank 512 at most")


def package_folder(parent: Path) -> Path:
    """A folder that holds this package alone, for the servers' PYTHONPATH: the one where it is installed would bring
    the trainer's other packages with it."""
    folder = parent / "saccade-for-vllm"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "saccade"
    if not link.exists():
        link.symlink_to(Path(__file__).parent.parent, target_is_directory=True)
    return folder


def environment(folder: Path, device: str | None) -> dict[str, str]:
    """The environment of a server. `device` is the GPU's number, None for a CPU."""
    own = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(folder),
        "PYTHONSAFEPATH": "1",
    }
    hidden = ("PYTHONHOME", "VIRTUAL_ENV", *(name for name in os.environ if name.startswith("TORCHELASTIC")))
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    if device is None:
        return CPU_ENVIRONMENT | inherited | own | {"CUDA_VISIBLE_DEVICES": ""}
    return inherited | own | {"CUDA_VISIBLE_DEVICES": device}


def a_free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        return one.getsockname()[1]


def free_ports(ports: Sequence[int]) -> None:
    """ValueError when one of the ports is in use."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                raise ValueError(f"port {port} of {HOST} is in use; give other ports (--vllm-port)") from None


@dataclass(eq=False)
class ServerProcess:
    """One server, its log, and the thread that starts it again."""

    command: Sequence[str]
    environment: Mapping[str, str]
    port: int
    log_file: Path
    child: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    given_up: str | None = None
    """Why it is not started again."""
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start the server, and watch it from now on. OSError when there is no such program."""
        self._launch()
        self._thread = threading.Thread(target=self._watch, name=f"saccade-vllm-{self.port}", daemon=True)
        self._thread.start()

    def _launch(self) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self._ending.is_set():
                return
            with self.log_file.open("ab") as output:
                self.child = _popen(self.command, self.environment, output)

    def _watch(self) -> None:
        quick = 0
        while not self._ending.is_set():
            assert self.child is not None
            began = time.monotonic()
            while self.child.poll() is None:
                if self._ending.wait(0.2):
                    return
            quick = quick + 1 if time.monotonic() - began < QUICK_S else 0
            why = f"vLLM at port {self.port} ended with status {self.child.returncode}, see {self.log_file}"
            if quick >= MOST_QUICK:
                self.given_up = why
                log.error("%s; it ended %d times soon after its start and is given up", why, quick)
                return
            log.warning("%s; it is started again", why)
            _end_group(self.child)
            self.restarts += 1
            try:
                self._launch()
            except OSError as error:
                self.given_up = str(error)
                log.error("%s: %s", why, error)
                return

    def wait_until_ready(self, seconds: float = START_S) -> None:
        """ValueError when the server ends or does not answer in time; its log says why."""
        client, until = PlainClient(self.url), time.monotonic() + seconds
        try:
            while True:
                try:
                    client.get("/health", 5.0)
                    return
                except EndpointError:
                    pass
                if self.given_up or self.restarts or time.monotonic() >= until:
                    what = "ended" if self.given_up or self.restarts else f"did not answer within {seconds:g} s"
                    raise ValueError(
                        f"vLLM at port {self.port} {what}: {last_line(self.log_file)} (see {self.log_file})"
                    )
                time.sleep(0.2)
        finally:
            client.close()

    def stop(self, grace_s: float = END_S) -> None:
        """End the server and everything that it started: with SIGTERM, after `grace_s` by force."""
        self._ending.set()
        with self._lock:
            child = self.child
        if child is not None:
            _end_group(child, grace_s)
        if self._thread is not None:
            self._thread.join(timeout=5)


def _popen(command: Sequence[str], environment: Mapping[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=ending_with_parent(),
    )


def _end_group(child: subprocess.Popen[bytes], grace_s: float = END_S) -> None:
    """SIGTERM to the process group, SIGKILL to what is left of it: workers may outlive their server."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            continue


def last_line(path: Path) -> str:
    """The last line of a log that names an error, else its last line."""
    if not path.is_file():
        return "no log"
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["an empty log"])[-1].strip()[:300]


def served_directory(model: str, files: Mapping[str, bytes], folder: Path) -> str:
    """A directory with the model's weights (as links) and these files in place of its own: image limits of a recipe are
    then the server's too. A model that is not a directory is served by its name."""
    source = Path(model)
    if not source.is_dir():
        return model
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in source.resolve().iterdir():
        if path.is_file() and path.name not in files:
            (folder / path.name).symlink_to(path)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)
