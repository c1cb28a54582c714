"""`saccade launch`: start one run on several GPUs or nodes. torchrun starts and restarts the processes, SLURM schedules
nodes; this only writes their command lines and ends them together."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli.options import Out, Overrides, load_recipe
from saccade.cli.runs import restarted, run_dir
from saccade.cli.terminal import echo, echo_whole
from saccade.cli.vllm_servers import (
    beside,
    devices,
    engine_overrides,
    keep_command,
    ports_of,
    running,
    serve_options,
)
from saccade.config import Config, ConfigError, kind
from saccade.disk import write_text
from saccade.runs.stopping import ASKING, RunStopped, handling
from saccade.workers.descendants import end_descendants
from saccade.workers.tied import ending_with_parent

if TYPE_CHECKING:
    from saccade.training.config import RLRecipe

GRACE_S = 90.0
"""How long processes may take to save and end after Ctrl-C; then they are killed."""
PORT = 29_400
QUIET = {"torch.distributed.run": "saccade.training.torchrun"}
"""The module of torchrun -> the same without a traceback at its end."""


def launch(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN_DIR", help="A YAML file, the name of a packaged recipe, or a run, which is resumed."
        ),
    ],
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="Processes on each node, one for each GPU (or CPU process).")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="With several, a SLURM script is written.")] = 1,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="How often a job that lost a process resumes from its last checkpoint.")
    ] = 3,
    vllm: Annotated[
        int,
        typer.Option(min=0, help="vLLM servers to start on this node and to watch; the run's replies come from them."),
    ] = 0,
    vllm_gpus: Annotated[int, typer.Option(min=1, help="GPUs of each server.")] = 1,
    vllm_port: Annotated[int, typer.Option(min=1024, max=65_000, help="Port of the first server.")] = 8100,
    vllm_executable: Annotated[str, typer.Option(help="The program 'vllm' of the environment that has it.")] = "vllm",
    vllm_options: Annotated[
        str, typer.Option(metavar="TEXT", help="Further options of 'vllm serve', such as '--max-model-len 8192'.")
    ] = "",
    out: Out = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and stop.")] = False,
) -> None:
    """Train on several GPUs: supervises torchrun on this node, or writes a SLURM script for several nodes. A run that
    was interrupted is resumed, with its servers."""
    if (Path(recipe) / "config.yaml").is_file():
        job = resumed_job(Path(recipe), overrides, out, vllm)
    else:
        job = new_job(recipe, overrides or [], out, list(range(vllm_port, vllm_port + vllm)))
    if vllm and nodes > 1:
        raise ConfigError(
            f"--vllm {vllm}: servers are started on one node; on several nodes start them yourself and set "
            "rollout.engine.urls"
        )
    folder, program = job.folder, ["-m", "saccade", *job.words]
    if nodes > 1:
        script = slurm_script(folder, program, nodes, gpus, max_restarts)
        if dry_run:
            echo_whole(script, nl=False)
            return
        path = folder.with_name(f"{folder.name}.sbatch")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, script)
        echo(f"wrote {path}; submit it with: sbatch {path}")
        return
    command = torchrun(["--standalone", "--nproc-per-node", str(gpus), "--max-restarts", str(max_restarts)], program)
    if not vllm:
        if dry_run:
            echo_whole(shlex.join(command))
            return
        raise typer.Exit(supervise(command, folder))
    assert job.with_servers is not None
    own, theirs = devices(gpus, vllm, vllm_gpus)
    options = serve_options(job.with_servers, vllm_executable, vllm_gpus, vllm_options, beside(folder))
    if dry_run:
        for port, device in zip(job.ports, theirs, strict=True):
            echo_whole(shlex.join(options.command(port, device is None)))
        echo_whole(shlex.join(command))
        return
    environment = None if own is None else {"CUDA_VISIBLE_DEVICES": own}
    again = ["--gpus", str(gpus), "--vllm", str(vllm), "--vllm-gpus", str(vllm_gpus)]
    again += ["--vllm-executable", options.executable, *(["--vllm-options", vllm_options] if vllm_options else [])]
    keep_command(folder, again)
    with running(options, job.ports, theirs, beside(folder)):
        status = supervise(command, folder, environment=environment)
    raise typer.Exit(status)


@dataclass(frozen=True, slots=True)
class Job:
    """What the processes that train run."""

    folder: Path
    words: list[str]
    """Of their command line, after `saccade`."""
    ports: list[int]
    with_servers: RLRecipe | None
    """The recipe, if servers are to be started for it."""


def new_job(recipe: str, overrides: list[str], out: Path | None, ports: list[int]) -> Job:
    """A run of a recipe. ConfigError for a recipe that does not train, and when the directory holds a run."""
    overrides = [*overrides, *(engine_overrides(ports) if ports else [])]
    config, folder = load_recipe(recipe, overrides), run_dir(out, recipe)
    served = _served(config, recipe, len(ports))
    if (folder / "config.yaml").is_file() and not restarted(folder):
        raise ConfigError(
            f"{folder} already holds a run; resume it with: saccade launch {shlex.quote(str(folder))} "
            "and the same options"
        )
    return Job(folder, [kind(recipe), recipe, *overrides, "--out", str(folder)], ports, served)


def resumed_job(folder: Path, overrides: list[str] | None, out: Path | None, servers: int) -> Job:
    """A run that was interrupted, perhaps before its first checkpoint. ConfigError as `new_job`."""
    path = folder / "config.yaml"
    if overrides or out:
        raise ConfigError(f"{folder}: a run is resumed in its place and with its own configuration; edit {path}")
    served = _served(load_recipe(str(path)), str(path), servers)
    saved = any((folder / "checkpoints").glob("step-*"))
    words = ["resume", str(folder), *([] if saved else ["--from", "start"])]
    return Job(folder, words, ports_of(served, servers, folder) if served is not None else [], served)


def _served(config: Config, recipe: str, servers: int) -> RLRecipe | None:
    from saccade.training.config import RLRecipe, SFTRecipe

    if not isinstance(config, RLRecipe | SFTRecipe):
        raise ConfigError(f"{recipe}: kind is {kind(recipe)!r}, expected rl or sft")
    if not servers:
        return None
    if not isinstance(config, RLRecipe):
        raise ConfigError(f"--vllm {servers}: servers are started for a recipe of kind rl, and {recipe} is of kind sft")
    return config


def torchrun(options: list[str], program: list[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "torch.distributed.run", *options, *program]


def slurm_script(folder: Path, program: list[str], nodes: int, gpus: int, max_restarts: int) -> str:
    """A batch script: one torchrun for each node. A requeued job resumes, and a warning comes before the time limit so
    that the run can save."""
    command = shlex.join(torchrun([], []))
    rendezvous = f'--rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:{PORT}"'
    return f"""#!/bin/bash
