"""vLLM itself, on this machine: `SACCADE_VLLM` names its executable (benchmarks/vllm_cpu_setup.sh makes one on a CPU).

SACCADE_VLLM=DIR/bin/vllm pytest -m vllm tests/test_vllm_real.py
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from replies import builtin
from vllm_stand_in import moved

from saccade import cli
from saccade.config import load
from saccade.evaluation.config import EvalRecipe
from saccade.models.chat_template import MARKER
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy, load_policy, resolve_path
from saccade.rollout.config import Sampling, VllmServerConfig
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import Prompt
from saccade.rollout.vllm_process import ServeOptions, ServerProcess, environment, package_folder
from saccade.rollout.vllm_server import Current, VllmServerEngine
from saccade.training.config import RLRecipe
from saccade.training.rl import train
from saccade.types import Completion

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
BOUND = 1e-3
"""Nats between log-probs of vLLM and ours in float32 on a CPU; measured: 4e-5."""
HOT = 0.05
GREEDY = Sampling(max_new_tokens=48, greedy=True)
ALL = ("vision", "projector", "language")


def vllm_executable() -> str:
    executable = os.environ.get("SACCADE_VLLM")
    if not executable:
        pytest.skip("set SACCADE_VLLM to the executable 'vllm' of an environment that has it")
    return executable


def serve(folder: Path, lora_rank: int | None = None) -> ServerProcess:
    executable = vllm_executable()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    options = ServeOptions(
        executable, resolve_path("base"), "float32", images=2, rows=64, context=1024, lora_rank=lora_rank
    )
    package = package_folder(folder)
    process = ServerProcess(options.command(port, cpu=True), environment(package, None), port, folder / f"{port}.log")
    process.start()
    return process


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, ServerProcess, ServerProcess]]:
    """Two servers of the base model, and one that takes adapters."""
    folder = tmp_path_factory.mktemp("servers")
    found = [serve(folder), serve(folder), serve(folder, lora_rank=8)]
    try:
        for one in found:
            one.wait_until_ready(400)
        yield found[0], found[1], found[2]
    finally:
        for one in found:
            one.stop()


def engine_on(policy: Policy, *processes: ServerProcess, **options: Any) -> VllmServerEngine:
    engine = open_engine(policy, VllmServerConfig(urls=tuple(one.url for one in processes), **options))
    assert isinstance(engine, VllmServerEngine)
    return engine


def prompts(policy: Policy, count: int = 4) -> list[Prompt]:
    """With one image, two images and none."""
    pictures = []
    for i in range(count):
        picture = Image.new("RGB", (112 + 8 * i, 84), "white")
        ImageDraw.Draw(picture).ellipse((5 + 4 * i, 20, 60, 60), fill=(200, 15 * i, 30))
        pictures.append(picture)
    found = [Prompt(None, policy.adapter.encode(f"{MARKER}How many red shapes?", [one]), (one,)) for one in pictures]
    two = tuple(pictures[:2])
    found.append(Prompt(None, policy.adapter.encode(f"{MARKER}{MARKER}Which has more red?", two), two))
    return [*found, Prompt(None, policy.adapter.encode("What is red?", ()))]


def gap(policy: Policy, asked: list[Prompt], groups: list[list[Completion]], temperature: float = 1.0) -> float:
    """The largest distance of a sampler's log-prob from the trainer's."""
    packed = pack([(p.encoded, [Branch(c.token_ids) for c in g]) for p, g in zip(asked, groups, strict=True)])
    with torch.no_grad():
        ours, _ = branch_logprobs(policy, packed, temperature=temperature, path="plain")
    theirs = torch.tensor([one for group in groups for c in group for one in c.logprobs])
    return float((ours - theirs).abs().max())


def ids(groups: list[list[Completion]]) -> list[tuple[int, ...]]:
    return [c.token_ids for group in groups for c in group]


def test_greedy_tokens_equal_the_built_in_engines(processes: tuple[ServerProcess, ...]) -> None:
    policy = load_policy("base")
    asked = prompts(policy)
    engine = engine_on(policy, processes[0])
    found, expected = (one.generate(asked, GREEDY, 1, range(len(asked))) for one in (engine, builtin(policy)))
    assert ids(found) == ids(expected)
    assert [c.text for g in found for c in g] == [c.text for g in expected for c in g]
    assert [c.finish_reason for g in found for c in g] == [c.finish_reason for g in expected for c in g]
    assert gap(policy, asked, found) < BOUND


def test_sampled_log_probs_are_the_trainers_at_the_sampling_temperature(processes: tuple[ServerProcess, ...]) -> None:
    policy = load_policy("base")
    asked = prompts(policy)
    engine = engine_on(policy, processes[0])
    found = engine.generate(asked, Sampling(max_new_tokens=32, temperature=0.7), 8, range(len(asked)))
    assert gap(policy, asked, found, 0.7) < BOUND < gap(policy, asked, found, 1.0)
    assert all(len(group) == 8 for group in found) and len({*ids(found[:1])}) > 1
    again = engine.generate(asked, Sampling(max_new_tokens=32, temperature=0.7), 8, range(len(asked)))
    assert ids(again) == ids(found), "a seed gives the same replies again"
    banned = {*policy.adapter.banned_ids}
    assert not any(banned & {*one} for one in ids(found))


@pytest.mark.parametrize(
    "options",
    [{"stop_strings": ("<answer>",)}, {"repetition_stop": 3}, {"min_new_tokens": 20}],
    ids=["stop strings", "repetition", "fewest tokens"],
)
def test_replies_end_as_those_of_the_built_in_engine(
    processes: tuple[ServerProcess, ...], options: dict[str, Any]
) -> None:
    policy = load_policy("base")
    asked, sampling = prompts(policy), Sampling(max_new_tokens=96, greedy=True, **options)
    found = engine_on(policy, processes[0]).generate(asked, sampling, 1, range(len(asked)))
    expected = builtin(policy).generate(asked, sampling, 1, range(len(asked)))
    assert ids(found) == ids(expected)
    assert [c.finish_reason for g in found for c in g] == [c.finish_reason for g in expected for c in g]


def test_weights_change_after_a_sync_and_come_back(processes: tuple[ServerProcess, ...]) -> None:
    policy = load_policy(ModelConfig(path="base", train=ALL))
    asked = prompts(policy)
    engine = engine_on(policy, processes[0])
    first = engine.generate(asked, GREEDY, 1, range(len(asked)))
    for _ in range(2):
        engine.sync(moved(policy, 0.01))
        found = engine.generate(asked, GREEDY, 1, range(len(asked)))
        assert ids(found) == ids(builtin(policy).generate(asked, GREEDY, 1, range(len(asked))))
        assert gap(policy, asked, found) < BOUND and ids(found) != ids(first)
    assert found[0][0].weights_version == 2
    engine.sync(load_policy("base"))
    assert ids(engine.generate(asked, GREEDY, 1, range(len(asked)))) == ids(first)


def test_a_head_that_is_not_renewed_is_noticed(
    processes: tuple[ServerProcess, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's own reload, without our worker's renewal of the packed head."""
    policy = load_policy(ModelConfig(path="base", train=ALL))
    engine = engine_on(policy, processes[0])

    def stock(self: VllmServerEngine, server: Any, current: Current) -> None:
        server.client.post("/pause?mode=wait", None, 60)
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(current.files.directory)}}
        server.client.post("/collective_rpc", reload, 60)
        server.client.post("/update_weight_version", {"new_version": current.label}, 60)
        server.client.post("/resume", None, 60)

    with monkeypatch.context() as patch:
        patch.setattr(VllmServerEngine, "_load_file", stock)
        with pytest.raises(ValueError, match="its log-probs differ from the trainer's by"):
            engine.sync(moved(policy, 0.02))
    engine_on(load_policy("base"), processes[0])


