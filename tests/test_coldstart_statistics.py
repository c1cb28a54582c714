"""Statistics of a cold-start set against counts made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.coldstart.statistics import Histogram, SetStatistics, read_drafts, write_statistics
from saccade.evaluation.habits import WORDS, count_words
from saccade.runs.drafts import Chain, Draft, Rejection


def chain(text: str, right: bool | None = True, **changes: Any) -> Chain:
    return Chain(text, "3", right=right, tokens=len(text.split()), **changes)


def drafts() -> list[Draft]:
    arms = [chain("a", arm="caption", right=False), chain("b", arm="none", right=False)]
    dropped = chain("no no", right=False, rejections=(Rejection("answer", "another answer", "4"),))
    kept = chain("Wait, the description. wait! Check it.", polished="Wait, the image. wait! Check it.")
    return [
        Draft("1", "q", 3, "count", "s1", chains=(kept, dropped, *arms), chosen=(0,)),
        Draft("2", "q", 3, "count", "s1", chains=(dropped,)),
        Draft("3", "q", 3, "count", "s2", chains=(chain("Hmm. unchecked mistakes await"),), chosen=(0,)),
    ]


def test_words_lengths_yield_and_arms_are_counted(tmp_path: Path) -> None:
    (tmp_path / "drafts.jsonl").write_text("".join(draft.to_json() + "\n" for draft in drafts()))
    found = write_statistics(tmp_path)
    assert found == json.loads((tmp_path / "statistics.json").read_text())
    ours = found["words"]["ours"]
    assert ours["count"] == {"Wait": 2, "Hmm": 1, "Mistake": 0, "Alternatively": 0, "Check": 1}
    assert ours["per_1k_samples"]["Wait"] == 1000.0
    assert ours["per_1k_tokens"]["Wait"] == pytest.approx(2000 / (6 + 4))
    assert ours["share_with_any"] == 1.0
    assert [(one["filter"], one["reason"], one["n"]) for one in found["filters"]] == [("answer", "another answer", 2)]
    assert [one["id"] for one in found["filters"][0]["examples"]] == ["1", "2"]
    first = found["sources"]["s1"]
    assert [first[key] for key in ("rows", "in_set", "never_right", "judged", "chains_in_set")] == [2, 1, 1, 3, 1]
    assert found["sources"]["s2"]["accuracy"] == {}, "no row of it was asked without the bridge"
    assert (found["accuracy"]["n"], found["accuracy"]["bridged"]["accuracy"]) == (1, 1.0)
    assert found["accuracy"]["caption"]["accuracy"] == 0.0
    assert found["lengths"]["in the set"]["mean"] == 5.0
    assert found["polish"] == {"looked at": 1, "changed": 1}


def test_long_texts_are_cut_in_examples(tmp_path: Path) -> None:
    rejection = (Rejection("answer", "another answer", "d" * 900_000),)
    long = replace(chain("no " * 300_000, right=False, rejections=rejection), answer="a" * 900_000)
    (tmp_path / "drafts.jsonl").write_text(
        Draft("1", "q" * 900_000, "g" * 900_000, "text", "s", chains=(long,)).to_json()
    )
    write_statistics(tmp_path)
    assert (tmp_path / "statistics.json").stat().st_size < 30_000


def test_the_published_columns_are_per_thousand_samples() -> None:
    published = SetStatistics().summary()["words"]["published"]
    assert published["Vision-R1-cold"]["per_1k_samples"]["Wait"] == pytest.approx(2928.595)
    assert published["Mulberry"]["per_1k_samples"]["Hmm"] == 0.0
    assert list(published["LLaVA-CoT"]["count"]) == list(WORDS)


def test_only_whole_words_count_in_any_case() -> None:
    assert count_words("WAIT awaiting waiter wait-and-see") == {"Wait": 2}


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=60))
def test_a_histogram_bins_every_length_correctly(lengths: list[int]) -> None:
    histogram = Histogram()
    for one in lengths:
        histogram.add(one)
    found = histogram.summary()
    bars = found["bars"]
    assert sum(n for *_, n in bars) == found["n"] == len(lengths)
    assert all(high == low for (_, high, _), (low, *_) in pairwise(bars)), "no gap"
    for low, high, n in bars:
        assert n == sum(low <= one < high for one in lengths)
    ordered = sorted(lengths)
    middle = ordered[(len(ordered) - 1) // 2]
    assert found["p50"] <= middle and found["longest"] == ordered[-1]
    assert len(bars) < 80


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; expected the directory of a set"):
        list(read_drafts(tmp_path))
    for line in ("{", "[]", "[" * 9_999):
        (tmp_path / "drafts.jsonl").write_text(drafts()[0].to_json() + f"\n{line}\n")
        with pytest.raises(ValueError, match=r"drafts.jsonl:2: not a draft"):
            list(read_drafts(tmp_path))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"question": 5}, "question is 5, expected str"),
        ({"chains": [{"text": "t", "answer": "1", "right": "yes"}]}, "right is 'yes', expected bool or null"),
        ({"steps": [{"stage": "caption"}]}, "missing 8 required"),
        ({"steps": [5]}, "must be a mapping"),
    ],
)
def test_a_draft_of_other_types_is_named_with_file_and_line(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    rows = [drafts()[0].to_dict(), drafts()[0].to_dict() | change]
    (tmp_path / "drafts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"drafts.jsonl:2: not a draft \(.*{why}"):
        list(read_drafts(tmp_path))
