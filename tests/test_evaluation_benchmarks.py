from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from saccade.data import files, json_stream
from saccade.data import roots as recorded_roots
from saccade.data.config import DataConfig
from saccade.data.convert import convert
from saccade.evaluation.answerers import Failed
from saccade.evaluation.asked import selected, unique
from saccade.evaluation.benchmark_results import compare_runs, comparison_lines, lines
from saccade.evaluation.benchmark_run import answer_all
from saccade.evaluation.benchmarking import evaluate
from saccade.evaluation.benchmarks import BENCHMARKS, Grade, Place, pages
from saccade.evaluation.config import Decoding, EvalRecipe
from saccade.evaluation.eval_plan import EvalPlan, plan
from saccade.evaluation.graded_items import EvalRun
from saccade.evaluation.items import read_items
from saccade.tasks import TASKS, TEMPLATES
from saccade.types import Sample
from tests.benchmark_files import LAYOUTS, Canned, frames_of, picture

ROOT = Path(__file__).parent.parent
MODES = [(name, mode) for name, one in BENCHMARKS.items() for mode in one.modes]
RIGHT_IN_ALL = 1.0
ALIKE = ("refcoco_plus", "refcocog", "refcoco_all", "lisa_grounding")
GREEDY = Decoding()


def recipe(name: str, folder: Path, **given: Any) -> EvalRecipe:
    """The benchmark's layout below `folder`, answered by nobody yet."""
    data = folder / "data"
    if "path" not in given and name in LAYOUTS:
        fresh = not data.exists()
        data.mkdir(exist_ok=True)
        given["path"] = LAYOUTS[name](data) if fresh else data
    base = {"benchmark": name, "model": "base", "out": str(folder / given.pop("to", "run")), "kept_images": 0}
    return EvalRecipe.model_validate(base | given)


def gold(name: str, mode: str, sample: Sample) -> str:
    """A reply that says the gold answer in the form that the mode expects."""
    answer: Any = sample.answer
    if name in ("world", "jsonl"):
        return TASKS[sample.task].write_gold(sample, frames_of(sample))
    if sample.task == "refer":
        answer = json.dumps({"bbox_2d": [round(v) for v in answer]})
    elif sample.task == "detect":
        answer = f"```json\n{json.dumps(answer)}\n```"
    elif name == "dynamath":
        answer = json.dumps({"solution": "seen", "short answer": answer})
    elif name == "mathvista" and mode == "strict" and sample.task == "choice":
        answer = chr(65 + sample.meta["options"].index(answer))
    elif name == "mm_math" or mode == "easy_r1":
        answer = f"\\boxed{{{answer}}}"
    return f"<think>I look.</think><answer>{answer}</answer>"


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_gold_replies_score_full_marks_and_one_corrupted_reply_lowers_the_score(name, mode, tmp_path):
    small = {"limit": 6} if name == "world" else {}
    asked = recipe(name, tmp_path, mode=mode, to="gold", **small)
    best = {"mme": 200.0 * 3}.get(name, RIGHT_IN_ALL)
    results = evaluate(asked, answerer=Canned(lambda sample: gold(name, mode, sample)))
    headline = results["scores"][0]
    assert headline["score"] == BENCHMARKS[name].headline.name
    assert headline["value"] == pytest.approx(best), results["routes"]
    assert results["counts"]["parse_failures"] == results["counts"]["needs_judge"] == 0
    assert not results["counts"]["outside_boxes"]
    first = plan(asked).samples[0].id
    again = recipe(name, tmp_path, mode=mode, to="bad", **small)
    wrong = Canned(lambda sample: "<answer>zebra</answer>" if sample.id == first else gold(name, mode, sample))
    assert evaluate(again, answerer=wrong)["scores"][0]["value"] < best


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_prompt_has_a_marker_per_image_and_its_own_id(name, tmp_path):
    asked = recipe(name, tmp_path)
    samples = plan(asked).samples
    for prompt in BENCHMARKS[name].prompts.values():
        for sample in samples:
            assert prompt.write(sample).count("<image>") == len(sample.images)
    ids = [prompt.id for one in BENCHMARKS.values() for prompt in one.prompts.values()]
    texts = {(prompt.id, prompt.write(samples[0])) for prompt in BENCHMARKS[name].prompts.values()}
    assert len({id for id, _ in texts}) == len(texts) and all("." in id for id in ids)


