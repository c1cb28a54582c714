"""`saccade launch`: start one run on several GPUs or nodes. torchrun starts and restarts the processes, SLURM schedules
nodes; this only writes their command lines and ends them together."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.options import Out, Overrides, Recipe, load_recipe
from saccade.cli.runs import run_dir
from saccade.cli.terminal import echo, echo_whole
from saccade.cli.vllm_servers import devices, engine_overrides, running, serve_options
from saccade.config import ConfigError, kind
from saccade.runs.stopping import ASKING, handling

GRACE_S = 60.0
"""How long processes may take to save and end after Ctrl-C; then they are killed."""
PORT = 29_400


def launch(
    recipe: Recipe,
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
    """Train on several GPUs: supervises torchrun on this node, or writes a SLURM script for several nodes."""
    ports = list(range(vllm_port, vllm_port + vllm))
    overrides = [*(overrides or []), *(engine_overrides(ports) if vllm else [])]
    config = load_recipe(recipe, overrides)
    from saccade.training.config import RLRecipe, SFTRecipe

    if not isinstance(config, RLRecipe | SFTRecipe):
        raise ConfigError(f"{recipe}: kind is {kind(recipe)!r}, expected rl or sft")
    if vllm and (nodes > 1 or not isinstance(config, RLRecipe)):
        raise ConfigError(
            f"--vllm {vllm}: servers are started for a recipe of kind rl on one node; on several nodes start them "
            "yourself and set rollout.engine.urls"
        )
    folder = run_dir(out, recipe)
    program = ["-m", "saccade", config.kind, recipe, *overrides, "--out", str(folder)]
    if nodes > 1:
        script = slurm_script(folder, program, nodes, gpus, max_restarts)
        if dry_run:
            echo_whole(script, nl=False)
            return
        path = folder.with_name(f"{folder.name}.sbatch")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
        echo(f"wrote {path}; submit it with: sbatch {path}")
        return
    command = torchrun(["--standalone", "--nproc-per-node", str(gpus), "--max-restarts", str(max_restarts)], program)
    if not vllm:
        if dry_run:
            echo_whole(shlex.join(command))
            return
        raise typer.Exit(supervise(command))
    assert isinstance(config, RLRecipe)  # checked above
    beside = folder.with_name(f"{folder.name}.vllm")
    own, theirs = devices(gpus, vllm, vllm_gpus)
    options = serve_options(config, vllm_executable, vllm_gpus, vllm_options, beside)
    if dry_run:
        for port, device in zip(ports, theirs, strict=True):
            echo_whole(shlex.join(options.command(port, device is None)))
        echo_whole(shlex.join(command))
        return
    environment = None if own is None else {**os.environ, "CUDA_VISIBLE_DEVICES": own}
    with running(options, ports, theirs, beside):
        status = supervise(command, environment=environment)
    raise typer.Exit(status)


def torchrun(options: list[str], program: list[str]) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, *program]


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
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export head
srun --kill-on-bad-exit=1 {command} \\
    --nnodes {nodes} --nproc-per-node {gpus} --max-restarts {max_restarts} \\
    {rendezvous} \\
    {shlex.join(program)}
"""


def supervise(command: list[str], grace_s: float = GRACE_S, environment: Mapping[str, str] | None = None) -> int:
    """Runs the command and returns its exit status. Ctrl-C, SIGTERM or a closed terminal ends it and all that it
    started: first with SIGTERM, after `grace_s` seconds by force."""
    child = subprocess.Popen(command, start_new_session=True, env=environment)
    ending = threading.Event()

    def end(number: int, frame: object) -> None:
        if not ending.is_set():
            ending.set()
            os.killpg(child.pid, signal.SIGTERM)

    with handling(dict.fromkeys(ASKING, end)):
        while not ending.is_set():
            with suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=0.5)
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=grace_s)
        os.killpg(child.pid, signal.SIGKILL)
        return child.wait()
