"""A run that is watched: in the terminal and as a served page, while it trains, after a crash, by anyone."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from saccade.cli import main
from saccade.cli.terminal import printable
from saccade.report import build_report, watch
from saccade.report.live import PageServer
from saccade.report.watch import BARS, Watched, duration, follow, latest_run, sparkline, view
from saccade.runs.lock import is_held, locked
from tests.report_runs import write_demo, write_run


def shown(folder: Path, colors: bool = False) -> str:
    watched = Watched(latest_run(folder))
    watched.read()
    console = Console(width=110, force_terminal=colors, color_system="truecolor" if colors else None)
    with console.capture() as found:
        console.print(view(watched, printable, colors))
    return found.get()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", steps=40)


def test_watch_shows_numbers_alarms_and_the_last_reply_of_a_run_that_crashed(run: Path) -> None:
    (run / "metrics.jsonl").open("a").write('{"step": 41, "rew')
    alarm = {"name": "no_signal", "step": 7, "reason": "all equal", "advice": "easier questions"}
    (run / "alarms.jsonl").write_text(json.dumps(alarm) + "\n")
    text = shown(run)
    for words in ("step 39", "not running", "held-out accuracy", "reply length", "alarm at step 7: all equal; try:"):
        assert words in text
    assert "How many red objects are there?" in text and "true answer 3" in text and BARS[-1] in text


def test_watch_reads_files_only_and_draws_the_image_where_the_terminal_has_colors(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "▀" not in shown(run) and shown(run, colors=True).count("▀") > 200
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_what_a_model_wrote_cannot_steer_the_terminal(run: Path) -> None:
    rows = [json.loads(line) | {"text": "\x1b[2J\x07gone"} for line in (run / "rollouts.jsonl").open()]
    (run / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "\x1b" not in shown(run) and "\\x1b[2J" in shown(run)


def test_rows_are_read_as_they_come_and_forgotten_when_a_resume_drops_them(run: Path) -> None:
    watched = Watched(run)
    watched.read()
    assert watched.step == 39
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 40, "reward/total": 1.0}) + '\n{"step": 41')
        file.flush()
        watched.read()
        assert watched.step == 40
        file.write(', "reward/total": 0.5}\n')
    watched.read()
    assert watched.step == 41 and len(watched.rows) == 42
    (run / "metrics.jsonl").write_text(json.dumps({"step": 5, "reward/total": 1.0}) + "\n")
    watched.read()
    assert [row["step"] for row in watched.rows] == [5]


@pytest.mark.parametrize("odd", ['"x"', "NaN", "Infinity", "-3", "1e308", "true", "null", "[]"])
def test_odd_times_in_a_row_give_no_time_left_and_no_error(run: Path, odd: str) -> None:
    (run / "metrics.jsonl").write_text(f'{{"step": 2, "time/step_s": {odd}, "time/eval_s": {odd}}}\n')
    watched = Watched(run)
    watched.read()
    watched.total = 10
    assert watched.step == 2 and watched.eta_s() is None and "step 2" in shown(run)


def test_all_rows_are_read_at_once_and_a_line_without_end_or_a_hole_is_passed_over(run: Path, monkeypatch) -> None:
    monkeypatch.setattr(watch, "LONGEST_LINE", 4096)
    with (run / "metrics.jsonl").open("a") as file:
        file.write("x" * 5000 + "\n" + json.dumps({"step": 40, "odd/metric": 2.0}) + "\n")
        file.truncate(file.tell() + (1 << 40))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 41}\n' + "y" * 9000)
    watched = Watched(run)
    watched.read()
    assert watched.step == 41 and len(watched.rows) == 42 and watch.facts(watched)["metrics"]["odd/metric"] == 2.0


def test_a_run_is_training_while_a_process_holds_it_and_looking_does_not_take_the_lock(run: Path) -> None:
    assert is_held(run) is False
    with locked(run):
        assert is_held(run) is True and "training" in shown(run)
        with pytest.raises(ValueError, match="in use"), locked(run):
            pass
    (run / ".lock").write_text("{}")
    assert is_held(run) is None


def test_watching_ends_when_the_run_is_finished_and_follows_the_newest_part_of_a_demo(tmp_path: Path) -> None:
    demo = write_demo(tmp_path / "demo")
    assert latest_run(demo).name in ("rl", "sft", "more_sft")
    newest = demo / "sft"
    (newest / "metrics.jsonl").touch()
    (newest / "config.yaml").write_text("kind: sft\nnum_steps: 119\n")
    assert latest_run(demo) == newest
    seen: list[object] = []
    follow(demo, seen.append, printable, False, every_s=60)
    assert len(seen) == 1


def test_the_verb_shows_a_run_once_where_there_is_no_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(run)])
    assert ended.value.code == 0 and "step 39" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(run / "images")])
    assert ended.value.code == 2 and "expected a run directory" in capsys.readouterr().err


def test_a_sparkline_goes_from_the_smallest_to_the_largest_value() -> None:
    assert sparkline([0, 1]) == BARS[0] + BARS[-1] and sparkline([2.0]) == BARS[0]
    assert len(sparkline(list(range(1000)))) == 40
    assert (duration(45), duration(600), duration(8000)) == ("45 s", "10 min", "2 h 13 min")


# -------------------------------------------------------------------------------------------------------------- served


@pytest.fixture
def server(run: Path) -> Iterator[PageServer]:
    found = PageServer([run])
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join(10)


def get(server: PageServer, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_a_served_page_is_made_anew_when_the_run_changes(server: PageServer, run: Path) -> None:
    status, page = get(server, "/")
    assert (
        status == 200 and "connect-src &#39;self&#39;" in page and f'"version":"{get(server, "/version")[1]}"' in page
    )
    before = get(server, "/version")
    assert get(server, "/version") == before
    (run / "metrics.jsonl").open("a").write(json.dumps({"step": 400, "reward/total": 1.0}) + "\n")
    assert get(server, "/version") != before and "400" in get(server, "/")[1]


def test_only_this_machine_is_served_under_its_own_name(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_address[1]
    assert get(server, "/", f"evil.example:{port}")[0] == 403 and get(server, "/", "localhost:1")[0] == 403
    assert get(server, "/version", f"localhost:{port}")[0] == 200 and get(server, "/../secret")[0] == 404


def test_a_run_that_goes_away_is_an_error_of_the_page_and_not_of_the_server(server: PageServer, run: Path) -> None:
    run.rename(run.with_name("moved"))
    status, words = get(server, "/")
    assert status == 500 and "is not a directory" in words
    run.with_name("moved").rename(run)
    assert get(server, "/")[0] == 200


def test_a_reader_that_hangs_up_costs_no_word(server: PageServer, capsys: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    for sent in (b"GET / HTTP/1.0\r\nHost: 127.0.0.1:%d\r\n\r\n" % server.server_address[1], b"GET", b""):
        with socket.create_connection(server.server_address[:2]) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
            one.sendall(sent)
    assert get(server, "/version")[0] == 200
    until = time.monotonic() + 30
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert capsys.readouterr().err == ""


def test_serving_writes_no_file_and_refuses_a_taken_port(
    server: PageServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(server.server_address[1])
    for arguments, words in ((["--port", port], "Address already in use"), (["--out", "x.html"], "writes no file")):
        with pytest.raises(SystemExit) as ended:
            main(["report", str(run), "--serve", *arguments])
        assert ended.value.code == 2 and words in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_alarms_of_others_cannot_steer_the_terminal_and_endless_steps_are_no_total(run: Path) -> None:
    alarm = {"name": "x", "step": 3, "reason": "\x1b]0;title\x07\x1b[2J", "advice": "[/b]\x1b[2J"}
    (run / "alarms.jsonl").write_text(json.dumps(alarm) + "\n")
    assert "\x1b" not in shown(run) and "\\x1b[2J" in shown(run)
    assert watch.total_steps({"kind": "sft", "num_steps": 10**400}) is None


def test_a_row_of_thousands_of_metrics_keeps_its_step_wherever_it_is(run: Path, tmp_path: Path) -> None:
    row = dict.fromkeys(map(str, range(5_000)), 1.0) | {"step": 41}
    (run / "metrics.jsonl").open("a").write(json.dumps(row) + "\n")
    assert "step 41" in shown(run)
    assert build_report(run, tmp_path / "page.html").stat().st_size < 2_000_000
