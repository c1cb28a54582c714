"""What processes agree on, without starting any."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from saccade import cli
from saccade.cli.launch import supervise
from saccade.cli.runs import restarted
from saccade.data import Mixture, Source
from saccade.models.adapter import EncodedPrompt
from saccade.rollout.groups import Group
from saccade.rollout.prompts import Prompt
from saccade.training.config import RLRecipe
from saccade.training.examples import EncodedUnit
from saccade.training.group_shares import TOLERANCE, GroupShares, Placed, balanced
from saccade.training.opening import check_shard, log_file
from saccade.training.prompt_feed import PromptFeed
from saccade.training.ranks import ONE, Ranks
from saccade.training.sft import share_of
from saccade.types import Sample


@dataclass(frozen=True)
class Together(Ranks):
    """Every process but this one is an answer that was given before."""

    others: list[Any] = field(default_factory=list)

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others] if self.is_first else [self.others[0], value, *self.others[1:]]


def test_one_process_has_nothing_to_exchange() -> None:
    assert ONE.sum(2.5) == 2.5
    assert ONE.max(3) == 3
    assert ONE.broadcast("x") == "x"
    assert ONE.mine([1, 2, 3]) == [1, 2, 3]
    assert ONE.on_first(lambda: 7) == 7
    ONE.agree({"recipe": "a"})


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("items", [0, 1, 4, 7])
def test_shares_are_disjoint_and_merge_in_order(size: int, items: int) -> None:
    everything = list(range(items))
    shares = [Ranks(rank, size).mine(everything) for rank in range(size)]
    assert ONE.merge([everything]) == everything
    assert Ranks(0, size).merge(shares) == everything


def test_a_process_with_another_recipe_is_refused_by_name() -> None:
    ranks = Together(0, 3, others=[{"recipe": "a", "data": {"x": "1"}}, {"recipe": "a", "data": {"x": "2"}}])
    with pytest.raises(ValueError, match=r"process 2 of 3 has another data than process 0.*'2'.*expected.*'1'"):
        ranks.agree({"recipe": "a", "data": {"x": "1"}})


def test_fewer_groups_than_processes_are_refused() -> None:
    Ranks(0, 4).check_share(4, "prompts_per_step")
    with pytest.raises(ValueError, match=r"prompts_per_step is 3, but there are 4 processes.*at least 4"):
        Ranks(0, 4).check_share(3, "prompts_per_step")


def test_groups_move_only_to_even_out_the_work() -> None:
    assert balanced([10, 10, 10, 10], [0, 1, 0, 1], 2) == [0, 1, 0, 1]
    assert Counter(balanced([10] * 6, [0] * 6, 3)) == {0: 2, 1: 2, 2: 2}
    generator = random.Random(0)
    for _ in range(200):
        size = generator.randint(2, 6)
        costs = [generator.randint(1, 400) for _ in range(generator.randint(size, 40))]
        homes = [place % size for place in range(len(costs))]
        owners = balanced(costs, homes, size)
        before, after = (
            [sum(c for c, owner in zip(costs, of, strict=True) if owner == rank) for rank in range(size)]
            for of in (homes, owners)
        )
        assert max(after) - min(after) <= max(max(before) - min(before), 0)
        gap = max(after) - min(after)
        heaviest = after.index(max(after))
        movable = [c for c, owner in zip(costs, owners, strict=True) if owner == heaviest and c < gap]
        assert not movable or gap <= TOLERANCE * sum(costs) / size


def encoded(number: int) -> EncodedPrompt:
    return EncodedPrompt(torch.zeros(5, dtype=torch.int64), torch.zeros(3, 5), 5, {}, (), (), f"p{number}")


def test_examples_are_dealt_out_whole_and_evenly() -> None:
    units = [EncodedUnit(encoded(i), ((1,) * (10 * i), (2,) * (10 * i))) for i in range(8)]
    shares = [share_of(units, Ranks(rank, 2)) for rank in range(2)]
    assert sorted(one.prompt.prompt_id for one in itertools.chain(*shares)) == [one.prompt.prompt_id for one in units]
    sizes = [sum(one.reply_tokens for one in share) for share in shares]
    assert sizes[0] == sizes[1]
    assert share_of(units, ONE) == units


def test_prompts_of_a_round_are_shared_out_and_those_of_groups_that_move_are_prepared_again() -> None:
    prompts = [Prompt(None, encoded(i)) for i in range(5)]
    samples = [Sample(f"s{i}", (), "?", 1, "count") for i in range(5)]
    shares = GroupShares(Ranks(1, 2), lambda prompt: 0, lambda sample: prompts[samples.index(sample)])
    entries = [prompts[i] if i % 2 else samples[i] for i in range(5)]  # as the feed of process 1 of 2 gives them
    assert shares.share(1, entries) == prompts[1::2]
    shares.placed = {str(i): Placed(1, i, 1) for i in range(5)}
    light = [Group(str(i), Prompt(samples[i], encoded(9)), ()) for i in range(5)]
    assert [shares.with_images(one).prompt is prompts[i] for i, one in enumerate(light)] == [True, False] * 2 + [True]
    alone = GroupShares(ONE, lambda prompt: 0, lambda sample: prompts[0])
    assert alone.share(1, prompts) == prompts
    assert not alone.rounds  # one process keeps nothing for others


@dataclass(frozen=True)
class InThreads(Ranks):
    """The processes are threads of this one; a missing one breaks the barrier."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=20))
    values: list[Any] = field(default_factory=lambda: [None, None])

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


