from __future__ import annotations

import json
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
import torch
from PIL import Image

from saccade.base.tiny import write_checkpoint
from saccade.config import ConfigError, load
from saccade.evaluation.benchmark_run import answer_all
from saccade.evaluation.benchmarking import evaluate
from saccade.evaluation.benchmarks.own import heldout_seed, world_suite
from saccade.evaluation.boxes import gold_boxes, reply_boxes
from saccade.evaluation.config import Decoding, EvalRecipe
from saccade.evaluation.eval_plan import own_plan
from saccade.evaluation.graded_items import EvalRun
from saccade.evaluation.items import append_items, read_items
from saccade.evaluation.local_model import LocalModel
from saccade.evaluation.results import summarize_attempts
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.engine import open_engine
from saccade.tasks import TASKS
from saccade.training.config import EvalConfig
from saccade.training.heldout import build_heldout
from saccade.types import Completion, Frame, Sample

SAMPLED = Decoding(greedy=False, k=2, max_new_tokens=6)
GREEDY = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.set_num_threads(1)
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), "S")


@pytest.fixture(scope="module")
def policy(checkpoint):
    return load_policy(ModelConfig(path=str(checkpoint), device="cpu"))


def answers(policy, samples, decoding, out=None, prefix="", **given):
    """The items of `samples`, answered by the policy in batches of three."""
    run = EvalRun(LocalModel(policy, open_engine(policy), prefix), decoding, seed=5, batch_size=3, **given)
    return answer_all(own_plan(samples), run, out)[0]


@pytest.fixture(scope="module")
def suite():
    return world_suite(["test", "ood_larger"], ["count", "refer"], 2, seed=0)


def test_a_suite_has_n_questions_per_split_and_task_with_unique_ids(suite):
    assert [s.id for s in suite] == [
        f"{split}/{task}/0/{i}" for split in ("test", "ood_larger") for task in ("count", "refer") for i in (0, 1)
    ]
    assert {s.meta["split"] for s in suite} == {"test", "ood_larger"}


def test_a_suite_is_the_same_for_a_seed_and_shares_nothing_with_training_seeds(suite):
    again = world_suite(["test"], ["count"], 2, seed=0)
    other = world_suite(["test"], ["count"], 2, seed=1)
    assert [s.images[0].tobytes() for s in again] == [s.images[0].tobytes() for s in suite[:2]]
    assert [s.images[0].tobytes() for s in other] != [s.images[0].tobytes() for s in again]
    assert all(heldout_seed(seed) >= 2**62 for seed in range(100))
    assert len({heldout_seed(seed) for seed in range(100)}) == 100


def test_a_batch_for_the_own_engine_does_not_hold_its_decoded_images(policy, suite, monkeypatch):
    engine = open_engine(policy)
    asked, generate = [], engine.generate
    monkeypatch.setattr(engine, "generate", lambda prompts, *more: asked.extend(prompts) or generate(prompts, *more))
    found = answer_all(own_plan(suite), EvalRun(LocalModel(policy, engine), SAMPLED, batch_size=8))[0]
    assert len(found) == len(asked) == 8
    assert all(prompt.images == () and len(prompt.encoded.frames) == 1 for prompt in asked)


def test_a_split_without_the_tasks_is_refused():
    with pytest.raises(ValueError, match=r"ood_relation.*it has refer"):
        world_suite(["ood_relation"], ["count"], 2, seed=0)


def test_each_item_has_k_graded_attempts_in_the_order_of_the_samples(policy, suite):
    seen = []
    run = EvalRun(LocalModel(policy, open_engine(policy)), SAMPLED, "tiny", "a control", batch_size=3)
    results, errors = answer_all(own_plan(suite), run, progress=lambda done, total: seen.append((done, total)))
    assert errors == {}
    assert [r.sample_id for r in results] == [s.id for s in suite]
    assert seen == [(3, 8), (6, 8), (8, 8)]
    for result, sample in zip(results, suite, strict=True):
        assert (result.model, result.control, result.decoding, result.task) == (
            "tiny",
            "a control",
            "sampled",
            sample.task,
        )
        assert len(result.verdicts) == len(result.answers) == len(result.tokens) == 2
        assert None not in result.verdicts and max(result.tokens) <= 6
        assert len(result.image_shas) == len(sample.images) and result.gold == sample.answer
        assert bool(result.gold_boxes) == (sample.task == "refer")


