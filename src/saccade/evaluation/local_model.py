"""A local model under test."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from saccade.data.held_images import loaded_and_held
from saccade.data.images import image_size, large_alone
from saccade.evaluation.answerers import Answers, EvalQuestion, Failed
from saccade.evaluation.config import Decoding
from saccade.models.counting import TokenCounter
from saccade.models.policy import Policy
from saccade.rollout.engine import Engine
from saccade.rollout.prompts import Prompt, check_lengths
from saccade.types import with_title

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LocalModel:
    """A policy and its engine. A question's replies follow from its seed, whatever its neighbors."""

    policy: Policy
    engine: Engine
    forced_prefix: str = ""
    """Beginning of every reply, and part of it."""
    whole_batches: bool = True
    lanes: int = 1

    def answer(self, questions: Sequence[EvalQuestion], decoding: Decoding, n: int) -> list[Answers]:
        """What a question's image has become since `check` costs that question only."""
        prompts = [self._usable(question, decoding.max_new_tokens) for question in questions]
        usable = [(one, q.seed) for one, q in zip(prompts, questions, strict=True) if isinstance(one, Prompt)]
        asked, seeds = [prompt for prompt, _ in usable], [seed for _, seed in usable]
        replies = iter(self.engine.generate(asked, decoding, n, seeds) if asked else ())
        # their texts begin with what the prompt has opened, the prefix included
        prefix = self.forced_prefix
        ids = tuple(self.policy.adapter.encode_reply(prefix)[:-1]) if prefix else ()
        return [
            one if isinstance(one, Failed) else [replace(c, token_ids=ids + c.token_ids) for c in next(replies)]
            for one in prompts
        ]

    def check(self, questions: Sequence[EvalQuestion], new_tokens: int) -> None:
        """ValueError that names a question whose prompt and reply exceed the model's context, before the first is
        asked."""
        adapter, context = self.policy.adapter, self.policy.context_length
        counter = TokenCounter(adapter)
        prefix = len(adapter.encode_reply(self.forced_prefix)) - 1 if self.forced_prefix else 0
        for one in questions:
            try:
                tokens = (
                    counter.prompt(one.text, [image_size(image) for image in one.sample.images], one.before).total
                    + prefix
                )
            except ValueError as error:
                raise ValueError(with_title(one.sample.title, error)) from error
            if tokens + new_tokens > context:
                raise ValueError(
                    f"{one.sample.title}: got a prompt of {tokens:,} tokens and replies of up to {new_tokens:,}; "
                    f"the model's context holds {context:,}. Lower decoding.max_new_tokens, set model.max_pixels, or "
                    "remove the sample"
                )

    def _usable(self, question: EvalQuestion, new_tokens: int) -> Prompt | Failed:
        try:
            prompt = self._prompt(question)
            check_lengths([prompt], new_tokens, self.policy.context_length)
        except ValueError as error:
            log.warning("%s; not asked", error)
            return Failed(str(error))
        return prompt

    def _prompt(self, question: EvalQuestion) -> Prompt:
        adapter = self.policy.adapter
        try:
            with large_alone(question.sample.images):
                images, held = loaded_and_held(question.sample.images, None)
                encoded = adapter.encode(question.text, images, before=question.before)
                del images
        except (ValueError, OSError) as error:
            raise ValueError(with_title(question.sample.title, error)) from error
        if self.forced_prefix:
            encoded = adapter.continue_with(encoded, self.forced_prefix)
        # a batch of large ones would take gigabytes
        return Prompt(question.sample, encoded, held if getattr(self.engine, "sends_images", True) else ())
