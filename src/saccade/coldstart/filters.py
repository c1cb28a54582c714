"""The table of filters: what drops a chain, in order of evaluation, most expensive last.

A filter is one function and its line here. It takes a draft and one of its chains, already polished, and returns None
or a `Rejection`, whose reason is counted and whose detail is shown in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from saccade.coldstart.filter_options import FilterOptions
from saccade.coldstart.set_checks import EvaluationSets, GroundTruth, NearDuplicates
from saccade.coldstart.text_checks import (
    answer_agrees,
    contradiction,
    has_form,
    language,
    leakage,
    left_references,
    length,
    loops,
)
from saccade.runs.drafts import ChainCheck
from saccade.world import WorldConfig


@dataclass(frozen=True, slots=True)
class FilterContext:
    """What filters may use besides a draft."""

    folder: Path = Path()
    """The directory of the set, which relative image paths refer to."""
    worlds: Mapping[str, WorldConfig] = field(default_factory=dict)
    """Settings of the procedural-world sources, keyed by `Draft.source`."""


Build = Callable[[FilterOptions, FilterContext], ChainCheck]

FILTERS: dict[str, Build] = {
    "answer": lambda options, context: answer_agrees,
    "format": lambda options, context: has_form,
    "leakage": lambda options, context: leakage(options.leakage),
    "references": lambda options, context: left_references,
    "contradiction": lambda options, context: contradiction(options.contradiction),
    "repetition": lambda options, context: loops(options.repetition),
    "language": lambda options, context: language(options.language),
    "length": lambda options, context: length(options.length),
    "ground_truth": lambda options, context: GroundTruth(context.worlds, context.folder),
    "evaluation_sets": lambda options, context: EvaluationSets(options.evaluation_sets, context.folder),
    "near_duplicate": lambda options, context: NearDuplicates(options.near_duplicate),
}


def build_checks(
    names: Sequence[str] | None = None,
    options: FilterOptions | None = None,
    context: FilterContext | None = None,
) -> dict[str, ChainCheck]:
    """The named filters (None: all), ready to use. ValueError for an unknown name, or for options of a filter that is
    not used."""
    selected = list(FILTERS) if names is None else list(names)
    for name in selected:
        if name not in FILTERS:
            close = get_close_matches(name, FILTERS, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else f"; expected one of {', '.join(FILTERS)}"
            raise ValueError(f"no filter '{name}'{hint}")
    options = options or FilterOptions()
    for name in sorted(options.model_fields_set):
        if name not in selected:
            raise ValueError(
                f"filter_options.{name}: '{name}' is not among the filters ({', '.join(selected) or 'none'})"
            )
    context = context or FilterContext()
    return {name: FILTERS[name](options, context) for name in selected}
