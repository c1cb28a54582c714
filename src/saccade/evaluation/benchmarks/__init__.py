"""Benchmarks: each is one file that defines how it is loaded, prompted, graded and aggregated, and one line in
`BENCHMARKS`."""

from __future__ import annotations

from saccade.evaluation.benchmarks import (
    chartqa,
    detection,
    dynamath,
    geometry3k,
    math_vision,
    mathverse,
    mathvista,
    mm_math,
    mme,
    mmstar,
    own,
    rec,
)
from saccade.evaluation.benchmarks.benchmark import (
    Benchmark,
    BenchmarkScore,
    Grade,
    ItemOutcome,
    Mode,
    ParsedReply,
    Place,
    Prompt,
)

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        mathvista.BENCHMARK,
        mathverse.BENCHMARK,
        mm_math.BENCHMARK,
        math_vision.BENCHMARK,
        dynamath.BENCHMARK,
        mmstar.BENCHMARK,
        chartqa.BENCHMARK,
        mme.BENCHMARK,
        *rec.BENCHMARKS,
        *detection.BENCHMARKS,
        geometry3k.BENCHMARK,
        *own.BENCHMARKS,
    )
}

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkScore",
    "Grade",
    "ItemOutcome",
    "Mode",
    "ParsedReply",
    "Place",
    "Prompt",
]
