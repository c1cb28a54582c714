"""The page of a study: verdict, hypotheses with the values of every seed, all arms, curves, samples, commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from saccade.report.browser import Groups
from saccade.report.charts import forest, number
from saccade.report.curves import Figure, Panel, figures_of, overlaid
from saccade.report.headlines import Headline
from saccade.report.heldout import item_data
from saccade.report.hero import hero
from saccade.report.page import Page, RunSection
from saccade.report.pictures import Pictures
from saccade.runs.files import JsonRow, RunFiles, read_config, read_json, read_run

SHARES = ("accuracy", "truncated", "precision", "recall", "average_precision", "false_presence", "listed")
CELL = ("arm", "evaluation", "split", "decoding")
"""What names a row of the table of all arms; only what differs between rows is shown."""
WORDS = {"reproduced": "Reproduced", "not_reproduced": "Not reproduced", "inconclusive": "Inconclusive"}


@dataclass(frozen=True, slots=True)
class Tested:
    """A hypothesis as the page shows it."""

    name: str
    primary: bool
    verdict: str
    mean: str
    interval: str
    above: str
    seeds: str
    plot: Markup
    more: str


@dataclass(frozen=True, slots=True)
class StudyTables:
    """What only the page of a study has."""

    words: tuple[tuple[str, str], ...]
    """(title, sentence): claim, question, limits."""
    hypotheses: tuple[Tested, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """(arm and evaluation, a text per column)."""
    over_training: tuple[Figure, ...]
    """Accuracy after parts of the steps of the arms (`rl@25%`), where the study evaluates them."""
    commands: tuple[str, ...]


def is_share(measure: str) -> bool:
    """Whether a measure is shown in percent."""
    return measure in SHARES or measure.startswith("habit_")


def shown(value: float, measure: str, signed: bool = False) -> str:
    """A value of a measure: points for shares, else a number."""
    scaled = 100 * value if is_share(measure) else value
    text = f"{scaled:+.1f}" if signed else f"{scaled:.1f}"
    return text if abs(scaled) >= 10 or is_share(measure) else f"{scaled:+.2f}" if signed else f"{scaled:.2f}"


def tested(row: JsonRow) -> Tested:
    """A hypothesis of study.json in words, with its interval and the values of the seeds on one axis."""
    measure, values = row["measure"], [value for value in row["values"].values() if value is not None]
    mean = 0.0 if row["mean"] is None else row["mean"]
    low, high = (mean if end is None else end for end in (row["low"], row["high"]))
    reach = max(abs(end) for end in (mean, low, high, row["above"], *values)) or 1.0
    points = [(mean, low, high, 0), *((value, value, value, 1) for value in values)]
    unit = " points" if is_share(measure) else ""
    more = ""
    if len(values) < len(row["values"]):
        more = "the measure applies to no reply of an arm"
    elif row["verdict"] == "inconclusive" and row["low"] is not None:
        more = "more than 1,000 seeds would be needed"
        if row["more_cpu_hours"] is not None:
            toward = "reproduced" if mean > row["above"] else "not reproduced"
            cost = f"about {row['seeds_needed']} seeds, {row['more_cpu_hours']:g} more CPU hours"
            more = f"would be '{toward}' with {cost}, if mean and spread stayed"
    return Tested(
        row["name"],
        row["primary"],
        WORDS[row["verdict"]],
        shown(mean, measure, True) + unit if values else "",
        "" if row["low"] is None else f"{shown(low, measure, True)} to {shown(high, measure, True)}",
        shown(row["above"], measure, True),
        ", ".join(shown(value, measure, True) for value in values),
        forest(points, (-reach, reach), zero=True, threshold=row["above"]),
        more,
    )


def _table(document: JsonRow) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    rows = document["table"]
    names = [key for key in rows[0] if key not in CELL]

    def cell(row: JsonRow, measure: str) -> str:
        if row[measure] is None:
            return ""
        mean, low, high = row[measure]
        return f"{shown(mean, measure)} [{shown(low, measure)}, {shown(high, measure)}]"

    keys = [key for key in CELL if key == "arm" or len({row[key] for row in rows}) > 1]
    columns = tuple(f"{name.replace('_', ' ')}{' %' if is_share(name) else ''}" for name in names)
    found = tuple(
        (", ".join(row[key] for key in keys), tuple(cell(row, name) for name in names))
        for row in rows
        if "@" not in row["arm"]
    )
    return columns, found


def over_training(document: JsonRow) -> tuple[Figure, ...]:
    """A figure for each evaluation, split and decoding in which parts of arms were evaluated: accuracy, as the mean
    over seeds, after each percentage of an arm's steps. 0% is the arm that it starts from."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    parts = {(row["evaluation"], row["arm"].partition("@")[0]) for row in document["table"] if "@" in row["arm"]}
    for row in document["table"]:
        title = ", ".join(str(row[key]) for key in CELL[1:] if row[key])
        arm, _, percent = row["arm"].removesuffix("%").partition("@")
        drawn = sorted(other for evaluation, other in parts if evaluation == row["evaluation"])
        places = [(arm, int(percent or 100))] if arm in drawn else []
        places += [(other, 0) for other in drawn if document["starts"][other] == row["arm"]]
        for name, place in places:
            found.setdefault(title, {}).setdefault(name, {})[place] = row["accuracy"][0]
    return tuple(
        figure
        for title, lines in found.items()
        for figure in figures_of(
            Panel(f"Accuracy over the training, {title}", "", "After each percentage of the steps", percent=True),
            {name: (sorted(points), [points[x] for x in sorted(points)]) for name, points in lines.items()},
        )
    )


