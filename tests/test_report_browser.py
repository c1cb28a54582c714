"""Pages in headless Chromium: clicked through at phone and desktop width, light and dark."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import report_runs

from benchmarks.chromium import Chromium, executable
from saccade.report import build_report
from saccade.report.live import PageServer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium on the PATH: pages are not clicked through"),
]
DESKTOP, PHONE = (1280, 800), (390, 844)
FORMULA = r"How many? $\frac{4\sqrt{5}}{3}$ and $x <"


@pytest.fixture(scope="module")
def browser():
    with Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with token offsets, formulas, evaluations, and replies that would like to be scripts."""
    folder = report_runs.write_run(tmp_path_factory.mktemp("runs") / "run", steps=60)
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    for row in rows:
        row["text"] += "<img src=x onerror=alert(1)><script>document.title = 'stolen'</script> \U0001f600"
        row["token_ids"], size = [1, 2, 3], len(row["text"])
        row |= {"token_ends": [7, 12, size], "logprobs": [-0.01, -1.0, -3.5]}
    rows[0]["sample_id"] = rows[-1]["sample_id"]
    report_runs.write_jsonl(folder / "rollouts.jsonl", rows)
    groups = [json.loads(line) | {"question": FORMULA} for line in (folder / "groups.jsonl").read_text().splitlines()]
    report_runs.write_jsonl(folder / "groups.jsonl", groups)
    items = [json.loads(line) for line in (report_runs.write_eval(folder.parent / "e") / "items.jsonl").open()]
    for step in (0, 40):
        kept = [item | {"verdicts": [step == 40]} for item in items if item["decoding"] == "greedy"]
        report_runs.write_jsonl(folder / f"eval/step-{step}/items.jsonl", kept)
    for image in (folder.parent / "e" / "images").iterdir():
        image.rename(folder / "images" / image.name)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return build_report(run)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("write", [report_runs.write_demo, report_runs.write_run, report_runs.write_eval])
def test_a_page_has_no_error_asks_for_nothing_and_fits_its_width(browser, tmp_path, write, size, dark) -> None:
    browser.open(build_report(write(tmp_path / "run")), *size, dark)
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.classList.contains('scripted')")
    assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor.startsWith('rgb(25')") is not dark


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_first_screen_holds_picture_question_replies_and_accuracy(browser, page: Path, size) -> None:
    browser.open(page, *size)
    parts = "['h1', '.hero .picture', '.hero .ask', '.hero .reply']"
    bottoms = browser.evaluate(f"{parts}.map(s => document.querySelector(s).getBoundingClientRect().bottom)")
    assert max(bottoms) <= size[1]
    assert browser.evaluate("document.querySelector('h1').textContent").startswith("Held-out accuracy rose from 0%")


def test_model_text_is_shown_and_never_run_and_formulas_are_drawn(browser, page: Path) -> None:
    browser.open(page, *DESKTOP)
    assert browser.evaluate("document.title") == "run - Saccade report"
    assert browser.evaluate("document.querySelectorAll('.detail img[src=x], .detail script').length") == 0
    assert "<script>" in browser.evaluate("document.querySelector('#group-browser .sibling .reply').textContent")
    pytest.importorskip("latex2mathml")
    assert browser.evaluate("document.querySelector('#group-browser .ask mfrac msqrt') !== null")
    assert "and $x <" in browser.evaluate("document.querySelector('#group-browser .ask').textContent")


def count(browser: Chromium, root: str = "#group-browser") -> int:
    return int(browser.evaluate(f"document.querySelector('{root} .count').textContent").split()[0])


def choose(browser: Chromium, label: str, value: str) -> None:
    browser.evaluate(
        "(() => { const all = [...document.querySelectorAll('.filters select')];"
        f" const s = all.find(s => s.options[0].text === '{label}: all');"
        f" s.value = '{value}'; s.dispatchEvent(new Event('change')); }})()"
    )


