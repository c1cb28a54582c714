"""Results of a checkpoint's checks, and which uses are safe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

USES: dict[str, tuple[str, ...]] = {
    "training, a row per reply": ("prompts", "log-probs", "parts"),
    "training, shared prefix": ("prompts", "log-probs", "parts", "shared prefix"),
    "gradient checkpointing": ("prompts", "checkpointing"),
    "keeping vision features": ("prompts", "vision"),
    "built-in engine": ("prompts", "engine"),
    "vLLM": ("prompts", "vLLM"),
}
"""Use -> the sections of checks that it depends on; the last is specific to it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One property and whether it held."""

    name: str
    held: bool | None
    """None: it could not be checked here or does not apply; `detail` says why."""
    measured: float | None = None
    bound: float | None = None
    """The largest allowed value; for a negative control (named 'control: ...') the smallest."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All checks of one checkpoint, by section."""

    model: str
    family: str
    dtype: str
    device: str
    sections: Mapping[str, tuple[Check, ...]]
    seconds: float

    @property
    def checks(self) -> Iterator[Check]:
        return (check for section in self.sections.values() for check in section)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.held is False)

    @property
    def safe(self) -> dict[str, bool | None]:
        """Use -> True when no check that it depends on failed and some specific to it held; None when none specific to
        it could be run."""
        asked = {use: sections for use, sections in USES.items() if use != "vLLM" or "vLLM" in self.sections}
        return {use: self._verdict(sections) for use, sections in asked.items()}

    def _verdict(self, sections: tuple[str, ...]) -> bool | None:
        found = {name: [check.held for check in self.sections.get(name, ())] for name in sections}
        if any(held is False for section in found.values() for held in section):
            return False
        return True if True in found[sections[-1]] else None

    def blockers(self, use: str) -> list[Check]:
        """Why a use is not safe: the failed checks that it depends on, else its own checks that could not run."""
        checks = [check for name in USES[use] for check in self.sections.get(name, ())]
        failed = [check for check in checks if check.held is False]
        return failed or [check for check in self.sections.get(USES[use][-1], ()) if check.held is None]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "family": self.family,
            "dtype": self.dtype,
            "device": self.device,
            "seconds": round(self.seconds, 2),
            "safe": self.safe,
            "checks": [{"section": name, **asdict(c)} for name, section in self.sections.items() for c in section],
        }
