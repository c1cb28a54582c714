"""Studies: the verdict is a function of intervals over seeds and of what was fixed before the run."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from benchmarks.studies import PAGES
from saccade.cli import main
from saccade.config import ConfigError, packaged
from saccade.evaluation.items import ItemResult, append_items
from saccade.evaluation.results import write_json
from saccade.report import build_report
from saccade.report.study_page import over_training, study_text
from saccade.studies import arms
from saccade.studies.measures import MEASURES, mean_measure
from saccade.studies.study import check_arms, conclude, fingerprint, plan, reserve
from saccade.studies.study_recipe import StudyRecipe, load_study, needs, part_of, speed_of
from saccade.studies.verdict import decide, over_seeds, together
from saccade.training.config import RLRecipe
from tests.benchmark_files import details_of

ROOT = Path(__file__).parents[1]
RECORDED = sorted((ROOT / "docs" / "studies").glob("*.json"))
STUDIES = [name for name in packaged() if name.startswith("studies/")]


def reply(i: int, right: bool, tokens: int = 10, **more) -> ItemResult:
    text = f"<think>{more.pop('think', 'scan a1 1')}</think><answer>{more.pop('answer', '1')}</answer>"
    item = ItemResult(
        "m", None, "greedy", f"q{i}", "count", "test", (right,), ("number",), ("1",), (tokens,), (False,),
        ("enumerate",), (1,), text, "How many?", 1, details=details_of(right),
    )  # fmt: skip
    return replace(item, **more)


def test_the_interval_over_seeds_is_that_of_the_t_test():
    values = [0.23, 0.175, 0.175]
    found, reference = over_seeds(values), ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert found.mean == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("values", "above", "verdict"),
    [
        ((0.20, 0.21, 0.19), 0.05, "reproduced"),
        ((0.01, 0.012, 0.008), 0.05, "not_reproduced"),
        ((-0.2, -0.21, -0.19), 0.05, "not_reproduced"),
        ((0.30, 0.02, 0.10), 0.05, "inconclusive"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_of_the_threshold(values, above, verdict):
    assert decide(values, above).verdict == verdict


def test_the_seeds_that_are_needed_would_decide_if_mean_and_spread_stayed():
    values = [0.30, 0.02, 0.10]
    needed = decide(values, 0.05).seeds_needed
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    scaled = np.array([-1.0, 1.0] * needed)[:needed]
    scaled = mean + (scaled - scaled.mean()) / scaled.std(ddof=1) * deviation
    assert decide(list(scaled), 0.05).verdict == "reproduced"
    assert decide(list(scaled[: len(values)]), 0.05).verdict == "inconclusive"


def test_more_seeds_are_not_promised_where_the_mean_is_at_the_threshold():
    assert decide([0.0, 0.1, -0.1], 0.0).seeds_needed is None


def test_a_study_is_reproduced_only_when_every_primary_hypothesis_is():
    assert together(["reproduced", "reproduced"]) == "reproduced"
    assert together(["reproduced", "inconclusive"]) == "inconclusive"
    assert together(["inconclusive", "not_reproduced", "reproduced"]) == "not_reproduced"


def test_measures_are_those_of_hand_made_items():
    box, other = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)
    gold = [{"bbox_2d": list(box), "label": "red star"}]
    both = '[{"bbox_2d": [0, 0, 10, 10], "label": "Red star"}, {"bbox_2d": [20, 20, 30, 30], "label": "red star"}]'
    found = reply(0, False, boxes=(box, other), gold_boxes=(box,), gold=gold, answer=both)
    absent = reply(1, False, gold=[], answer='[{"bbox_2d": [0, 0, 10, 10], "label": "x"}]')
    nothing = reply(2, True, gold=[], answer="[]")
    assert MEASURES["precision"](found) == 0.5
    assert MEASURES["recall"](found) == MEASURES["average_precision"](found) == 1.0
    assert MEASURES["excess_boxes"](found) == 1.0
    assert [MEASURES["false_presence"](one) for one in (found, absent, nothing)] == [None, 1.0, 0.0]
    assert [MEASURES["precision"](one) for one in (absent, nothing)] == [0.0, None]
    assert [MEASURES["excess_boxes"](one) for one in (absent, nothing)] == [1.0, 0.0]
    wrong_label = replace(found, gold=[{"bbox_2d": list(box), "label": "blue star"}])
    assert MEASURES["recall"](wrong_label) == 0.0


def test_the_length_of_wrong_replies_is_compared_within_a_question():
    four = replace(reply(0, True), verdicts=(True, False, False, True), tokens=(10, 30, 20, 14), truncated=(False,) * 4)
    assert MEASURES["excess_of_wrong"](four) == pytest.approx(25 - 12)
    assert MEASURES["excess_of_wrong"](reply(0, True)) is None
    assert MEASURES["wrong_tokens"](reply(0, True)) is None
    assert mean_measure("wrong_tokens", [reply(0, True), reply(1, False, 30)]) == 30
    assert MEASURES["reflections"](reply(0, True, think="check a1. Wait, let me check. Hmm, again")) == 3.0
    assert mean_measure("wrong_tokens", [reply(0, True)]) is None
    cut = replace(four, truncated=(False, True, False, False))
    assert MEASURES["excess_of_wrong"](cut) == pytest.approx(20 - 12)  # wrong because it is long


@pytest.mark.parametrize("name", STUDIES)
def test_every_packaged_study_is_valid_down_to_the_recipes_of_its_arms(name):
    study = load_study(name)
    check_arms(study)
    names = {job.name for job in plan(study, Path("out"), study.seeds)}
    assert all(need in names for job in plan(study, Path("out"), study.seeds) for need in job.needs)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hypotheses.0.measure=lenght", "hypotheses.0.measure"),
        ("hypotheses.0.contrast={home/other: 1}", "home/other"),
        ("arms.cold.start=hard", "expected arms above it"),
        ("evaluations.home.arms=[nobody]", "nobody"),
        ("development_seeds=[1,9]", "seeds of the recorded run"),
        ("arms.hard.match=nobody", "nobody"),
        ("arms.hard.match=cold", "expected an RL arm that starts from 'cold'"),
        ("arms.hard.match=sum", "expected arms above it"),
        ("arms.sum.match=hard", "got num_steps and match"),
        ("seeds=[1,1,2]", "expected each seed once"),
        ("also=[lenght]", "lenght"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_with_its_key(override, message):
    with pytest.raises(ConfigError, match=message):
        load_study("hard_reward", [override])


def test_an_invalid_recipe_of_an_arm_is_refused_before_any_work_with_the_arms_name():
    with pytest.raises(ValueError, match=r"arms\.hard\.recipe.*lr"):
        check_arms(load_study("hard_reward", ["shared.rl.optim.lr=-1"]))
    with pytest.raises(ValueError, match=r"evaluations\.home\.recipe.*n"):
        check_arms(load_study("hard_reward", ["evaluations.home.recipe.world.n=0"]))


ODD_VALUES = [(key, value) for key in ("data", "model", "stages", "world") for value in ("null", "x", "[null]", "[x]")]
ODD_VALUES += [
    ("num_steps", "x"),
    ("data", "[{source: world, task: count, seed: x}]"),
    ("data", "{a: 1}"),
    ("world", "5"),
]


@pytest.mark.parametrize(("key", "value"), ODD_VALUES)
def test_a_value_of_another_kind_in_a_recipe_of_an_arm_is_refused_in_a_line(key, value):
    part = "evaluations.home" if key == "world" else "arms.hard"
    with pytest.raises(ValueError, match=rf"{part}\.recipe|hard|home") as error:
        check_arms(load_study("hard_reward", [f"{part}.recipe.{key}={value}"]))
    assert len(str(error.value)) < 2_000


def test_seeds_share_no_questions_and_arms_read_their_own_seeds_files():
    study = load_study("bridged_captions")
    assert needs(study, "bridged_sft") == ("bridged_set",)
    one, two = (
        arms.arm_recipe(arms.RLRecipe, study, "bridged", arms.Places(Path(f"s{s}"), "d"), s, None) for s in (1, 2)
    )
    assert {entry.seed for entry in one.data}.isdisjoint({entry.seed for entry in two.data})
    assert one.model.path == "s1/bridged_sft/checkpoints/last"


def test_cost_and_processes_are_no_part_of_what_was_fixed():
    study = load_study("hard_reward")
    same = load_study("hard_reward", ["cpu_minutes_per_seed=99", "parallel=1"])
    other = load_study("hard_reward", ["hypotheses.0.above=0.0"])
    more = load_study("hard_reward", ["seeds=[1,2,3,4]"])
    assert fingerprint(study) == fingerprint(same) != fingerprint(other)
    assert fingerprint(study) != fingerprint(more)
    assert fingerprint(study, seeds=False) == fingerprint(more, seeds=False)  # its first seeds can be kept


def finished(folder: Path, study: StudyRecipe, gain: dict[int, float], n: int = 40) -> dict:
    """Items of every cell, with the arm 'hard' right more often by `gain` of each seed; the document of the study."""
    for seed in study.seeds:
        for name in study.evaluations["home"].arms:
            right = round(n * (0.4 + (gain[seed] if name == "hard" else 0.0)))
            path = folder / f"seed-{seed}" / "eval" / "home" / name / "items.jsonl"
            append_items(path, [reply(i, i < right, 20 + i) for i in range(n)])
    jobs = {job.name: {"cpu_s": 60.0} for job in plan(study, folder, study.seeds)}
    document = conclude(study, folder, study.seeds, jobs)
    (folder / "study.json").write_text(json.dumps(document))
    return document


def test_the_document_of_a_study_holds_verdict_values_cost_and_a_page(tmp_path):
    study = load_study("hard_reward")
    document = finished(tmp_path, study, {1: 0.2, 2: 0.225, 3: 0.2})
    (row, beside) = document["hypotheses"]
    assert row["values"] == pytest.approx({"1": 0.2, "2": 0.225, "3": 0.2})
    assert document["verdict"] == row["verdict"] == "reproduced"
    assert document["sentence"] == study.verdict["reproduced"]
    assert document["recorded"]
    assert beside["verdict"] == "not_reproduced"  # no reply is truncated: below the threshold, but not primary
    assert document["cpu_minutes"] == len(plan(study, tmp_path, study.seeds))
    page = build_report(tmp_path).read_text()
    assert study.verdict["reproduced"] in page
    assert study.hypotheses[0].name in page
    assert "+20.8 points" in page
    assert "+20.8 points" in study_text(document)


def test_an_undecided_study_says_what_more_seeds_would_cost(tmp_path):
    document = finished(tmp_path, load_study("hard_reward"), {1: 0.2, 2: 0.0, 3: 0.1})
    row = document["hypotheses"][0]
    assert document["verdict"] == "inconclusive"
    spent = document["cpu_minutes"] / 60 / 3
    assert row["more_cpu_hours"] == pytest.approx((row["seeds_needed"] - 3) * spent, abs=0.01)
    assert "more CPU hours" in study_text(document)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_verdict_is_that_of_the_packaged_recipe(path):
    """Thresholds, seeds and sentences are what they were when the study was run."""
    document, study = json.loads(path.read_text()), load_study(path.stem)
    assert document["recipe_sha256"] == fingerprint(study)
    assert document["recorded"]
    for row, hypothesis in zip(document["hypotheses"], study.hypotheses, strict=True):
        values = list(row["values"].values())
        assert row["verdict"] == decide(values, hypothesis.above).verdict
    primary = [row["verdict"] for row in document["hypotheses"] if row["primary"]]
    assert document["verdict"] == together(primary)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_every_recorded_verdict(page):
    text = page.read_text()
    assert text.partition("<!-- verdicts -->\n")[2].partition("<!-- /verdicts -->")[0].strip() == PAGES[page]()


def said(capsys, *arguments: str) -> tuple[int, str]:
    """Exit status and what a command wrote."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out + err


