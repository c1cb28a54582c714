"""How a training run asked its model, for whoever asks one of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saccade.runs.files import read_config

MODEL_KEYS = ("template_kwargs", "min_pixels", "max_pixels", "max_visual_tokens")


@dataclass(frozen=True, slots=True)
class RunWording:
    """What a run put around its questions."""

    run: Path
    template: str | None
    """None is each task's own."""
    system_prompt: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    """The options of its chat template and its limits on images, where it set any."""

    def __str__(self) -> str:
        said = [f"template {self.template or 'of each task'}"]
        said += ["its system prompt"] if self.system_prompt else []
        said += [f"{key} {value}" for key, value in self.model.items()]
        return f"as in the run {self.run}: {', '.join(said)}"


def wording_of(model: str) -> RunWording | None:
    """That of the run whose checkpoint `model` is (RUN/checkpoints/...); None for any other model."""
    given = Path(model).expanduser()
    for path in (given.absolute(), given.resolve()):
        config = path.parent.parent / "config.yaml"
        if path.parent.name == "checkpoints" and config.is_file():
            held = read_config(config.parent, [])[0]
            section: dict[str, Any] = kept if isinstance(kept := held.get("model"), dict) else {}
            options = {key: section[key] for key in MODEL_KEYS if section.get(key)}
            return RunWording(given.parent.parent, held.get("template"), held.get("system_prompt"), options)
    return None
