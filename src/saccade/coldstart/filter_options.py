"""Options of each filter. A recipe lists its filters under `filters` and sets these under `filter_options`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from saccade.config import Config
from saccade.data import DataConfig
from saccade.rewards.words import Script


class LeakageOptions(Config):
    """Signs that a text was written with knowledge of the answer."""

    phrases: tuple[str, ...] = ()
    """Additional phrases that reveal it, searched in description and thought, ignoring case."""


class ContradictionOptions(Config):
    """Contradicting answers in a thought."""

    doubts: tuple[str, ...] = ("wait", "hmm", "alternatively", "mistake", "actually", "however", "let me", "but")
    """Words after which an earlier answer may be revised."""


class RepetitionOptions(Config):
    """Repetition loops."""

    ngram: int = Field(default=6, ge=1)
    """Length of the counted n-grams, in words."""
    most: float = Field(default=0.5, ge=0.0, le=1.0)
    """Maximum share of n-grams that occurred before."""
    sentence_times: int = Field(default=4, ge=2)
    """This many identical sentences or lines in a row are a loop."""


class LanguageOptions(Config):
    """The script a thought is written in."""

    script: Script | None = None
    """Default: the script of the question."""
    least: float = Field(default=0.95, ge=0.0, le=1.0)
    """Minimum share of letters in that script."""


class LengthOptions(Config):
    """The allowed length of a thought, in words."""

    least_words: int = Field(default=8, ge=0)
    most_words: int = Field(default=8000, ge=1)

    @model_validator(mode="after")
    def _is_a_band(self) -> LengthOptions:
        if self.least_words > self.most_words:
            raise ValueError(f"least_words {self.least_words} is above most_words {self.most_words}")
        return self


class NearDuplicateOptions(Config):
    """MinHash over n-grams of question and thought."""

    threshold: float = Field(default=0.9, gt=0.0, le=1.0)
    """Estimated Jaccard similarity from which two chains count as duplicates."""
    ngram: int = Field(default=5, ge=1)
    """Length of an n-gram, in words."""
    permutations: int = Field(default=64, ge=16, le=256)
    """The error of the estimate is about 1 / sqrt(permutations)."""
    across_pictures: bool = False
    """Also compare texts about different pictures; by default a template that fits many pictures is no duplicate."""


class EvaluationSetsOptions(Config):
    """Evaluation sets that training data must not overlap."""

    sets: tuple[DataConfig, ...] = ()
    """Entries as under `data`; give each a `name`, which appears in the reasons."""
    by: tuple[Literal["question", "picture"], ...] = ("question", "picture")
    """What counts as overlap: the text of a question with its options, or a picture at any scale."""


class FilterOptions(Config):
    """Options by filter; filters without options are not listed."""

    leakage: LeakageOptions = LeakageOptions()
    contradiction: ContradictionOptions = ContradictionOptions()
    repetition: RepetitionOptions = RepetitionOptions()
    language: LanguageOptions = LanguageOptions()
    length: LengthOptions = LengthOptions()
    evaluation_sets: EvaluationSetsOptions = EvaluationSetsOptions()
    near_duplicate: NearDuplicateOptions = NearDuplicateOptions()
