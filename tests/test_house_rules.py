"""Rules of the code, checked on syntax trees of the source; the table of packages is in docs/design.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from saccade.cli.options import load_recipe
from saccade.config import packaged
from saccade.schemas import SCHEMAS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "saccade"
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
FUNCTIONS = [
    (path, node)
    for path, tree in SOURCES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
]
MAX_LINES, MAX_TEST_LINES, MAX_FUNCTION, MAX_PARAMETERS, TORCH_FREE = 400, 500, 80, 7, 3
MODEL_TEXT = {"tokenizer.py"}
"""Files that hold text for models, which never changes."""
GRAB_BAGS = {"utils", "util", "common", "helpers", "misc", "base_utils"}


def floors() -> dict[str, int]:
    """Package -> floor, from the table of docs/design.md; imports point to lower floors only."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    return {name.rstrip("/"): int(floor) for floor, names in rows for name in re.findall(r"`([\w/]+)`", names)}


FLOOR = floors()


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module, line) of every import; `from saccade import x` counts as `saccade.x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "saccade":
            yield from ((f"saccade.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def at(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def test_the_table_of_packages_has_twelve_floors() -> None:
    assert set(FLOOR.values()) == set(range(12))


def test_every_package_is_in_the_table() -> None:
    assert {package_of(path) for path in SOURCES} - {"__init__", "__main__"} <= FLOOR.keys()


def test_imports_point_down() -> None:
    up = [
        at(path, line, f"{package_of(path)} (floor {FLOOR[package_of(path)]}) imports {name}")
        for path, tree in SOURCES.items()
        if package_of(path) in FLOOR
        for name, line in imports(tree)
        if name.startswith("saccade.") and FLOOR.get(name.split(".")[1], 0) > FLOOR[package_of(path)]
    ]
    assert up == []


def test_packages_form_no_import_cycle() -> None:
    """Lazy imports and those for type checkers count too; imports of `saccade` itself, the face of them all, do not."""
    uses: dict[str, set[str]] = {package_of(path): set() for path in SOURCES if package_of(path) in FLOOR}
    for path, tree in SOURCES.items():
        if package_of(path) in uses:
            used = {name.split(".")[1] for name, _ in imports(tree) if name.startswith("saccade.")}
            uses[package_of(path)] |= used & uses.keys() - {package_of(path)}
    order = [*TopologicalSorter(uses).static_order()]  # CycleError names the packages of a cycle
    assert set(order) == uses.keys()


def test_engines_are_opened_in_one_place() -> None:
    """So that a run's engine and its options are those of its evaluation too."""
    direct = [
        at(path, node.lineno, "BuiltinEngine outside rollout; use open_engine(policy, config)")
        for path, tree in SOURCES.items()
        if package_of(path) != "rollout"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id == "BuiltinEngine")
        or (isinstance(node, ast.Attribute) and node.attr == "BuiltinEngine")
        or (isinstance(node, ast.alias) and node.name == "BuiltinEngine")
    ]
    assert direct == []


def test_a_type_error_is_ignored_with_its_code_and_a_reason() -> None:
    files = [path for folder in ("src", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    bare = [
        at(path, number, "expected '# type: ignore[code]  # why'")
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"#\s*(type|pyright):\s*ignore(?!\[[\w, -]+\]  # \w)", line)
    ]
    assert bare == []


DIALECT = (
    r"\b(un)?told\b|\blies\b|\bin vain\b|\bof ours\b|\bleave (it|them) out\b|\bso many\b|\bdear(er)?\b",
    r"\bgo(es)? on\b|\bwent on\b|\bmeans? nothing\b|\b(is|are) not right\b|\bwants (a|an|the|no)\b|\basked anew\b",
    r"\bstands? (?!for\b|in for\b|up\b|still\b|out\b)",
    r"(?i:\b\w*(colour|centre[ds]?\b|centring|behaviour|neighbour|grey|artefact|favour|honour))",
    r"(?i:\b(un|re)?(optimis|normalis|generalis|initialis|recognis|summaris|tokenis|serialis|organis|quantis))",
    r"\b(members_of|settle|Surroundings|Opening|WorldEyes|WorldMind|Ending|Picker|never_said|also_ends|Passes)\b",
)
"""Words that are not plain American English of the field, and names that were replaced by its standard terms."""
SPELLED_BY_OTHERS = re.compile(r"`[^`]*`|\"[^\"]*\"|'[^']*'|https?://\S+")