def test_two_servers_share_the_groups(processes: tuple[ServerProcess, ...]) -> None:
    policy = load_policy("base")
    asked = prompts(policy, 8)
    engine = engine_on(policy, *processes[:2])
    found = engine.generate(asked, GREEDY, 1, range(len(asked)))
    assert ids(found) == ids(builtin(policy).generate(asked, GREEDY, 1, range(len(asked))))
    assert all(server.holds == engine._current.label for server in engine.pool.servers)
    engine.sync(moved(policy, 0.01))
    assert gap(policy, asked, engine.generate(asked, GREEDY, 1, range(len(asked)))) < BOUND


def test_a_server_that_is_killed_in_the_middle_comes_back_with_the_current_weights(
    processes: tuple[ServerProcess, ...],
) -> None:
    policy = moved(load_policy("base"), 0.005)
    asked, long = prompts(policy, 12), Sampling(max_new_tokens=400, temperature=2.0)  # hot, and so long
    victim = processes[1]
    engine = engine_on(policy, processes[1], deadline_s=400.0)
    results: list[Any] = []
    work = threading.Thread(target=lambda: results.append(engine.generate(asked, long, 4, range(14))), daemon=True)
    work.start()
    time.sleep(0.4)
    assert victim.child is not None and not results, "the server is at work"
    os.killpg(victim.child.pid, signal.SIGKILL)
    work.join(timeout=400)
    (found,) = results
    assert victim.restarts == 1
    assert [len(group) for group in found] == [4] * 14
    assert gap(policy, asked, found, 2.0) < HOT, "what must not be sampled has a share of this distribution"