def test_the_gold_is_never_in_the_prompt_of_a_question_with_a_number(tmp_path):
    for name in ("mathvista", "mm_math", "chartqa"):
        (tmp_path / name).mkdir()
        asked = plan(recipe(name, tmp_path / name))
        free = [s for s in asked.samples if not s.meta.get("options") and len(str(s.answer)) > 3]
        assert free and not any(str(s.answer) in asked.prompt.write(s) for s in free)


def test_a_run_that_was_killed_and_resumed_has_the_same_items_and_asks_nothing_twice(tmp_path):
    given = {"decoding": {"greedy": False, "k": 2}, "batch_size": 4}
    asked = recipe("dynamath", tmp_path, to="whole", **given)

    def say(sample):
        return [gold("dynamath", "official", sample), "no"]

    whole = evaluate(asked, answerer=Canned(say))
    cut = recipe("dynamath", tmp_path, to="cut", **given)
    evaluate(cut, answerer=Canned(say))
    items = Path(cut.out) / "items.jsonl"
    items.write_bytes(items.read_bytes()[: len(items.read_bytes()) * 6 // 10])
    held = {item.sample_id for item in read_items(items)}
    second = Canned(say)
    resumed = evaluate(cut, answerer=second)
    assert set(second.asked).isdisjoint(held) and len(held) + len(second.asked) == 30
    assert (Path(asked.out) / "items.jsonl").read_bytes() == items.read_bytes()
    assert resumed["scores"] == whole["scores"] and resumed["attempts"] == whole["attempts"]
    assert whole["attempts"][0]["avg"] == 0.5 and whole["attempts"][0]["pass"] == {"1": 0.5, "2": 1.0}


def test_a_local_model_that_was_killed_gives_the_same_items(tmp_path):
    torch = pytest.importorskip("torch")
    from saccade.base.tiny import write_checkpoint

    torch.set_num_threads(1)
    model = str(write_checkpoint(tmp_path / "tiny", "S"))
    decoding = {"greedy": False, "k": 2, "max_new_tokens": 6}
    given = {"model": {"path": model, "device": "cpu"}, "decoding": decoding, "batch_size": 3, "seed": 4}
    whole = recipe("math_vision", tmp_path, to="whole", **given)
    evaluate(whole)
    cut = recipe("math_vision", tmp_path, to="cut", **given)
    evaluate(cut)
    items = Path(cut.out) / "items.jsonl"
    items.write_bytes(items.read_bytes()[:-40])
    evaluate(cut)
    assert (Path(whole.out) / "items.jsonl").read_bytes() == items.read_bytes()
    assert {p.name for p in Path(cut.out).iterdir()} >= {"config.yaml", "environment.json", "results.json"}


def test_questions_that_the_server_did_not_answer_are_not_wrong_answers_and_are_asked_again(tmp_path):
    asked = recipe("mmstar", tmp_path, batch_size=2)
    down = Canned(lambda s: Failed("status 503") if s.id in "12" else gold("mmstar", "official", s))
    results = evaluate(asked, answerer=down)
    assert results["counts"]["errors"] == 2 and results["counts"]["items"] == 4
    assert results["scores"][0]["value"] == 1.0 and results["scores"][0]["n"] == 4
    assert any("not asked, not answered or not judged" in line for line in lines(results))
    up = Canned(lambda s: gold("mmstar", "official", s))
    results = evaluate(asked, answerer=up)
    assert up.asked == ["1", "2"] and results["counts"]["errors"] == 0 and results["counts"]["items"] == 6


def test_a_server_that_never_answers_is_an_error_and_no_score(tmp_path):
    with pytest.raises(ValueError, match=r"no item of mmstar could be graded \(6 errors\); first: status 500"):
        evaluate(recipe("mmstar", tmp_path), answerer=Canned(lambda s: Failed("status 500")))


def test_only_the_first_attempt_counts_unless_retries_are_requested(tmp_path):
    def unfinished_once():
        seen = set()

        def say(sample):
            first = sample.id not in seen
            seen.add(sample.id)
            return "<think>so long" if first else gold("mmstar", "official", sample)

        return Canned(say)

    drawn = {"greedy": False}
    plain = evaluate(recipe("mmstar", tmp_path, to="plain", decoding=drawn), answerer=unfinished_once())
    assert plain["scores"][0]["value"] == 0.0 and "first_attempt_accuracy" not in plain
    asked = recipe("mmstar", tmp_path, to="again", decoding=drawn, retries_until_parsed=5)
    again = evaluate(asked, answerer=unfinished_once())
    assert again["scores"][0]["value"] == 1.0 and again["first_attempt_accuracy"] == 0.0
    assert again["counts"]["tries"] == 12 and again["benchmark"]["retries_until_parsed"] == 5


def test_retries_stop_at_their_number_and_are_refused_where_they_change_nothing(tmp_path):
    never = Canned(lambda sample: "<think>so long")
    asked = recipe("mmstar", tmp_path, decoding={"greedy": False}, retries_until_parsed=3)
    assert evaluate(asked, answerer=never)["counts"]["tries"] == len(never.asked) == 18
    with pytest.raises(ValueError, match="same reply again with greedy decoding"):
        recipe("mmstar", tmp_path, retries_until_parsed=3)


def test_without_a_judge_open_items_are_named_and_count_as_wrong(tmp_path):
    def say(sample):
        return "It is about seven, I think." if sample.id == "2" else gold("mathvista", "official", sample)

    results = evaluate(recipe("mathvista", tmp_path), answerer=Canned(say))
    assert results["counts"]["needs_judge_ids"] == ["2"] and results["scores"][0]["value"] == 0.75
    assert results["routes"]["needs judge"] == 1
    assert any("need a judge" in line for line in lines(results))


def test_results_say_everything_that_their_number_depends_on(tmp_path):
    asked = recipe("mathverse", tmp_path, subset="Vision Only", prompt="cot", template="vlm_r1")
    results = evaluate(asked, answerer=Canned(lambda s: gold("mathverse", "official", s)))
    about = results["benchmark"]
    assert about["subset"] == "Vision Only" and about["items_asked"] == about["items_in_subset"] == 2
    assert about["prompt_id"] == f"mathverse.query_cot.v1+{TEMPLATES['vlm_r1'].id}" and about["mode"] == "official"
    assert about["verified"] is False and "no official script" in about["verified_reason"] and about["deviations"]
    assert about["sampling"][0]["name"] == "greedy" and about["judge"] is None
    item = read_items(Path(asked.out) / "items.jsonl")[0]
    assert item.details["prompt_id"] == about["prompt_id"] and item.question.startswith("<image>Find x. Reason.")
    assert item.details["attempts"][0]["read"] == "answer block" and item.details["frames"][0][1] == [200, 100]
    assert {row["slice"] for row in results["scores"] if row.get("dimension") == "version"} == {"Vision Only"}


def test_versions_of_a_problem_are_drawn_together(tmp_path):
    asked = recipe("mathverse", tmp_path)
    one_problem = Canned(lambda s: gold("mathverse", "official", s) if s.meta["group"] == "0" else "zebra")
    row = evaluate(asked, answerer=one_problem)["scores"][0]
    assert row["value"] == 0.5 and row["interval"] == "bootstrap over groups"
    assert (row["low"], row["high"]) == (0.0, 1.0)  # two problems, not ten answers


def test_worst_case_needs_all_variants_of_a_seed_question(tmp_path):
    last = Canned(lambda s: "zebra" if s.meta["variant"] == "9" and s.meta["group"] == "0" else gold("dynamath", "", s))
    scores = {r["score"]: r["value"] for r in evaluate(recipe("dynamath", tmp_path), answerer=last)["scores"][:4]}
    assert scores["average"] == pytest.approx(29 / 30) and scores["worst_case"] == pytest.approx(2 / 3)
    assert scores["robustness"] == pytest.approx((2 / 3) / (29 / 30))


def test_mme_adds_accuracy_and_the_accuracy_of_pairs(tmp_path):
    always = Canned(lambda s: "Yes, it is.")
    scores = {r["score"]: r["value"] for r in evaluate(recipe("mme", tmp_path), answerer=always)["scores"]}
    assert scores["sum"] == 150.0 and scores["perception"] == 100.0 and scores["cognition"] == 50.0
    assert scores["accuracy_plus"] == 0.0 and scores["points/existence"] == 50.0


def test_chartqa_is_the_mean_of_its_splits_and_refcoco_of_its_files(tmp_path):
    human = Canned(lambda s: s.answer if s.meta["slices"]["split"] == "human" else "zebra")
    asked = recipe("chartqa", tmp_path)
    (asked.path / "test_augmented.json").write_text(
        json.dumps([{"imgname": "c.png", "query": "?", "label": "3"}] * 6), encoding="utf-8"
    )
    rows = evaluate(asked, answerer=human)["scores"]
    assert rows[0]["value"] == 0.5 and rows[1]["value"] == 0.25


def test_the_average_of_ovdeval_is_a_mean_of_aspects_and_not_of_columns(tmp_path):
    color = Canned(lambda s: gold("ovdeval", "", s) if s.id.startswith(("color", "position")) else "None")
    rows = evaluate(recipe("ovdeval", tmp_path), answerer=color)["scores"]
    assert rows[0]["value"] == pytest.approx(2 / 3)  # proper noun 0, attribute 1, position 1; columns would give 1/2


def test_the_label_that_is_listed_last_decides_nms_ap(tmp_path):
    box = [20, 20, 80, 80]

    def both(first, second):
        return Canned(lambda s: json.dumps([{"bbox_2d": box, "label": label} for label in (first, second)]))

    right = evaluate(recipe("ovdeval", tmp_path, to="a"), answerer=both("blue cup", "red cup"))["scores"][0]
    wrong = evaluate(recipe("ovdeval", tmp_path, to="b"), answerer=both("red cup", "blue cup"))["scores"][0]
    assert (right["value"], wrong["value"]) == (pytest.approx(1.0), 0.0)


def test_coco_filtered_skips_categories_of_more_than_ten_boxes(tmp_path):
    asked = recipe("coco_filtered", tmp_path)
    samples = plan(asked).samples
    assert [s.id for s in samples] == ["1", "2"] and {b["label"] for s in samples for b in s.answer} == {"cup"}
    assert samples[0].meta["labels"] == ["bird", "cup"]
    positive = plan(recipe("coco_filtered", tmp_path, subset="filtered_positive", path=asked.path)).samples
    assert positive[0].meta["labels"] == ["cup"]
    single = plan(recipe("coco_filtered", tmp_path, subset="pos_2", path=asked.path)).samples
    assert [s.id for s in single] == ["1"]


def test_a_limit_draws_the_same_items_each_time_and_keeps_groups_whole(tmp_path):
    samples = plan(recipe("dynamath", tmp_path)).samples
    drawn = selected(samples, 20)
    assert drawn == selected(samples, 20) and len(drawn) == 20
    assert len({s.meta["group"] for s in drawn}) == 2
    assert [s.id for s in unique([samples[0], samples[0]])] == [samples[0].id, f"{samples[0].id}#2"]
    named = [replace(samples[0], id=name) for name in ("a", "a", "a#2", "a")]
    assert [s.id for s in unique(named)] == ["a", "a#3", "a#2", "a#4"]


def test_two_runs_are_compared_on_the_items_that_both_answered(tmp_path):
    left, right = recipe("mmstar", tmp_path, to="a"), recipe("mmstar", tmp_path, to="b")
    evaluate(left, answerer=Canned(lambda s: gold("mmstar", "official", s)))
    evaluate(right, answerer=Canned(lambda s: Failed("x") if s.id == "0" else "zebra"))
    found = compare_runs(Path(left.out), Path(right.out))
    assert found["rows"][0]["difference"] == 1.0 and found["rows"][0]["n"] == 5 and found["rows"][0]["shown"]
    assert found["only_left"] == 1 and found["p"] == pytest.approx(2 / 2**5)
    assert "McNemar" in "\n".join(comparison_lines(found))
    other = recipe("mmstar", tmp_path, to="c", mode="strict")
    evaluate(other, answerer=Canned(lambda s: "A"))
    with pytest.raises(ValueError, match="only runs with equal values"):
        compare_runs(Path(left.out), Path(other.out))


def test_an_item_without_a_graded_gold_counts_nowhere(tmp_path):
    asked = recipe("dynamath", tmp_path)
    spoilt = plan(asked)
    first = replace(spoilt.samples[0], answer="about three")
    grade = spoilt.mode.grade
    from saccade.evaluation.benchmarks.replies import read

    assert grade(read('{"short answer": "3.000"}'), first, None).right is None


def test_real_rows_of_math_vision_and_geometry3k_are_asked_and_graded(real_data, tmp_path):
    for name, data, most in (("math_vision", "math_vision", 40), ("geometry3k", "geometry3k", 10)):
        asked = recipe(name, tmp_path, to=f"{name}-gold", path=real_data / data, limit=most)
        samples = plan(asked).samples
        assert len(samples) == most
        results = evaluate(asked, answerer=Canned(lambda s, name=name: f"<answer>{s.answer}</answer>"))
        assert results["scores"][0]["value"] == 1.0, results["routes"]
        wrong = recipe(name, tmp_path, to=f"{name}-bad", path=real_data / data, limit=most)
        results = evaluate(wrong, answerer=Canned(lambda s: "<answer>zebra</answer>"))
        assert results["scores"][0]["value"] == 0.0


def test_the_documentation_is_generated_from_the_table():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    found = text[text.index(pages.BEGIN) : text.index(pages.END) + len(pages.END)]
    assert found == pages.page(BENCHMARKS), "regenerate it: saccade eval --describe all"


def test_every_mode_has_rules_and_none_claims_to_be_verified():
    for one in BENCHMARKS.values():
        for mode in one.modes.values():
            assert mode.rules and mode.source and mode.verified is False
            assert len(mode.rules) == len(set(mode.rules))


def test_a_limit_on_the_world_draws_from_all_its_splits(tmp_path):
    asked = plan(recipe("world", tmp_path, limit=40))
    splits = {s.meta["slices"]["split"] for s in asked.samples}
    assert len(asked.samples) == 40 and splits == set(BENCHMARKS["world"].subsets) - {"all"}


@pytest.mark.parametrize("name", ["outside.png", "{there}/outside.png", "link.png"])
def test_a_row_of_a_benchmark_names_images_of_its_own_folders_only(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "outside.png")
    (data := tmp_path / "data").mkdir()
    (data / "link.png").symlink_to(tmp_path / "outside.png")
    image = name.format(there=tmp_path) if name != "outside.png" else "../outside.png"
    rows = {
        "jsonl": {"image": image, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "1"}]},
        "mm_math": {"id": "1", "image": image, "question": "?", "answer": "1"},
        "math_vision": {"id": "1", "image": image, "question": "?", "answer": "1", "options": []},
    }
    for benchmark, row in rows.items():
        (data / "rows.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(ValueError, match="outside the folders of its data"):
            BENCHMARKS[benchmark].load(Place(data / "rows.jsonl"))
    row = {**rows["jsonl"], "image": str(tmp_path / "outside.png")}
    (data / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert len(BENCHMARKS["jsonl"].load(Place(data / "rows.jsonl", images=tmp_path))) == 1
    assert len(BENCHMARKS["jsonl"].load(Place(data / "rows.jsonl", data_root=tmp_path))) == 1


def test_a_benchmark_reads_what_convert_wrote_and_what_its_data_root_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_roots, "KEY", tmp_path / "key")
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "rows").mkdir()
    row = {
        "image": "../images/a.png",
        "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "1"}],
    }
    (tmp_path / "rows" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    entry = {"path": str(tmp_path / "rows" / "rows.jsonl"), "data_root": str(tmp_path)}
    asked = {"benchmark": "jsonl", "model": "base", **entry}
    assert len(plan(EvalRecipe.model_validate(asked)).samples) == 1
    convert([DataConfig.model_validate({"source": "vlm_r1", **entry})], tmp_path / "out", "jsonl")
    asked = {"benchmark": "jsonl", "model": "base", "format": "saccade", "path": str(tmp_path / "out")}
    assert len(plan(EvalRecipe.model_validate(asked)).samples) == 1


def test_a_cache_of_the_hub_apart_from_its_home_is_one_of_the_folders(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("h/a", "c/a", "a")]
    code = f"from saccade.data.roots import inside; print([inside(name, ()) for name in {names}])"
    own = {**os.environ, "HF_HOME": str(tmp_path / "h"), "HF_HUB_CACHE": str(tmp_path / "c")}
    said = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert said.stdout == "[True, True, False]\n", said.stderr


@pytest.mark.parametrize("odd", ["inf", float("inf"), "9" * 5000, [1], {}, -1, 400_000_000, "two"])
def test_decimal_places_that_are_none_are_refused_with_the_row(tmp_path: Path, odd: Any) -> None:
    file = LAYOUTS["mathvista"](tmp_path) / "testmini.json"
    held = json.loads(file.read_text())
    held["3"]["precision"] = odd
    file.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"testmini\.json.*field 'precision': got .*, expected decimal places, 0 to"):
        BENCHMARKS["mathvista"].load(Place(tmp_path))


