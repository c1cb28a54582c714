"""What the first screen shows and says, from the numbers of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade.report.browser import group_data
from saccade.report.formulas import formulas_of
from saccade.report.hero import hero
from saccade.report.pictures import Pictures
from saccade.report.several import differing, names_of
from saccade.runs.files import read_run
from saccade.runs.token_ends import token_ends
from tests.report_runs import write_jsonl, write_run

PICTURES = Pictures({"a": {"src": "data:image/png;base64,", "w": 10, "h": 10}})


def item(name: str, *right: bool, image: bool = True, box: bool = False) -> dict:
    replies = [{"who": f"step {i}", "t": f"reply {i}", "right": ok, "b": []} for i, ok in enumerate(right)]
    found = {"id": name, "q": name, "gold": "3", "options": [], "img": ["a"] if image else [], "bi": 0}
    return found | {"gb": [[1, 1, 5, 5]] if box else [], "r": replies}


def test_the_picture_of_the_first_screen_is_a_question_that_changed_as_most_did() -> None:
    better, worse = [item("b", False, True), item("same", True, True)], [item("w", True, False), item("v", True, False)]
    found = hero(better, PICTURES)
    assert found is not None and found.question == "b" and "1 turned right and 0 turned wrong" in found.words
    assert [one.right for one in found.shown] == [False, True]
    found = hero([*better, *worse], PICTURES)
    assert found is not None and found.question == "w"


def test_a_question_without_picture_is_never_on_the_first_screen_and_boxes_come_first() -> None:
    assert hero([item("x", False, True, image=False)], PICTURES) is None and hero([], PICTURES) is None
    boxed = item("boxed", False, True, box=True)
    boxed["r"][1]["b"] = [[1, 1, 5, 5]]
    found = hero([item("plain", False, True), boxed], PICTURES)
    assert found is not None and found.question == "boxed"
    assert found.picture is None and all(one.picture for one in found.shown)


def test_two_runs_are_named_by_what_tells_them_apart() -> None:
    assert names_of([Path("/x/a/rl"), Path("/x/b/rl")]) == ["a/rl", "b/rl"]
    assert names_of([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    with pytest.raises(ValueError, match="the same run twice"):
        names_of([Path("/x/a"), Path("/x/b/../a")])


def test_recipes_differ_by_their_dotted_keys() -> None:
    one = {"seed": 0, "optim": {"lr": 1e-4}, "stages": [{"name": "a"}], "same": 1}
    other = {"seed": 0, "optim": {"lr": 1e-5}, "stages": [{"name": "a"}, {"name": "b"}], "same": 1}
    assert dict(differing([one, other])) == {"optim.lr": ("0.0001", "1e-05"), "stages.1.name": ("(not set)", "b")}


def test_too_many_groups_are_chosen_from_every_stage_and_the_choice_is_stated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=150)
    rows = list(read_run(run).rollouts())
    write_jsonl(
        run / "rollouts.jsonl", [row | {"group_id": f"{row['group_id']}-{i}"} for i in range(9) for row in rows]
    )
    whole = group_data(read_run(run), Pictures())
    assert len(whole.data) == 108 and whole.choice == "All 108 groups of the run."
    some = group_data(read_run(run), Pictures(), budget=120_000)
    assert 20 < len(some.data) < 60 and some.choice.startswith(f"{len(some.data)} of 108 groups: the first, last, best")
    assert {group["stage"] for group in some.data} == {group["stage"] for group in whole.data}
    assert {0, 149} <= {group["step"] for group in some.data}


def test_a_prompt_that_earned_more_before_is_marked_as_worse_since(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=60)
    rows = list(read_run(run).rollouts())
    for row in rows:
        if row["group_id"] in ("0-0", "59-0"):
            row |= {"sample_id": "again", "reward": float(row["step"] == 0)}
    write_jsonl(run / "rollouts.jsonl", rows)
    marked = {group["id"] for group in group_data(read_run(run), Pictures()).data if group["worse"]}
    assert marked == {"0-0"}


def test_line_breaks_in_a_formula_open_no_other() -> None:
    texts = [r"So \[ x = 1 \\[4pt] y = 2 \] and \(a \\(b)\), \\[4pt] \\\(c\), \( open", r"\(" * 20_000]
    assert list(formulas_of(texts, [])) == [r"x = 1 \\[4pt] y = 2", r"a \\(b)", "c"]


def test_formulas_become_trees_of_known_elements_only() -> None:
    pytest.importorskip("latex2mathml")
    warnings: list[str] = []
    found = formulas_of([r"$\frac{a}{b}$ \(x^2\) costs $5 and $\href{javascript:x}{y}$ $" + "x" * 500 + "$"], warnings)
    assert {r"\frac{a}{b}", "x^2"} <= found.keys() and warnings == []
    text = str(found)
    assert "mfrac" in text and "msup" in text and "href" not in str([tree[1] for tree in found.values()])
    assert all(len(body) <= 400 for body in found)


WORDS = {1: "<think>", 2: " a", 3: "\ufffd", 4: "b", 5: "é"}


def decode(ids: list[int]) -> str:
    """As a tokenizer of bytes: two tokens 3 are one character."""
    return "".join(WORDS[i] for i in ids).replace("\ufffd\ufffd", "é")


@pytest.mark.parametrize(
    ("ids", "opened", "ends"),
    [([1, 2, 4], "", [7, 9, 10]), ([2, 4], "<think>", [9, 10]), ([2, 3, 3, 4], "", [2, 2, 3, 4]), ([], "", [])],
)
def test_token_ends_are_where_each_token_ends_in_the_text(ids: list[int], opened: str, ends: list[int]) -> None:
    assert token_ends(opened + decode(ids), ids, decode) == ends  # type: ignore[arg-type]  # a list is a sequence


def test_tokens_that_are_not_the_text_have_no_ends() -> None:
    assert token_ends("other words", [1, 2, 4], decode) is None  # type: ignore[arg-type]  # as above