def test_the_list_of_studies_shows_title_and_cost_and_an_unknown_one_is_refused(capsys):
    code, shown = said(capsys, "study", "--list")
    assert code == 0
    assert all(load_study(name).title in shown for name in STUDIES)
    assert shown.count("CPU minutes") == len(STUDIES)
    code, shown = said(capsys, "study", "--list", "--json")
    assert {one["title"] for one in json.loads(shown)["studies"]} == {load_study(name).title for name in STUDIES}
    code, shown = said(capsys, "study", "box_inflatoin")
    assert (code, "did you mean" in shown) == (2, True)
    code, shown = said(capsys, "study")
    assert (code, "--list" in shown) == (2, True)


def test_a_hypothesis_about_items_that_no_evaluation_gives_is_refused_before_any_work():
    for where in ("{decoding: greedy}", "{split: ood_style}", "{task: count}"):
        with pytest.raises(ValueError, match=r"hypotheses\.0\.where"):
            check_arms(load_study("hard_reward", [f"hypotheses.0.where={where}"]))


def test_the_splits_of_data_sets_are_their_names_as_in_the_items():
    check_arms(load_study("blood_cells"))
    number = next(n for n, one in enumerate(load_study("blood_cells").hypotheses) if "split" in one.where)
    with pytest.raises(ValueError, match=rf"hypotheses\.{number}\.where\.split: got 'val'; .* refer, count, more_than"):
        check_arms(load_study("blood_cells", [f"hypotheses.{number}.where.split=val"]))