def test_an_evaluation_that_was_killed_and_resumed_has_the_same_items(policy, suite, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    expected = answers(policy, suite, SAMPLED, whole)
    cut.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) * 6 // 10])
    assert answers(policy, suite, SAMPLED, cut) == expected
    assert read_items(cut) == read_items(whole)


def test_finished_items_are_not_asked_again(policy, suite, tmp_path):
    path = tmp_path / "items.jsonl"
    results = answers(policy, suite, GREEDY, tmp_path / "first.jsonl")
    marked = [replace(r, text="from the file") for r in results]
    append_items(path, marked)
    assert answers(policy, suite, GREEDY, path) == marked


def test_replies_follow_from_the_seed_and_the_question_whatever_is_asked_with_it(policy, suite):
    whole = {item.sample_id: item for item in answers(policy, suite, SAMPLED)}
    turned = {item.sample_id: item for item in answers(policy, suite[::-1], SAMPLED)}
    assert turned == whole
    other = EvalRun(LocalModel(policy, open_engine(policy)), SAMPLED, seed=6)
    assert [item.text for item in answer_all(own_plan(suite), other)[0]] != [item.text for item in whole.values()]


def test_a_file_with_another_number_of_attempts_is_refused(policy, suite, tmp_path):
    path = tmp_path / "items.jsonl"
    answers(policy, suite[:1], SAMPLED, path)
    with pytest.raises(ValueError, match="holds 2 attempts per item, this run makes 3"):
        answers(policy, suite[:1], SAMPLED.model_copy(update={"k": 3}), path)


def test_a_forced_beginning_is_part_of_every_reply(policy, suite):
    results = answers(policy, suite, GREEDY, prefix="<think>scan")
    prefix_tokens = len(policy.adapter.encode_reply("<think>scan")) - 1
    assert all(r.text.startswith("<think>scan") for r in results)
    assert all(prefix_tokens <= r.tokens[0] <= prefix_tokens + 6 for r in results)
    assert {r.habits[0] for r in results} <= {"enumerate", "other"}


def test_a_forced_whole_answer_is_graded_with_the_task(policy, suite):
    sample = suite[0]
    gold = TASKS[sample.task].write_gold(sample)
    right = answers(policy, [sample], Decoding(max_new_tokens=1), prefix=gold)
    assert right[0].answers == (str(sample.answer),)
    assert right[0].verdicts == (TASKS[sample.task].correct(Completion(right[0].text), sample).right,)


def test_boxed_answers_without_a_tag_vote(policy, suite):
    sample = suite[0]
    boxed = f"We get \\boxed{{{sample.answer}}}."
    items = answers(policy, [sample], Decoding(greedy=False, k=2, max_new_tokens=1), prefix=boxed)
    assert items[0].answers == (str(sample.answer),) * 2
    (row, _) = summarize_attempts(items)
    assert row["avg"] == row["maj"] == 1.0


def test_greedy_with_several_attempts_is_refused():
    with pytest.raises(ValueError, match="greedy decoding, where all attempts are equal"):
        Decoding(k=4)


def test_an_unknown_task_is_refused_and_a_repeated_id_gets_a_number(suite):
    with pytest.raises(ValueError, match="names task 'poetry'; expected one of"):
        own_plan([replace(suite[0], task="poetry")])
    assert [s.id for s in own_plan([suite[0], suite[0]]).samples] == ["test/count/0/0", "test/count/0/0#2"]


def test_a_question_that_exceeds_the_context_is_refused_by_name_before_any_is_asked(checkpoint, tmp_path):
    recipe = {"model": {"path": str(checkpoint), "device": "cpu"}, "world": {"n": 2}, "out": str(tmp_path / "run")}
    long = EvalRecipe.model_validate(recipe | {"decoding": {"max_new_tokens": 1_000_000}})
    with pytest.raises(ValueError, match=r"sample 'test/count/0/0': got a prompt of .* decoding.max_new_tokens"):
        evaluate(long)
    assert not (tmp_path / "run").exists()


def test_a_grader_that_fails_is_our_fault_and_counts_nowhere(policy, suite, monkeypatch):
    def broken(self, completion, sample):
        raise RuntimeError("ours")

    monkeypatch.setattr("saccade.tasks.task.Task.correct", broken)
    (item,) = answers(policy, suite[:1], GREEDY)
    assert not item.gradable and item.routes == ("grader failed",)


