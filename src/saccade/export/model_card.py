"""The model card of an exported checkpoint: base, recipe, hashes of the data, results with intervals."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import saccade
from saccade.data.hub import HUB_NAME
from saccade.evaluation.items import read_items
from saccade.evaluation.results import summarize
from saccade.export.source import ExportSource
from saccade.faults import LONGEST, cut, on_a_line
from saccade.runs.files import RunFiles, item_files

if TYPE_CHECKING:
    from saccade.export.export import Exported

_MARKS = str.maketrans({"|": "&#124;", "`": "'", "[": "&#91;", "!": "&#33;"})
KINDS = {"rl": "reinforcement learning", "sft": "supervised fine-tuning"}


def model_card(source: ExportSource, exported: Exported) -> str:
    """The text of README.md."""
    return "\n".join([*_header(source), *_body(source, exported)]) + "\n"


def _header(source: ExportSource) -> Iterator[str]:
    yield "---"
    if source.base is not None and HUB_NAME.fullmatch(source.base):
        yield f"base_model: {source.base}"
    yield "library_name: transformers"
    yield "pipeline_tag: image-text-to-text"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("saccade", *([source.run.kind] if source.run else [])))
    yield "---"


def _body(source: ExportSource, exported: Exported) -> Iterator[str]:
    yield from ("", f"# {exported.directory.name}", "")
    yield f"Exported by Saccade {saccade.__version__} in {exported.dtype}."
    if source.base is not None:
        yield f"Base model: `{_plain(source.base)}`."
    if source.has_adapters:
        yield "LoRA adapters were trained and merged into the base's weights."
    if source.step is not None and source.run is not None:
        yield f"Trained by {KINDS[source.run.kind]} for {source.step} steps."
    yield ""
    yield (
        f"Check: its logits on fixed questions differ from those of the trained policy by {exported.difference:.1e} "
        f"(relative, bound {exported.bound:g})."
    )
    if exported.to_quantized is not None:
        yield (
            f"It was trained on 4-bit weights (QLoRA) and is exported with the base's unquantized ones; that policy's "
            f"logits differ by {exported.to_quantized:.1e}."
        )
    if source.run is not None:
        yield from _results(source.run, source.step)
        yield from _facts(source.run)
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", source.run.config_text))])
        yield from ("", "## Recipe", "", f"{fence}yaml", source.run.config_text.rstrip(), fence)


def _results(run: RunFiles, step: int | None) -> Iterator[str]:
    """Accuracy on the run's held-out questions at its start and at the exported step."""
    files = {int(path.parent.name.removeprefix("step-")): path for path in item_files(run.path)}
    shown = [number for number in (0, step) if number in files]
    if not shown:
        yield from ("", "The run evaluated no held-out questions.")
        return
    yield from ("", "## Results", "", "Accuracy on the run's held-out questions, with 95% intervals.", "")
    yield "| step | task | questions | accuracy | interval |"
    yield "|---|---|---|---|---|"
    for number in dict.fromkeys(shown):
        for row in summarize(read_items(files[number])):
            yield (
                f"| {number} | {_plain(row['task'])} | {row['n']} | {100 * row['accuracy']:.1f}% | "
                f"{100 * row['low']:.1f} to {100 * row['high']:.1f} |"
            )


def _facts(run: RunFiles) -> Iterator[str]:
    facts: dict[str, Any] = run.environment
    yield from ("", "## Data", "", "| source | SHA-256 |", "|---|---|")
    hashes, versions = (found if isinstance(found := facts.get(key), dict) else {} for key in ("data_hash", "packages"))
    yield from (f"| {_plain(Path(name).name)} | `{_plain(value)}` |" for name, value in hashes.items())
    named = [f"{name} {versions[name]}" for name in ("saccade", "torch", "transformers") if versions.get(name)]
    commit, device, model = (_plain(facts.get(key)) for key in ("commit", "device", "model_hash"))
    yield from ("", f"Trained with {_plain(', '.join(named))} (commit {commit}) on {device}.")
    yield f"Hash of the base's weights and configuration: `{model}`."


def _plain(value: Any) -> str:
    """What data or a run directory says, as text of one line in Markdown, in a table and in code too."""
    return html.escape(on_a_line(cut(str(value), LONGEST)), quote=False).translate(_MARKS)
