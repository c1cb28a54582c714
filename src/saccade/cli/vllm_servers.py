"""The vLLM servers of `saccade launch --vllm N`: what they serve, on which devices, and for how long."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from saccade.cli.terminal import echo
from saccade.config import ConfigError
from saccade.disk import write_text
from saccade.runs.stopping import ASKING, RunStopped, handling

if TYPE_CHECKING:
    from saccade.rollout.vllm_process import ServeOptions
    from saccade.training.config import RLRecipe


COMMAND = "launch.txt"
"""In the directory beside a run: the command that resumes it with its servers."""
ANSWER_S = 5.0


def engine_overrides(ports: list[int]) -> list[str]:
    """Overrides of a recipe that make it use servers at these ports of this machine."""
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    return ["rollout.engine.kind=vllm_server", f"rollout.engine.urls={json.dumps(urls)}"]


def beside(folder: Path) -> Path:
    """The directory of a run's servers: their logs, what they serve, and the command that started them."""
    return folder.with_name(f"{folder.absolute().name}.vllm")


def keep_command(folder: Path, options: list[str]) -> None:
    """Remembers the command that resumes a run with its servers."""
    place = beside(folder) / COMMAND
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, shlex.join(["saccade", "launch", str(folder), *options]) + "\n")


def check_servers(folder: Path, urls: Sequence[str]) -> None:
    """ConfigError with the command that starts them when `saccade launch` had started the servers of a run and none of
    them answers."""
    from saccade.endpoint.errors import EndpointError
    from saccade.endpoint.plain import PlainClient

    place = beside(folder) / COMMAND
    if not place.is_file():
        return
    for url in urls:
        try:
            PlainClient(url).get("/health", ANSWER_S)
        except EndpointError as error:
            if error.status is None:
                continue
        return
    raise ConfigError(
        f"{folder}: 'saccade launch' had started the servers of this run, and none answers at {', '.join(urls)}; "
        f"resume it with them: {place.read_text(encoding='utf-8').strip()}"
    )


def ports_of(config: RLRecipe, count: int, folder: Path) -> list[int]:
    """The ports of a run's servers, which are resumed at their addresses. ConfigError unless there are `count` on this
    machine."""
    engine = config.rollout.engine
    urls = list(engine.urls) if engine.kind == "vllm_server" else []
    here = [urlsplit(url) for url in urls]
    if len(urls) != count or any(one.hostname != "127.0.0.1" or one.port is None for one in here):
        raise ConfigError(
            f"--vllm {count}: the run in {folder} takes its replies from {', '.join(urls) or 'no server'}; expected "
            "as many servers, at addresses such as http://127.0.0.1:8100 (rollout.engine.urls in its config.yaml)"
        )
    return [one.port for one in here if one.port is not None]


def devices(gpus: int, servers: int, each: int) -> tuple[str | None, list[str | None]]:
    """CUDA_VISIBLE_DEVICES of the trainer and of each server: the trainer has the first GPUs. None without any GPU.
    ConfigError when there are too few."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if not count:
        return None, [None] * servers
    names = given.split(",")[:count] if given else [str(i) for i in range(count)]
    if len(names) < gpus + servers * each:
        raise ConfigError(
            f"--vllm {servers}: got {len(names)} GPUs, expected {gpus} for training (--gpus) and {each} for each of "
            f"{servers} servers (--vllm-gpus)"
        )
    rest = names[gpus:]
    return ",".join(names[:gpus]), [",".join(rest[i * each : (i + 1) * each]) for i in range(servers)]


def program(executable: str) -> str:
    """The full path of a program. ConfigError when it is not there."""
    found = shutil.which(executable)
    if found is None:
        raise ConfigError(
            f"--vllm-executable {executable}: no such program; install vLLM in an environment of its own and give the "
            "path of its 'vllm' (docs/engines.md)"
        )
    return str(Path(found).absolute())


@contextmanager
def a_server(model: str, dtype: str, executable: str, context: int) -> Iterator[str]:
    """The address of one server on a free port, until the block ends. It has the first GPU, if there is one."""
    from saccade.models.policy import base_path, resolve_path
    from saccade.rollout.vllm_process import ServeOptions, a_free_port

    options = ServeOptions(program(executable), base_path(resolve_path(model)), dtype, context=context)
    port = a_free_port()
    (device,) = devices(0, 1, 1)[1]
    with tempfile.TemporaryDirectory() as folder, running(options, [port], [device], Path(folder)):
        yield f"http://127.0.0.1:{port}"


def serve_options(config: RLRecipe, executable: str, each: int, more: str, folder: Path) -> ServeOptions:
    """What the servers of a recipe need. ConfigError when the program is not there."""
    from saccade.models.policy import base_path, known_family, open_adapter, resolve_path
    from saccade.rollout.vllm_process import ServeOptions, served_directory

    found = program(executable)
    path = resolve_path(config.model.path)
    base = base_path(path)
    _, files = open_adapter(path, known_family(base), config.model)
    return ServeOptions(
        executable=found,
        model=served_directory(base, files, folder / "model"),
        dtype="float32" if config.model.dtype == "float64" else config.model.dtype,
        rows=max(max(stage.group_size for stage in config.stages), 64),
        lora_rank=config.model.lora.rank
        if config.model.lora
        and config.rollout.engine.kind == "vllm_server"
        and config.rollout.engine.weights == "adapters"
        else None,
        more=(*(["--tensor-parallel-size", str(each)] if each > 1 else []), *shlex.split(more)),
    )


@contextmanager
def running(options: ServeOptions, ports: list[int], given: list[str | None], folder: Path) -> Iterator[None]:
    """Servers that are ready, and that are started again when they end, until the block ends. ValueError when one does
    not start."""
    from saccade.rollout.vllm_process import ServerProcess, environment, free_ports, package_folder

    free_ports(ports)
    package = package_folder(folder)
    servers = [
        ServerProcess(options.command(port, device is None), environment(package, device), port, folder / f"{port}.log")
        for port, device in zip(ports, given, strict=True)
    ]
    with handling(dict.fromkeys(ASKING, _interrupt)), ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.start()
            echo(f"vLLM starts at {server.url}, log: {server.log_file}", err=True)
        for server in servers:
            server.wait_until_ready()
        yield


def _interrupt(number: int, frame: object) -> NoReturn:
    raise RunStopped(number, "stopped before the run began; run the same command again")
