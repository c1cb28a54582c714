"""What rows, names and replies contain never steers the terminal, and no message is longer than a screen."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hostile_rows import turns
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from property_search import examples
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors.torch import load_file, save_file

from saccade import cli
from saccade.base.tiny import write_checkpoint
from saccade.cli import main
from saccade.cli.terminal import StderrHandler
from saccade.runs.progress import progress
from saccade.runs.safe_console import SafeConsole
from saccade.runs.safe_text import LINES, SCREEN, SafeFormatter, cut, printable

ATTACK = "\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202e[red]x[/red]\r\x08"
BAD = {
    chr(code)
    for code in (*range(9), *range(11, 32), 127, *range(128, 160), 0x202E, 0x2066, 0x200B, 0xFEFF, 0xE0041, 0xD800)
}


@settings(max_examples=examples(200))
@given(text=st.text(st.characters(), max_size=80) | st.lists(st.sampled_from([*sorted(BAD), "a", "\n"])).map("".join))
def test_no_character_that_steers_a_terminal_is_printed(text: str) -> None:
    found = printable(text)
    assert not set(found) & BAD
    found.encode()
    assert printable(found) == found
    assert len(cut(text * 500)) <= SCREEN + 200 and cut(text * 500).count("\n") <= LINES + 3


def test_ordinary_text_is_printed_as_it_is() -> None:
    text = "Größe: 5 µm, 图像, 😀, ½ (a\tb)\nnext"
    assert printable(text) == cut(text) == text


def test_log_lines_and_titles_of_progress_bars_are_escaped() -> None:
    record = logging.LogRecord("saccade", logging.WARNING, "", 0, "%s", (ATTACK,), None)
    assert not set(SafeFormatter("%(message)s").format(record)) & BAD
    console = Console(force_terminal=True, width=80)
    with console.capture() as shown, progress("rl x[/b].jsonl", 1, console) as report:
        report(1, {})
    assert "x[/b].jsonl" in shown.get()
    with console.capture() as attacked, progress(f"rl {ATTACK}", 1, console) as report:
        report(1, {})
    assert r"\x1b" in attacked.get() and "\x9b" not in attacked.get() and "\x1b[2J" not in attacked.get()


@pytest.mark.parametrize("verb", ["check", "convert", "rl"])
def test_a_row_cannot_write_to_the_terminal(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "ok.png")
    rows = [
        {"id": 1, "image": "ok.png", "conversations": turns("?", "1")},
        {"id": 2, "image": f"{ATTACK}.png", "conversations": turns("?", "1")},
        {"id": ATTACK, "image": "ok.png", "task": ATTACK, "conversations": turns("?", "1")},
        {"id": 4, "image": "ok.png", "conversations": [{"from": ATTACK, "value": ATTACK * 9000}]},
    ]
    (tmp_path / "x[b].jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = "kind: rl\nmodel: {path: none}\ndata: [{source: vlm_r1, path: 'x[b].jsonl'}]\nnum_steps: 1\n"
    recipe += "optim: {lr: 0.1}\nstages: [{max_new_tokens: 4, group_size: 2}]\n"
    (tmp_path / "r.yaml").write_text(recipe.replace("x[b]", str(tmp_path / "x[b]")))
    arguments = {
        "check": ["check", str(tmp_path / "x[b].jsonl"), "--from", "vlm_r1"],
        "convert": ["convert", str(tmp_path / "x[b].jsonl"), "--from", "vlm_r1", "--out", str(tmp_path / "out")],
        "rl": ["rl", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")],
    }[verb]
    with pytest.raises(SystemExit):
        main(arguments)
    printed = "".join(capsys.readouterr())
    assert printed and not set(printed) & BAD and len(printed) < 12_000


def test_the_traceback_of_a_bug_is_escaped_too() -> None:
    code = "import sys; from saccade.cli import terminal; sys.excepthook = terminal.print_traceback; "
    code += f"raise RuntimeError({ATTACK!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "RuntimeError" in done.stderr and not set(done.stderr) & BAD


def test_a_log_line_appears_above_the_live_bar_and_not_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    log, handler = logging.getLogger("saccade.test_bar"), StderrHandler()
    log.addHandler(handler)
    try:
        with progress("rl", 2, Console(file=screen, force_terminal=True, width=100)) as report:
            report(1, {"reward": 0.5})
            log.warning("shared prefix: on, [merged]")
            report(2, {"reward": 0.75})
    finally:
        log.removeHandler(handler)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    (line,) = [one for one in re.split(r"[\r\n]+", plain) if "shared prefix" in one]
    assert line.strip() == "shared prefix: on, [merged]"


ENDS = {"a reader that is gone": "| head -c0", "closed": ">&-", "all closed": "0<&- 1>&- 2>&-"}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_output_that_nobody_reads_ends_no_verb(end: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m saccade rl vlm_r1_rec_3b --print-config {end}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, b"")


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rl", "r.yaml", "--out", "runs/\udcff"])
    assert ended.value.code == 2 and r"runs/\udcff: the name is not UTF-8" in capsys.readouterr().err


def test_an_error_of_a_file_names_it_and_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["watch", "n" * 300])
    assert capsys.readouterr().err.startswith(f"saccade: {'n' * 300}: File name too long; check the name")


def test_no_console_reads_names_as_markup_or_shows_them_raw() -> None:
    """A stage, model or folder called [/b] would be an error of rich, and [bold] would not be shown."""
    files = sorted((Path(__file__).parent.parent / "src").rglob("*.py"))
    made = [one for file in files for one in re.findall(r"\w*Console\([^)]*\)", file.read_text(encoding="utf-8"))]
    assert "SafeConsole()" in made and [one for one in made if not one.startswith("SafeConsole")] == []
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, color_system="standard", width=200)
    table = Table(title=f"title {ATTACK}")
    table.add_column(f"column {ATTACK}")
    table.add_row(Text(f"cell {ATTACK}", style="bold"))
    for shown in (table, f"line {ATTACK} https://me:secret@host/", Text(ATTACK)):
        console.print(shown)
    narrow = SafeConsole(file=(few := io.StringIO()), width=30)
    table.add_row(f"https://me:{'s3' * 40}@host/")
    for shown in (table, f"https://me:{'s3' * 40}@host/", Text(f"https://me:{'s3' * 40}@host/")):
        narrow.print(shown)
    assert "s3s3" not in few.getvalue() and few.getvalue().count("[key]") == 3
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "\x1b[1" in out.getvalue() and not BAD & set(lines) and "https://[key]@host/" in lines
    assert all(f"{one} \\x1b]0;PWNED" in lines for one in ("title", "column", "cell", "line"))


def test_what_a_library_says_of_a_strangers_checkpoint_is_escaped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """transformers lists tensors that the model does not have, by name and in colors."""
    model = write_checkpoint(tmp_path / "model", "S")
    weights = load_file(model / "model.safetensors")
    save_file({**weights, "model.odd\x1b]0;owned\x07": torch.zeros(3)}, model / "model.safetensors", {"format": "pt"})
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.utils.logging._default_handler.stream", sys.stderr)
        with contextlib.suppress(SystemExit):
            cli.main(["predict", str(tmp_path / "a.png"), "How many?", "--model", str(model), "--max-new-tokens", "2"])
    said = "".join(capfd.readouterr())
    assert "\x1b" not in said and "\x07" not in said and "\\x1b]0;owned" in said, said


def test_warnings_and_logs_of_libraries_are_safe_while_a_verb_runs(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    library = logging.getLogger("some.library")
    library.addHandler(handler)
    with cli._log_lines():
        library.warning("\x1b[1mnames\x1b[0m %s of https://me:secretpw@host", "\x1b]0;x\x07")
        library.warning("%d", "no number")
        assert warnings.formatwarning("\x1b[2J", UserWarning, __file__, 1) == f"{__file__}:1: UserWarning: \\x1b[2J\n"
    library.removeHandler(handler)
    said = capfd.readouterr().err
    assert said.startswith("names \\x1b]0;x\\x07 of https://[key]@host")


def test_the_end_of_another_process_is_told_from_a_bug() -> None:
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2971"
    assert cli.lost_process(RuntimeError(gloo)) == "Connection closed by peer"
    assert cli.lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