def test_each_process_prepares_its_prompts_only_and_all_skip_the_same_rows() -> None:
    """Rows 3 and 6 are unusable, which only the process that has them notices."""

    def feed(ranks: Ranks, prepared: list[str]) -> PromptFeed:
        def prepare(sample: Sample) -> Prompt:
            prepared.append(sample.id)
            if sample.id in ("3", "6"):
                raise ValueError("broken")
            return Prompt(sample, encoded(int(sample.id)))

        source = Source("few", lambda i: Sample(str(i), (), "?", i, "count"), 200, on_bad="skip")
        return PromptFeed(Mixture([source], seed=1), prepare, workers=2, ranks=ranks)

    def rounds(ranks: Ranks) -> tuple[list[list[str]], Any, list[str]]:
        prepared: list[str] = []
        own = feed(ranks, prepared)
        found = [ranks.mine(own(5, ahead=number < 39)) for number in range(40)]
        own.close()
        assert all(isinstance(one, Prompt) for mine in found for one in mine)
        return [[one.encoded.prompt_id for one in mine] for mine in found], own.state, prepared

    whole, state, _ = rounds(ONE)
    first = InThreads(0, 2)
    with ThreadPoolExecutor(2) as pool:
        shares = list(pool.map(rounds, (first, InThreads(1, 2, first.barrier, first.values))))
    assert whole == [first.merge(both) for both in zip(*(one[0] for one in shares), strict=True)]
    assert all(one[1] == state for one in shares)
    assert state["skipped"]
    assert max(len(one[2]) for one in shares) < 140  # of 200 places, three of five in the first


def test_options_of_sharding_need_several_processes_and_an_optimizer_that_is_sharded() -> None:
    recipe = RLRecipe.model_validate(
        {
            "model": {"path": "base"},
            "shard": {"replicate": 2},
            "data": [{"source": "world", "task": "count"}],
            "stages": [{"name": "a", "max_new_tokens": 8, "group_size": 2}],
            "num_steps": 1,
            "optim": {"lr": 1e-6},
        }
    )
    check_shard(recipe, Ranks(0, 4))
    eight_bits = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"kind": "adamw_8bit"})})
    with pytest.raises(ValueError, match=r"optim.kind 'adamw_8bit': its state is not sharded.*4 processes.*adamw"):
        check_shard(eight_bits, Ranks(0, 4))
    with pytest.raises(ValueError, match=r"shard: got options for several processes.*torchrun"):
        check_shard(recipe, ONE)