#SBATCH --job-name={folder.name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output={folder.name}-%j.log
set -euo pipefail
export PYTHONSAFEPATH=1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export head
srun --kill-on-bad-exit=1 {command} \\
    --nnodes {nodes} --nproc-per-node {gpus} --max-restarts {max_restarts} \\
    {rendezvous} \\
    {shlex.join(program)}
"""


def supervise(
    command: list[str], folder: Path, grace_s: float = GRACE_S, environment: Mapping[str, str] | None = None
) -> int:
    """Runs the command and returns its exit status. Ctrl-C, SIGTERM or a closed terminal ends it and all that it
    started: first with SIGTERM, after `grace_s` seconds or a second signal by force. RunStopped then, with how to
    continue the run in `folder`. Where this process is killed, the command gets SIGTERM."""
    asked: list[int] = []
    with handling(dict.fromkeys(ASKING, lambda number, frame: asked.append(number))):
        own = {**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})}  # no module from the working directory
        words, tied = [QUIET.get(word, word) for word in command], ending_with_parent()
        child = subprocess.Popen(words, start_new_session=True, env=own, preexec_fn=tied)
        while not asked:
            with suppress(subprocess.TimeoutExpired):
                status = child.wait(timeout=0.5)
                return status if status >= 0 else 128 - status  # as a shell gives that of a signal
        os.killpg(child.pid, signal.SIGTERM)
        until = time.monotonic() + grace_s
        while child.poll() is None and asked.count(asked[-1]) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        if child.poll() is None:
            end_descendants(child.pid)  # torchrun's processes are in sessions of their own
            child.kill()
        status = child.wait()
    if status == 0:
        return 0  # it was at its end
    begun = (folder / "config.yaml").is_file()
    again = (
        f": saccade launch {shlex.quote(str(folder))} and the same options"
        if begun
        else " the same command; nothing was saved"
    )
    raise RunStopped(asked[0], f"stopped; continue with{again}")
