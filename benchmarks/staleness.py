"""What sampling one step ahead gains: wall-clock seconds of a step with `rollout.staleness` 0 and 1.

    python -m benchmarks.staleness --rollout 60 --train 40 --sync 5
    python -m benchmarks.staleness --measure
    python -m benchmarks.staleness --vllm DIR/bin/vllm       # DIR: an environment with vLLM

The simulation draws the seconds of each rollout and each update from log-normal distributions of a given mean and
spread, with the order of events of the loop: with staleness 1 the next rollout runs while this step trains, and an
evaluation waits for it. `--measure` runs the loop itself on the tiny model, with an engine that has a copy of the
weights and takes as long as it is given, and compares it with the simulation. `--vllm` runs it with a server of vLLM
that it starts, on the shipped base and real questions; on one machine both sides share its processors.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from saccade.base.tiny import write_checkpoint
from saccade.cli.vllm_servers import a_server
from saccade.models.policy import Policy, load_policy
from saccade.rollout.config import Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import Prompt
from saccade.training.config import RLRecipe
from saccade.training.rl import train
from saccade.types import Completion


@dataclass(frozen=True, slots=True)
class Times:
    """Mean seconds of the parts of a step, and how much they vary."""

    rollout: float
    train: float
    """Update, records and whatever else keeps the trainer busy."""
    sync: float = 0.0
    """Weights to the engine."""
    spread: float = 0.0
    """Standard deviation over the mean of a rollout's and an update's seconds."""
    evaluation: float = 0.0
    every: int = 0
    """Steps between evaluations; 0: none."""


def drawn(mean: float, spread: float, generator: random.Random) -> float:
    """A log-normal draw of that mean and relative standard deviation."""
    sigma = math.sqrt(math.log1p(spread * spread))
    return mean * math.exp(sigma * generator.gauss(0.0, 1.0) - sigma * sigma / 2)


def simulate(times: Times, staleness: int, steps: int, seed: int = 0) -> float:
    """Seconds per step of a run of `steps`; both kinds of run have the same rollouts and updates."""
    generator = random.Random(seed)
    pairs = [
        (drawn(times.rollout, times.spread, generator), drawn(times.train, times.spread, generator))
        for _ in range(steps)
    ]
    now = times.sync + pairs[0][0]  # the first rollout has nothing to run beside
    for step, (_, update) in enumerate(pairs, 1):
        following = pairs[step][0] if step < steps else None
        evaluated = times.evaluation if times.every and step % times.every == 0 else 0.0
        if following is None:
            now += update + evaluated
        elif staleness:
            begun = now + times.sync
            # an evaluation needs the engine, so it waits for the rollout; the next step needs both
            now = max(begun + update, begun + following) + evaluated
        else:
            now += update + evaluated + times.sync + following
    return now / steps


def bound(times: Times) -> float:
    """The most that can be gained: serial seconds over those of the longer part."""
    return (times.rollout + times.train + times.sync) / (max(times.rollout, times.train) + times.sync)


# ----------------------------------------------------------------------------------------------------- measurement


class SlowEngine:
    """An engine with a copy of the weights whose call takes `seconds` more, without using the processor."""

    def __init__(self, policy: Policy, seconds: float) -> None:
        self.own = Policy(copy.deepcopy(policy.model), policy.adapter, policy.processors, policy.version)
        self.inner, self.seconds = open_engine(self.own), seconds

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        time.sleep(self.seconds)
        bare = [Prompt(one.sample, one.encoded, one.images) for one in prompts]
        return self.inner.generate(bare, sampling, n, seeds)

    def sync(self, policy: Policy) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self.own.model.parameters(), policy.model.parameters(), strict=True):
                mine.copy_(theirs)
        self.own.version = policy.version
        self.inner.sync(self.own)

    def close(self) -> None:
        self.inner.close()


def recipe_in(folder: Path, staleness: int, steps: int) -> RLRecipe:
    """Four prompts by eight replies a step on the smallest model."""
    data = folder / "data.jsonl"
    if not data.exists():
        write_checkpoint(folder / "model", "S")
        Image.new("RGB", (56, 56), (90, 20, 160)).save(folder / "one.png")
        turns = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "1"}]
        data.write_text(json.dumps({"id": "a", "image": "one.png", "conversations": turns, "task": "count"}) + "\n")
    recipe = RLRecipe.model_validate(
        {
            "model": {"path": str(folder / "model"), "device": "cpu"},
            "data": [{"source": "vlm_r1", "path": str(data)}],
            "stages": [{"max_new_tokens": 24, "group_size": 8, "rubric": "format_and_accuracy"}],
            "loss": {"advantage": {"kind": "group"}, "entropy_coef": 0.001},
            "num_steps": steps,
            "prompts_per_step": 4,
            "optim": {"lr": 1e-4},
            "checkpoint": {"every": steps},
        }
    )
    return recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"staleness": staleness})})


def measure(steps: int, seconds: float) -> dict[str, float]:
    """Seconds per step of the real loop with staleness 0 and 1, and what the simulation says for its own times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(staleness: int) -> list[dict[str, Any]]:
            recipe, out = recipe_in(folder, staleness, steps), folder / f"run-{staleness}"
            train(recipe, out, engine=SlowEngine(load_policy(recipe.model), seconds))
            return rows_of(out)

        return compared(run(0), run(1))


