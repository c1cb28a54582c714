"""The reward of a language model as judge, called after a rule."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from saccade.config import Config
from saccade.rewards.answers import MISSING, answer_of
from saccade.rewards.options import Count, Positive, Where
from saccade.types import Completion, Sample, Score

if TYPE_CHECKING:
    from saccade.grading.judge import Judge

Rule = Callable[[Completion, Sample], Score]
KEY_FILE = "llm_judge: server.api_key_file"


class Server(Config):
    """Connection settings of the judge's server."""

    api_key_file: str | None = None
    """A file with the server's key; the key itself would end up in the run's config.yaml."""
    cache: str | None = None
    """A file of cached answers, so that each is paid for once."""
    concurrency: Count = 16
    """Concurrent requests."""
    deadline_s: Positive = 120.0
    """Seconds for one reply, including retries."""


class JudgedReward:
    """A rule, and a judge for replies that the rule does not accept. Replies are judged concurrently."""

    def __init__(self, rule: Rule, url: str, model: str, server: Server, where: Where = "tag") -> None:
        """The judge is opened at the first reply that needs one, not when a recipe is loaded."""
        self._rule, self._url, self._model, self._server = rule, url, model, server
        self._where: Where = where

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        answer = answer_of(completion, self._where)
        if answer is None:
            return Score(0.0, MISSING[self._where])
        rule = self._rule(completion, sample)
        if rule.masked is None and rule.value >= 1.0:
            return rule
        verdict = judge_at(self._url, self._model, self._server.model_dump_json()).grade(
            sample.question, sample.answer, answer
        )
        if verdict.right is None:
            return Score(0.0, masked=f"{verdict.route}: {verdict.detail}")
        return Score(float(verdict.right), None if verdict.right else verdict.detail)

    def score(self, jobs: Sequence[tuple[Completion, Sample]]) -> list[Score]:
        """The scores, in order; a failure masks its reply."""
        with ThreadPoolExecutor(self._server.concurrency) as threads:
            return list(threads.map(lambda job: self._safely(*job), jobs))

    def _safely(self, completion: Completion, sample: Sample) -> Score:
        try:
            return self(completion, sample)
        except Exception as error:  # noqa: BLE001 - never the model's fault
            return Score(0.0, masked=f"{type(error).__name__}: {error}")


@lru_cache(maxsize=8)
def judge_at(url: str, model: str, settings: str) -> Judge:
    """One judge per server, because rubrics are rebuilt at every step. ValueError for an invalid cache or address."""
    from saccade.endpoint import Endpoint, ReplyCache, RequestLimits
    from saccade.endpoint.secrets import read_key
    from saccade.grading.judge import Judge

    server = Server.model_validate_json(settings)
    limits = RequestLimits(server.concurrency, timeout_s=server.deadline_s, deadline_s=server.deadline_s)
    endpoint = Endpoint(
        url, model, read_key(server.api_key_file, KEY_FILE), ReplyCache(server.cache) if server.cache else None, limits
    )
    atexit.register(endpoint.close)
    return Judge(endpoint)


def check_judge(url: str, server: Mapping[str, Any] | None) -> None:
    """ValueError for an invalid address, a missing key file, or one that holds no key."""
    from saccade.endpoint.client import chat_url
    from saccade.endpoint.secrets import read_key

    chat_url(url)
    read_key(Server.model_validate(server or {}).api_key_file, KEY_FILE)
