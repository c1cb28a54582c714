"""How often a model answers each row right: kept as labels by which `data` chooses rows.

RL learns nothing from a prompt whose replies are all right or all wrong. `saccade data passrate` samples k replies per
row and writes a file of rates; the key `pass_rate` of a data entry keeps the rows between two rates.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from saccade.config import Config
from saccade.data.records import Item, field, jsonl_rows
from saccade.types import Sample

Key = tuple[str, str, str]


class PassRateConfig(Config):
    """Rows to keep by their pass rate: the share of right replies, from 0 to 1."""

    file: Path
    """pass_rates.jsonl of `saccade data passrate`."""
    low: float = Field(default=0.0, ge=0, le=1)
    """The lowest rate that is kept."""
    high: float = Field(default=1.0, ge=0, le=1)
    """The highest rate that is kept."""

    @model_validator(mode="after")
    def _in_order(self) -> PassRateConfig:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; expected low <= high")
        return self


def key_of(name: str, question: str, gold: Any) -> Key:
    """Identifies a row in the file of rates; golds are compared as JSON."""
    return (name, question, json.dumps(gold))


def rate_row(name: str, question: str, gold: Any, verdicts: Sequence[bool | None]) -> dict[str, Any]:
    """A row of the file: the verdicts on the k replies to a question."""
    right = sum(verdict is True for verdict in verdicts)
    return {"id": name, "question": question, "gold": gold, "right": right, "k": len(verdicts)}


def read_rates(file: Path) -> dict[Key, set[float]]:
    """Row -> share of right replies, several where rows are alike but for their images. ValueError with file and line
    for an invalid one."""
    rates = defaultdict[Key, set[float]](set)
    for place, row in jsonl_rows(file):
        try:
            if isinstance(row, ValueError):
                raise row
            right, k = field(row, "right", int), field(row, "k", int)
            if not 0 <= right <= k or k < 1:
                raise ValueError(f"got {right} right replies of {k}, expected 0 <= right <= k")
            key = key_of(field(row, "id", str), field(row, "question", str), row.get("gold"))
            rates[key].add(right / k)
        except ValueError as error:
            raise ValueError(f"{place}: {error}; write the file with 'saccade data passrate'") from None
    if not rates:
        raise ValueError(f"{file}: holds no pass rates; write it with 'saccade data passrate'")
    return rates


def with_rates(found: Iterator[Item], config: PassRateConfig) -> Iterator[Item]:
    """The samples whose rate is in the range, and a ValueError in place of each that has no rate."""
    known = read_rates(config.file)
    for place, item in found:
        if not isinstance(item, Sample):
            yield place, item
            continue
        rates = known.get(key_of(item.id, item.question, item.answer), ())
        rate = next(iter(rates), None)
        if len(rates) > 1:
            why = f"{config.file} has several rates for rows with its id, question and answer; give each row its own id"
            yield place, ValueError(f"sample {item.id!r}: {why}")
        elif rate is None:
            why = f"{config.file} has no pass rate for it; run 'saccade data passrate' on this data again"
            yield place, ValueError(why)
        elif config.low <= rate <= config.high:
            yield place, item
