"""Several rewards as one number, for trainers that take one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saccade.bridges.scorer import Scorer


@dataclass(frozen=True)
class Weighted:
    """Scorers with their weights."""

    scorers: tuple[tuple[Scorer, float], ...]
    masked: float | None
    gold: str
    """Key of a row under which the gold is."""

    @classmethod
    def of(cls, rewards: Mapping[str, float], masked: float | None, options: Mapping[str, Any]) -> Weighted:
        """Raises ValueError as `Scorer.of`, and for no reward or a weight that is not above 0."""
        if not isinstance(rewards, Mapping) or not rewards or not all(weight > 0 for weight in rewards.values()):
            raise ValueError(f'got {rewards!r}, expected names with weights above 0, such as {{"rec_iou": 1.0}}')
        gold = options.get("gold") or "ground_truth"
        made = tuple((Scorer.of(name, **{**options, "gold": gold}), weight) for name, weight in rewards.items())
        return cls(made, masked, gold)

    def score(self, text: str, row: dict[str, Any]) -> tuple[float, dict[str, float]]:
        """(weighted sum, value of each part); a part that cannot be scored decides: `masked`, else RuntimeError."""
        parts: dict[str, float] = {}
        for scorer, _ in self.scorers:
            score = scorer.score(text, row)
            if score.masked is not None:
                if self.masked is None:
                    raise RuntimeError(
                        f"reward '{scorer.name}' could not score a reply: {score.masked}; this trainer cannot leave "
                        "a reply out, so pass masked=VALUE to give such replies a score"
                    )
                return self.masked, {one.name: self.masked for one, _ in self.scorers}
            parts[scorer.name] = score.value
        return sum(weight * parts[scorer.name] for scorer, weight in self.scorers), parts
