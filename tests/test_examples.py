"""Every example is short and compiles; under the slow marker each runs and does what its first line says."""

from __future__ import annotations

import json
import py_compile
import re
import runpy
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chat_server import Answer, chat_server

EXAMPLES = Path(__file__).parent.parent / "examples"
LONGEST = {"grpo_in_one_file.py": 220}


def example(name: str) -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_compiles_and_fits_on_two_screens(path: Path, tmp_path: Path) -> None:
    py_compile.compile(str(path), str(tmp_path / "compiled"), doraise=True)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST.get(path.name, 100)
    assert path.name in lines[0] or any(path.name in line for line in lines[:8]), "its first lines say how to run it"


def test_the_benchmark_of_the_example_grades_as_it_says() -> None:
    from saccade.evaluation.benchmarks.benchmark import ParsedReply, Place

    dice = example("own_benchmark").DICE
    samples = dice.load(Place(None))
    grade = dice.modes["exact"].grade
    assert [sample.answer for sample in samples] == [1, 2, 3, 4, 5, 6] * 2
    assert grade(ParsedReply("", "3"), samples[2], None).right
    assert not grade(ParsedReply("", "4"), samples[2], None).right
    assert not grade(ParsedReply("<think>", None), samples[2], None).right


def test_the_reward_of_the_example_falls_with_the_words_of_the_thought() -> None:
    from saccade import Completion, Sample

    reward, sample = example("own_reward").short_thought, Sample("1", (), "?", 1, "count")
    values = [reward(Completion(f"<think>{'a ' * n}</think>"), sample, words=4).value for n in (1, 4, 6, 8, 90)]
    assert values == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert reward(Completion("3"), sample).value == 0


def test_the_served_model_of_the_example_is_asked_and_graded(tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        return Answer("<think>I count.</think><answer>3</answer>")

    with chat_server(answer) as server:
        row, *_ = example("served_model").main(server.url, "tiny", tmp_path / "out", limit=6)
    assert len(server.requests) == 6
    assert row["n"] == 6
    assert 0 <= row["accuracy"] <= 1


def test_the_two_servers_of_the_cold_start_each_get_their_own_questions(tmp_path: Path) -> None:
    def sees(number: int, request: dict[str, Any]) -> Answer:
        return Answer("There are three tiles in the picture, two of them blue and one of them red.")

    def reasons(number: int, request: dict[str, Any]) -> Answer:
        return Answer("<think>The description lists the tiles, so I count them one by one.</think><answer>3</answer>")

    with chat_server(sees) as one, chat_server(reasons) as other:
        made = example("cold_start").main(one.url, other.url, tmp_path / "cold", ("sees", "reasons"), rows=4)
    assert {request["model"] for request in one.requests} == {"sees"}
    assert {request["model"] for request in other.requests} == {"reasons"}
    assert made.exists()
    assert all("image_url" not in str(request) for request in other.requests), "the reasoner sees no image"


@pytest.mark.slow
def test_the_examples_that_train_run_and_return_what_they_say(tmp_path: Path) -> None:
    assert len(example("own_csv").main(tmp_path / "csv", steps=2)) == 2
    rows = example("own_reward").main(tmp_path / "reward", steps=2)
    assert len(rows) == 2
    assert any("short_thought" in key for key in rows[0])
    assert example("own_loop").main(tmp_path / "loop", enough=0.0) == 1


@pytest.mark.slow
def test_the_family_and_the_benchmark_of_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from saccade.evaluation.benchmarks import BENCHMARKS
    from saccade.models.families import ADAPTERS

    monkeypatch.setitem(ADAPTERS, "qwen2_5_vl", ADAPTERS["qwen2_5_vl"])  # undone afterwards
    assert example("own_family").main().name == "thousand"
    monkeypatch.undo()
    monkeypatch.setitem(BENCHMARKS, "dice", example("own_benchmark").DICE)
    (row, *_) = example("own_benchmark").main(tmp_path / "dice")
    assert row["n"] == 12


NOTEBOOK = EXAMPLES / "first_run.ipynb"


def cells_of(notebook: Path) -> list[str]:
    """The text of the code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


class Shown:
    """Stands in for IPython.display: a notebook's `display(HTML(...))` is kept."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.HTML = str
        self.display = lambda thing: self.texts.append(str(thing))


def test_the_notebook_compiles_and_holds_no_output() -> None:
    whole = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in whole["cells"]}) == len(whole["cells"])
    for cell in whole["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    for number, text in enumerate(cells_of(NOTEBOOK)):
        compile(text, f"{NOTEBOOK.name}, cell {number}", "exec")


@pytest.mark.slow
def test_the_notebook_trains_a_model_that_answers_more_of_the_test(tmp_path: Path, monkeypatch) -> None:
    shown, script = Shown(), tmp_path / "first_run.py"
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.chdir(tmp_path)
    script.write_text("\n\n".join(cells_of(NOTEBOOK)), encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")
    before, after = map(int, re.findall(r"<b>(\d+)%</b>", shown.texts[-2]))
    assert after > before + 20
    assert (tmp_path / "runs" / "first_run" / "run" / "report.html").is_file()