def test_a_stop_while_a_judge_is_asked_is_no_failure_of_a_grader(policy, suite, monkeypatch, caplog):
    def stopped(self, completion, sample):
        raise CancelledError

    monkeypatch.setattr("saccade.tasks.task.Task.correct", stopped)
    run = EvalRun(LocalModel(policy, open_engine(policy), ""), GREEDY, seed=5, batch_size=3)
    items, errors = answer_all(own_plan(suite[:1]), run)
    assert items == [] and list(errors.values()) == ["the run stopped while it waited"]
    assert "grading a reply" not in caplog.text


def test_boxes_are_read_in_the_frame_of_the_reply_and_given_in_original_pixels():
    frame = Frame("thousand", (200, 100), (224, 112))
    text = '<think>x</think><answer>{"bbox_2d": [500, 500, 1000, 1000]}</answer>'
    assert reply_boxes(text, frame) == ((100.0, 50.0, 200.0, 100.0),)
    assert reply_boxes("<answer>[nan, 1, 2, 3] 1e999</answer>", frame) == ()
    assert gold_boxes([1, 2, 3, 4]) == ((1.0, 2.0, 3.0, 4.0),)
    assert gold_boxes([{"bbox_2d": [1, 2, 3, 4], "label": "a"}]) == ((1.0, 2.0, 3.0, 4.0),)
    assert gold_boxes("A") == gold_boxes(3) == gold_boxes([]) == ()


def test_a_recipe_writes_a_complete_run_directory_and_refuses_another_one_in_its_place(checkpoint, tmp_path):
    recipe = EvalRecipe.model_validate(
        {
            "model": {"path": str(checkpoint), "device": "cpu"},
            "world": {"splits": ["test"], "tasks": ["count"], "n": 3},
            "decoding": {"greedy": False, "max_new_tokens": 4, "k": 2},
            "also_greedy": True,
            "out": str(tmp_path / "run"),
            "kept_images": 2,
            "label": "tiny",
        }
    )
    seen = []
    results = evaluate(recipe, lambda name, done, total: seen.append((name, done, total)))
    out = recipe.directory
    assert results == json.loads((out / "results.json").read_text())
    assert {row["decoding"] for row in results["scores"]} == {"greedy", "sampled"}
    assert seen == [("greedy", 3, 3), ("sampled", 3, 3)]
    assert {p.name for p in out.iterdir()} == {
        ".lock",
        "config.yaml",
        "environment.json",
        "items.jsonl",
        "results.json",
        "images",
    }
    assert len(list((out / "images").glob("*.png"))) == 2
    assert {sha for item in read_items(out / "items.jsonl")[:2] for sha in item.image_shas} == {
        p.stem for p in (out / "images").iterdir()
    }
    before = (out / "items.jsonl").read_bytes()
    evaluate(recipe)
    assert (out / "items.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match="holds another evaluation"):
        evaluate(recipe.model_copy(update={"seed": 1}))


def test_a_recipe_without_questions_or_with_a_useless_k_is_refused_with_its_file(tmp_path):
    recipe = tmp_path / "eval.yaml"
    recipe.write_text("kind: eval\nmodel: {path: base}\nout: x\n")
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        load(recipe, EvalRecipe)
    with pytest.raises(ConfigError, match="greedy decoding, where all attempts are equal"):
        load(recipe, EvalRecipe, ["world.n=2", "decoding.k=4"])


def test_data_sets_are_evaluated_beside_the_world_and_named_by_their_source(checkpoint, tmp_path):
    Image.new("RGB", (56, 56), "red").save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "3"}]
    rows = [json.dumps({"id": f"r{i}", "image": "a.png", "conversations": turns}) + "\n" for i in range(3)]
    (tmp_path / "mine.jsonl").write_text("".join(rows))
    recipe = EvalRecipe.model_validate(
        {
            "model": {"path": str(checkpoint), "device": "cpu"},
            "data": [{"source": "vlm_r1", "path": str(tmp_path / "mine.jsonl"), "limit": 2}],
            "world": {"n": 1},
            "decoding": {"max_new_tokens": 3},
            "out": str(tmp_path / "run"),
        }
    )
    rows = evaluate(recipe)["rows"]
    assert [(row["split"], row["n"]) for row in rows if row["task"] == "all"] == [("mine", 2), ("test", 1)]
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(facts["data_hash"]) == 1 and facts["model_hash"]