# ------------------------------------------------------------------------------------------------------------- odd rows


def places(value: Any) -> list[tuple[Any, ...]]:
    """Where the values of the first row are, of its lists the first."""
    if isinstance(value, list):
        return [(0, *rest) for rest in places(value[0])] if value else [()]
    if not isinstance(value, dict):
        return [()]
    keys = [*value][:1] if all(map(str.isdigit, value)) else [*value]
    return [(key, *rest) for key in keys for rest in places(value[key])]


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("dynamath", *ALIKE)])
def test_a_row_with_any_text_or_depth_is_refused_by_its_place_or_asked_once_and_kept(name: str, tmp_path: Path) -> None:
    data, one = LAYOUTS[name](tmp_path / "data"), BENCHMARKS[name]
    file = data if data.is_file() else sorted(f for f in data.rglob("*.json*") if f.is_file())[0]
    first, *others = file.read_text().splitlines(keepends=True) if file.suffix == ".jsonl" else [file.read_text()]
    mode = replace(one.mode(None), grade=lambda reply, sample, judge: Grade(True, "x"))
    refused = 0
    for where, odd in product(places(json.loads(first)), ("\ud800", json.loads("[" * 300 + "]" * 300))):
        whole = json.loads(first)
        reduce(lambda inner, key: inner[key], where[:-1], whole)[where[-1]] = odd
        file.write_text("".join([json.dumps(whole), "\n", *others]))
        try:
            samples = one.load(Place(data))[:1]
        except ValueError as error:
            refused += 1
            assert file.name in str(error) or file.stem in str(error)
            continue
        out, canned = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", Canned(lambda sample: "A \ud800")
        for _ in range(2):
            (item,), _ = answer_all(EvalPlan(one, mode, one.prompt(None), samples, 1), EvalRun(canned, GREEDY), out)
        assert item.text == "A ?" and len(canned.asked) == 1
    assert refused


