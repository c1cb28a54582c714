"""`saccade eval --benchmark`: reads, asks, grades, adds up; leaves a directory with items.jsonl and results.json."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from saccade.config import dump
from saccade.endpoint import Endpoint, EndpointError, ReplyCache, RequestLimits, user
from saccade.evaluation.benchmark_results import document
from saccade.evaluation.benchmark_run import Progress, Run, answer_all, plan
from saccade.evaluation.benchmarks.benchmark import Judge, JudgeError
from saccade.evaluation.config import BenchmarkRecipe
from saccade.evaluation.recipe import refuse_another, save_images
from saccade.evaluation.respondents import LocalModel, Respondent, ServedFrame, ServedModel
from saccade.evaluation.results import Row, write_json
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.engine import open_engine
from saccade.runs.environment import PACKAGES, commit, describe, hash_source, version

JUDGE_TOKENS = 512
BOX_TASKS = ("refer", "detect", "difference")


class ServedJudge:
    """A judge behind an address; what it said is kept on disk beside the run, so that nothing is asked twice."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.id = f"{endpoint.model} at {endpoint.url}"

    def ask(self, prompt: str, temperature: float = 0.0) -> str:
        try:
            return self.endpoint.chat([user(prompt)], temperature=temperature, max_tokens=JUDGE_TOKENS).text
        except EndpointError as error:
            raise JudgeError(str(error)) from error


def run_benchmark(
    recipe: BenchmarkRecipe,
    progress: Progress | None = None,
    api_key: str | None = None,
    judge_key: str | None = None,
    respondent: Respondent | None = None,
    limits: RequestLimits | None = None,
) -> Row:
    """Run a benchmark and return what its results.json holds. Started again with the same recipe, it goes on.

    `respondent` answers instead of the recipe's model. Raises ValueError before anything is asked when `out` holds
    another evaluation, or data or model are not right; and when not one item could be graded.
    """
    began = time.monotonic()
    out = Path(recipe.out)
    refuse_another(recipe, out)
    asked = plan(recipe)
    if recipe.served and recipe.frame is None and any(s.task in BOX_TASKS for s in asked.samples):
        raise ValueError(
            "the answers are boxes, and nothing says what the served model's numbers mean: give --frame (thousand for "
            "Qwen2-VL, Qwen3-VL, InternVL, GLM-V; pixels_resized for Qwen2.5-VL)"
        )
    with ExitStack() as stack:
        held = respondent or stack.enter_context(_respondent(recipe, api_key, limits))
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(dump(recipe), encoding="utf-8")
        write_json(out / "environment.json", _environment(recipe, held))
        save_images(asked.samples, recipe.kept_images, out / "images")
        judge = stack.enter_context(_judge(recipe, out, judge_key, limits)) if recipe.judge else None
        run = Run(held, recipe.decoding, recipe.label, judge, recipe.retries_until_parsed)
        items, errors = answer_all(asked, run, out / "items.jsonl", progress)
    results = document(recipe, asked, items, errors, time.monotonic() - began)
    write_json(out / "results.json", results)
    return results


@contextmanager
def _respondent(recipe: BenchmarkRecipe, api_key: str | None, limits: RequestLimits | None) -> Iterator[Respondent]:
    if not recipe.served:
        policy = load_policy(ModelConfig(path=recipe.model, dtype=recipe.dtype, device=recipe.device, train=()))
        yield LocalModel(policy, open_engine(policy))
        return
    frame = ServedFrame(recipe.frame, *recipe.resize) if recipe.frame else None
    with Endpoint(recipe.model, str(recipe.served_name), api_key, limits=limits) as endpoint:
        yield ServedModel(endpoint, frame)


@contextmanager
def _judge(recipe: BenchmarkRecipe, out: Path, key: str | None, limits: RequestLimits | None) -> Iterator[Judge]:
    cache = ReplyCache(out / "judge.sqlite")
    try:
        with Endpoint(str(recipe.judge), str(recipe.judge_model), key, cache, limits) as endpoint:
            yield ServedJudge(endpoint)
    finally:
        cache.close()


def _environment(recipe: BenchmarkRecipe, respondent: Respondent) -> Row:
    data = {recipe.benchmark: hash_source(recipe.data, dump(recipe))}
    if isinstance(respondent, LocalModel):
        return describe(respondent.policy, recipe.model, data)
    held: dict[str, Any] = {"commit": commit(), "packages": {name: version(name) for name in PACKAGES}}
    return {**held, "model": recipe.model, "served_name": recipe.served_name, "data_hash": data}
