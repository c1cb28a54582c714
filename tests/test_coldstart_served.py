"""A cold start whose teachers are real OpenAI-compatible servers on this machine, with the packaged tiny model.

A model of 2 M parameters does not follow the prompts, so most rows are dropped. These tests cover the communication:
every row is accounted for, and the pictures arrive.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import get_args
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from PIL import Image

import saccade
from saccade import cli
from saccade.endpoint import Endpoint, user
from saccade.models.counting import TokenCounter
from saccade.models.policy import load_adapter
from saccade.runs.drafts import Difficulty, Draft

BASE = Path(saccade.__file__).parent / "assets" / "base"
SERVING = ("fastapi", "uvicorn", "openai")
"""What `transformers serve` needs besides transformers."""
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
ROWS = 6
"""Rows of each of the two tasks."""


@dataclass(frozen=True)
class Served:
    url: str
    model: str
    options: dict[str, str] = field(default_factory=dict)
    """Additional options of each request."""


@contextmanager
def started(command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a running server; it and its children are stopped at the end."""
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **QUIET, **(env or {})}, start_new_session=True
        )
    try:
        await_health(server, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def await_health(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 600
    while time.monotonic() < end:
        if server.poll() is not None:
            pytest.fail(f"the server ended with {server.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not come up in ten minutes:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    missing = [name for name in SERVING if find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}: pip install 'transformers[serving]'")
    base, port = str(BASE), free_port()
    launcher = str(Path(__file__).with_name("serve_tiny.py"))
    command = [sys.executable, launcher, "serve", base, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with started(command, port, tmp_path_factory.mktemp("serve") / "log") as url:
        yield Served(url, base, {"generation_config": '{"do_sample": true}'})  # otherwise greedy at any temperature


@pytest.fixture(scope="module")
def vllm_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`SACCADE_VLLM` names the executable of vLLM, which is installed in its own environment."""
    executable = os.environ.get("SACCADE_VLLM")
    if not executable:
        pytest.skip("set SACCADE_VLLM to the executable 'vllm' of an environment that has it")
    port = free_port()
    command = [executable, "serve", str(BASE), "--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "1024", "--limit-mm-per-prompt", '{"image":2,"video":0}']
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    quiet |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    with started(command, port, tmp_path_factory.mktemp("vllm") / "log", quiet) as url:
        yield Served(url, "tiny")


def check_cold_start(served: Served, out: Path) -> None:
    """From the command line to a complete store: each row with all its texts, kept or with a reason."""
    teacher = {"teacher": "endpoint", "url": served.url, "model": served.model, "options": served.options}
    caps = {"pseudo_cot": 32, "description": 32, "reasoning": 64}
    tokens = {stage: {"max_new_tokens": cap} for stage, cap in caps.items()}
    data = [{"source": "world", "task": task, "limit": ROWS} for task in ("count", "yes_no")]
    recipe = {"kind": "coldstart", "out": str(out), "data": data, "vision": teacher, "reasoner": teacher, "samples": 2}
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**recipe, "sampling": tokens, "retry_after_s": 0.1}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["coldstart", str(path)])
    assert ended.value.code == 0
    summary = json.loads((out / "summary.json").read_text())
    rows, left_out = summary["rows"], summary["left_out"]
    assert rows["all"] == 2 * ROWS == rows["done"] + rows["failed"] and rows["open"] == 0
    assert set(left_out) <= {"empty reply"}, "thought without a text is all that may go wrong on the way"
    assert rows["failed"] == sum(left_out.values()) == len(rows_of(out / "left_out.jsonl")) < ROWS
    drafts = [Draft.from_json(line) for line in rows_of(out / "drafts.jsonl")]
    assert len({draft.id for draft in drafts}) == len(drafts) == rows["done"]
    for draft in drafts:
        assert draft.pseudo_cot and draft.description and draft.difficulty and len(draft.chains) == 2
        assert draft.chosen or all(chain.rejections for chain in draft.chains)
    assert any(draft.chains[0].text != draft.chains[1].text for draft in drafts), "the temperature arrives"
    labelled = [json.loads(line) for name in get_args(Difficulty) for line in rows_of(out / f"rl_{name}.jsonl")]
    assert {row["id"] for row in labelled} == {draft.id for draft in drafts}
    assert (out / "report.html").is_file()


def rows_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def check_pictures_arrive(served: Served) -> None:
    """The server counts the same prompt tokens as training, including image tokens."""
    endpoint, counter = Endpoint(served.url, served.model), TokenCounter(load_adapter("base"))
    question = "What colour is this?"
    for size in ((56, 56), (112, 56), (140, 196)):
        message = user(question, [Image.new("RGB", size, (200, 30, 30))])
        reply = endpoint.chat([message], max_tokens=4, temperature=0.0)
        assert reply.usage.prompt_tokens == counter.prompt(f"<image>{question}", [size]).total
    endpoint.close()


@pytest.mark.slow
def test_a_cold_start_with_transformers_serve_accounts_for_every_row(transformers_serve: Served, tmp_path: Path):
    check_cold_start(transformers_serve, tmp_path / "run")


@pytest.mark.slow
def test_pictures_arrive_at_transformers_serve(transformers_serve: Served):
    check_pictures_arrive(transformers_serve)


@pytest.mark.vllm
def test_a_cold_start_with_vllm_accounts_for_every_row(vllm_serve: Served, tmp_path: Path):
    check_cold_start(vllm_serve, tmp_path / "run")


@pytest.mark.vllm
def test_pictures_arrive_at_vllm(vllm_serve: Served):
    check_pictures_arrive(vllm_serve)
