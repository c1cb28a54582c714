"""The benchmark programs run, compare what they say they compare, and name the path that ran."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks import gpu, gpu_trl
from benchmarks.lengths import lognormal
from benchmarks.measure import Meter, Reading, alternate, median
from benchmarks.observe import training_path, watched
from benchmarks.peer_generate import Generate
from benchmarks.scaling import slope
from benchmarks.setting import Setting, checkpoint, policy_of, samples
from benchmarks.table import row
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.rollout.prompts import prepare

ROOT = Path(__file__).parent.parent
KEYS = {"setting", "arm", "cpu_seconds", "peak_mb", "ratio", "path"}
TINY = Setting(visual_tokens=16, new_tokens=6, group_size=3, prompts=2)
needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed; it is in the extra 'bench'")
needs_coco = pytest.mark.skipif(find_spec("pycocotools") is None, reason="pycocotools is in the extra 'dev'")
needs_plots = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is in the extra 'bench'")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("benchmarks") / "model", "S")


def test_peak_memory_is_what_a_run_takes_above_the_level_before_it() -> None:
    kept = torch.ones(8_000_000)  # 31 MiB that are there before and after
    reading = Meter().run(lambda: torch.ones(16_000_000).sum())
    assert 55 < reading.peak_mb < 75, "61 MiB of floats for a moment"
    assert Meter().run(lambda: None).peak_mb < 10
    assert len(kept) == 8_000_000


def test_arms_take_turns_and_medians_are_over_all_measured_runs() -> None:
    order: list[str] = []
    costs = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert order == ["a", "b"] * 4, "one unmeasured run of each, then three"
    assert all(len(cost.runs) == 3 for cost in costs.values())
    cost = median([Reading(1.0, 5.0), Reading(9.0, 1.0), Reading(2.0, 3.0)])
    assert (cost.cpu_seconds, cost.peak_mb) == (2.0, 3.0)


def test_sleeping_costs_no_cpu_seconds() -> None:
    assert Meter().run(lambda: time.sleep(0.2)).cpu_seconds < 0.1


def test_a_ratio_says_how_many_times_less_than_the_other_arm() -> None:
    ours, theirs = median([Reading(2.0, 10.0)]), median([Reading(8.0, 40.0)])
    content = row("s", "saccade", ours, theirs, "packed").as_dict()
    assert content.keys() >= KEYS
    assert (content["ratio"], content["ratio_mb"]) == (4.0, 4.0)


def test_the_slope_of_a_power_law_is_its_exponent() -> None:
    assert slope([(x, 3.0 * x**1.7) for x in (1, 2, 5, 9)]) == pytest.approx(1.7)


@pytest.mark.parametrize("path", ["packed", "plain"])
def test_the_path_is_seen_from_what_the_model_reads(directory: Path, path: str) -> None:
    policy = policy_of(directory)
    prompts = [prepare(policy.adapter, sample).encoded for sample in samples(TINY)]
    lengths = [[3, 5, 4], [2, 2, 6]]
    packed = pack([(p, [Branch([400] * n) for n in one]) for p, one in zip(prompts, lengths, strict=True)])
    with watched(policy.model) as seen:
        branch_logprobs(policy, packed, path=path)
    assert training_path(seen, [len(p) for p in prompts], lengths).startswith(path)
    assert seen.images == (2 if path == "packed" else 6)


@pytest.mark.parametrize("repeat", [True, False], ids=["inputs repeated", "num_return_sequences"])
def test_replies_of_generate_have_the_lengths_that_they_are_told(directory: Path, repeat: bool) -> None:
    policy = policy_of(directory)
    adapter = policy.adapter
    prompts = [prepare(adapter, sample).encoded for sample in samples(TINY)]
    peer = Generate(directory, policy.processors[0].pad_token_id, adapter.stop_ids, adapter.banned_ids)
    for lengths in ([2, 7, 1, 5, 9, 4], [6] * 6):
        with watched(peer.model) as seen:
            replies = peer(prompts, 3, lengths, repeat=repeat)
        assert [len(reply) for reply in replies] == lengths
        assert seen.single_tokens == 6 * (max(lengths) - 1), "rows that have ended are run until the longest ends"
        assert seen.images == (6 if repeat else 2)


def test_lognormal_lengths_have_the_mean_and_the_maximum_asked_for() -> None:
    lengths = lognormal(64, 39, 160)
    assert max(lengths) == 160
    assert min(lengths) >= 2
    assert sum(lengths) / 64 == pytest.approx(39, abs=0.5)


PER_COMPLETION = "prompts prefilled per completion"
PROGRAMS = [
    pytest.param("grpo_step", {"trl": "plain", "saccade": "packed"}, marks=needs_trl),
    ("training_pass", {"plain": "plain", "packed": "packed"}),
    (
        "rollout",
        {
            "saccade": "prompts prefilled once",
            "generate, inputs repeated": PER_COMPLETION,
            "generate, num_return_sequences": PER_COMPLETION,
        },
    ),
    pytest.param("rewards", {"saccade": "", "VLM-R1's formula": ""}, marks=needs_coco),
    pytest.param("scaling", {"update packed": "packed", "update plain": "plain"}, marks=needs_plots),
]
"""Program -> its arms, and how the path of each begins."""


@pytest.mark.slow
@pytest.mark.parametrize(("program", "paths"), PROGRAMS)
def test_a_program_runs_and_its_rows_name_the_path(program: str, paths: dict[str, str], tmp_path: Path) -> None:
    out, plot = tmp_path / "rows.json", tmp_path / "plot.png"
    command = [sys.executable, "-m", f"benchmarks.{program}", "--quick", "--json", str(out)]
    done = subprocess.run(
        [*command, *(["--plot", str(plot)] if program == "scaling" else [])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert content["quick"] is True
    assert content["environment"]["threads"] == 1
    rows = [one for one in content["rows"] if one["arm"] != "vllm"]  # measured only where it is installed
    assert {one["arm"] for one in rows} == paths.keys()
    for one in rows:
        assert one.keys() >= KEYS
        assert one["cpu_seconds"] > 0
        assert one["path"].startswith(paths[one["arm"]]), one
    if program == "scaling":
        assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_program_for_gpus_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--shape", "tiny", "--device", "cpu", "--quick"]
    done = subprocess.run([*command, "--json", str(tmp_path / "rows.json")], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [one["what"] for one in rows] == ["training pass"] * 3 + ["rollout"] * 2 + ["whole step, AdamW"]
    assert all(one["tokens_per_s"] > 0 for one in rows)


@needs_trl
@pytest.mark.slow
def test_trl_stands_beside_ours_in_the_program_for_gpus(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--shape", "tiny", "--device", "cpu", "--quick", "--trl"]
    command += ["--dtype", "float32", "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads((tmp_path / "rows.json").read_text())["rows"][-2:]
    assert theirs["arm"] == "TRL" != ours["arm"]
    assert (theirs["setting"], theirs["what"]) == (ours["setting"], "whole step, AdamW")
    assert all(one["seconds"] > 0 for one in (ours, theirs))
    assert ours["ratio"] == pytest.approx(theirs["seconds"] / ours["seconds"])
    assert theirs["tokens_per_s"] == pytest.approx(2 * 4 * 8 / theirs["seconds"])


def test_a_step_of_trl_that_the_card_does_not_hold_is_no_number_and_the_next_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(kept: object, setting: Setting, args: object) -> tuple[float, float]:
        if setting is large:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return 6.0, 1.5

    large, small = Setting(64, 8, 4, 2), TINY
    monkeypatch.setattr(gpu_trl, "_timed", measured)
    rows = [
        {"setting": one.name, "what": "whole step, AdamW", "arm": "packed", "seconds": 2.0} for one in (large, small)
    ]
    args = argparse.Namespace(optimizer="adamw", dtype="bfloat16")
    gpu_trl.stand_beside(rows, gpu_trl.Kept(None, frozenset(), ()), [large, small], args)
    assert [one["setting"] for one in rows] == [large.name, small.name] * 2
    assert all(map(math.isnan, (rows[0]["ratio"], rows[2]["seconds"], rows[2]["peak_gib"], rows[2]["tokens_per_s"])))
    assert (rows[1]["ratio"], rows[3]["peak_gib"], rows[3]["tokens_per_s"]) == (3.0, 1.5, 6.0), "2 x 3 x 6 tokens"
    assert rows[3]["arm"].startswith("TRL, AdamW state in bfloat16"), "ours has float32 masters"


@pytest.mark.parametrize(
    ("trl", "rows", "said"), [(None, "4", "pip install -e '.[bench]'"), (True, "3", "divisor of 8")]
)
def test_what_trl_cannot_run_is_said_before_anything_is_measured(
    trl: object, rows: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_trl, "find_spec", lambda name: trl)
    with pytest.raises(SystemExit):
        gpu.main(["--shape", "tiny", "--device", "cpu", "--quick", "--trl", "--trl-rows", rows])
    assert said in capsys.readouterr().err


def test_the_shapes_of_the_program_for_gpus_are_those_of_the_published_models() -> None:
    for shape, billions in (("3b", 3.75), ("7b", 8.29)):
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(gpu.config_of(shape))
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)


def test_work_that_the_card_does_not_hold_is_no_number_instead_of_the_end_of_the_program() -> None:
    def too_large() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    assert all(map(math.isnan, gpu.timed(too_large, torch.device("cpu"), 2)))
    assert gpu.timed(lambda: None, torch.device("cpu"), 2)[0] >= 0
