"""What samples besides training goes through vLLM too: runs, evaluations, predictions, rejection sampling."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vllm_stand_in import MISTAKES, StandIn, mistaken, stand_in

from saccade import cli
from saccade.data import DataConfig
from saccade.evaluation.benchmarking import evaluate
from saccade.evaluation.config import EvalRecipe
from saccade.models.adapter import EncodedPrompt
from saccade.models.config import ModelConfig
from saccade.rollout.config import Sampling, VllmServerConfig
from saccade.studies.rejection import sample_right
from saccade.training.config import RLRecipe
from saccade.training.rl import train
from saccade.types import Completion
from saccade.verify.causes import BOUND

GENERATE = "/inference/v1/generate"


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as one:
        yield one


def engine(server: StandIn) -> dict[str, Any]:
    return {"kind": "vllm_server", "urls": [server.url], "start_s": 0.2, "deadline_s": 30.0}


def test_a_run_trains_on_replies_of_the_current_weights(server: StandIn, tmp_path: Path) -> None:
    recipe = RLRecipe.model_validate(
        {
            "model": {"path": "base", "device": "cpu"},
            "data": [{"source": "world", "task": "count"}],
            "stages": [{"max_new_tokens": 12, "group_size": 3}],
            "num_steps": 2,
            "prompts_per_step": 2,
            "optim": {"lr": 1e-4},
            "rollout": {"engine": engine(server)},
            "eval": {"every": 2, "data": [{"source": "world", "task": "count", "split": "test", "limit": 2}]},
        }
    )
    train(recipe, tmp_path / "run")
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["sampler/gap_max"] for row in metrics if "sampler/gap_max" in row) < 1e-3
    assert all(
        row["sampler/ess"] > 0.999 and 0 <= row["sampler/gap_k3"] < 1e-5 for row in metrics if "sampler/ess" in row
    )
    assert "sampler/ess" in metrics[-1]
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert [row["weights_version"] for row in rows] == [0] * 6 + [1] * 6
    sizes = [body["sampling_params"]["n"] for path, body in server.asked if path == GENERATE]
    assert sizes.count(3) == 4, "a group is one request; the others are probes and held-out questions"


@pytest.mark.parametrize("old_logprobs", ["auto", "sampler"])
def test_a_run_records_the_likely_cause_beside_every_reply_that_is_too_far(
    server: StandIn, tmp_path: Path, old_logprobs: str
) -> None:
    """Each group of the step comes from a sampler that makes another mistake."""
    expected: dict[str, list[str]] = {}

    def rescored(prompt: EncodedPrompt, reply: Completion, temperature: float) -> Completion:
        sha = prompt.image_shas[0]
        mistake = MISTAKES[[*expected, sha].index(sha)]
        made = mistaken(server.policy, mistake, prompt, reply, temperature)
        far = max(abs(a - b) for a, b in zip(made.logprobs, reply.logprobs, strict=True)) > BOUND
        expected.setdefault(sha, []).append(mistake if far else "none")
        return made

    server.rescored = rescored
    recipe = RLRecipe.model_validate(
        {
            "model": {"path": "base", "device": "cpu"},
            "data": [{"source": "world", "task": "count"}],
            "stages": [{"max_new_tokens": 32, "group_size": 2}],
            "num_steps": 1,
            "prompts_per_step": len(MISTAKES),
            "optim": {"lr": 1e-4},
            "rollout": {"engine": engine(server) | {"groups_at_once": 1}, "sampling": {"temperature": 0.7}},
            "loss": {"entropy_coef": 1e-4, **({"correction": {"kind": "none"}} if old_logprobs == "sampler" else {})},
            "update": {"old_logprobs": old_logprobs},
        }
    )
    train(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    found: dict[str, list[str]] = {sha: [] for sha in expected}
    for row in rows:
        found[row["image_sha"][0]].append(row.get("sampler_cause", "none"))
    causes = Counter(cause for of in expected.values() for cause in of)
    assert found == expected and set(causes) == set(MISTAKES)
    (metrics,) = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    counts = {key.rpartition("/")[2]: value for key, value in metrics.items() if key.startswith("sampler/cause/")}
    assert counts == {name: n for name, n in causes.items() if name != "none"}


def test_an_evaluation_has_the_scores_of_the_built_in_engine(server: StandIn, tmp_path: Path) -> None:
    scores = []
    for name, one in (("vllm", engine(server)), ("own", {"kind": "builtin"})):
        asked = {"world": {"n": 3}, "decoding": {"max_new_tokens": 24}, "out": str(tmp_path / name), "engine": one}
        evaluate(EvalRecipe.model_validate(asked))
        scores.append(json.loads((tmp_path / name / "results.json").read_text())["rows"][0]["accuracy"])
    assert scores[0] == scores[1] and sum(path == GENERATE for path, _ in server.asked) == 4
    with pytest.raises(ValueError, match="engine is for a model that is loaded here"):
        EvalRecipe.model_validate(
            {"world": {}, "model": "http://127.0.0.1:9", "server": {"name": "x"}, "engine": engine(server)}
        )


def test_a_prediction_is_the_built_in_engines(
    server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (112, 84), "white").save(tmp_path / "one.png")
    said = []
    for words in ([], ["--vllm", server.url]):
        with pytest.raises(SystemExit):
            cli.main(["predict", str(tmp_path / "one.png"), "How many?", "--max-new-tokens", "16", *words])
        said.append([line for line in capsys.readouterr().out.splitlines() if not line.startswith("seconds")])
    assert said[0] == said[1] != [] and sum(path == GENERATE for path, _ in server.asked) == 2


def test_rejection_sampling_asks_the_servers(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.studies.rejection.PROMPTS_PER_CALL", 2)
    config = VllmServerConfig.model_validate(engine(server))
    data, sampling = [DataConfig(source="world", task="count")], Sampling(max_new_tokens=8)
    _, count = sample_right(ModelConfig(path="base"), data, sampling, 2, 0, 0.02, config)
    groups = [body for path, body in server.asked if path == GENERATE and body["sampling_params"]["n"] == 2]
    assert count == 2 * len(groups) >= 4
