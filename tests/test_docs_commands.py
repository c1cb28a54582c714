"""Every command line and every YAML of README and docs is one that the code takes; what needs no GPU, no server and no
download is run under the slow marker."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml
from test_examples import example

from saccade import cli
from saccade.config import Config, load, packaged
from saccade.schemas import SCHEMAS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


class Line(NamedTuple):
    """A command line of a page, as words without its comment."""

    place: str
    words: tuple[str, ...]


def code_of(page: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines in fenced blocks of shell or of no language, and of indented ones."""
    found, fence = [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fence = line.strip()[3:] if fence is None else None
        elif fence in ("", "bash", "sh", "shell", "console") or (fence is None and line.startswith("    ")):
            found.append((number, line.strip()))
    return found


def lines() -> list[Line]:
    """All command lines; one that ends in a backslash continues."""
    found, before = [], ""
    for page in PAGES:
        for number, text in code_of(page):
            whole = f"{before} {text}".strip()
            before = whole[:-1] if whole.endswith("\\") else ""
            if before or not re.match(r"(\w+=\S+ )*(\$ )?(saccade|make|python|pip|torchrun|srun)\b", whole):
                continue
            for part in whole.removeprefix("$ ").split("&&"):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"\w+=\S*", words[0]):
                    words.pop(0)  # a variable of the environment
                cut = next((i for i, word in enumerate(words) if word in ("|", ">", "&", "2>", ";")), len(words))
                found.append(Line(f"{page.name}:{number}", tuple(words[:cut])))
    return found


LINES = lines()


def words_of_saccade(line: Line) -> tuple[str, ...] | None:
    """The words after `saccade`, however it is started."""
    text = " ".join(line.words)
    for start in ("saccade", "python -m saccade"):
        if text.startswith(f"{start} "):
            return line.words[len(start.split()) :]
    if "-m saccade " in text:  # torchrun and srun
        return line.words[line.words.index("saccade") + 1 :]
    return None


SACCADE = [(line.place, words) for line in LINES if (words := words_of_saccade(line)) is not None]


def parsed(words: tuple[str, ...]) -> dict[str, Any]:
    """The values of a verb's parameters; click's own errors for a line that it does not take."""
    command: Any = typer.main.get_command(cli.build())
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"there is no verb {name}"
        command = command.commands[name]
    with command.make_context(words[0], rest, resilient_parsing=False) as context:
        return context.params


@pytest.mark.parametrize(("place", "words"), SACCADE, ids=[place for place, _ in SACCADE])
def test_a_command_line_of_the_documentation_is_taken(place: str, words: tuple[str, ...]) -> None:
    if {"-h", "--help", "--version", "--install-completion"} & {*words}:
        assert words[0].startswith("-") or words[0] in cli.VERBS
        return
    params = parsed(words)
    recipe, overrides = str(params.get("recipe", "")), params.get("overrides") or ()
    if recipe.removesuffix(".yaml") in packaged() and words[0] != "coldstart":
        load_packaged(recipe, overrides)


def load_packaged(recipe: str, overrides: Any) -> Config:
    kind = yaml.safe_load(packaged()[recipe.removesuffix(".yaml")].read_text())
    while "kind" not in kind:
        kind = yaml.safe_load(packaged()[str(kind["extends"]).removesuffix(".yaml")].read_text())
    return load(recipe, SCHEMAS[kind["kind"]](), overrides, {"SACCADE_DATA": "data"})


def test_the_pages_show_many_command_lines() -> None:
    assert len(SACCADE) > 60


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_example_of_a_verb_is_taken(verb: str) -> None:
    start, *words = shlex.split(cli.VERBS[verb][2])
    assert (start, words[0]) == ("saccade", verb)
    if "--help" not in words:
        parsed(tuple(words))


def test_programs_targets_and_extras_that_the_pages_name_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    missing = []
    for place, words in LINES:
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            missing += [f"{place}: make {t}" for t in targets if not re.search(rf"^{re.escape(t)}:", makefile, re.M)]
        if words[:2] == ("python", "-m") and words[2].startswith(("benchmarks.", "saccade.")):
            folder = ROOT if words[2].startswith("benchmarks.") else ROOT / "src"
            file = folder / words[2].replace(".", "/")
            if not (file.with_suffix(".py").exists() or file.is_dir()):
                missing.append(f"{place}: {words[2]}")
        if words[0] == "python" and len(words) > 1 and words[1].startswith("examples/"):
            missing += [] if (ROOT / words[1]).exists() else [f"{place}: {words[1]}"]
        if words[0] == "pip":
            for extras in re.findall(r"(?:saccade|\.)\[([\w,]+)\]", " ".join(words)):
                missing += [f"{place}: {e}" for e in extras.split(",") if not re.search(rf"^{e} = \[", project, re.M)]
    assert missing == []


def yaml_blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            found.append((f"{page.name}:{text[: match.start()].count(chr(10)) + 1}", match[1]))
    return found