def test_groups_are_filtered_chosen_by_key_and_shaded_by_log_prob(browser, page: Path) -> None:
    browser.open(page, *DESKTOP)
    everything = count(browser)
    choose(browser, "Step", "40")
    assert count(browser) == 3 < everything == 12
    choose(browser, "Step", "")
    choose(browser, "Reward", "nothing")
    assert count(browser) < everything
    choose(browser, "Reward", "")
    browser.evaluate("document.querySelector('#group-browser .list').focus()")
    before = browser.evaluate("document.querySelector('#group-browser [aria-selected=true]').dataset.id")
    browser.key("ArrowDown")
    assert browser.evaluate("document.querySelector('#group-browser [aria-selected=true]').dataset.id") != before
    assert "group=" in browser.evaluate("location.hash")
    shade = "[...document.querySelectorAll('.filters .check')].find(l => l.textContent.startsWith('shade'))"
    browser.evaluate(f"{shade}.querySelector('input').click()")
    assert browser.evaluate("document.querySelectorAll('#group-browser .sibling:first-child .token').length") >= 3
    assert browser.evaluate("document.querySelector('#group-browser .sibling .token.p5').title").startswith("p 0.03")
    shown = browser.evaluate("document.querySelector('#group-browser .sibling .reply').textContent")
    assert shown.endswith("\U0001f600")


def test_a_chart_tells_its_values_at_the_pointer_and_by_key_and_its_legend_toggles(browser, page: Path) -> None:
    browser.open(page, *DESKTOP)
    browser.point(".lead-charts figure:nth-child(2) svg.chart", 0.5, 0.5)
    browser.wait("document.querySelector('.lead-charts figure:nth-child(2) .tip').hidden === false")
    tip = browser.evaluate("document.querySelector('.lead-charts figure:nth-child(2) .tip').textContent")
    assert tip.startswith("step ") and "total" in tip
    browser.evaluate("document.querySelector('.lead-charts figure:nth-child(2) svg.chart').focus()")
    browser.key("End")
    assert "step 59" in browser.evaluate("document.querySelector('.lead-charts figure:nth-child(2) .tip').textContent")
    browser.click(".lead-charts figure:nth-child(2) .legend button")
    line = "document.querySelector('.lead-charts figure:nth-child(2) g[data-line=\"0\"]')"
    assert browser.evaluate(f"getComputedStyle({line}).display") == "none"


def test_a_picture_is_enlarged_by_a_click_and_closed_by_escape(browser, page: Path) -> None:
    browser.open(page, *DESKTOP)
    browser.evaluate("document.querySelector('.hero .picture').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert browser.evaluate("document.querySelector('dialog').open")
    assert browser.evaluate("document.querySelector('dialog .picture').getBoundingClientRect().height") > 500
    browser.click("dialog .close")
    assert not browser.evaluate("document.querySelector('dialog').open")


def test_held_out_questions_are_listed_by_what_became_of_them(browser, page: Path) -> None:
    browser.open(page, *DESKTOP)
    everything = count(browser, "#item-browser")
    choose(browser, "Questions", "better")
    assert count(browser, "#item-browser") == everything > 0
    who = browser.evaluate("[...document.querySelectorAll('#item-browser .detail .who')].map(p => p.textContent)")
    assert who == ["step 0wrong", "step 40right"]


def test_two_runs_stand_on_one_page_with_the_questions_that_only_one_gets(browser, run: Path, tmp_path: Path) -> None:
    other = report_runs.write_run(tmp_path / "other", steps=30)
    rows = [json.loads(line) for line in (run / "eval/step-40/items.jsonl").open()]
    report_runs.write_jsonl(other / "eval/step-30/items.jsonl", [row | {"verdicts": [False]} for row in rows])
    browser.open(build_report(run, tmp_path / "two.html", other), *DESKTOP)
    assert browser.complaints() == []
    assert (
        browser.evaluate("document.querySelector('h1').textContent") == "other answers fewer questions right than run"
    )
    assert browser.evaluate("document.querySelectorAll('.lead-charts figure:nth-child(2) polyline').length") == 2
    choose(browser, "Questions", "only0")
    assert count(browser, "#item-browser") == len({row["sample_id"] for row in rows})


def test_a_served_page_follows_the_run_and_keeps_the_chosen_group(browser, run: Path) -> None:
    server = PageServer([run])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        browser.open(server.address, *DESKTOP)
        assert [text for text in browser.complaints() if "asked for" not in text] == []
        browser.click("#group-browser .list li:nth-child(3)")
        chosen = browser.evaluate("document.querySelector('#group-browser [aria-selected=true]').dataset.id")
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 60, "reward/total": 0.9}) + "\n")
        chart = "document.querySelector('.lead-charts figure:nth-child(2) svg')?.dataset.values || '{}'"
        browser.wait(f"document.readyState === 'complete' && (JSON.parse({chart}).range || [])[1] === 60")
        again = browser.evaluate("document.querySelector('#group-browser [aria-selected=true]').dataset.id")
        assert again == chosen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