def test_bombs_and_holes_in_place_of_a_benchmark_take_little_memory(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("LARGEST_CELL", "LARGEST_ROW"):
        monkeypatch.setattr(files, name, 1 << 20)
    picture(tmp_path / "a.png")
    good = {"question": "?", "question_type": "free_form", "answer_type": "text", "answer": "7", "image": "a.png"}
    held = json.dumps({str(n): good | {"unread": "x" * 9_000} for n in range(1_000)})
    (tmp_path / "testmini.json").write_text(held)
    bomb = json.dumps({"1": good | {"unread": []}}).replace("[]", "[" + '{"":0},' * 160_000 + "0]")
    (tmp_path / "bomb.json").write_text(bomb)
    for name, most in (("MOST_ELEMENTS", 50_000), ("WINDOW", 1 << 17)):
        monkeypatch.setattr(json_stream, name, most, raising=False)
    (tmp_path / "hole.json").write_text("{")
    (tmp_path / "DynaMath.tsv").write_text("")
    for name in ("hole.json", "DynaMath.tsv"):
        os.truncate(tmp_path / name, 1 << 26)
    tracemalloc.start()
    try:
        assert len(BENCHMARKS["mathvista"].load(Place(tmp_path))) == 1_000
        for name, path in (("mathvista", "bomb.json"), ("mathvista", "hole.json"), ("dynamath", "DynaMath.tsv")):
            with pytest.raises(ValueError, match=path):
                BENCHMARKS[name].load(Place(tmp_path / path))
            assert tracemalloc.get_traced_memory()[1] < 48 << 20, path
    finally:
        tracemalloc.stop()