def study_page(folder: Path) -> Page:
    """The page of a finished study. Curves have a line per arm, for every seed; samples are those of the first seed."""
    warnings: list[str] = []
    document = read_json(folder / "study.json", warnings)
    seeds = [folder / f"seed-{seed}" for seed in document["seeds"]]
    pictures = Pictures()
    items = item_data(list(_answers(seeds[0])), pictures)
    columns, rows = _table(document)
    seeds_words = f"{len(document['seeds'])} seeds, {document['cpu_minutes']:g} CPU minutes"
    notes = "" if document["recorded"] else " Not the recorded run: other seeds, or a changed recipe."
    if earlier := document["earlier_seeds"]:
        notes += f" Extended once, after results of {len(earlier)} seeds."
    words = tuple((title, document[title.lower()]) for title in ("Claim", "Question", "Limits"))
    sections = [RunSection(seed.name, overlaid(_curves(seed))) for seed in seeds]
    config = read_config(folder, warnings)[1]
    return Page(
        title=document["title"],
        headline=Headline(
            f"{WORDS[document['verdict']]}: {document['sentence']}",
            f"{document['title']}. {document['paper']}. {seeds_words}.{notes}",
        ),
        hero=hero(items.data, pictures, steps=False),
        alarms=(),
        runs=tuple(section for section in sections if section.curves.steps),
        tables=(),
        attempts=(),
        comparisons=(),
        listings=(),
        notes=(),
        groups=Groups([], ""),
        items=items,
        pictures=pictures,
        environment=tuple((key, str(value)) for key, value in document["machine"].items()),
        configs=(("config.yaml", config),) if config else (),
        warnings=tuple(dict.fromkeys(warnings)),
        study=StudyTables(
            words,
            tuple(map(tested, document["hypotheses"])),
            columns,
            rows,
            over_training(document),
            commands(folder, document),
        ),
    )


def commands(folder: Path, document: JsonRow) -> tuple[str, ...]:
    """How to repeat the study, and how to look at one of its runs."""
    again = folder.name if document["recorded"] else f"{folder / 'config.yaml'} --out {folder}"
    return (f"saccade study {again}", f"saccade report {folder}/seed-{document['seeds'][0]}/ARM")


def _answers(seed: Path) -> Iterator[tuple[str, RunFiles, list[JsonRow]]]:
    """(arm, its evaluation, items), greedy replies where there are some."""
    several = len(list(seed.glob("eval/*"))) > 1
    for path in sorted(path for path in seed.glob("eval/*/*/items.jsonl") if "@" not in path.parent.name):
        run = read_run(path.parent, ("config.yaml",))
        rows = list(run.items())
        decoding = min((row["decoding"] for row in rows), default="")
        who = f"{path.parent.name}, {path.parent.parent.name}" if several else path.parent.name
        yield who, run, [row for row in rows if row["decoding"] == decoding]


def _curves(seed: Path) -> dict[str, Sequence[JsonRow]]:
    runs = sorted(path.parent for path in seed.glob("*/metrics.jsonl"))
    return {run.name: read_run(run, ("config.yaml",)).metrics for run in runs}


def study_text(document: JsonRow) -> str:
    """The verdict and the hypotheses for the terminal."""
    lines = [f"{WORDS[document['verdict']]}: {document['sentence']}"]
    for row in map(tested, document["hypotheses"]):
        mark = "" if row.primary else "  (secondary)"
        lines.append(f"  {row.name}: {row.mean} [{row.interval}], must exceed {row.above}: {row.verdict.lower()}{mark}")
        lines.append(f"    seeds: {row.seeds}{'; ' + row.more if row.more else ''}")
    return "\n".join([*lines, f"CPU minutes: {number(document['cpu_minutes'])}"])
