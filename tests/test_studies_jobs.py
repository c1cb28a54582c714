"""Jobs of a study: order, results, and the message of a failure."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from saccade.studies.jobs import JobFailed, StudyJob, run_all

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
    left = run_all([second, first], parallel=2, console=QUIET)
    assert left["second"]["read"] == "one"
    changed = StudyJob("first", note, tmp_path / "first", {"text": "other"})
    assert run_all([changed], parallel=1, console=QUIET)["first"] == left["first"]


def test_a_failing_job_is_named_with_its_reason_and_the_study_can_resume(tmp_path):
    with pytest.raises(JobFailed, match=r"'bad' failed: ValueError: no such data .*job\.log.*run the same"):
        run_all([StudyJob("bad", fail, tmp_path / "bad", {})], parallel=1, console=QUIET)
    assert not (tmp_path / "bad" / "job.json").exists()
    fixed = StudyJob("bad", note, tmp_path / "bad", {"text": "fixed"})
    assert run_all([fixed], parallel=1, console=QUIET)["bad"]["text"] == "fixed"
