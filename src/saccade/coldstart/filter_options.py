"""What each filter can be told. A recipe names the filters that it wants under `filters`, and sets these beside it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from saccade.config import Config
from saccade.data import DataConfig
from saccade.rewards.words import Script


class LeakageOptions(Config):
    """Signs that a text was written in view of the answer."""

    phrases: tuple[str, ...] = ()
    """Further phrases that betray it, looked for in description and thought; case does not count."""


class ContradictionOptions(Config):
    """Answers stated in a thought."""

    doubts: tuple[str, ...] = ("wait", "hmm", "alternatively", "mistake", "actually", "however", "let me", "but")
    """Words after which an earlier answer may be taken back."""


class RepetitionOptions(Config):
    """Loops."""

    ngram: int = Field(default=6, ge=1)
    """Words of the pieces that are counted."""
    most: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of pieces that may have occurred before."""
    sentence_times: int = Field(default=4, ge=2)
    """So often the same sentence or line in a row is a loop."""


class LanguageOptions(Config):
    """Which script a thought is written in."""

    script: Script | None = None
    """The question's own when null."""
    least: float = Field(default=0.95, ge=0.0, le=1.0)
    """Share of letters that must be of it."""


class LengthOptions(Config):
    """The band of lengths of a thought, in words."""

    least_words: int = Field(default=8, ge=0)
    most_words: int = Field(default=8000, ge=1)

    @model_validator(mode="after")
    def _is_a_band(self) -> LengthOptions:
        if self.least_words > self.most_words:
            raise ValueError(f"least_words {self.least_words} is above most_words {self.most_words}")
        return self


class NearDuplicateOptions(Config):
    """MinHash over pieces of question and thought."""

    threshold: float = Field(default=0.9, gt=0.0, le=1.0)
    """Estimated share of pieces in common (Jaccard) from which two are the same."""
    ngram: int = Field(default=5, ge=1)
    """Words of a piece."""
    permutations: int = Field(default=64, ge=16, le=256)
    """The error of the estimate is about 1 / sqrt(permutations)."""
    across_pictures: bool = False
    """Also two texts about different pictures; else a template that fits many pictures is no duplicate."""


class EvaluationSetsOptions(Config):
    """Sets that nothing of may be learned."""

    sets: tuple[DataConfig, ...] = ()
    """Entries as under `data`; give each a `name`, which the reasons carry."""
    by: tuple[Literal["question", "picture"], ...] = ("question", "picture")
    """What betrays an overlap: the words of a question with its options, a picture of whatever scale."""


class FilterOptions(Config):
    """By filter; those without options are not here."""

    leakage: LeakageOptions = LeakageOptions()
    contradiction: ContradictionOptions = ContradictionOptions()
    repetition: RepetitionOptions = RepetitionOptions()
    language: LanguageOptions = LanguageOptions()
    length: LengthOptions = LengthOptions()
    evaluation_sets: EvaluationSetsOptions = EvaluationSetsOptions()
    near_duplicate: NearDuplicateOptions = NearDuplicateOptions()
