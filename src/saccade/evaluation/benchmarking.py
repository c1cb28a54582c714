"""`saccade eval`: read, ask, grade, aggregate; writes a directory with items.jsonl and results.json."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from saccade.config import dump
from saccade.data.images import ImageError, large_alone, load_image, sha_of
from saccade.disk import partial_of, read_text, write_text, writing
from saccade.endpoint import Endpoint, EndpointError, ReplyCache, RequestLimits, user
from saccade.evaluation.answerers import Answerer, ServedFrame, ServedModel
from saccade.evaluation.benchmark_results import document
from saccade.evaluation.benchmark_run import answer_all
from saccade.evaluation.benchmarks.benchmark import BenchmarkJudge, JudgeUnavailable
from saccade.evaluation.config import EvalRecipe, JudgeConfig
from saccade.evaluation.eval_plan import EvalPlan, plan
from saccade.evaluation.graded_items import EvalRun
from saccade.evaluation.items import ItemResult
from saccade.evaluation.results import write_json
from saccade.runs.environment import PACKAGES, commit, describe, hash_contents, version
from saccade.runs.files import UNJUDGED, JsonRow, read_object
from saccade.runs.lock import locked, refuse_in_use, refuse_other_kind
from saccade.types import Sample

JUDGE_TOKENS = 512
BOX_TASKS = ("refer", "detect", "difference")
EvalProgress = Callable[[str, int, int], None]
"""(decoding, done, total)."""


class ServedJudge:
    """A judge on a server; its replies are cached beside the run, so that no request is repeated."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.id = f"{endpoint.model} at {endpoint.url}"

    def ask(self, prompt: str, temperature: float = 0.0) -> str:
        try:
            return self.endpoint.chat([user(prompt)], temperature=temperature, max_tokens=JUDGE_TOKENS).text
        except EndpointError as error:
            raise JudgeUnavailable(str(error)) from error


def evaluate(
    recipe: EvalRecipe,
    progress: EvalProgress | None = None,
    api_key: str | None = None,
    judge_key: str | None = None,
    answerer: Answerer | None = None,
    limits: RequestLimits | None = None,
) -> JsonRow:
    """Evaluate a model and return what its results.json holds. With the same recipe it resumes an interrupted
    evaluation.

    evaluate(EvalRecipe(benchmark="chartqa", path=Path("ChartQA"), model="Qwen/Qwen2.5-VL-3B-Instruct"))

    `answerer` answers instead of the recipe's model. Raises ValueError before the first question when `out` holds
    another evaluation, or data or model are invalid; and when no item could be graded.
    """
    began, out = time.monotonic(), recipe.directory
    refuse_another(recipe, out)
    asked = plan(recipe)
    if recipe.server is not None and recipe.server.frame is None and any(s.task in BOX_TASKS for s in asked.samples):
        raise ValueError(
            "the answers are boxes, but the frame of the served model's numbers is unknown: set server.frame "
            "(thousand "
            "for Qwen2-VL, Qwen3-VL, InternVL, GLM-V; pixels_resized for Qwen2.5-VL)"
        )
    with ExitStack() as stack:
        stack.enter_context(writing(out, "answers so far are kept; free some space and run the same command again"))
        refuse_in_use(out)
        opened = _served(recipe, api_key, limits) if recipe.served else _local(recipe, asked)
        held, facts = (answerer, {}) if answerer else stack.enter_context(opened)
        environment = {
            **facts,
            "data_hash": {recipe.benchmark or "data": hash_contents(one.content for one in asked.samples)},
        }
        stack.enter_context(locked(out))
        refuse_another(recipe, out)
        refuse_changed(environment, out)
        write_text(out / "config.yaml", dump(recipe))
        write_json(out / "environment.json", environment)
        save_images(asked.samples, recipe.kept_images, out / "images")
        judge = stack.enter_context(_judge(recipe.judge, out, judge_key, limits)) if recipe.judge else None
        items, errors = list[ItemResult](), dict[str, str]()
        for decoding in recipe.decodings():
            run = EvalRun(held, decoding, recipe.label, recipe.control_name, recipe.seed, recipe.batch_size, judge)
            run = replace(run, attempts_until_parsed=recipe.retries_until_parsed)
            tell = partial(progress, decoding.name) if progress else None
            some, lost = answer_all(asked, run, out / "items.jsonl", tell)
            items, errors = items + some, errors | lost
    results = document(recipe, asked, items, errors, time.monotonic() - began)
    if isinstance(held, ServedModel):  # a resumed run may have had nothing left to ask
        results["requests"] = {**read_object(out / "results.json", []).get("requests", {}), **held.requests}
    write_json(out / "results.json", results)
    return results


