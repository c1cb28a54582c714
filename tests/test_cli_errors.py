"""The command line: one clear line for user errors, a traceback for bugs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import Field

from saccade import cli
from saccade.cli.options import Overrides, PrintConfig, Recipe, resolve
from saccade.config import MOST_LINES, Config, ConfigError, load


class Tiny(Config):
    steps: int = 3


def run(argv: list[str], verb: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.delenv("SACCADE_DEBUG", raising=False)
    monkeypatch.setitem(cli.VERBS, "tiny", (verb, "Reads a recipe.", "saccade tiny r.yaml"))
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


def tiny(recipe: Recipe, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Reads a recipe."""
    resolve(recipe, Tiny, overrides, print_config)


def test_help_lists_the_verbs_and_their_one_line(monkeypatch, capsys) -> None:
    assert run(["--help"], tiny, monkeypatch) == 0
    assert "Reads a recipe." in capsys.readouterr().out


def test_a_wrong_key_is_one_line_and_status_2(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "r.yaml").write_text("stps: 3\n")
    assert run(["tiny", str(tmp_path / "r.yaml")], tiny, monkeypatch) == 2
    assert capsys.readouterr().err == f"saccade: {tmp_path}/r.yaml:1: unknown key 'stps'; did you mean 'steps'?\n"


def test_a_missing_recipe_is_one_line_and_status_2(monkeypatch, capsys) -> None:
    assert run(["tiny", "gone.yaml"], tiny, monkeypatch) == 2
    assert capsys.readouterr().err.startswith("saccade: gone.yaml: no such recipe")


def test_debug_shows_the_traceback(monkeypatch) -> None:
    for argv, variable in ((["tiny", "gone.yaml", "--debug"], ""), (["tiny", "gone.yaml"], "1")):
        monkeypatch.setitem(cli.VERBS, "tiny", (tiny, "Reads a recipe.", "saccade tiny r.yaml"))
        monkeypatch.setenv("SACCADE_DEBUG", variable)
        with pytest.raises(FileNotFoundError):
            cli.main(argv)


def test_an_internal_error_keeps_its_traceback(monkeypatch) -> None:
    def broken() -> None:
        raise KeyError("ours")

    monkeypatch.setitem(cli.VERBS, "tiny", (broken, "Breaks.", "saccade tiny"))
    with pytest.raises(KeyError):
        cli.main(["tiny"])


def odd_place(folder: Path) -> None:
    (folder / "report.html").mkdir()
    (folder / "report.html").write_text("")


def gone_folder(folder: Path) -> None:
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    (folder / "gone").rmdir()
    Path("x").absolute()


def no_memory(folder: Path) -> None:
    torch.empty(2**60)


FAILS: dict[Callable[[Path], None], str] = {
    odd_place: "{}/report.html: Is a directory; move what is there out of the way, or choose another place",
    gone_folder: "the working directory was removed; change into another one and run the same command again",
    no_memory: "'saccade plan RECIPE' says what to lower",
}


@pytest.mark.parametrize("fails", FAILS)
def test_what_is_in_the_way_is_one_line_with_the_way_out(tmp_path, monkeypatch, capsys, fails) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["tiny"], lambda: fails(tmp_path), monkeypatch) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("saccade: ") and said.endswith(f"{FAILS[fails].format(tmp_path)}\n") and said.count("\n") == 1
    )


@pytest.mark.parametrize(
    "argv", [["check", "x", "--show"], ["data", "passrate", "x", "-k"], ["world", "make", "x", "-n"]]
)
def test_an_option_beyond_64_bits_is_refused_by_name(argv, monkeypatch, capsys) -> None:
    assert run([*argv, str(2**64)], tiny, monkeypatch) == 2
    assert "got a whole number of 65 bits, expected one of at most 63" in capsys.readouterr().err


def test_print_config_prints_the_resolved_recipe_and_stops(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "r.yaml").write_text("steps: 4\n")
    assert run(["tiny", str(tmp_path / "r.yaml"), "steps=5", "--print-config"], tiny, monkeypatch) == 0
    assert capsys.readouterr().out == "steps: 5\n"


def test_an_unknown_verb_is_refused(monkeypatch, capsys) -> None:
    assert run(["fly"], tiny, monkeypatch) == 2
    assert "fly" in capsys.readouterr().err


class Part(Config):
    path: str
    weight: float = Field(default=1.0, gt=0)


class Many(Config):
    parts: tuple[Part, ...] = ()
    steps: int = 3


def mistakes_of(folder: Path, text: str) -> list[str]:
    """The lines of the error, with the folder left out."""
    (folder / "r.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(folder / "r.yaml", Many)
    return str(refused.value).replace(f"{folder}/", "").splitlines()


def test_the_same_mistake_in_500_items_is_one_line_with_a_count_and_the_first_places(tmp_path: Path) -> None:
    items = "".join(f"  - {{path: a{i}, weigth: 2}}\n" for i in range(500))
    assert mistakes_of(tmp_path, f"parts:\n{items}steps: x\n") == [
        "r.yaml:2: unknown key 'parts.0.weigth'; did you mean 'weight'? [500 places: r.yaml:2, r.yaml:3, r.yaml:4, ..]",
        "r.yaml:502: 'steps': got 'x', expected a valid integer",
    ]


def test_different_mistakes_in_items_of_a_list_stay_apart(tmp_path: Path) -> None:
    lines = mistakes_of(
        tmp_path, "parts:\n  - {path: a, weigth: 2}\n  - {path: a, pth: 2}\n  - {path: a, weight: -1}\n"
    )
    assert [line.partition(":")[2].partition(":")[0] for line in lines] == ["2", "3", "4"]
    distinct = "".join(f"  - {{path: a, key_{i}: 1}}\n" for i in range(MOST_LINES + 7))
    lines = mistakes_of(tmp_path, f"parts:\n{distinct}")
    assert len(lines) == MOST_LINES + 1 and lines[-1] == "and 7 more"


def test_containers_are_called_as_in_yaml(tmp_path: Path) -> None:
    assert mistakes_of(tmp_path, "parts: {path: a}\n")[0].endswith("expected a list")
    assert mistakes_of(tmp_path, "parts: [a]\n")[0].endswith("expected a section of keys")


@pytest.mark.parametrize(
    "words",
    [
        ("rl", "vlm_r1_rec_3b", "--reward", "r.py:f", "--deadline", "-1"),
        ("check", "x.csv", "--from", "table", "--column", "foo=1"),
        ("check", "x.csv", "--from", "coco", "--split", "a"),
        ("convert", "x.csv", "out", "--from", "table", "--column", "foo=1"),
        ("rl", "demo", "data=[{source: nope}]", "stages=[{max_new_tokens: 1, group_size: 0}]", "kind=rl"),
        ("sft", "vision_r1_7b_sft", "data=[{source: nope}]"),
    ],
)
def test_no_error_echoes_the_machinery_behind_it(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text("def f(completion, sample):\n    return 1.0\n")
    (tmp_path / "x.csv").write_text("question,answer\na,b\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert not any(echo in said for echo in ("Value error", "validation error", "pydantic", "input_value"))
    assert len(set(said.splitlines())) == len(said.splitlines())
