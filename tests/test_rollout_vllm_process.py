"""Servers that we start: their options, their end, and their return."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from saccade import cli
from saccade.cli.options import load_recipe
from saccade.cli.vllm_servers import check_servers, keep_command
from saccade.config import dump
from saccade.models.config import ModelConfig
from saccade.models.policy import known_family, load_adapter, open_adapter, resolve_path
from saccade.rollout.vllm_process import (
    HOST,
    ServeOptions,
    ServerProcess,
    environment,
    free_ports,
    lora_rank_limit,
    package_folder,
    served_directory,
)

HEALTHY = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *_): pass
if os.fork() == 0:
    import time; time.sleep(60)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A server with a worker process that would outlive it."""


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def a_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return one.getsockname()[1]


def process(tmp_path: Path, code: str) -> ServerProcess:
    port = a_port()
    return ServerProcess([sys.executable, "-c", code, str(port)], dict(os.environ), port, tmp_path / "server.log")


def group_lives(pid: int) -> bool:
    """Whether a process of the group is there and no zombie, which only waits to be counted."""
    for one in psutil.process_iter(["status"]):
        try:
            if os.getpgid(one.pid) == pid and one.info["status"] != psutil.STATUS_ZOMBIE:
                return True
        except ProcessLookupError:
            continue
    return False


def test_a_server_that_ends_is_started_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    server = process(tmp_path, HEALTHY)
    server.start()
    try:
        server.wait_until_ready(30)
        assert server.child is not None
        first = server.child.pid
        os.kill(first, signal.SIGKILL)
        assert until(lambda: server.restarts == 1 and server.child is not None and server.child.pid != first)
        assert until(lambda: not group_lives(first)), "its worker is gone too"
        second = server.child.pid
    finally:
        server.stop(grace_s=5)
    assert until(lambda: not group_lives(second))


def test_a_server_that_cannot_start_is_given_up_with_its_last_error(tmp_path: Path) -> None:
    server = process(tmp_path, "raise ValueError('no such model')")
    server.start()
    try:
        with pytest.raises(
            ValueError, match=r"vLLM at port \d+ ended: ValueError: no such model \(see .*server\.log\)"
        ):
            server.wait_until_ready(30)
        assert until(lambda: server.given_up is not None)
    finally:
        server.stop(grace_s=1)


def test_a_server_that_never_answers_is_an_error_in_time(tmp_path: Path) -> None:
    server = process(tmp_path, "import time; time.sleep(60)")
    server.start()
    try:
        with pytest.raises(ValueError, match=r"did not answer within 0\.3 s"):
            server.wait_until_ready(0.3)
    finally:
        server.stop(grace_s=5)


def test_servers_listen_on_the_loopback_address_and_have_what_the_engine_needs() -> None:
    command = ServeOptions("vllm", "model", "bfloat16", rows=64, lora_rank=9).command(8100, cpu=False)
    assert command[:3] == ["vllm", "serve", "model"] and command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert command[command.index("--max-lora-rank") + 1] == "16"
    assert {"--enable-scale-out", "--worker-extension-cls", "--enable-lora"} <= {*command}
    on_a_cpu = ServeOptions("vllm", "model", "float32").command(8100, cpu=True)
    assert {"--enforce-eager", "--no-enable-chunked-prefill"} <= set(on_a_cpu)
    with pytest.raises(ValueError, match="rank 512 at most"):
        lora_rank_limit(513)


