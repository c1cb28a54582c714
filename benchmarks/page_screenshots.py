"""Screenshots of a run's page, for README and docs: python -m benchmarks.page_screenshots RUN_DIR [--out docs/images].

Needs Chromium. Each picture is to be looked at before it is committed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.chromium import Chromium
from saccade.report import build_report

VIEWS = (
    ("page", (1280, 860), False, "header"),
    ("page-dark", (1280, 860), True, "header"),
    ("page-phone", (390, 844), False, "header"),
    ("curves", (1280, 560), False, "#curves"),
    ("groups", (1280, 980), False, "#rollouts"),
    ("held-out", (1280, 980), False, "#samples"),
)
"""(name, window, dark, what is at the top)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="*", default=[name for name, *_ in VIEWS])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Chromium() as browser:
        page = build_report(given.runs[0], Path(folder) / "report.html", *given.runs[1:])
        for name, (width, height), dark, top in VIEWS:
            if name not in given.only:
                continue
            browser.open(page, width, height, dark)
            browser.evaluate(f"document.querySelector('{top}')?.scrollIntoView()")
            target = given.out / f"{name}.png"
            browser.screenshot(target)
            print(target)
            for complaint in browser.complaints():
                print(f"  the page complains: {complaint}")


if __name__ == "__main__":
    main()