WHOLE: dict[str, dict[str, Any]] = {
    "rl": {
        "model": {"path": "base"},
        "data": [{"source": "world", "task": "count"}],
        "stages": [{"max_new_tokens": 8, "group_size": 2}],
        "optim": {"lr": 1e-3},
    },
    "sft": {"model": {"path": "base"}, "data": [{"path": "cold.jsonl"}], "epochs": 1, "optim": {"lr": 1e-3}},
    "eval": {"model": {"path": "base"}, "benchmark": "mme"},
    "coldstart": {"extends": "coldstart_world"},
    "pretrain": {"extends": "world_base"},
    "demo": {"extends": "demo"},
}
"""What a page leaves out where it shows a section."""


def loads(kind: str, text: str, folder: Path) -> str:
    """Why the text is no recipe of that kind; '' when it is."""
    recipe = {"kind": kind, **WHOLE.get(kind, {}), **yaml.safe_load(text)}
    if kind == "rl" and recipe["stages"][-1].get("until") is None:
        recipe.setdefault("num_steps", 9)
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    try:
        load(folder / "r.yaml", SCHEMAS[kind](), variables={"SACCADE_DATA": "."})
    except ValueError as error:
        return f"{kind}: {error}"
    return ""


@pytest.mark.parametrize(("place", "text"), yaml_blocks(), ids=[place for place, _ in yaml_blocks()])
def test_the_yaml_of_the_documentation_is_a_recipe_or_a_section_of_one(place: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def short_thought(completion, sample):\n    return 1.0\n")
    kinds = [yaml.safe_load(text).get("kind")] if "kind:" in text.splitlines()[0] else list(SCHEMAS)
    why = [loads(kind, text, tmp_path) for kind in kinds]
    assert "" in why, "\n".join(why)


# ------------------------------------------------------------------------------------------- what can be run, is run

BIGGER = {
    r"http://|--vllm|--judge|vllm_server": "a server",
    r"\blaunch\b(?!.*--dry-run)|runs/two$": "several processes",
    r"\b(vlm_r1|vision_r1|qwen3)_\w+|Qwen/|model.path=DIR|real_language": "a download",
    r"\beval (mathvista|mathverse|math_vision|refcoco)\b|runs/eval/|real_images(?!.*--dry-run)": "a data set",
    r"--push|--serve|\[--|\bdemo\b|\bstudy (?!--list)": "no end in seconds",
}
"""What a line of the pages needs beyond a CPU, by a pattern of its text."""
SMALLER = {
    "rl": "num_steps=2 prompts_per_step=2 stages.0.max_new_tokens=8 stages.0.group_size=2 eval.every=9",
    "sft": "num_steps=2 epochs=null",
    "coldstart": " ".join(f"data.{i}.limit=2" for i in range(7)),
    "eval world_eval": "decoding.max_new_tokens=8 world.n=2",
    "eval": "decoding.max_new_tokens=8",
    "data": "stages.0.max_new_tokens=8",
}
"""Overrides that make a run of hours one of seconds."""
RUNNABLE = [
    (place, words)
    for place, words in sorted(SACCADE, key=lambda one: not one[0].startswith(("tutorial", "coldstart", "README")))
    if not any(re.search(pattern, " ".join(words)) for pattern in BIGGER)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the files that the pages name: a table, a recipe, finished runs."""
    folder = tmp_path_factory.mktemp("docs")
    own = folder / "runs" / "own_csv"
    example("own_csv").main(own, steps=1)
    for name in ("runs/rl", "runs/rl-other", "RUN"):
        shutil.copytree(own / "run", folder / name)
    for file in own.glob("*.png"):
        shutil.copy(file, folder)
    shutil.copy(own / "dots.csv", folder / "train.csv")
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "PAIRS.jsonl").write_text(json.dumps({"prediction": "4", "gold": "4"}) + "\n")
    small = yaml.safe_load((own / "run" / "config.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**small, "eval": {"every": 9}}))
    (folder / "my.yaml").write_text("extends: coldstart_world\n")
    sft = {"kind": "sft", "model": {"path": "base"}, "data": [{"path": "x"}], "epochs": 1, "optim": {"lr": 1e-4}}
    (folder / "my_sft.yaml").write_text(yaml.safe_dump(sft))
    return folder


def test_most_lines_of_the_tutorial_can_be_run() -> None:
    assert sum(place.startswith("tutorial") for place, _ in RUNNABLE) >= 9
    assert len(RUNNABLE) >= 30


@pytest.mark.slow
@pytest.mark.parametrize(("place", "words"), RUNNABLE, ids=[place for place, _ in RUNNABLE])
def test_a_command_line_of_the_documentation_runs(
    place: str, words: tuple[str, ...], folder: Path, monkeypatch, capsys
) -> None:
    """In the order of the page, so that a line finds what those before it wrote."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if words[:2] == ("new", "rl") and "--model" not in words:
        words = (*words, "--model", "base")
    if words[0] == "export":  # to the same DIR as the line before
        shutil.rmtree(folder / "DIR", ignore_errors=True)
    more = next((SMALLER[key] for key in (" ".join(words[:2]), words[0]) if key in SMALLER), "").split()
    words = tuple(re.sub("^MODEL$", "base", re.sub(r"step-000[12]00", "step-000001", word)) for word in words)
    more = [] if words[1].startswith("-") else more
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, *more])
    captured = capsys.readouterr()
    assert (ended.value.code or 0) in ((0, 1) if words[0] in ("check", "plan") else (0,)), captured.err
