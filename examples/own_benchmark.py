"""Your own benchmark: how it is loaded, worded and graded. python examples/own_benchmark.py

One value of `Benchmark`. In the package it is a file in `evaluation/benchmarks/` and a line in `BENCHMARKS`; then
`saccade eval dice` runs it for any model, local or served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from saccade import Sample, evaluate
from saccade.evaluation.benchmarks import BENCHMARKS
from saccade.evaluation.benchmarks.benchmark import Benchmark, BenchmarkJudge, Grade, Mode, ParsedReply, Place, Prompt
from saccade.evaluation.benchmarks.scoring import ACCURACY
from saccade.evaluation.config import EvalRecipe
from saccade.parsing import read_number


def load(place: Place) -> list[Sample]:
    """Twelve dice. A loader of files would read `place.data`."""
    samples = []
    for index in range(12):
        pips, image = index % 6 + 1, Image.new("RGB", (112, 112), "white")
        for pip in range(pips):
            x, y = 15 + 30 * (pip % 3), 15 + 50 * (pip // 3)
            ImageDraw.Draw(image).ellipse((x, y, x + 20, y + 20), fill="black")
        meta = {"slices": {"half": "low" if pips <= 3 else "high"}}
        samples.append(Sample(f"dice/{index}", (image,), "How many pips does the die show?", pips, "count", meta))
    return samples


def grade(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    """Right if the answer is the number of pips."""
    if reply.final_text is None:
        return Grade(False, "no answer")
    found = read_number(reply.final_text)
    return Grade(found == sample.answer, reply.how, str(found))


DICE = Benchmark(
    name="dice",
    title="Pips of dice",
    layout="No files: the pictures are drawn.",
    load=load,
    prompts={"plain": Prompt("plain-1", lambda sample: f"<image>{sample.question} Answer with a number.")},
    modes={"exact": Mode("exact", "this example", ("The number of the answer equals the number of pips.",), grade)},
    headline=ACCURACY,
    slices=("half",),
    needs_data=False,
)


def main(out: Path, model: str = "base") -> list[dict[str, Any]]:
    """The rows of results.json."""
    BENCHMARKS[DICE.name] = DICE
    recipe = EvalRecipe.model_validate(
        {
            "benchmark": DICE.name,
            "model": {"path": model, "train": [], "device": "cpu"},
            "decoding": {"max_new_tokens": 48},
            "out": str(out),
        }
    )
    return evaluate(recipe)["rows"]


if __name__ == "__main__":
    print(*main(Path("runs/dice")), sep="\n")
