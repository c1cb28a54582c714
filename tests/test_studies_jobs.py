"""Jobs of a study: order, results, and the message of a failure."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from saccade.studies import jobs
from saccade.studies.demo_summary import part_summary
from saccade.studies.jobs import Estimate, JobFailed, StudyJob, bars, result_of, run_all

QUIET = Console(quiet=True)


def note(directory, text, reads=None):
    """A job that returns a text and the result of the previous job."""
    return {"text": text, "read": json.loads(reads.read_text())["text"] if reads else None}


def fail(directory):
    raise ValueError("no such data")


def test_a_job_runs_after_its_dependencies_and_a_finished_one_is_not_rerun(tmp_path):
    first = StudyJob("first", note, tmp_path / "first", {"text": "one"})
    second = StudyJob(
        "second", note, tmp_path / "second", {"text": "two", "reads": tmp_path / "first" / "job.json"}, ("first",)
    )
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "job.log").symlink_to(tmp_path / "elsewhere")
    left = run_all([second, first], parallel=2, console=QUIET)
    assert not (tmp_path / "elsewhere").exists()
    assert left["second"]["read"] == "one"
    changed = StudyJob("first", note, tmp_path / "first", {"text": "other"})
    assert run_all([changed], parallel=1, console=QUIET)["first"] == left["first"]


NO_RESULTS = ("", '{"cpu_s": 1', "[]", "{}", "\x00" * 40, "[" * 200_000, '{"cpu_s": "x"}', '{"cpu_s": 1e400}')


@pytest.mark.parametrize("damaged", [*NO_RESULTS, '{"cpu_s": 1, "steps": [2]}', '{"cpu_s": 1, "sha256": "0"}'])
def test_a_job_whose_result_is_damaged_runs_again(tmp_path, damaged):
    job = StudyJob("one", note, tmp_path / "one", {"text": "one"})
    job.directory.mkdir()
    (job.directory / "job.json").write_text(damaged)
    assert result_of(job.directory) is None
    assert run_all([job], parallel=1, console=QUIET)["one"]["text"] == "one"


def test_a_failing_job_is_named_with_its_reason_and_the_study_can_resume(tmp_path):
    with pytest.raises(JobFailed, match=r"'bad' failed: ValueError: no such data .*job\.log.*run the same"):
        run_all([StudyJob("bad", fail, tmp_path / "bad", {})], parallel=1, console=QUIET)
    assert not (tmp_path / "bad" / "job.json").exists()
    fixed = StudyJob("bad", note, tmp_path / "bad", {"text": "fixed"})
    assert run_all([fixed], parallel=1, console=QUIET)["bad"]["text"] == "fixed"


def test_a_finished_job_leaves_a_line_with_what_came_out(tmp_path, monkeypatch):
    def start(job):
        job.directory.mkdir()
        (job.directory / "job.json").write_text('{"cpu_s": 1.0}')
        return SimpleNamespace(is_alive=lambda: False, exitcode=0, terminate=lambda: None)

    monkeypatch.setattr(jobs, "_start", start)
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    job = StudyJob("sft", note, tmp_path / "sft", {"text": "one"})
    run_all([job], 1, console, lambda directory: f"loss 2 to 1 in {directory.name}")
    assert console.export_text().splitlines() == ["sft: started", "sft: done, loss 2 to 1 in sft"]


def test_the_summary_of_a_part_is_its_accuracy_or_its_loss(tmp_path):
    (tmp_path / "job.json").write_text('{"wall_s": 61.2}')
    assert part_summary(tmp_path) == "61 s"
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss/train": 2.0}\n{"step": 2, "loss/train": 0.5}\n')
    assert part_summary(tmp_path) == "loss 2 to 0.5, 61 s"
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval/score": 0.25}\n{"step": 2, "eval/score": 0.5}\n')
    assert part_summary(tmp_path) == "held-out accuracy 25.0% to 50.0%, 61 s"


def test_the_rest_of_a_study_is_estimated_from_measured_speeds(tmp_path):
    one, two, other = (StudyJob(name, note, tmp_path, {}, total=10) for name in ("eval/a", "eval/b", "rl"))
    estimate = Estimate([one, two, other], parallel=1)
    assert estimate.left_s(set(), now=0.0) is None
    estimate.note(one, 0, now=0.0)
    estimate.note(one, 5, now=10.0)
    assert estimate.left_s(set(), now=10.0) == pytest.approx(10 + 20 + 20)
    estimate.note(one, 10, now=30.0)
    assert estimate.left_s({"eval/a"}, now=30.0) == pytest.approx(60.0)
    assert Estimate([one, two, other], parallel=2).left_s(set()) is None


def test_the_time_left_for_all_parts_is_shown_on_a_terminal(tmp_path):
    console = Console(force_terminal=True, width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    job = StudyJob("rl", note, tmp_path, {}, total=10)
    with bars([job], set(), console) as show:
        show(job, 5, 200.0)
    assert "about 3 min left" in console.export_text()
