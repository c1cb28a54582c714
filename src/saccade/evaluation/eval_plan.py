"""What an evaluation asks: the questions of a benchmark or of one's own data, and how replies to them are graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from saccade.data import open_sources
from saccade.evaluation.answerers import EvalQuestion, hashes
from saccade.evaluation.asked import askable, selected, unique
from saccade.evaluation.benchmarks import BENCHMARKS, Benchmark, Mode, Place, Prompt
from saccade.evaluation.benchmarks.own import OWN, own_benchmark, world_suite
from saccade.evaluation.benchmarks.prompts import around
from saccade.evaluation.blinding import blinded
from saccade.evaluation.config import EvalRecipe
from saccade.grading import math_pool
from saccade.tasks.answers import MATHEMATICS
from saccade.tasks.conversation import turns_before
from saccade.types import Sample, with_title


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """The questions and how their replies are graded."""

    benchmark: Benchmark
    mode: Mode
    prompt: Prompt
    samples: list[Sample]
    """Their ids are unique."""
    total: int
    """Items of the subset, including those not in `samples`."""
    system_prompt: str | None = None
    """System turn of questions whose rows have none."""
    row_ids: dict[str, str] = field(default_factory=dict)
    """Sample id -> that of its row, where it is another: several rows had it."""
    shas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Sample id -> hashes of its images. A cache, because a training run evaluates the same plan repeatedly."""

    def question(self, sample: Sample, seed: int) -> EvalQuestion:
        """The question about a sample, as the model receives it."""
        return EvalQuestion(sample, self.prompt.write(sample), seed, turns_before(sample, self.system_prompt))

    def system(self, sample: Sample) -> str:
        """The system turn of its question; nothing without one."""
        return "".join(turn.text for turn in turns_before(sample, self.system_prompt))

    def image_shas(self, sample: Sample) -> tuple[str, ...]:
        return self.shas.get(sample.id) or self.shas.setdefault(sample.id, hashes(sample))

    def shown(self, sample: Sample) -> str:
        """The question as items keep it: without the template of one's own data."""
        return sample.question if self.benchmark.name == OWN else self.prompt.write(sample)


def plan(recipe: EvalRecipe) -> EvalPlan:
    """Reads the questions. ValueError with file and line, before the first question."""
    found = _read(recipe)
    if recipe.blind is None:
        return found
    samples = blinded(found.samples, 1.0, recipe.blind)
    if not samples:
        raise ValueError(f"blind: {recipe.blind}: no question has an image; remove it")
    return replace(found, samples=samples)


def _read(recipe: EvalRecipe) -> EvalPlan:
    if recipe.benchmark is None:
        return own_plan(own_samples(recipe), recipe.template, recipe.limit, recipe.system_prompt)
    benchmark = BENCHMARKS[recipe.benchmark]
    subset = benchmark.subset(recipe.subset)
    place = Place(recipe.path, subset, recipe.image_folder, recipe.format, recipe.limit, recipe.data_root)
    samples = benchmark.load(place)
    if not samples:
        raise ValueError(f"benchmark '{benchmark.name}', subset '{place.subset}': found no items at {recipe.path}")
    prompt = around(benchmark.prompt(recipe.prompt), recipe.template)
    found = _plan(benchmark, benchmark.mode(recipe.mode), prompt, samples, recipe.limit)
    return replace(found, system_prompt=recipe.system_prompt)


def own_plan(
    samples: Sequence[Sample], template: str | None = None, limit: int | None = None, system_prompt: str | None = None
) -> EvalPlan:
    """The plan for any samples, with the prompts and graders that training uses. ValueError for unknown tasks."""
    benchmark = own_benchmark(samples, template)
    found = _plan(benchmark, benchmark.mode(None), benchmark.prompt(None), benchmark.load(Place(None)), limit)
    return replace(found, system_prompt=system_prompt)


def own_samples(recipe: EvalRecipe) -> list[Sample]:
    """The questions of a recipe without a benchmark: data sets first, then the world."""
    sources = open_sources(recipe.data)
    for source in sources:
        if source.size is None:
            raise ValueError(f"data '{source.name}' is infinite; give it a 'limit'")
    samples = [sample for source in sources for sample in askable(source, recipe.template)]
    world = recipe.world
    return samples + (world_suite(world.splits, world.tasks, world.n, world.seed) if world else [])


def _plan(benchmark: Benchmark, mode: Mode, prompt: Prompt, samples: list[Sample], limit: int | None) -> EvalPlan:
    rows, samples = samples, unique(samples)
    row_ids = {own.id: row.id for own, row in zip(samples, rows, strict=True) if own.id != row.id}
    total = len(samples)
    samples = selected(mode.select(samples) if mode.select else samples, limit)
    if any(sample.task == MATHEMATICS for sample in samples):
        math_pool.shared().warm_up()  # while the model loads
    for sample in samples:
        try:
            prompt.write(sample)
        except ValueError as error:
            raise ValueError(with_title(sample.title, error)) from error
    return EvalPlan(benchmark, mode, prompt, samples, total, row_ids=row_ids)