@pytest.mark.parametrize("way", ["adapters", "file"])
def test_adapters_are_loaded_into_a_running_server_or_merged(processes: tuple[ServerProcess, ...], way: str) -> None:
    lora = {"rank": 8, "alpha": 16}
    policy = load_policy(ModelConfig(path="base", train=(), lora=lora))
    engine = engine_on(policy, processes[2] if way == "adapters" else processes[0], weights=way)
    asked = prompts(policy)
    plain = ids(engine.generate(asked, GREEDY, 1, range(len(asked))))
    for step in range(2):
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(step))
        policy.version += 1
        engine.sync(policy)
        found = engine.generate(asked, GREEDY, 1, range(len(asked)))
        assert ids(found) == ids(builtin(policy).generate(asked, GREEDY, 1, range(len(asked)))) != plain
        assert gap(policy, asked, found) < BOUND
    names = [one["id"] for one in engine.pool.servers[0].client.get("/v1/models", 10)["data"]]
    assert len(names) == (2 if way == "adapters" else 1), "older adapters are unloaded"


RECIPE: dict[str, Any] = {
    "kind": "rl",
    "model": {"path": "base", "device": "cpu"},
    "data": [{"source": "world", "task": "count"}],
    "stages": [{"max_new_tokens": 32, "group_size": 4}],
    "num_steps": 4,
    "prompts_per_step": 4,
    "optim": {"lr": 1e-4},
    "eval": {"every": 4, "data": [{"source": "world", "task": "count", "split": "test", "limit": 8}]},
}


def test_a_short_run_of_grpo_has_the_same_held_out_scores_with_either_engine(
    processes: tuple[ServerProcess, ...], tmp_path: Path
) -> None:
    given = {"kind": "vllm_server", "urls": [one.url for one in processes[:2]]}
    rows = {}
    for name, engine in (("vllm", given), ("builtin", {"kind": "builtin"})):
        recipe = RLRecipe.model_validate(RECIPE | {"rollout": {"engine": engine}})
        train(recipe, tmp_path / name)
        rows[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows["vllm"] if "sampler/gap_max" in row]
    assert len(steps) == 4 and max(row["sampler/gap_max"] for row in steps) < BOUND
    assert rows["vllm"][0]["eval/score"] == rows["builtin"][0]["eval/score"], "the same model before the first step"
    kept = [json.loads(line) for line in (tmp_path / "vllm" / "rollouts.jsonl").read_text().splitlines()]
    assert {row["weights_version"] for row in kept} == {0, 1, 2, 3}


