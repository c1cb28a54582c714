"""`import saccade`: what a user of the library has, and that it costs nothing before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import saccade
from saccade import algorithm, data, grading, parsing, world
from saccade.config import ConfigError

NAMES = [
    "load_policy",
    "train_rl",
    "train_sft",
    "evaluate",
    "open_engine",
    "Sample",
    "Completion",
    "Score",
    "Reward",
    "Rubric",
    "Task",
    "Engine",
    "Adapter",
    "load_recipe",
    "read_run",
]


LAZY = (saccade, algorithm, data, grading, parsing, world)


def imported_for_type_checkers(package: ModuleType) -> dict[str, str]:
    """Name -> module:attribute, from the imports under TYPE_CHECKING."""
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        found |= {alias.asname or alias.name: f"{node.module}:{alias.name}" for alias in node.names}
    return found


def test_the_names_of_the_facade_are_these_and_all_resolve() -> None:
    assert sorted(saccade.__all__) == sorted(NAMES)
    assert all(getattr(saccade, name) is not None for name in NAMES)
    assert set(NAMES) <= set(dir(saccade))


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_see_what_the_runtime_gives(package: ModuleType) -> None:
    places = {
        name: f"{package.__name__}.{place if ':' in place else f'{place}:{name}'}"
        for name, place in vars(package)["_PLACES"].items()
    }
    assert imported_for_type_checkers(package) == places
    assert sorted(places) == sorted(package.__all__)
    assert all(getattr(package, name) is not None for name in places)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'train'; it exports .*train_rl"):
        saccade.train  # noqa: B018  # the unknown name is the test


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "pydantic", "numpy", "PIL", "yaml", "typer"]
    assert in_a_fresh_process(f"import sys, saccade; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_nouns_and_recipes_load_without_torch() -> None:
    names = "Sample, Score, Rubric, Task, load_recipe, read_run"
    code = f"import sys; from saccade import {names}; print('torch' in sys.modules)"
    assert in_a_fresh_process(code) == "False"


def test_a_recipe_has_the_class_of_its_kind(tmp_path: Path) -> None:
    recipe = saccade.load_recipe("world_eval", ["seed=7"])
    assert (type(recipe).__name__, getattr(recipe, "seed", None)) == ("EvalRecipe", 7)
    (tmp_path / "a.yaml").write_text("kind: r1\n")
    with pytest.raises(ConfigError, match="kind is 'r1', expected one of pretrain, coldstart, sft, rl"):
        saccade.load_recipe(tmp_path / "a.yaml")
