"""The reward that asks a language model, after a rule."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.rewards.answers import NO_ANSWER, answer_of
from saccade.types import Completion, Sample, Score

if TYPE_CHECKING:
    from saccade.grading.judge import Judge

Rule = Callable[[Completion, Sample], Score]


class JudgedReward:
    """A rule, and a judge for what the rule does not accept. Many replies are judged at once."""

    def __init__(self, rule: Rule, judge: Callable[[], Judge], concurrency: int) -> None:
        """`judge` is called at the first reply that needs one: reading a recipe opens nothing."""
        self._rule, self._judge, self._concurrency = rule, judge, concurrency

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        answer = answer_of(completion)
        if answer is None:
            return Score(0.0, NO_ANSWER)
        rule = self._rule(completion, sample)
        if rule.masked is None and rule.value >= 1.0:
            return rule
        verdict = self._judge().grade(sample.question, sample.answer, answer)
        if verdict.right is None:
            return Score(0.0, masked=f"{verdict.route}: {verdict.detail}")
        return Score(float(verdict.right), None if verdict.right else verdict.detail)

    def score(self, jobs: Sequence[tuple[Completion, Sample]]) -> list[Score]:
        """The scores, in order; a failure masks its reply."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            return list(threads.map(lambda job: self._safely(*job), jobs))

    def _safely(self, completion: Completion, sample: Sample) -> Score:
        try:
            return self(completion, sample)
        except Exception as error:  # noqa: BLE001 - ours or the server's, never the model's
            return Score(0.0, masked=f"{type(error).__name__}: {error}")


@lru_cache(maxsize=8)
def judge_at(
    url: str, model: str, api_key_file: str | None, cache: str | None, concurrency: int, deadline_s: float
) -> Judge:
    """One judge per server: rubrics are built anew at every step. ValueError for a cache or an address that is not
    right."""
    from saccade.endpoint import Endpoint, Limits, ReplyCache
    from saccade.grading.judge import Judge

    key = Path(api_key_file).expanduser().read_text(encoding="utf-8").strip() if api_key_file else None
    limits = Limits(concurrency=concurrency, timeout_s=deadline_s, deadline_s=deadline_s)
    endpoint = Endpoint(url, model, key, ReplyCache(cache) if cache else None, limits)
    atexit.register(endpoint.close)
    return Judge(endpoint)


def check_judge(url: str, api_key_file: str | None) -> None:
    """ValueError for an address that is none, or a key file that is not there."""
    from saccade.endpoint.client import chat_url

    chat_url(url)
    path = None if api_key_file is None else Path(api_key_file).expanduser()
    if path is not None and not path.is_file():
        raise ValueError(f"llm_judge: api_key_file {path}: there is no such file; it holds the server's key")