def test_an_evaluation_and_a_prediction_go_through_vllm(
    processes: tuple[ServerProcess, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from saccade.evaluation.benchmarking import evaluate

    scores = []
    for name, engine in (("vllm", {"kind": "vllm_server", "urls": [processes[0].url]}), ("own", {"kind": "builtin"})):
        recipe = load(None, EvalRecipe, [f"out={tmp_path / name}", "world.n=12", "decoding.max_new_tokens=48"])
        recipe = EvalRecipe.model_validate({**recipe.model_dump(), "engine": engine})
        evaluate(recipe)
        scores.append(json.loads((tmp_path / name / "results.json").read_text())["rows"][0]["accuracy"])
    assert scores[0] == scores[1]
    picture = tmp_path / "picture.png"
    prompts(load_policy("base"))[0].images[0].save(picture)
    capsys.readouterr()
    said = []
    for words in ([], ["--vllm", processes[0].url]):
        with pytest.raises(SystemExit):
            cli.main(["predict", str(picture), "How many red shapes are there?", "--max-new-tokens", "32", *words])
        said.append([line for line in capsys.readouterr().out.splitlines() if not line.startswith("seconds")])
    assert said[0] == said[1] != []


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def saccade() -> Iterator[Start]:
    """Starts the command line in a process of its own, which ends with the test."""
    here, started = Path(__file__).parent.parent, list[subprocess.Popen[str]]()
    given = {**os.environ, "PYTHONPATH": str(here / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start(*words: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "saccade", *map(str, words)]
        started.append(
            subprocess.Popen(command, env=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.send_signal(signal.SIGINT)
            try:
                one.wait(timeout=60)
            except subprocess.TimeoutExpired:
                one.kill()


def test_verify_checks_a_server_that_it_starts(saccade: Start, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    one = saccade("verify", "base", "--engine", "vllm", "--vllm-executable", vllm_executable(), "--json", path)
    said, _ = one.communicate(timeout=600)
    report = json.loads(path.read_text())
    assert one.returncode == 0 and report["safe"]["vLLM"], said[-2000:]
    of_vllm = [check for check in report["checks"] if check["section"] == "vLLM"]
    assert len(of_vllm) == 4 and all(check["held"] for check in of_vllm)


def test_an_interrupted_run_is_resumed_with_the_servers_that_launch_starts(saccade: Start, tmp_path: Path) -> None:
    folder, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    own = {"num_steps": 6, "prompts_per_step": 2, "checkpoint": {"every": 1}}
    recipe.write_text(json.dumps({key: value for key, value in RECIPE.items() if key != "eval"} | own))
    options = ["--vllm", 1, "--vllm-executable", vllm_executable(), "--vllm-options", "--max-model-len 1024"]

    def steps() -> list[int]:
        path = folder / "metrics.jsonl"
        return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []

    first = saccade("launch", recipe, *map(str, options), "--vllm-port", "8391", "--out", folder)
    until = time.monotonic() + 600
    while time.monotonic() < until and first.poll() is None and len(steps()) < 2:
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=120)
    assert 2 <= len(steps()) < 6, said[-2000:]
    said, _ = saccade("resume", folder).communicate(timeout=200)
    command = shlex.split(said.partition("resume it with them: ")[2])
    assert command[:3] == ["saccade", "launch", str(folder)], said[-2000:]
    second = saccade(*command[1:])
    said, _ = second.communicate(timeout=600)
    assert second.returncode == 0 and steps() == [1, 2, 3, 4, 5, 6], said[-2000:]


COLOCATED = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_vllm_real import ALL, GREEDY, gap, ids, prompts
from replies import builtin
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.config import Sampling, VllmColocatedConfig
from saccade.rollout.engine import open_engine
from vllm_stand_in import moved

policy = load_policy(ModelConfig(path="base", train=ALL))
engine, asked, found = open_engine(policy, VllmColocatedConfig(context=1024)), prompts(policy), []
for step in range(3):
    ours = engine.generate(asked, GREEDY, 2, range(len(asked)))
    equal = ids(ours) == ids(builtin(policy).generate(asked, GREEDY, 2, range(len(asked))))
    drawn = engine.generate(asked, Sampling(max_new_tokens=32, temperature=0.7), 4, range(len(asked)))
    found.append([equal, gap(policy, asked, ours), gap(policy, asked, drawn, 0.7), drawn[0][0].weights_version])
    engine.sync(moved(policy, 0.01))
engine.close()
print("FOUND", json.dumps(found))
"""


def test_vllm_in_the_trainers_process_agrees_with_the_built_in_engine_after_every_update(tmp_path: Path) -> None:
    """In the environment of vLLM, which then needs this package's dependencies too."""
    executable = vllm_executable()
    here = Path(__file__).parent
    given = {**os.environ, "PYTHONPATH": str(here.parent / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(Path(executable).parent / "python"), "-c", COLOCATED, str(here)]
    done = subprocess.run(command, capture_output=True, text=True, env=given, cwd=tmp_path, timeout=500, check=False)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"the environment of vLLM cannot import this package: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))[len("FOUND") :])
    assert [row[3] for row in found] == [0, 1, 2] and all(row[0] for row in found)
    assert max(max(row[1:3]) for row in found) < 5e-3, found
