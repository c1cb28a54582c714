"""The command line: one clear line for user errors, a traceback for bugs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from saccade import cli
from saccade.cli.options import Overrides, PrintConfig, Recipe, resolve
from saccade.config import Config


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


def test_print_config_prints_the_resolved_recipe_and_stops(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "r.yaml").write_text("steps: 4\n")
    assert run(["tiny", str(tmp_path / "r.yaml"), "steps=5", "--print-config"], tiny, monkeypatch) == 0
    assert capsys.readouterr().out == "steps: 5\n"


def test_an_unknown_verb_is_refused(monkeypatch, capsys) -> None:
    assert run(["fly"], tiny, monkeypatch) == 2
    assert "fly" in capsys.readouterr().err
