"""Every filter of the cold start: total on any text, what it must reject, what it must accept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from property_search import examples
from pydantic import ValidationError

from saccade.coldstart.filter_options import FilterOptions
from saccade.coldstart.filters import FILTERS, FilterContext, build_checks
from saccade.runs.drafts import FILTER_NAMES, Chain, Draft
from saccade.world import World, WorldConfig

THOUGHT = "The image shows three red balls on a shelf. I count them: one, two, three. So the answer is 3."


def draft(**changes: object) -> Draft:
    base = Draft(
        "d1", "How many red balls are there?", 3, "count", "set", ("a.png",), ("sha-a",), description="A shelf."
    )
    return replace(base, **changes)


def chain(text: str = THOUGHT, **changes: object) -> Chain:
    return replace(Chain(text, "3", right=True), **changes)


def reason(name: str, one: Draft, its: Chain, **options: object) -> str | None:
    found = build_checks([name], FilterOptions.model_validate({name: options} if options else {}))[name](one, its)
    assert found is None or found.filter == name
    return None if found is None else found.reason


def test_a_good_chain_passes_every_filter() -> None:
    for name, check in build_checks().items():
        assert check(draft(), chain()) is None, name


CHOICE = draft(question="Which?", task="choice", answer="B", meta={"options": ["red", "blue", "green"]})
YES = draft(question="Is it open?", task="yes_no", answer="yes")
LONG = " ".join(f"Then step {i} follows from what stood there before it." for i in range(40))

CAUGHT = [
    ("answer", draft(), chain(right=False, answer="4"), "another answer"),
    ("answer", draft(), chain(right=False, answer=None), "no answer"),
    ("answer", draft(), chain(right=None), "cannot be graded"),
    ("format", draft(), chain(finish_reason="length"), "cut off"),
    ("format", draft(), chain(" \n"), "empty think"),
    ("format", draft(), chain("a </think> b"), "more than one </think>"),
    ("format", draft(), chain(answer=None), "no answer"),
    ("format", draft(), chain("It is <|im_end|> seven."), "a token of models"),
    ("format", draft(), chain(answer="7<|image_pad|>"), "a token of models"),
    ("format", draft(), chain("Seven, as <image> shows."), "a token of models"),
    ("format", draft(), chain("Seven.\x1b[2J"), "control characters"),
    ("leakage", draft(description="Three balls. The answer is 3."), chain(), "the description states the answer"),
    ("leakage", draft(description="Three balls. Answer: 3"), chain(), "the description states the answer"),
    ("leakage", draft(description="Option B is correct here."), chain(), "the description states the answer"),
    ("leakage", draft(description="So \\boxed{3}."), chain(), "the description states the answer"),
    ("leakage", draft(), chain("I see 4, but the answer given is 3."), "the thought speaks of a given answer"),
    ("leakage", draft(), chain("That matches the provided answer."), "the thought speaks of a given answer"),
    ("leakage", draft(), chain("The answer is supposed to be 3."), "the thought speaks of a given answer"),
    ("leakage", draft(), chain("The ground truth says 3."), "the thought speaks of a given answer"),
    ("leakage", draft(), chain("I was told the correct answer, 3."), "the thought speaks of a given answer"),
    ("references", draft(), chain("The wording of the description is odd."), "speaks of a description"),
    ("references", draft(), chain("I cannot see the image."), "speaks of a description"),
    ("contradiction", draft(), chain("So the answer is 4."), "the thought ends in another answer"),
    ("contradiction", draft(), chain("The answer is 4. Thus the answer is 3."), "two final answers"),
    ("contradiction", draft(), chain("We get \\boxed{5}. Thus \\boxed{3}."), "two final answers"),
    ("contradiction", CHOICE, chain("The answer is C.", answer="B"), "the thought ends in another answer"),
    ("contradiction", CHOICE, chain("The answer is green.", answer="B"), "the thought ends in another answer"),
    ("contradiction", YES, chain("So the answer is no.", answer="yes"), "the thought ends in another answer"),
    ("repetition", draft(), chain("I count again. " * 6), "repeated sentence"),
    ("repetition", draft(), chain("one two three four five six seven " * 9), "mostly repeated n-grams"),
    (
        "language",
        draft(),
        chain("The balls are red. \u6240\u4ee5\u7b54\u6848\u662f\u4e09\u4e2a\u7403"),
        "letters of another script",
    ),
    ("language", draft(), chain("\u041e\u0442\u0432\u0435\u0442 \u0442\u0440\u0438"), "letters of another script"),
    ("length", draft(), chain("Three."), "too short"),
    ("length", draft(), chain("word " * 9000), "too long"),
]
PASSED = [
    (
        "leakage",
        draft(description="The sign says 3 and the answer sheet is blank."),
        chain("Given 3 balls, I answer 3."),
    ),
    (
        "leakage",
        draft(description="Values given: 3, 5. A question mark stands at the top."),
        chain("I check my answer."),
    ),
    ("leakage", draft(), chain("So the answer is 3. The result given by the formula is the same.")),
    ("references", draft(), chain("The image shows it. The problem description says so.")),
    ("contradiction", draft(), chain("The answer is 4. Wait, one is blue. The answer is 3.")),
    ("contradiction", draft(), chain("The answer is what stands on the shelf in front of us.")),
    ("contradiction", draft(), chain("So the answer is 3.0, because each counts once.")),
    ("contradiction", draft(), chain("Thus the answer is **3**. So \\boxed{3}.")),
    ("contradiction", CHOICE, chain("The answer is blue.", answer="B")),
    ("contradiction", CHOICE, chain("The answer is (B).", answer="B")),
    ("contradiction", YES, chain("The answer is yes.", answer="Yes")),
    ("repetition", draft(), chain(LONG)),
    ("language", draft(), chain("The angle \u03b1 is 40\u00b0, so \u03b2 = 50\u00b0 and the r\u00e9sum\u00e9 holds.")),
    ("language", draft(), chain("1 + 1 = 2")),
    ("length", draft(), chain("word " * 8)),
]


@pytest.mark.parametrize(("name", "one", "its", "why"), CAUGHT)
def test_a_planted_fault_is_caught_and_named(name: str, one: Draft, its: Chain, why: str) -> None:
    assert reason(name, one, its) == why


@pytest.mark.parametrize(("name", "one", "its"), PASSED)
def test_an_apparent_fault_passes(name: str, one: Draft, its: Chain) -> None:
    assert reason(name, one, its) is None


def test_every_filter_has_a_planted_fault() -> None:
    here = {name for name, *_ in CAUGHT}
    assert here | {"ground_truth", "evaluation_sets", "near_duplicate"} == set(FILTERS)


def test_the_page_knows_every_filter_in_its_order() -> None:
    assert tuple(FILTERS) == FILTER_NAMES


ANY = st.text(max_size=200) | st.from_regex(
    r"(the answer is |wait |\\boxed\{|</think>|\d+|[.!\n ]){0,30}", fullmatch=True
)


@given(ANY, ANY, st.none() | ANY, ANY, st.sampled_from([True, False, None]))
@settings(max_examples=examples(200))
def test_every_filter_accepts_any_text(
    text: str, question: str, answer: str | None, description: str, right: bool
) -> None:
    one = draft(question=question, description=description, meta={"options": [text[:9], question[:9]]})
    for name, check in CHECKS.items():
        for its in (chain(text, answer=answer, right=right), chain(text, answer=answer, polished=question)):
            found = check(one, its)
            assert found is None or (found.filter == name and 0 < len(found.reason) < 60 and len(found.detail) < 400)


CHECKS = build_checks()


@given(st.integers(0, 3), st.lists(st.sampled_from(["The answer is 3.", "Wait.", "I count.", "So 3."]), max_size=5))
def test_a_chain_that_always_says_its_answer_never_contradicts_itself(k: int, parts: list[str]) -> None:
    assert reason("contradiction", draft(), chain(" ".join(parts * (k + 1)))) is None


# -------------------------------------------------------------------------------------------- checks beyond the text


def test_the_true_scene_exposes_a_question_about_another_picture(tmp_path: Path) -> None:
    world = WorldConfig()
    samples = [World(world).item(0, i, "count", "test").sample for i in range(2)]
    for i, sample in enumerate(samples):
        sample.images[0].save(tmp_path / f"{i}.png")
    sample = samples[0]
    one = Draft("w", sample.question, sample.answer, "count", "w", ("0.png",), ("x",), meta=sample.meta)
    check = build_checks(["ground_truth"], context=FilterContext(tmp_path, {"w": world}))["ground_truth"]
    assert check(one, chain()) is None
    faults = {
        "another picture": {"images": ("1.png",)},
        "another question": {"question": "How many?"},
        "another gold": {"answer": 77},
        "a picture that cannot be read": {"images": ("no.png",)},
        "no such scene": {"task": "nonsense"},
    }
    assert {why: check(replace(one, **change), chain()).reason for why, change in faults.items()} == {
        k: k for k in faults
    }
    assert check(replace(one, source="elsewhere", images=("1.png",)), chain()) is None, "nothing true is known of it"


def picture(seed: int) -> Image.Image:
    greys = Random(seed)
    small = Image.new("L", (8, 6))
    small.putdata([greys.randrange(256) for _ in range(48)])
    small = small.convert("RGB")
    return small.resize((240, 180), Image.Resampling.BICUBIC)


def test_questions_and_pictures_of_an_evaluation_set_are_rejected(tmp_path: Path) -> None:
    shown, other = picture(0), picture(1)
    shown.save(tmp_path / "shown.png")
    other.save(tmp_path / "other.png")
    shown.resize((120, 90)).save(tmp_path / "copy.jpg", quality=80)
    row = {"id": "e", "images": ["shown.png"], "task": "count", "question": "How  many BIRDS?", "answer": 2, "meta": {}}
    (tmp_path / "bench.jsonl").write_text(json.dumps(row) + "\n")
    options = {
        "evaluation_sets": {"sets": [{"source": "saccade", "path": str(tmp_path / "bench.jsonl"), "name": "birds"}]}
    }

    def found(one: Draft, **change: object) -> str | None:
        changed = {"evaluation_sets": options["evaluation_sets"] | change}
        context = FilterContext(tmp_path)
        check = build_checks(["evaluation_sets"], FilterOptions.model_validate(changed), context)["evaluation_sets"]
        rejection = check(one, chain())
        return None if rejection is None else rejection.reason

    assert found(draft(question="how many birds?", images=("other.png",))) == "a question of birds"
    assert found(draft(images=("copy.jpg",))) == "a picture of birds"
    assert found(draft(images=("copy.jpg",)), by=["question"]) is None
    assert found(draft(question="How many birds?", images=("other.png",)), by=["picture"]) is None
    assert found(draft(images=("other.png",))) is None


def test_near_duplicates_are_in_the_set_once() -> None:
    check = build_checks(["near_duplicate"])["near_duplicate"]
    text = " ".join(f"word{i}" for i in range(300))
    assert check(draft(), chain(text)) is None
    assert check(draft(id="d2"), chain(text.replace("word7 ", "word seven "))).detail == "d2 like d1"
    assert check(draft(id="d3"), chain(" ".join(f"other{i}" for i in range(300)))) is None
    assert check(draft(id="d4", image_shas=("sha-b",)), chain(text)) is None, "the same words on another picture"


def test_across_pictures_the_same_words_are_a_duplicate_too() -> None:
    options = FilterOptions.model_validate({"near_duplicate": {"across_pictures": True}})
    check = build_checks(["near_duplicate"], options)["near_duplicate"]
    assert check(draft(), chain(LONG)) is None
    assert check(draft(id="d4", image_shas=("sha-b",)), chain(LONG)).reason == "near duplicate of a chain in the set"


# ------------------------------------------------------------------------------------------------------------- options


def test_options_change_what_is_rejected() -> None:
    assert reason("length", draft(), chain("Three."), least_words=1) is None
    assert reason("repetition", draft(), chain("I count again. " * 6), sentence_times=7, most=1.0) is None
    assert reason("repetition", draft(), chain("a b a b a b a b"), ngram=2, most=0.2) == "mostly repeated n-grams"
    assert reason("language", draft(), chain("Three red balls."), script="han") == "letters of another script"
    assert reason("language", draft(), chain("Three \u4e09\u4e2a\u7403 balls"), least=0.2) is None
    assert (
        reason("leakage", draft(), chain("As the teacher hinted, 3."), phrases=["teacher hinted"])
        == "a phrase of the recipe"
    )
    taken_back = chain("The answer is 4. Oops, one is blue. The answer is 3.")
    assert reason("contradiction", draft(), taken_back) == "two final answers"
    assert reason("contradiction", draft(), taken_back, doubts=["oops"]) is None


def test_unknown_filters_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="no filter 'lenght'; did you mean 'length'"):
        build_checks(["lenght"])
    with pytest.raises(ValidationError, match="least_word"):
        FilterOptions.model_validate({"length": {"least_word": 3}})
    with pytest.raises(ValueError, match="least_words 9 is above most_words 2"):
        FilterOptions.model_validate({"length": {"least_words": 9, "most_words": 2}})
    with pytest.raises(ValueError, match="'length' is not among the filters"):
        build_checks(["format"], FilterOptions.model_validate({"length": {"least_words": 3}}))