def measure_vllm(steps: int, executable: str) -> dict[str, float]:
    """As `measure`, with a server of vLLM. Both runs take the ratio from vLLM's log-probs, so that they compute the
    same passes."""
    with tempfile.TemporaryDirectory() as name, a_server("base", "float32", executable, 1024) as url:

        def run(staleness: int) -> list[dict[str, Any]]:
            recipe = RLRecipe.model_validate(
                {
                    "model": {"path": "base", "device": "cpu"},
                    "data": [{"source": "world", "task": "count"}],
                    "stages": [{"max_new_tokens": 48, "group_size": 8}],
                    "loss": {"entropy_coef": 0.001, "correction": {"kind": "none"}},
                    "num_steps": steps,
                    "prompts_per_step": 4,
                    "optim": {"lr": 1e-5},
                    "rollout": {"staleness": staleness, "engine": {"kind": "vllm_server", "urls": [url]}},
                    "checkpoint": {"every": steps},
                }
            )
            train(recipe, Path(name) / f"run-{staleness}")
            return rows_of(Path(name) / f"run-{staleness}")

        return compared(run(0), run(1))


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without its first step, which has nothing to run beside."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]


def compared(serial: Sequence[dict[str, Any]], ahead: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds per step of both runs, and the gain that the simulation expects from the times of the first."""
    zero, one = (sum(row["time/step_s"] for row in rows) / len(rows) for rows in (serial, ahead))
    rollout = sum(row["time/rollout_s"] for row in serial) / len(serial)
    rest = zero - rollout
    expected = 1 / (max(rollout, rest) / (rollout + rest))
    times = {"staleness_0": zero, "staleness_1": one, "rollout_s": rollout, "rest_s": rest}
    return times | {"simulated_gain": expected, "gain": zero / one}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staleness", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rollout", type=float, default=60.0, help="mean seconds of a rollout")
    parser.add_argument("--train", type=float, default=40.0, help="mean seconds of the rest of a step")
    parser.add_argument("--sync", type=float, default=5.0, help="seconds to bring weights to the engine")
    parser.add_argument("--spread", type=float, default=0.25, help="standard deviation over the mean")
    parser.add_argument("--evaluation", type=float, default=0.0, help="seconds of an evaluation")
    parser.add_argument("--every", type=int, default=0, help="steps between evaluations; 0: none")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--measure", action="store_true", help="run the loop itself on the tiny model")
    parser.add_argument("--vllm", metavar="EXECUTABLE", help="run it with vLLM; few steps")
    parser.add_argument("--quick", action="store_true", help="few steps: a smoke test, not a measurement")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args(arguments)
    if args.measure:
        found = measure(4 if args.quick else 20, 0.05 if args.quick else 0.5)
    elif args.vllm:
        found = measure_vllm(3 if args.quick else 6, args.vllm)
    else:
        times = Times(args.rollout, args.train, args.sync, args.spread, args.evaluation, args.every)
        steps = 20 if args.quick else args.steps
        serial, ahead = (simulate(times, staleness, steps) for staleness in (0, 1))
        found = {"staleness_0": serial, "staleness_1": ahead, "gain": serial / ahead, "bound": bound(times)}
        found |= {name: float(value) for name, value in asdict(times).items()}
    for name, value in found.items():
        print(f"{name:>16}  {value:.3f}")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
