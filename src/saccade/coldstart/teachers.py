"""Teachers write the texts: any OpenAI-compatible chat server, or the oracles of the procedural world."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from saccade.coldstart.recipe import EndpointTeacher, PromptTable, SamplingConfig
from saccade.coldstart.teacher_prompts import TeacherPrompt, load_prompt, question_text
from saccade.endpoint import Endpoint, EndpointError, user
from saccade.runs.drafts import Arm, Draft, StepRecord, TeacherStage
from saccade.tasks import TASKS
from saccade.types import ImageSource, Sample

BLIND: tuple[TeacherStage, ...] = ("reasoning",)
"""Stages whose teacher gets no image."""


@dataclass(frozen=True, slots=True)
class TeacherCall:
    """A request to a teacher."""

    stage: TeacherStage
    draft: Draft
    """With the texts of the previous steps."""
    sampling: SamplingConfig
    show_answer: bool = False
    images: Sequence[ImageSource] = ()
    arm: Arm = "bridged"
    number: int = 0
    """Sample index of a reasoning step."""

    @property
    def context(self) -> str:
        """The text about the picture that the reasoner receives."""
        return {"bridged": self.draft.description, "caption": self.draft.caption, "none": None}[self.arm] or ""

    @property
    def gold(self) -> str:
        """The answer as text, as its task writes it."""
        return TASKS[self.draft.task].write_answer(sample_of(self.draft))


@dataclass(frozen=True, slots=True)
class TeacherReply:
    """The text of a teacher and the record of the call."""

    text: str
    thought: str | None
    """The separate reasoning field of the server, if any."""
    record: StepRecord


class TeacherError(Exception):
    """A call without a usable answer."""

    def __init__(self, reason: str, detail: str, retriable: bool = True, fatal: bool = False) -> None:
        """`reason`: short category, used as a counter key; `fatal`: every other row would fail too."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.retriable, self.fatal = reason, detail, retriable, fatal


class Teacher(Protocol):
    """Writes the text of a stage."""

    model: str

    async def write(self, call: TeacherCall) -> TeacherReply:
        """Raises TeacherError."""
        ...

    async def check(self, needs_vision: bool) -> None:
        """Raises ValueError when no call can succeed: unreachable, wrong key, no image input."""
        ...

    def close(self) -> None: ...


def sample_of(draft: Draft) -> Sample:
    """The draft as a sample of its task."""
    return Sample(draft.id, draft.images, draft.question, draft.answer, draft.task, draft.meta)


@dataclass
class ChatTeacher:
    """A model served by an endpoint."""

    config: EndpointTeacher
    prompts: PromptTable
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.model = self.config.model
        self._endpoint = Endpoint(self.config.url, self.model, self.api_key, limits=self.config.limits)
        self._answer = load_prompt(self.prompts.answer)

    async def write(self, call: TeacherCall) -> TeacherReply:
        prompt, text = self._text(call)
        sampling = {**sampling_options(call), **self.config.options}
        started = time.monotonic()
        try:
            message = user(text, () if call.stage in BLIND else call.images)
        except ValueError as error:  # a format that chat servers do not read
            names = ", ".join(call.draft.images)
            raise TeacherError("image does not open", f"{names}: {error}", retriable=False) from None
        try:
            reply = await self._endpoint.achat([message], **sampling)
        except EndpointError as error:
            raise self._failure(error) from None
        choice = reply.choices[0]
        thought = bool((choice.reasoning or "").strip())
        if not choice.text.strip() and not (thought and call.stage in BLIND):
            problem = "only reasoning (max_new_tokens may be too small)" if thought else "nothing"
            raise TeacherError("empty reply", f"{self.model} returned {problem} for {call.stage}")
        tokens_in, tokens_out = reply.usage.prompt_tokens, reply.usage.completion_tokens
        cost = (tokens_in * self.config.price_in + tokens_out * self.config.price_out) / 1e6
        record = StepRecord(
            stage=call.stage,
            model=self.model,
            prompt_version=f"{prompt.id}+{self._answer.id}" if call.show_answer else prompt.id,
            sampling=sampling,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost=cost,
            seconds=round(time.monotonic() - started, 4),
            saw_answer=call.show_answer,
            finish_reason=choice.finish_reason or "stop",
            number=call.number,
            arm=call.arm,
        )
        return TeacherReply(choice.text, choice.reasoning, record)

    def _text(self, call: TeacherCall) -> tuple[TeacherPrompt, str]:
        prompts = self.prompts
        names = {
            "caption": prompts.caption,
            "pseudo_cot": prompts.pseudo_cot,
            "description": prompts.description,
            "reasoning": prompts.reasoning_blind if call.arm == "none" else prompts.reasoning,
        }
        prompt = load_prompt(names[call.stage])
        text = prompt.fill(
            question=question_text(call.draft),
            pseudo_cot=call.draft.pseudo_cot or "",
            description=call.context,
            words=str(max(1, call.sampling.max_new_tokens * 3 // 4)),
            answer=call.gold if call.show_answer else "",
        )
        return prompt, text + self._answer.fill(answer=call.gold) if call.show_answer else text

    def _failure(self, error: EndpointError) -> TeacherError:
        message = str(error)
        if error.status == 401:
            return TeacherError(f"status {error.status}", message, fatal=True)
        if error.status == 200:
            return TeacherError("unreadable answer", message)
        if error.status is None:
            return TeacherError("no answer in time" if "no response within" in message else "no connection", message)
        # 403 and 404 may be about one row (a gateway that filters); where all get them, the run stops too
        retriable = error.status < 400 or error.status in (403, 404, 408, 409, 425, 429) or error.status >= 500
        return TeacherError(f"status {error.status}", message, retriable=retriable)

    async def check(self, needs_vision: bool) -> None:
        square = Image.new("RGB", (64, 64), (200, 30, 30))
        message = user("What colour is this? One word.", [square]) if needs_vision else user("Say yes.")
        try:
            await self._endpoint.achat([message], max_tokens=8, temperature=0.0, **self.config.options)
        except EndpointError as error:
            hint = ""
            if error.status == 401:
                variable = self.config.key_variable
                hint = f"; the key comes from the environment variable {variable}"
                hint += ", which is not set" if self.api_key is None else ""
            elif needs_vision and error.status in (400, 415, 422, 500):
                hint = f"; the request had a small image: does {self.model!r} accept images?"
            role = "vision" if needs_vision else "reasoner"
            raise ValueError(f"{role}: {error}{hint}") from None

    def close(self) -> None:
        self._endpoint.close()


def sampling_options(call: TeacherCall) -> Mapping[str, Any]:
    """The sampling options of a request."""
    return {**call.sampling.request(), "seed": call.sampling.seed + call.number}