def test_every_arm_of_the_blood_cells_is_evaluated_at_the_size_it_was_trained_at():
    study, places = load_study("blood_cells"), arms.Places(Path("arms"), "data")
    limit = study.shared["sft"]["model"]["max_visual_tokens"]
    for name, measured in study.evaluations.items():
        found = [arms.evaluation_recipe(study, name, arm, places, 1).model for arm in measured.arms]
        assert {one.max_visual_tokens for one in found} == {limit}
        assert len({one.path for one in found}) == len(found)


def test_a_measure_that_applies_to_no_reply_decides_nothing_and_loses_nothing(tmp_path):
    study = load_study("hard_reward", ["hypotheses.0.measure=precision"])
    document = finished(tmp_path, study, dict.fromkeys(study.seeds, 0.2))
    assert document["verdict"] == "inconclusive"
    assert set(document["hypotheses"][0]["values"].values()) == {None}
    assert not document["recorded"]  # the recipe is not the packaged one
    assert "applies to no reply" in build_report(tmp_path).read_text()


def test_seeds_are_added_to_a_study_and_never_dropped(tmp_path):
    study = load_study("hard_reward")
    document = finished(tmp_path, study, dict.fromkeys(study.seeds, 0.2))
    assert reserve(study, tmp_path, study.seeds) == []
    more = load_study("hard_reward", ["seeds=[1,2,3,4]"])
    assert reserve(more, tmp_path, more.seeds) == document["seeds"]
    with pytest.raises(ValueError, match="can be added, not dropped"):
        reserve(study, tmp_path, [1, 2])
    with pytest.raises(ValueError, match="another study"):
        reserve(load_study("hard_reward", ["shared.rl.num_steps=5"]), tmp_path, study.seeds)
    for damaged in ("", "[1]", '{"seeds": 3}', '{"seeds"', '{"seeds": [[1]]}', "[" * 200_000, '{"earlier_seeds": "x"}'):
        (tmp_path / "study.json").write_text(damaged)
        with pytest.raises(ValueError, match="expected the results"):
            reserve(study, tmp_path, study.seeds)