def test_words_are_plain_american_english() -> None:
    """In code, docs and tests; quoted words are names and text of others."""
    files = [*SOURCES, *(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    pattern = re.compile("|".join(DIALECT))
    found = [
        at(path, number, match[0])
        for path in files
        if path.name not in MODEL_TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := pattern.search(SPELLED_BY_OTHERS.sub("", line)))
    ]
    assert found == []


def test_imports_are_absolute() -> None:
    relative = [
        at(path, node.lineno, "relative import")
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_lowest_floors_do_without_torch() -> None:
    torch = [
        at(path, line, f"floor {FLOOR[package_of(path)]} imports {name}")
        for path, tree in SOURCES.items()
        if FLOOR.get(package_of(path), 9) <= TORCH_FREE
        for name, line in imports(tree)
        if name.split(".")[0] in ("torch", "transformers")
    ]
    assert torch == []


def test_recipes_and_the_configs_of_every_package_load_without_torch() -> None:
    names = [f"saccade.{path.parent.name}.config" for path in SOURCES if path.name == "config.py"]
    code = (
        "import importlib, sys\n"
        "from saccade.schemas import SCHEMAS\n"
        f"[importlib.import_module(name) for name in {names}]\n"
        "[schema() for schema in SCHEMAS.values()]\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_is_too_long_and_none_is_a_grab_bag() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    limits = {**dict.fromkeys(SOURCES, MAX_LINES), **dict.fromkeys(tests, MAX_TEST_LINES)}
    long = {
        path.name: n
        for path, most in limits.items()
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > most
    }
    assert long == {}
    assert [path.name for path in limits if {path.stem, path.parent.name} & GRAB_BAGS] == []


def test_no_function_is_too_long_or_takes_too_much() -> None:
    long = [
        at(path, node.lineno, f"{node.name} has {size} lines")
        for path, node in FUNCTIONS
        if (size := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION
    ]
    wide = [
        at(path, node.lineno, f"{node.name} has {count} parameters")
        for path, node in FUNCTIONS
        if package_of(path) != "cli"  # there a parameter is an option of the command line
        and (count := len(own_parameters(node))) > MAX_PARAMETERS
    ]
    assert long + wide == []


def own_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument.arg for argument in named if argument.arg not in ("self", "cls")]


def reads_environment(node: ast.AST) -> bool:
    """Handing the environment on to a child process, or setting it, is no reading; nor is what torchrun says about a
    process that it started."""
    if isinstance(node, ast.Call):
        reads = ast.unparse(node.func) in ("os.environ.get", "os.getenv")
        return reads and not ast.unparse(node.args[0]).startswith("'TORCHELASTIC_")
    looked_up = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
    return looked_up and ast.unparse(node.value) == "os.environ"


def test_nothing_prints_or_reads_the_environment_outside_the_command_line() -> None:
    found = [
        at(path, node.lineno, ast.unparse(node))
        for path, tree in SOURCES.items()
        if package_of(path) not in ("cli", "__main__")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or reads_environment(node)
    ]
    assert found == []


def test_nothing_is_evaluated_swallowed_or_left_undone() -> None:
    found = []
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            blind = isinstance(node, ast.ExceptHandler) and ast.unparse(node.type or ast.Name("Exception")) in (
                "Exception",
                "BaseException",
            )
            if blind and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body):
                found.append(at(path, node.lineno, "a blind except that says nothing"))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                found.append(at(path, node.lineno, f"{node.func.id}()"))
            if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
                found.append(at(path, node.lineno, "not implemented"))
    assert found == []


def config_keys() -> dict[str, str]:
    """Key -> place of every field of every class that descends from Config."""
    nodes = ((path, node) for path, tree in SOURCES.items() for node in ast.walk(tree))
    classes = {node.name: (path, node) for path, node in nodes if isinstance(node, ast.ClassDef)}

    def is_config(name: str) -> bool:
        if name in ("Config", "BaseModel"):
            return True
        return name in classes and any(is_config(ast.unparse(base)) for base in classes[name][1].bases)

    return {
        line.target.id: at(path, line.lineno, f"{name}.{line.target.id}")
        for name, (path, node) in classes.items()
        if is_config(name)
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and "ClassVar" not in ast.unparse(line)
    }


def test_every_config_key_is_read_somewhere() -> None:
    """A key counts as read when some code takes it as an attribute or hands it on by name: model_dump(include=...)."""
    nodes = [node for tree in SOURCES.values() for node in ast.walk(tree)]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "model_dump":
            named = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
            read |= {name for name in named if isinstance(name, str)}
    dead = [place for key, place in config_keys().items() if key not in read | {"kind"}]  # `config.kind` reads kind
    assert dead == []


@pytest.mark.parametrize("name", [name for name in packaged() if not name.startswith("presets/")])
def test_every_packaged_recipe_follows_its_schema(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe == type(recipe).model_validate(recipe.model_dump())


def test_every_schema_is_there() -> None:
    assert all(isinstance(schema().model_fields, dict) for schema in SCHEMAS.values())