def refuse_another(recipe: EvalRecipe, out: Path) -> None:
    """ValueError when `out` belongs to another evaluation; nothing is written yet."""
    refuse_other_kind(out, recipe.kind)
    config = out / "config.yaml"
    if not config.exists() and _holds_answers(out):
        raise ValueError(f"{out} holds items of an unknown evaluation (no config.yaml); choose a new `out`")
    if config.exists() and read_text(config) != dump(recipe):
        raise ValueError(
            f"{out} holds another evaluation (its config.yaml differs); choose a new `out`, or remove that directory"
        )


def _holds_answers(out: Path) -> bool:
    return (out / "items.jsonl").exists() or (out / UNJUDGED).exists()


def refuse_changed(environment: JsonRow, out: Path) -> None:
    """ValueError when `out` holds answers of another model under the same path."""
    was = read_object(out / "environment.json", []).get("model_hash")
    now = environment.get("model_hash")
    if _holds_answers(out) and was and now and was != now:
        raise ValueError(
            f"{out} holds answers from before the model changed (model_hash was {was}, is {now}); "
            "choose a new `out`, or remove that directory"
        )


def save_images(samples: Sequence[Sample], most: int, folder: Path) -> None:
    """Save the images of up to `most` samples, named by their hash: the first ones of each split and task in turn."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((str(sample.meta.get("slices", {}).get("split")), sample.task), []).append(sample)
    each = max(1, most // max(1, len(groups)))
    chosen = [sample for group in groups.values() for sample in group[:each]][:most]
    for source in (source for sample in chosen for source in sample.images):
        with suppress(ImageError), large_alone([source]):  # named when its question is asked
            image = load_image(source)
            target = folder / f"{sha_of(image)}.png"
            if target.exists():  # of another question
                continue
            folder.mkdir(parents=True, exist_ok=True)
            image.save(partial := partial_of(target), format="PNG")
            partial.replace(target)


Opened = tuple[Answerer, dict[str, Any]]
"""The model under test, and what environment.json records about it."""


@contextmanager
def _local(recipe: EvalRecipe, asked: EvalPlan) -> Iterator[Opened]:
    from transformers.utils import logging as transformers_logging  # a served model needs neither this nor torch

    from saccade.evaluation.local_model import LocalModel
    from saccade.models.policy import load_policy
    from saccade.rollout.engine import open_engine

    transformers_logging.disable_progress_bar()
    policy = load_policy(recipe.model.model_copy(update={"train": ()}))
    engine = open_engine(policy, recipe.engine)
    model = LocalModel(policy, engine, recipe.forced_prefix)
    skippable = {config.title for config in recipe.data if config.on_bad == "skip"}
    samples = [sample for sample in asked.samples if sample.meta.get("source") not in skippable]
    questions = [asked.question(sample, 0) for sample in samples]
    model.check(questions, recipe.decoding.max_new_tokens)
    try:
        yield model, describe(policy, recipe.model.path, {})
    finally:
        engine.close()


@contextmanager
def _served(recipe: EvalRecipe, api_key: str | None, limits: RequestLimits | None) -> Iterator[Opened]:
    server = recipe.server
    assert server is not None  # the recipe checks it
    frame = ServedFrame(server.frame, *server.resize) if server.frame else None
    facts: dict[str, Any] = {"commit": commit(), "packages": {name: version(name) for name in PACKAGES}}
    with Endpoint(recipe.model.path, server.name, api_key, limits=limits) as endpoint:
        yield (
            ServedModel(endpoint, frame, recipe.model.template_kwargs),
            facts | {"model": recipe.model.path, "served_name": server.name},
        )


@contextmanager
def _judge(config: JudgeConfig, out: Path, key: str | None, limits: RequestLimits | None) -> Iterator[BenchmarkJudge]:
    cache = ReplyCache(out / "judge.sqlite")
    try:
        with Endpoint(config.url, config.name, key, cache, limits) as endpoint:
            yield ServedJudge(endpoint)
    finally:
        cache.close()