def test_a_servers_environment_has_this_package_alone_and_its_own_devices(tmp_path: Path) -> None:
    folder = package_folder(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["saccade"] and (folder / "saccade" / "types.py").is_file()
    assert environment(folder, None)["CUDA_VISIBLE_DEVICES"] == "" and environment(folder, "3")["PYTHONPATH"] == str(
        folder
    )
    assert environment(folder, "2,3")["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment(folder, None)["VLLM_SERVER_DEV_MODE"] == "1"


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ValueError, match="is in use"):
            free_ports([taken.getsockname()[1]])


def test_the_served_model_has_the_recipes_image_limits(tmp_path: Path) -> None:
    path = resolve_path("base")
    config = ModelConfig(path="base", max_pixels=112 * 112)
    _, files = open_adapter(path, known_family(path), config)
    served = served_directory(path, files, tmp_path / "model")
    ours, theirs = load_adapter(config), load_adapter(served)
    assert theirs.processors[1].size == ours.processors[1].size != load_adapter("base").processors[1].size
    assert (Path(served) / "model.safetensors").is_symlink()
    assert served_directory("owner/model", files, tmp_path / "other") == "owner/model"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["launch", *words])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command_line_says_what_would_run_and_refuses_what_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "run"), "--dry-run", "--vllm-executable")
    status, shown, _ = run(capsys, "real_images", "--vllm", "2", *out, program(tmp_path))
    lines = shown.splitlines()
    assert status == 0 and len(lines) == 3, shown
    assert "--port 8100" in lines[0] and "--port 8101" in lines[1]
    assert "rollout.engine.kind=vllm_server" in lines[2] and "http://127.0.0.1:8101" in lines[2]
    status, _, problem = run(capsys, "real_images", "--vllm", "1", *out, str(tmp_path / "none"))
    assert status == 2 and "no such program; install vLLM" in problem and len(problem.splitlines()) == 1
    status, _, problem = run(capsys, "vision_r1_7b_sft", "--vllm", "1", *out, program(tmp_path))
    assert status == 2 and "rollout" in problem and len(problem.splitlines()) >= 1


def program(tmp_path: Path) -> str:
    made = tmp_path / "vllm"
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    return str(made)


def launched_run(tmp_path: Path, port: int) -> Path:
    """The directory of an interrupted run whose server `saccade launch` had started."""
    folder = tmp_path / "run"
    folder.mkdir()
    urls = f"rollout.engine.urls=[http://127.0.0.1:{port}]"
    recipe = load_recipe("real_images", ["rollout.engine.kind=vllm_server", urls])
    (folder / "config.yaml").write_text(dump(recipe))
    keep_command(folder, ["--vllm", "1", "--vllm-executable", "/the/vllm"])
    return folder


def test_launch_resumes_a_run_with_its_servers_at_their_addresses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launched_run(tmp_path, 8123)
    options = ("--vllm", "1", "--vllm-executable", program(tmp_path), "--dry-run")
    status, shown, _ = run(capsys, str(folder), *options)
    server, training = shown.splitlines()
    assert status == 0 and "--port 8123" in server
    assert training.endswith(f"-m saccade resume {folder} --from start"), "there is no checkpoint"
    (folder / "checkpoints" / "step-000003").mkdir(parents=True)
    status, shown, _ = run(capsys, str(folder), *options)
    assert status == 0 and shown.splitlines()[1].endswith(f"-m saccade resume {folder}")
    status, _, problem = run(capsys, str(folder), "--vllm", "2", *options[2:])
    assert status == 2 and "takes its replies from http://127.0.0.1:8123; expected as many servers" in problem
    status, _, problem = run(capsys, str(folder), "num_steps=3", *options)
    assert status == 2 and "with its own configuration; edit" in problem
    status, _, problem = run(capsys, "real_images", "--out", str(folder), *options)
    assert status == 2 and f"already holds a run; resume it with: saccade launch {folder}" in problem


def test_resuming_a_run_whose_servers_are_gone_says_which_command_starts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launched_run(tmp_path, a_port())
    with pytest.raises(SystemExit) as ended:
        cli.main(["resume", str(folder)])
    problem = capsys.readouterr().err
    assert ended.value.code == 2 and len(problem.splitlines()) == 1
    assert f"resume it with them: saccade launch {folder} --vllm 1 --vllm-executable /the/vllm" in problem


def test_servers_that_answer_are_used_and_those_that_others_started_are_not_asked(tmp_path: Path) -> None:
    server = process(tmp_path, HEALTHY)
    folder = launched_run(tmp_path, server.port)
    server.start()
    try:
        server.wait_until_ready(30)
        check_servers(folder, [f"http://{HOST}:{a_port()}", server.url])
    finally:
        server.stop(grace_s=5)
    check_servers(tmp_path / "other", [f"http://{HOST}:{a_port()}"])