def test_the_log_of_a_process_has_no_character_that_steers_a_terminal(tmp_path: Path) -> None:
    with log_file(tmp_path, Ranks(1, 2)):
        logging.getLogger("saccade.rows").warning("row \x1b[2J")
    assert (tmp_path / "logs" / "process-1.log").read_text().endswith(" WARNING row \\x1b[2J\n")


def test_a_verb_for_one_process_refuses_several(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0")):  # a job of a cluster may have these in one process
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="0"):
        cli.main(["world", "check", "--help"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    capsys.readouterr()
    for words in (["eval", "world_eval"], ["world", "check"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(words)
        assert f"'{words[0]}' runs in one process, but torchrun started 2" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        cli.main(["world", "pretrain", "world_base", "--print-config"])


def test_a_process_that_was_started_again_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not restarted(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not restarted(tmp_path)  # it ended before there was a run
    (tmp_path / "config.yaml").write_text("")
    assert restarted(tmp_path)


def test_launch_prints_what_it_would_run() -> None:
    command = ["launch", "vlm_r1_rec_3b", "num_steps=5", "--gpus", "8", "--dry-run"]
    out = CliRunner().invoke(cli.build(), command).output
    assert "torch.distributed.run --standalone --nproc-per-node 8 --max-restarts 3 -m saccade rl vlm_r1_rec_3b" in out
    assert "num_steps=5 --out runs/vlm_r1_rec_3b" in out
    script = CliRunner().invoke(cli.build(), [*command, "--nodes", "2"]).output
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=vlm_r1_rec_3b\n#SBATCH --nodes=2\n")
    assert "--nnodes 2 --nproc-per-node 8" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    refused = CliRunner().invoke(cli.build(), ["launch", "world_eval", "--dry-run"])
    assert "expected rl or sft" in str(refused.exception)


@pytest.mark.parametrize("grace_s", [0.2, 600.0])
def test_one_signal_or_two_end_the_launched_command_and_all_that_it_started(tmp_path: Path, grace_s: float) -> None:
    """The child starts a grandchild in a session of its own and ignores SIGTERM, so that both must be killed by force:
    after the grace, or at the second signal."""
    note = tmp_path / "pids"
    program = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(sleep, start_new_session=True)\n"
        f"open({str(note)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)\n"
    )
    outer = (
        "import sys; from pathlib import Path; from saccade.cli.launch import supervise\n"
        f"sys.exit(supervise([sys.executable, '-c', {program!r}], Path({str(tmp_path)!r}), grace_s={grace_s}))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    launcher = subprocess.Popen([sys.executable, "-c", outer], env=environment)
    while not (note.exists() and note.read_text().count(" ")):
        time.sleep(0.02)
    launcher.send_signal(signal.SIGINT)
    if grace_s > 1:
        time.sleep(0.5)
        launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=60) == 130
    for pid in map(int, note.read_text().split()):
        assert ended(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="a service of the Linux kernel")
@pytest.mark.parametrize(
    "start",
    [
        "from saccade.cli.launch import supervise; supervise({command}, pathlib.Path())",
        "from saccade.rollout import vllm_process as v; v.ServerProcess({command}, {{}}, 1, pathlib.Path('l')).start()",
    ],
)
def test_what_was_started_ends_when_its_launcher_is_killed(tmp_path: Path, start: str) -> None:
    note = tmp_path / "pid"
    program = f"import os, time; open({str(note)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(600)"
    outer = "import pathlib, sys, time\n" + start.format(command=f"[sys.executable, '-c', {program!r}]")
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    launcher = subprocess.Popen([sys.executable, "-c", f"{outer}\ntime.sleep(600)"], env=environment, cwd=tmp_path)
    while not (note.exists() and note.read_text().endswith(" ")):
        time.sleep(0.02)
    launcher.kill()
    launcher.wait()
    assert ended(int(note.read_text()))


def ended(pid: int) -> bool:
    """Whether the process is gone, or only waits to be reaped."""
    status = Path(f"/proc/{pid}/status")
    for _ in range(500):
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.02)
    return False


def test_launch_passes_on_the_exit_status() -> None:
    assert supervise([sys.executable, "-c", "raise SystemExit(3)"], Path()) == 3
    assert supervise([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], Path()) == 128 + 9
