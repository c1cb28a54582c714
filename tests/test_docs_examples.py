"""What the documentation shows is what the code takes: its rows are read, its recipes load, links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from saccade.cli import VERBS
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.config import load, packaged
from saccade.data import READERS, DataConfig, open_source
from saccade.data.dialogues import METHOD_TASKS
from saccade.data.preflight import preflight
from saccade.data.sources import items
from saccade.geometry import FRAMES
from saccade.models.config import ModelConfig
from saccade.models.families import ADAPTERS
from saccade.rewards import PENALTIES, REWARDS
from saccade.rewards.reference import page as page_of_rewards
from saccade.tasks import TASKS
from saccade.training.config import ExampleConfig, RLRecipe
from saccade.training.examples import read_examples
from saccade.training.rl import train

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def test_the_rows_of_the_data_page_are_read(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        Image.new("RGB", (200, 200)).save(tmp_path / name)
    *rows, reply = blocks("data.md", "json")
    sources = ("table", "verl", "vlm_r1", "llava", "easy_r1", "math_vision", "refcoco", "saccade")
    answers = (
        "B",
        "4",
        (10.0, 20.0, 110.0, 140.0),
        "2",
        "3\\sqrt{2}",
        "B",
        (10.0, 20.0, 110.0, 140.0),
        (10.0, 20.0, 110.0, 140.0),
    )
    for source, row, answer in zip(sources, rows, answers, strict=True):
        (tmp_path / "row.jsonl").write_text(row)
        config = DataConfig(source=source, path=tmp_path / "row.jsonl")
        (sample,) = open_source(config)
        assert sample.answer == answer
        assert preflight(items(config)).ok
    (tmp_path / "reply.jsonl").write_text(reply)
    (example,) = read_examples(ExampleConfig(path=tmp_path / "reply.jsonl"))
    assert example.reply == json.loads(reply)["response"]


@pytest.mark.parametrize("page", ["README.md", "data.md", "algorithms.md", "models.md"])
def test_the_recipes_of_a_page_load(page: str, tmp_path: Path) -> None:
    whole = {
        "kind": "rl",
        "model": {"path": "base"},
        "data": [{"source": "world", "task": "count"}],
        "stages": [{"max_new_tokens": 8, "group_size": 2}],
        "optim": {"lr": 1e-3},
    }
    (tmp_path / "rewards.py").write_text("def short_thought(completion, sample):\n    return 1.0\n")
    for i, text in enumerate(blocks(page, "yaml")):
        recipe = {**whole, **yaml.safe_load(text)}
        if recipe["stages"][-1].get("until") is None:
            recipe.setdefault("num_steps", 9)
        (tmp_path / f"{i}.yaml").write_text(yaml.safe_dump(recipe))
        config = load(tmp_path / f"{i}.yaml", RLRecipe, variables={"SACCADE_DATA": "."})
        assert config.schedule.max_steps >= 1


def test_the_recipe_of_the_cold_start_page_loads(tmp_path: Path) -> None:
    (text,) = blocks("coldstart.md", "yaml")
    (tmp_path / "r.yaml").write_text(text)
    assert load(tmp_path / "r.yaml", ColdStartRecipe).samples == 4


def test_the_tables_of_the_pages_name_what_there_is() -> None:
    data, rewards, models = PAGES["data.md"], PAGES["rewards.md"], PAGES["models.md"]
    for page, names in (
        (data, [*READERS, *METHOD_TASKS, *TASKS, *FRAMES]),
        (rewards, [*REWARDS, *PENALTIES]),
        (models, [*ADAPTERS, *ModelConfig.model_fields]),
    ):
        missing = [name for name in names if name not in page and name not in ("default",)]
        assert missing == []


def test_the_page_of_rewards_is_what_their_docstrings_say() -> None:
    assert PAGES["rewards.md"] == page_of_rewards(), (
        "write it anew: python -m saccade.rewards.reference > docs/rewards.md"
    )


def test_recipes_and_verbs_that_the_readme_names_are_there() -> None:
    readme = PAGES["README.md"]
    for verb, recipe in re.findall(r"^saccade (\w+) ([a-z]\w+) ", readme, re.MULTILINE):
        assert verb in VERBS
        assert verb in ("world", "new", "eval") or recipe in packaged()
    for name in re.findall(r"`(v\w+_r1_\w+)`", readme):
        assert name in packaged()


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[page])
    missing = [link for link in links if not (folder / link).exists()]
    assert [link for link in missing if link != "docs/results.md"] == []


def test_the_python_of_the_readme_trains(tmp_path: Path) -> None:
    code, bridge = blocks("README.md", "python")
    assert "reward_funcs" in compile(bridge, "README.md", "exec").co_names
    for long, short in (('"num_steps": 20', '"num_steps": 1'), ('"max_new_tokens": 40', '"max_new_tokens": 4')):
        assert long in code
        code = code.replace(long, short)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert len((tmp_path / "runs" / "compare" / "metrics.jsonl").read_text().splitlines()) == 1


def defined(path: Path) -> set[str]:
    """Functions, classes and `Class.method` at the top of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return found | {f"{c.name}.{f.name}" for c in classes for f in c.body if isinstance(f, ast.FunctionDef)}


def test_every_function_that_the_design_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGES["design.md"])
    assert len(named) > 15
    files = {file: defined(ROOT / "src" / "saccade" / file) for file, _ in named}
    assert [f"{file}:{name}" for file, name in named if name not in files[file]] == []


def test_a_sample_becomes_a_gradient_in_at_most_ten_hops() -> None:
    hops = re.findall(r"^\| (\d+) \| `[\w/]+\.py:", PAGES["design.md"], re.MULTILINE)
    assert [int(hop) for hop in hops] == list(range(1, len(hops) + 1))
    assert 5 < len(hops) <= 10


def test_the_loop_of_the_design_is_that_of_the_code() -> None:
    (loop,) = blocks("design.md", "python")
    code = [line.strip() for line in inspect.getsource(train).splitlines()]
    assert [line for line in loop.splitlines() if line.strip() not in code] == []


def test_the_design_stays_two_pages() -> None:
    assert len(PAGES["design.md"].splitlines()) <= 160
