from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser

import pytest
import report_runs
from hypothesis import given
from hypothesis import strategies as st

from saccade.cli.report import report
from saccade.report import build_report
from saccade.report.charts import Series, line_chart, number, overlay, smooth, ticks
from saccade.report.curves import boundaries, curves, ends
from saccade.report.documents import json_text, script
from saccade.report.headlines import run_headline
from saccade.report.hero import pieces
from saccade.report.page import report_text
from saccade.report.tables import differences, tables
from saccade.runs.files import read_run

VOID = {"meta", "br", "line", "circle", "path", "polyline", "image", "img", "link", "hr"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects what would make a browser ask for something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def data_of(html: str) -> dict:
    """What the page's script reads."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(found)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return report_runs.write_demo(tmp_path_factory.mktemp("runs") / "demo")


@pytest.mark.parametrize("write", [report_runs.write_demo, report_runs.write_run, report_runs.write_eval])
def test_the_page_nests_asks_nothing_of_anyone_and_runs_only_its_own_script(tmp_path, write):
    html = build_report(write(tmp_path / "run")).read_text()
    outline = Outline(html)
    assert outline.tags.count("script") == 2 and "link" not in outline.tags
    assert all(link.startswith(("data:image/", "#")) for link in outline.links)
    without = html.replace(str(script()), "")
    assert not re.search(r"https?://|@import|url\(| style=| on\w+=", without.partition('id="data">')[0])
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html


def test_the_policy_names_the_page_script_and_style_by_hash_and_allows_nothing_else(demo):
    html = build_report(demo).read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        sha = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} &#39;sha256-{sha}&#39;;" in policy
    assert policy.startswith("default-src &#39;none&#39;;") and "unsafe" not in policy
    assert "connect-src &#39;none&#39;" in policy and "require-trusted-types-for" in policy


@given(st.recursive(st.text() | st.floats(allow_nan=False) | st.none(), lambda c: st.lists(c), max_leaves=5))
def test_no_text_can_leave_the_data_of_a_page(value):
    text = json_text([value, "</script><!--", "<script>"])
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text)[0] == value


def test_a_demo_page_says_what_was_gained_and_what_was_not_shown(demo):
    html = build_report(demo).read_text()
    assert "RL minus its SFT start, greedy: +45.7 points" in html
    assert "95% interval +41.0 to +50.4 points, 900 held-out questions, paired" in html
    assert re.search(r"longer second stage minus short cap, same tokens</th>.*?not shown", html, re.DOTALL)
    assert html.count("control: forced scan") >= 4
    assert "RL minus SFT, both forced to scan +5.0" in html
    for tile in ("33.5%", "38.9%", "84.6%", "200", "9.1 min"):
        assert f"<dd>{tile}" in html
    assert "Nothing is missing, and no alarm went off." in html


def test_a_headline_whose_interval_contains_zero_makes_no_claim(tmp_path):
    folder = report_runs.write_demo(tmp_path / "demo")
    claim = {"name": "RL minus SFT", "difference": 0.02, "low": -0.01, "high": 0.05, "n": 300, "shown": True}
    report_runs.write_json(folder / "demo.json", {"comparisons": [claim]})
    html = build_report(folder).read_text()
    assert "<h1>RL minus SFT: not shown</h1>" in html and "+2.0 points" not in html


def test_a_demo_without_comparisons_makes_no_claim(tmp_path):
    folder = report_runs.write_demo(tmp_path / "demo")
    (folder / "demo.json").unlink()
    html = build_report(folder).read_text()
    assert "the page makes no claim" in html and "demo.json is missing" in html


def test_what_is_missing_is_said(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    for name in ("environment.json", "rollouts.jsonl"):
        (run / name).unlink()
    html = build_report(run).read_text()
    assert "run/environment.json is missing" in html and "rollouts.jsonl is missing" in html
    assert "The run recorded no environment." in html


def test_groups_without_their_image_are_counted_as_such(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    for image in (run / "images").iterdir():
        image.unlink()
    assert "12 of 12 groups are shown without their image" in build_report(run).read_text()


def test_a_damaged_last_line_is_skipped_and_reported(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "rew')
    html = build_report(run).read_text()
    assert "run/metrics.jsonl: 1 lines are not JSON objects" in html


def test_alarms_name_masked_rollouts_gaps_and_silent_groups(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    metrics = [
        {"step": i, "sampler/gap_mean": 0.05, "groups/zero_variance": 0.95, "truncated/share": 0.5} for i in range(20)
    ]
    report_runs.write_jsonl(run / "metrics.jsonl", metrics)
    rows = [
        json.loads(line) | {"masked": "grader failed", "reward": None}
        for line in (run / "rollouts.jsonl").read_text().splitlines()[:3]
    ]
    report_runs.write_jsonl(run / "rollouts.jsonl", rows)
    html = build_report(run).read_text()
    for words in (
        "disagree by 0.05",
        "95% of the last groups",
        "50% of the last replies",
        "3 rollouts were masked",
        "grader failed",
    ):
        assert words in html


def test_what_a_model_wrote_is_shown_and_never_run(tmp_path):
    folder = report_runs.write_demo(tmp_path / "demo")
    evil = "<think><script>alert(1)</script></think><answer><img src=x></answer>"
    rows = json.loads((folder / "samples.json").read_text())
    for row in rows:
        row["replies"]["rl"]["text"] = evil
    report_runs.write_json(folder / "samples.json", rows)
    html = build_report(folder).read_text()
    assert "&lt;script&gt;alert(1)" in html and Outline(html).tags.count("script") == 2
    assert data_of(html)["items"][0]["r"][-1]["t"] == evil


@given(st.text() | st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " "])).map("".join))
def test_no_character_of_a_reply_is_dropped(text):
    assert "".join(part for _, part in pieces(text)) == text


def test_a_reply_is_cut_at_its_tags():
    found = pieces("<think>a</think> b <answer>3</answer>")
    assert [(k, t) for k, t in found if k != "tag"] == [("think", "a"), ("outside", " b "), ("answer", "3")]


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"contains no config\.yaml, metrics\.jsonl or results\.json"):
        build_report(tmp_path)
    with pytest.raises(ValueError, match="is not a directory"):
        build_report(tmp_path / "nowhere")


def test_the_verb_writes_where_it_is_told_and_says_so(tmp_path, capsys):
    run = report_runs.write_run(tmp_path / "run", steps=12)
    target = tmp_path / "pages" / "one.html"
    report([run], target)
    assert capsys.readouterr().out.strip() == str(target) and target.stat().st_size > 10_000
    assert not (run / "report.html").exists() and [p.name for p in target.parent.iterdir()] == ["one.html"]


def test_a_page_stays_under_its_size_whatever_the_run_holds(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    long = "word " * 4000
    many = [row | {"group_id": f"{row['group_id']}-{i}", "text": long} for i in range(8) for row in rows]
    report_runs.write_jsonl(run / "rollouts.jsonl", many)
    item = json.loads((report_runs.write_eval(tmp_path / "e") / "items.jsonl").read_text().splitlines()[0])
    for step in (0, 20, 40):
        items = [item | {"sample_id": f"q{i}", "text": long} for i in range(150)]
        report_runs.write_jsonl(run / f"eval/step-{step}/items.jsonl", items)
    page = build_report(run)
    found = data_of(page.read_text())
    assert page.stat().st_size < 10_000_000 and 20 < len(found["groups"]) < 96 and 20 < len(found["items"]) < 150
    assert "of 96 groups" in page.read_text() and "of 150 questions" in page.read_text()


def test_groups_have_all_siblings_with_question_gold_and_reasons(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    found = data_of(build_report(run).read_text())
    assert len(found["groups"]) == 12 and all(len(group["r"]) == 8 for group in found["groups"])
    for group in found["groups"]:
        assert group["q"] == "How many red objects are there?" and group["gold"] == "3"
        assert [reply["p"] for reply in group["r"]] == sorted((reply["p"] for reply in group["r"]), reverse=True)
        assert found["pictures"][group["img"][0]]["w"] == 112
    assert any(reply["why"] == {"hard": "got 4"} for group in found["groups"] for reply in group["r"])


def test_the_likely_cause_of_log_probs_far_from_the_trainers_is_shown_with_the_run_and_the_reply(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    for row in rows:
        row["sampler_cause"] = "pixels" if row["index"] else ["odd"]
    report_runs.write_jsonl(run / "rollouts.jsonl", rows)
    metrics = [{"step": i, "sampler/cause/pixels": 2.0, "sampler/cause/odd": 1.0} for i in range(20)]
    report_runs.write_jsonl(run / "metrics.jsonl", metrics)
    html = build_report(run).read_text()
    assert "likely cause, by replies: pixels of 40" in html and "Replies far from the trainer" in html
    replies = [reply for group in data_of(html)["groups"] for reply in group["r"]]
    assert replies and all(reply.get("sc") == ("pixels" if reply["i"] > 1 else None) for reply in replies)


# ------------------------------------------------------------------------------------------------------------- charts


def test_every_metric_has_its_panel_and_unknown_ones_are_kept():
    found = curves([*report_runs.metrics(60), {"step": 60, "odd/new": 1.0}])
    titles = [figure.title for figure in (*found.lead, *found.figures)]
    four = ["Held-out accuracy", "Reward by part", "Reply length", "Groups without signal"]
    assert [figure.title for figure in found.lead] == four
    for title in (
        "Held-out accuracy",
        "Reward by part",
        "Reply length",
        "Truncated replies",
        "Groups without signal",
        "Policy entropy",
        "KL to the reference",
        "Clip fraction",
        "Gradient norm",
        "Sampler against trainer",
        "Time by phase",
    ):
        assert title in titles
    assert [figure.title for figure in found.rest] == ["odd/new"]
    length = next(figure for figure in found.lead if figure.title == "Reply length")
    assert [name for name, _, _ in length.legend] == ["mean", "right", "wrong"]


def test_more_lines_than_colours_go_to_a_second_chart():
    found = curves([{"step": i, **{f"accuracy/t{j}": 0.5 for j in range(8)}} for i in range(3)])
    assert [(f.title, len(f.legend)) for f in (*found.lead, *found.figures)] == [
        ("Accuracy by task (1 of 2)", 6),
        ("Accuracy by task (2 of 2)", 2),
    ]


def test_stages_are_marked_where_they_begin():
    rows = [
        {"step": 0},
        {"step": 1, "stage": "short"},
        {"step": 2, "stage": "short"},
        {"step": 3, "stage": "long"},
        {"step": 4, "stage": "long"},
    ]
    assert boundaries(rows) == [(1.0, "short"), (3.0, "long")] and boundaries(rows[:3]) == []
    chart = line_chart([Series("x", (1.0, 3.0, 4.0), (1.0, 2.0, 3.0))], boundaries(rows))
    assert chart.count('class="stage"') == 2 and ">long<" in chart and chart.count('class="band second"') == 1


def test_a_value_that_is_no_number_leaves_the_curve_and_is_named(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=20)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "policy/kl": NaN, "reward/total": null}\n')
    assert (
        "metrics are not a number at some steps (omitted from the curves): policy/kl" in build_report(run).read_text()
    )


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_cover_the_range_with_few_round_values(low, span):
    found = ticks(low, low + span)
    step = found[1] - found[0]
    assert 2 <= len(found) <= 7
    assert found[0] <= low + 1e-6 * step and found[-1] >= low + span - 1e-6 * step


def test_ticks_of_a_single_value_are_several():
    assert ticks(5.0, 5.0) == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0] and len(ticks(0.0, 0.0)) > 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.12345, "0.123"), (1234.5, "1234"), (98_765, "98.8k"), (0.0002, "2e-4"), (-3.5, "-3.5")],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text
    assert number(0.125, percent=True) == "12.5%"


def test_smoothing_keeps_a_constant_and_short_runs_as_they_are():
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert smooth([1.0, 5.0, 2.0]) == [1.0, 5.0, 2.0]
    assert max(smooth([0.0, 1.0] * 30)) < 0.75
    assert smooth([1e30, *[2.0] * 500])[-1] == 2.0 == smooth([1e30, *[2.0] * 500], [500])[0]


def test_ends_are_means_of_the_first_and_last_tenth():
    assert ends([{"step": i, "x": float(i)} for i in range(100)], "x") == (4.5, 94.5, 10)
    assert ends([{"step": 0, "x": 1.0}], "x") is None


def test_boxes_are_drawn_in_pixels_of_the_original_image():
    drawing = overlay(
        "data:image/png;base64,", (200, 100), [((10, 20, 30, 50), "gold"), ((12, 20, 40, 50), "predicted")]
    )
    assert 'viewBox="0 0 200 100"' in drawing
    assert 'class="box gold" x="10.0" y="20.0" width="20.0" height="30.0"' in drawing
    assert drawing.count("stroke-dasharray") == 1


def test_a_table_has_a_row_per_model_controls_last_and_says_what_was_not_run():
    rows = [row for row in report_runs.result_rows() if not (row["model"] == "base" and row["decoding"] == "sampled")]
    table = tables(rows)[0]
    assert [(line.model, line.control) for line in table.lines][:3] == [("base", None), ("sft", None), ("rl", None)]
    assert [line.control is not None for line in table.lines] == [False] * 3 + [True] * 4
    assert table.lines[0].cells[0].value == "33.5" and table.lines[0].cells[1] is None
    assert table.tasks == report_runs.TASKS


def test_a_difference_is_judged_by_its_interval_and_not_by_what_the_file_says():
    base = {"name": "x", "difference": 0.02, "n": 10, "shown": True}
    shown, hidden, worse = differences(
        [
            base | {"low": 0.01, "high": 0.03},
            base | {"low": -0.01, "high": 0.05},
            base | {"difference": -0.1, "low": -0.2, "high": -0.01},
        ]
    )
    assert (shown.words, hidden.words, worse.words) == ("+2.0 points", "not shown", "-10.0 points")


def test_a_choice_question_shows_its_options_by_letter(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=12)
    rows = [json.loads(line) | {"meta": {"options": ["circle", "star"]}} for line in (run / "groups.jsonl").open()]
    report_runs.write_jsonl(run / "groups.jsonl", rows)
    groups = data_of(build_report(run).read_text())["groups"]
    assert groups[0]["options"] == [["A", "circle"], ["B", "star"]]


def headline_of(folder, rows):
    report_runs.write_jsonl(folder / "metrics.jsonl", rows)
    return run_headline(read_run(folder))


def test_the_headline_leads_with_accuracy_and_shows_format_and_reward_apart(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    rows = [
        {"step": i, "accuracy/count": 0.1, "format/strict": i / 20, "reward/total": 1.0 + i / 20} for i in range(1, 21)
    ]
    found = headline_of(run, rows)
    assert found.verdict.startswith("Training accuracy 10%, from 10%")
    assert [label for label, *_ in found.tiles] == ["training accuracy", "strict format", "reward"]


def test_a_held_out_loss_is_not_called_accuracy(tmp_path):
    run = report_runs.write_run(tmp_path / "run", steps=40)
    rows = [{"step": i, "eval/score": -2.0 / i, "eval/loss": 2.0 / i, "loss/train": 1.0} for i in range(1, 21)]
    assert headline_of(run, rows).verdict.startswith("Held-out loss 0.1")


def test_a_page_of_a_long_run_is_small_and_made_in_linear_time(tmp_path):
    """A page draws as much of 20,000 steps as of 2,000, its last values too."""
    sizes, costs = [], []
    for steps in (2_000, 20_000):
        report_runs.write_run(tmp_path / str(steps), steps=3)
        rows = ({f"m/{k}": k + 1 / step for k in range(20)} | {"step": step} for step in range(1, steps + 1))
        (tmp_path / str(steps) / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        begin = time.process_time()
        page = report_text([tmp_path / str(steps)])
        costs.append(time.process_time() - begin)
        sizes.append(len(page))
    assert sizes[1] < 1.2 * sizes[0] and costs[1] < 15 * costs[0]
