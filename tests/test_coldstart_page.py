"""The page of a cold-start set: made only from its files, well nested, self-contained, correct."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape
from PIL import Image
from test_report_page import Outline

from saccade import report
from saccade.coldstart.statistics import write_statistics
from saccade.report.coldstart_page import build_page, filter_rows
from saccade.report.coldstart_samples import marked
from saccade.report.histogram import Shape, histogram
from saccade.runs.drafts import Chain, Draft, Rejection, StepRecord

NASTY = '</section><script>alert(1)</script> & "quoted" \ud83d'


def write_set(folder: Path, drafts: list[Draft]) -> Path:
    """Writes the files of a set that the page reads."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 30, 60)).save(folder / "images" / "a.png")
    with (folder / "drafts.jsonl").open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(draft.to_json() + "\n" for draft in drafts)
    in_set = sum(bool(draft.chosen) for draft in drafts)
    summary = {
        "rows": {"all": len(drafts), "done": len(drafts), "open": 0, "failed": 0},
        "left_out": {"no image": 2},
        "written": {"written": len(drafts), "in the set": in_set, "mixed": in_set, "hard": len(drafts) - in_set},
        "chains": {"in the set": in_set},
        "stages": {
            "reasoning": {"calls": 4, "tokens_in": 9, "tokens_out": 8, "cost": 1.5, "seconds": 2.0, "cut_off": 1}
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("kind: coldstart\nvision: {model: Seer-72B}\nreasoner: {model: Thinker}\n")
    write_statistics(folder)
    return folder


def drafts() -> list[Draft]:
    step = StepRecord("reasoning", "Thinker", "reasoning@1:abcd1234", {}, 1, 1, 0.0, 0.1, False)
    kept = Chain(
        "The description says 3. Wait. So 3.", "3", right=True, tokens=9, polished="The image shows 3. Wait. So 3."
    )
    wrong = Chain(NASTY, NASTY, right=False, rejections=(Rejection("answer", "another answer", NASTY),))
    arms = (Chain("x", "3", arm="caption", right=False), Chain("y", "3", arm="none", right=False))
    base = Draft("row-1", "How many?", 3, "count", "first", ("images/a.png",), ("s",), pseudo_cot="p", description="d")
    return [
        replace(base, chains=(kept, *arms), chosen=(0,), steps=(step,)),
        replace(base, id="row-2", question=NASTY, description=NASTY, chains=(wrong,), meta={"options": [NASTY]}),
        replace(base, id="row-3", source="second", images=("images/gone.png",), chains=(kept,), chosen=(0,)),
    ]


def test_the_page_is_well_nested_self_contained_and_escapes_text(tmp_path: Path) -> None:
    html = build_page(write_set(tmp_path / "set", drafts())).read_text()
    outline = Outline(html)
    assert "script" not in outline.tags and "link" not in outline.tags
    assert all(link.startswith(("data:image/", "#")) for link in outline.links)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html
    assert str(escape("</section><script>")) in html


def test_the_page_matches_the_files(tmp_path: Path) -> None:
    html = build_page(write_set(tmp_path / "set", drafts())).read_text()
    assert "2 of 3 questions have a chain of thought to learn from" in html
    assert "Seer-72B describes the pictures; Thinker, which sees none" in html
    assert "No step saw the answer." in html
    for word in ("another answer", "reasoning@1:abcd1234", "bridged description", "2,929", "Alternatively", "row-3"):
        assert word in html
    assert "sample row-3: an image cannot be read" in html
    assert "no evidence" not in html, "these teachers are no ground truth"


def test_changes_by_polish_are_marked() -> None:
    chain = drafts()[0].chains[0]
    assert marked(chain) == (
        "The <del>description</del><ins>image</ins> <del>says</del><ins>shows</ins> 3. Wait. So 3."
    )
    assert marked(Chain("<b>", "3")) == "&lt;b&gt;"


def test_the_filter_chart_descends_step_by_step() -> None:
    reasons = [("length", "too short", 2), ("answer", "another answer", 5), ("length", "too long", 1)]
    found = {"filters": [{"filter": f, "reason": why, "n": n, "examples": []} for f, why, n in reasons]}
    rows = filter_rows(found, kept=10, config={"filters": ["answer", "format", "length"]})
    assert [(row.name, row.before, row.dropped) for row in rows] == [
        ("answer", 18, 5),
        ("format", 13, 0),
        ("length", 13, 3),
    ]
    assert [row.name for row in filter_rows(found, 10, {})][:2] == ["answer", "format"], "all, where none are named"


def test_the_report_imports_nothing_that_makes_what_it_shows() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(report.__file__).parent.glob("*.py")]
    assert len(sources) > 5
    assert not any(f"saccade.{package}" in text for text in sources for package in ("coldstart", "training", "studies"))


def test_an_empty_set_has_a_page(tmp_path: Path) -> None:
    assert "0 of 0 questions" in build_page(write_set(tmp_path / "set", [])).read_text()


def test_a_directory_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no summary.json and no statistics.json and no drafts.jsonl"):
        build_page(tmp_path)


def test_histogram_outlines_contain_each_bar_at_its_share() -> None:
    svg = histogram([Shape("a", ((1, 2, 3), (2, 4, 1)), 0), Shape("b", ((2, 4, 5),), 1)], "t")
    points = re.findall(r'points="([^"]+)"', svg)
    assert len(points) == 2 and all(len(one.split()) == 2 * n + 2 for one, n in zip(points, (2, 1), strict=True))
    tops = [min(float(p.split(",")[1]) for p in one.split()) for one in points]
    assert tops[1] < tops[0], "all of b lies in one bar"


def test_a_set_of_others_shows_no_file_outside_it_but_one_whose_hash_it_knows(tmp_path: Path) -> None:
    outside = tmp_path / "mine.png"
    Image.new("RGB", (30, 30), (1, 2, 3)).save(outside)
    (tmp_path / "secret").write_text("hf_SECRET: [")
    known = hashlib.sha256(outside.read_bytes()).hexdigest()
    first, second, third = drafts()
    one = [replace(first, images=(str(outside), "../mine.png"), image_shas=(known, "guess")), second, third]
    folder = write_set(tmp_path / "set", one)
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").symlink_to(tmp_path / "secret")
    page = build_page(folder).read_text()
    assert "hf_SECRET" not in page and "config.yaml is a link to something else" in page
    assert "sample row-1: an image cannot be read" in page and page.count("<image ") == 2


@pytest.mark.parametrize("config", ["a: [", "a: &a [*a]", "5"])
def test_a_set_with_any_recipe_has_a_page_without_control_characters(tmp_path: Path, config: str) -> None:
    folder = write_set(tmp_path, [replace(drafts()[0], question="\x1b[2J \u202egnp.exe")])
    (folder / "config.yaml").write_text(config)
    page = build_page(folder).read_text()
    assert "\x1b" not in page and "\u202e" not in page and "\ufffdgnp.exe" in page
