"""Parts of a study: order, what is kept, and what is said when one fails."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from saccade.studies.jobs import Job, JobFailed, run_all

QUIET = Console(quiet=True)


def note(directory, text, reads=None):
    """A job that leaves a text, and what the job before it left."""
    return {"text": text, "read": json.loads(reads.read_text())["text"] if reads else None}


def fail(directory):
    raise ValueError("there is no cheese")


def test_a_job_runs_after_those_it_needs_and_a_finished_one_is_not_run_again(tmp_path):
    first = Job("first", note, tmp_path / "first", {"text": "one"})
    second = Job(
        "second", note, tmp_path / "second", {"text": "two", "reads": tmp_path / "first" / "job.json"}, ("first",)
    )
    left = run_all([second, first], parallel=2, console=QUIET)
    assert left["second"]["read"] == "one"
    changed = Job("first", note, tmp_path / "first", {"text": "other"})
    assert run_all([changed], parallel=1, console=QUIET)["first"] == left["first"]


def test_a_failing_job_says_which_and_why_and_the_study_can_go_on(tmp_path):
    with pytest.raises(JobFailed, match=r"'bad' failed: ValueError: there is no cheese .*job\.log.*start the same"):
        run_all([Job("bad", fail, tmp_path / "bad", {})], parallel=1, console=QUIET)
    assert not (tmp_path / "bad" / "job.json").exists()
    mended = Job("bad", note, tmp_path / "bad", {"text": "mended"})
    assert run_all([mended], parallel=1, console=QUIET)["bad"]["text"] == "mended"