def test_a_recipe_with_wrong_data_or_model_leaves_nothing_behind(tmp_path):
    wrong = {"model": {"path": str(tmp_path / "none")}, "world": {"n": 1}, "out": str(tmp_path / "run")}
    with pytest.raises(ValueError, match=r"no config\.json there"):
        evaluate(EvalRecipe.model_validate(wrong))
    with pytest.raises(ValueError, match="unknown split"):
        evaluate(EvalRecipe.model_validate(wrong | {"world": {"splits": ["nowhere"], "n": 1}}))
    assert not (tmp_path / "run").exists()


def _rows(path, *odd):
    Image.new("RGB", (32, 32), (9, 99, 199)).save(path.parent / "a.png")
    human, gpt = {"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "3"}
    good = {"image": "a.png", "conversations": [human, gpt], "task": "count"}
    rows = [good, *odd, good, good]
    path.write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i, row in enumerate(rows)))
    return {"source": "vlm_r1", "path": str(path), "on_bad": "skip"}, good


@pytest.mark.parametrize("place", ["evaluation", "held out"])
def test_a_row_whose_question_cannot_be_written_is_skipped_or_named_with_its_place(place, checkpoint, tmp_path, caplog):
    """Only fine-tuning reads images of later turns; a task of two images got one."""
    entry, good = _rows(tmp_path / "d.jsonl")
    later = {**good, "image": ["a.png", "a.png"], "conversations": 2 * good["conversations"]}
    entry, _ = _rows(tmp_path / "d.jsonl", later, {**good, "task": "gui_defect"})

    def ask(entry):
        if place == "held out":
            found = build_heldout(EvalConfig(every=1, data=(entry,)), None, tmp_path / "run")
            assert found is not None
            return
        recipe = {"model": {"path": str(checkpoint)}, "data": [entry], "decoding": {"max_new_tokens": 2}}
        out = tmp_path / entry["on_bad"]
        evaluate(EvalRecipe.model_validate({**recipe, "out": str(out)}))
        assert [item.sample_id for item in read_items(out / "items.jsonl")] == ["0", "3", "4"]

    ask(entry)
    words = (
        "source 'd': 2 of its rows are not asked; the first: d.jsonl:2: sample '1': 1 of its 2 images belong to later"
    )
    assert words in caplog.text
    with pytest.raises(ValueError, match=r"^d\.jsonl:2: sample '1': 1 of its 2 images .*\(set 'on_bad: skip'"):
        ask({**entry, "on_bad": "error"})


def test_a_question_that_cannot_be_written_is_named_before_the_first_is_asked(suite):
    odd = replace(suite[1], meta={**suite[1].meta, "turns": [{"role": "user", "content": "<image>And here?"}]})
    with pytest.raises(ValueError, match="1 of its 1 images belong to later turns"):
        own_plan([suite[0], odd])


@pytest.mark.parametrize(
    "change", ["nothing", "images", "a system turn", "the recipe's system prompt", "an image is gone"]
)
def test_answers_about_other_images_or_under_another_system_turn_are_not_continued(change, policy, tmp_path):
    Image.new("RGB", (32, 32), (9, 99, 199)).save(tmp_path / "a.png")
    samples = [Sample(str(i), (str(tmp_path / "a.png"),), "How many?", i, "count") for i in range(3)]
    run = EvalRun(LocalModel(policy, open_engine(policy)), GREEDY)
    answer_all(own_plan(samples[:2]), run, tmp_path / "items.jsonl")
    asked = own_plan(samples)
    if change == "images":
        Image.new("RGB", (32, 32), (200, 9, 9)).save(tmp_path / "a.png")
    elif change == "a system turn":
        asked = own_plan([replace(one, meta={"system": "Answer in French."}) for one in samples])
    elif change == "the recipe's system prompt":
        asked = own_plan(samples, system_prompt="Answer in French.")
    elif change == "an image is gone":
        (tmp_path / "a.png").unlink()
    if change in ("nothing", "an image is gone"):
        items, errors = answer_all(asked, run, tmp_path / "items.jsonl")
        assert len(items) + len(errors) == 3
    else:
        with pytest.raises(ValueError, match="an answer to another question with the id '0': the data changed"):
            answer_all(asked, run, tmp_path / "items.jsonl")
    items = read_items(tmp_path / "items.jsonl")
    assert [item.sample_id for item in items] == (["0", "1", "2"] if change == "nothing" else ["0", "1"])