def test_a_finished_evaluation_that_lost_its_items_is_named(tmp_path):
    study = load_study("hard_reward")
    finished(tmp_path, study, dict.fromkeys(study.seeds, 0.2))
    (tmp_path / "seed-2" / "eval" / "home" / "hard" / "items.jsonl").unlink()
    with pytest.raises(ValueError, match=r"seed-2/eval/home/hard: .*remove the folder"):
        conclude(study, tmp_path, study.seeds, {})


def test_equal_compute_is_counted_from_the_same_start():
    study = load_study("rl_generalizes")
    assert speed_of(study, "sft_compute") == "sft_data"
    assert study.arms["sft_compute"].start == study.arms["rl"].start
    assert needs(study, "sft_compute") == ("rl", "sft_data")


def test_parts_of_a_training_are_evaluated_at_the_checkpoints_that_its_run_keeps(tmp_path):
    study = load_study("rl_generalizes")
    places = arms.Places(tmp_path, "data")
    assert [part_of(name) for name in ("rl", "rl@25%")] == [("rl", 100), ("rl", 25)]
    for steps in (30, 100, 238):
        write_json(tmp_path / "rl" / "job.json", {"steps": steps, "cpu_s": 1.0})
        saves = arms.arm_recipe(RLRecipe, study, "rl", places, 1, steps).checkpoint
        assert saves.keep > len(range(saves.every, steps, saves.every))
        for percent in (25, 50, 75):
            step = int(arms.model_path(study, f"rl@{percent}%", tmp_path).rpartition("step-")[2])
            assert step % saves.every == 0
            assert step == pytest.approx(steps * percent / 100, abs=2)
    assert arms.arm_recipe(RLRecipe, load_study("presence"), "ap", places, 1, 100).checkpoint.every == 100


def test_a_part_of_an_arm_whose_steps_are_not_known_is_refused():
    given = load_study("ptst").model_dump(mode="json")
    for name, words in {"short@50%": "without 'match'", "base@50%": "an SFT arm", "cold@0.5": "rl@25%"}.items():
        home = given["evaluations"]["home"]
        changed = {**given, "evaluations": {"home": {**home, "arms": [*home["arms"], name]}}}
        with pytest.raises(ValueError, match=words):
            StudyRecipe.model_validate(changed)
    given = load_study("rl_generalizes").model_dump(mode="json")
    for changes, words in (({"num_steps": None, "epochs": 2}, "num_steps"), ({"checkpoint": {"every": 1}}, "remove")):
        arm = given["arms"]["sft_data"]
        changed = {**given, "arms": {**given["arms"], "sft_data": {**arm, "recipe": arm["recipe"] | changes}}}
        with pytest.raises(ValueError, match=rf"got 'sft_data@25%'; .*{words}"):
            StudyRecipe.model_validate(changed)


def test_accuracy_over_the_training_starts_at_the_arm_that_it_continues():
    row = {"evaluation": "home", "split": "test", "decoding": "greedy"}
    means = {"base": 0.1, "rl@50%": 0.2, "rl": 0.4, "sft": 0.3}
    table = [{**row, "arm": arm, "accuracy": [mean] * 3} for arm, mean in means.items()]
    table += [{**one, "evaluation": "forced"} for one in table if "@" not in one["arm"]]  # no parts: no figure
    (figure,) = over_training({"table": table, "starts": {"rl": "base", "sft": "base"}})
    assert '"x": [0.0, 50.0, 100.0], "y": [0.1, 0.2, 0.4]' in unescape(str(figure.svg))
    assert [name for name, _, _ in figure.legend] == ["rl"]
