"""Several processes train as one: gradients, weights, records and checkpoints. One start of torchrun with two processes
measures everything (tests/ranks_worker.py); the tests below say what must hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from families import FAMILIES
from ranks_worker import LAWS, adapter_recipe, examples_recipe, run_recipe
from training_runs import base_recipe, write_world

from saccade.base.curriculum import row
from saccade.models.forward import branch_logprobs
from saccade.models.packing import pack
from saccade.models.policy import load_policy
from saccade.training import rl, sft
from saccade.world import World

HERE = Path(__file__).parent
FAST = (
    "sft_text_only_rank",
    "rl_no_signal_on_a_rank",
    "rl_kl_and_recomputed",
    "averaged_layers",
    "bypassing",
    "generating",
    "saving",
    "running",
    "fine_tuning",
    "pretraining",
)
"""Measured in `make test`; the others are slow."""
EXACT = 1e-6
"""Largest difference over the largest value of a parameter's gradient, or of its weights after three steps."""


def torchrun(folder: Path, laws: tuple[str, ...], processes: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    options = ["--standalone", "--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    path = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    return subprocess.Popen(
        [*command, str(HERE / "ranks_worker.py"), str(folder), *laws],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]


class Measured:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, law: str) -> list[dict[str, Any]]:
        """What each process measured."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(f"{law}-*.json"))]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = write_world(tmp_path_factory.mktemp("ranks"))
    process = torchrun(folder, FAST)
    rl.train(run_recipe(folder), folder / "one")
    sft.train(examples_recipe(folder), folder / "sft-one")
    wait(process)
    return Measured(folder)


def assert_equal_to_one_process(found: list[dict[str, Any]], weights: float = EXACT) -> None:
    assert len(found) >= 2
    assert found[0]["gradient"] <= EXACT
    assert found[0]["weights"] <= weights
    assert found[0]["moved"] > 1e-4  # it did train
    assert found[0]["metrics_apart"] == []
    for one in found:
        assert one["tied"]
        assert one["warnings"] == []


def test_two_processes_train_as_one_when_one_has_no_image(measured: Measured) -> None:
    found = measured("sft_text_only_rank")
    assert_equal_to_one_process(found)
    assert found[0]["kinds"] == {"vision": ["DTensor"], "projector": ["DTensor"], "language": ["DTensor"]}


def test_two_processes_train_as_one_when_one_has_no_group_with_a_signal(measured: Measured) -> None:
    assert_equal_to_one_process(measured("rl_no_signal_on_a_rank"))


def test_two_processes_train_as_one_with_a_frozen_tower_a_reference_and_recomputed_log_probs(
    measured: Measured,
) -> None:
    found = measured("rl_kl_and_recomputed")
    assert_equal_to_one_process(found)
    assert found[0]["kinds"] == {"vision": ["Parameter"], "projector": ["Parameter"], "language": ["DTensor"]}


def test_gradients_that_only_the_root_sums_would_be_noticed(measured: Measured) -> None:
    for one in measured("averaged_layers"):
        assert one["ratio"] == pytest.approx(0.5, rel=1e-5)


def test_a_call_that_bypasses_the_root_is_an_error_and_the_tie_survives(measured: Measured) -> None:
    for one in measured("bypassing"):
        assert "DTensor" in one["error"]
        assert one["tied"]


def test_a_process_that_reads_no_file_has_the_weights_and_buffers_of_the_first(measured: Measured) -> None:
    for one in measured("bypassing"):
        assert one["same_names"]
        assert one["weights"] == one["buffers"] == 0.0


def test_processes_generate_replies_of_other_lengths_and_then_train_exactly(measured: Measured) -> None:
    found = measured("generating")
    for one in found:
        assert one["equal"]
        assert one["kind"] == "Parameter"
    assert found[0]["gradient_after"] <= EXACT


def test_a_checkpoint_is_written_while_training_goes_on_by_processes_of_its_own(measured: Measured) -> None:
    found = measured("saving")
    for one in found:
        assert one["apart"] == 0.0
        assert one["moved_since"] > 0.01
        assert one["own_group"]
        assert one["left"] == ["last", "step-000001"]
    assert found[0]["ordinary"] == 0.0  # an ordinary directory of the weights afterwards
    assert [one["published"] for one in found] == [1, 0]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_numbers(ours: Path, one: Path) -> None:
    """The same rollouts and groups; metrics to round-off."""
    for name in ("rollouts", "groups"):
        a, b = ([row | {"run": "", "logprobs": []} for row in rows(at / f"{name}.jsonl")] for at in (ours, one))
        assert a == b
    assert_same_metrics(ours, one)


def assert_same_metrics(ours: Path, one: Path) -> None:
    for a, b in zip(rows(ours / "metrics.jsonl"), rows(one / "metrics.jsonl"), strict=True):
        assert a.keys() - b.keys() <= {"time/gather_s"}
        for key in b.keys() - {"stage", "tokens/per_s", "memory/peak_mb", "update/micro_batches"}:
            if not key.startswith(("time/", "sampler/")):  # the sampler's gap is round-off itself
                assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), key


def test_a_run_of_two_processes_writes_the_records_of_one(measured: Measured) -> None:
    run, one = measured.folder / "run", measured.folder / "one"
    assert_same_numbers(run, one)
    for step in (0, 2, 4):
        a, b = (rows(at / "eval" / f"step-{step}" / "items.jsonl") for at in (run, one))
        assert [row["text"] for row in a] == [row["text"] for row in b]
    assert sorted(path.name for path in (run / "logs").iterdir()) == ["process-0.log", "process-1.log"]
    assert sorted(path.name for path in (run / "images").iterdir()) == sorted(
        p.name for p in (one / "images").iterdir()
    )
    assert (run / "checkpoints" / "last").resolve().name == "step-000004"


def test_fine_tuning_of_two_processes_has_the_metrics_of_one(measured: Measured) -> None:
    assert len(rows(measured.folder / "sft" / "metrics.jsonl")) == 3
    assert_same_metrics(measured.folder / "sft", measured.folder / "sft-one")


@torch.no_grad()
def test_two_processes_make_the_base_each_on_its_own_pictures(measured: Measured) -> None:
    """The first loss of the language model is that of all tokens of both."""
    base = measured.folder / "base"
    found = rows(base / "metrics.jsonl")
    assert [row["step"] for row in found] == [1, 2, 1, 2, 1, 2, 3, 1, 2, 3]
    policy, recipe = load_policy(str(base / "stage-2-sharpen")), base_recipe(base)
    total = tokens = 0.0
    for rank in range(2):
        rng = Random(f"{recipe.seed}/2/{rank}/0")
        world = World(
            recipe.world.model_copy(update={"cells": recipe.world.cells + (rng.random() < recipe.larger_share)})
        )
        units = [row(world, policy.adapter, recipe.stages[2].mixture, rng, i)[0] for i in range(2)]
        logprobs_R, _ = branch_logprobs(policy, pack([(unit.prompt.encoded, unit.branches) for unit in units]))
        total, tokens = total - float(logprobs_R.sum()), tokens + len(logprobs_R)
    first = next(row for row in found if row["stage"] == "speak")
    assert first["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert load_policy(str(base / "model")).model.num_parameters() == policy.model.num_parameters()


def test_one_process_resumes_what_two_began(measured: Measured, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured.folder / "run", run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step-000004")
    result = rl.train(run_recipe(measured.folder), run, resume=True)
    assert result.step == 4
    assert_same_numbers(run, measured.folder / "one")
    assert (run / "checkpoints" / "last" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("law", sorted(name for name in LAWS if name.startswith(("sft_", "rl_")) and name not in FAST))
def test_two_processes_train_as_one(law: str, tmp_path: Path) -> None:
    folder = write_world(tmp_path / "ranks")
    wait(torchrun(folder, (law,)))
    updates = 3 if law == "rl_mini_batches" else 1
    assert_equal_to_one_process(Measured(folder)(law), weights=EXACT * updates**2)  # round-off adds up


@pytest.mark.slow
def test_every_family_trains_on_two_processes_as_on_one(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "ranks")
    wait(torchrun(folder, ("families",)))
    apart = Measured(folder)("families")[0]
    assert {name: apart[name] for name in FAMILIES if apart[name] > 2e-6} == {}


@pytest.mark.slow
def test_four_processes_hold_two_copies_of_the_model(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "ranks")
    wait(torchrun(folder, ("copied",), processes=4))
    found = Measured(folder)("copied")
    assert_equal_to_one_process(found)
    assert [one["placements"] for one in found] == ["(Replicate(), Shard(dim=0))"] * 4
    assert [one["local"][0] for one in found] == [32] * 4  # of 64 rows


@pytest.mark.slow
def test_shards_are_the_master_weights_of_a_model_in_bfloat16(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "ranks")
    wait(torchrun(folder, ("half_precision",)))
    for one in Measured(folder)("half_precision"):
        assert (one["shards"], one["computing"]) == ("torch.float32", "torch.bfloat16")
        ours, alone = one["losses"]
        assert ours == pytest.approx(alone, rel=5e-3)
        assert ours[-1] < ours[0]


@pytest.mark.slow
def test_a_lost_process_ends_the_job_which_resumes_with_the_same_numbers(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "ranks")
    wait(torchrun(folder, ("dying",), restarts=1))
    assert [one["restarted"] for one in Measured(folder)("dying")] == [True, True]
    rl.train(run_recipe(folder), folder / "one")
    assert_same_numbers(folder / "run", folder / "one")


@pytest.mark.slow
def test_a_run_moves_from_two_processes_to_one_and_on_to_three(tmp_path: Path) -> None:
    """What came after step 2, then after step 4, is taken away, as if the run had been stopped there."""
    folder = write_world(tmp_path / "ranks")
    run, checkpoints = folder / "run", folder / "run" / "checkpoints"
    wait(torchrun(folder, ("six_steps",)))
    for step in (4, 6):
        shutil.rmtree(checkpoints / f"step-00000{step}")
    rl.train(run_recipe(folder, 6), run, resume=True)
    assert (checkpoints / "step-000004" / "model.safetensors").is_file()
    shutil.rmtree(checkpoints / "step-000006")
    wait(torchrun(folder, ("six_steps",), processes=3))
    assert (checkpoints / "step-000006" / "shards" / ".metadata").is_file()
    rl.train(run_recipe(folder, 6), folder / "one")
    assert_same_numbers(run, folder / "one")


@pytest.mark.slow
def test_one_process_resumes_the_adapters_of_two(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "ranks")
    wait(torchrun(folder, ("adapting",)))
    run = folder / "run"
    held = {path.name for path in (run / "checkpoints" / "step-000004").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "shards"} <= held
    assert "config.json" not in held  # nothing of the base
    shutil.rmtree(run / "checkpoints" / "step-000004")
    rl.train(adapter_recipe(folder), run, resume=True)
    rl.train(adapter_recipe(folder), folder / "one")
    assert_same_numbers(run, folder / "one")
