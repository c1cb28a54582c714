"""How a training run asked its model, for whoever asks one of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class RunWording:
    """What a run put around its questions."""

    run: Path
    template: str | None
    """None is each task's own."""
    system_prompt: str | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = [f"template {self.template or 'of each task'}"]
        said += ["its system prompt"] if self.system_prompt else []
        said += [f"template_kwargs {self.template_kwargs}"] if self.template_kwargs else []
        return f"as in the run {self.run}: {', '.join(said)}"


def wording_of(model: str) -> RunWording | None:
    """That of the run whose checkpoint `model` is (RUN/checkpoints/...); None for any other model."""
    given = Path(model).expanduser()
    for path in (given.absolute(), given.resolve()):
        config = path.parent.parent / "config.yaml"
        if path.parent.name == "checkpoints" and config.is_file():
            held = yaml.safe_load(config.read_text(encoding="utf-8"))
            options = (held.get("model") or {}).get("template_kwargs") or {}
            return RunWording(given.parent.parent, held.get("template"), held.get("system_prompt"), dict(options))
    return None
