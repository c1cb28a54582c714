"""The steps of one row: look, describe, reason, grade. Each result is saved at once and never requested again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saccade.coldstart.images import most_bytes, read_images
from saccade.coldstart.recipe import ColdStartRecipe, SamplingConfig
from saccade.coldstart.teachers import Teacher, TeacherCall, TeacherReply, sample_of
from saccade.endpoint.room import COPIES, LETTER, Room
from saccade.parsing import read_final, read_reply
from saccade.runs.drafts import Arm, Chain, Draft, StepRecord, TeacherStage, chain_from_dict, record_from, shallow_dict
from saccade.tasks import TASKS
from saccade.types import Completion

Save = Callable[[str, Any], bool]
"""(step name, result) -> False when the row now belongs to another process."""
_TEXT_STAGES: tuple[TeacherStage, ...] = ("caption", "pseudo_cot", "description")


class RowLost(Exception):
    """The lease ran out and another process has the row."""


@dataclass(frozen=True, slots=True)
class Teachers:
    """The two teachers and the recipe they follow."""

    recipe: ColdStartRecipe
    vision: Teacher
    reasoner: Teacher
    room: Room = field(default_factory=Room)
    """For the images of their requests."""


async def write_row(teachers: Teachers, draft: Draft, done: Mapping[str, Any], save: Save, ablation: bool) -> Draft:
    """Runs the steps of a row that are not done yet. Raises TeacherError, ImageError or RowLost."""
    row = _RowSteps(teachers, assemble(draft, done), dict(done), save)
    if teachers.recipe.bridge:
        await row.look("pseudo_cot", teachers.recipe.sampling.pseudo_cot)
        await row.look("description", teachers.recipe.sampling.description)
    else:
        await row.look("caption", teachers.recipe.sampling.description, kept_as="description")
    if ablation:
        await row.look("caption", teachers.recipe.sampling.description)
    calls = [row.reason("bridged", number) for number in range(teachers.recipe.samples)]
    if ablation:
        calls += [row.reason("caption", 0), row.reason("none", 0)]
    await _all(calls)
    return assemble(draft, row.done)


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Awaits all calls even if one fails, so that the results of the others are saved; then raises the first error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for one in results:
        if isinstance(one, BaseException):
            raise one


@dataclass
class _RowSteps:
    teachers: Teachers
    draft: Draft
    done: dict[str, Any]
    save: Save

    async def look(self, stage: TeacherStage, sampling: SamplingConfig, kept_as: TeacherStage | None = None) -> None:
        """A step of the vision teacher that writes a text."""
        name = kept_as or stage
        if name in self.done:
            return
        out = self.teachers.recipe.out
        copies, text = 1 + 2 * COPIES, LETTER * len(self.draft.question)
        async with self.teachers.room.soon(text + copies * most_bytes(self.draft, out)) as became:
            files = await asyncio.to_thread(read_images, self.draft, out)
            became(text + copies * sum(map(len, files)))
            call = TeacherCall(stage, self.draft, sampling, self._shown(stage), files)
            reply = await self.teachers.vision.write(call)
        self._keep(name, {"text": reply.text.strip(), "record": shallow_dict(self._inherit(reply.record))})

    async def reason(self, arm: Arm, number: int) -> None:
        """A sample of the reasoner, graded by the task's grader."""
        name = f"reasoning/{arm}/{number}"
        if name in self.done:
            return
        sampling = self.teachers.recipe.sampling.reasoning
        call = TeacherCall("reasoning", self.draft, sampling, self._shown("reasoning"), (), arm, number)
        async with self.teachers.room.soon(LETTER * (len(self.draft.question) + len(call.context))):
            reply = await self.teachers.reasoner.write(call)
        chain = await asyncio.to_thread(grade_chain, read_chain(reply), self.draft)
        self._keep(name, {"chain": chain.to_dict(), "record": shallow_dict(self._inherit(reply.record))})

    def _shown(self, stage: TeacherStage) -> bool:
        return stage in self.teachers.recipe.answer_in

    def _inherit(self, record: StepRecord) -> StepRecord:
        """Propagates `saw_answer` from the texts that this step read."""
        before: dict[str, tuple[TeacherStage, ...]] = {"description": ("pseudo_cot",), "reasoning": ("description",)}
        sources = before.get(record.stage, ())
        if record.stage == "reasoning" and record.arm != "bridged":
            sources = ("caption",) if record.arm == "caption" else ()
        elif record.stage == "reasoning" and not self.teachers.recipe.bridge:
            sources = ("caption",)
        inherited = any(step.saw_answer for step in self.draft.steps if step.stage in sources)
        return replace(record, saw_answer=record.saw_answer or inherited)

    def _keep(self, name: str, body: dict[str, Any]) -> None:
        if not self.save(name, body):
            raise RowLost
        self.done[name] = body
        self.draft = assemble(self.draft, {name: body})


def assemble(draft: Draft, done: Mapping[str, Any]) -> Draft:
    """The draft with the results of its steps, chains in order of arm and number. Raises what a body can that is not of
    this form."""
    chains, steps = list(draft.chains), list(draft.steps)
    texts: dict[str, str] = {}
    for name, body in done.items():
        steps.append(record_from(StepRecord, body["record"]))
        if name in _TEXT_STAGES:
            if not isinstance(text := body["text"], str):
                raise TypeError(f"text is {text!r:.60}, expected str")
            texts[name] = text
        else:
            chains.append(chain_from_dict(body["chain"]))
    arms: tuple[Arm, ...] = ("bridged", "caption", "none")
    chains.sort(key=lambda chain: (arms.index(chain.arm), chain.number))
    order: tuple[TeacherStage, ...] = ("pseudo_cot", "description", "caption", "reasoning")
    steps.sort(key=lambda step: (order.index(step.stage), arms.index(step.arm), step.number))
    return replace(draft, **texts, chains=tuple(chains), steps=tuple(steps))


def read_chain(reply: TeacherReply) -> Chain:
    """Thought and answer of a reply: from a server with a separate reasoning field, from tagged text, or from plain
    text that ends in an answer."""
    record = reply.record
    answer = read_final(reply.text) if reply.text.strip() else None
    if reply.thought and reply.thought.strip():
        text = reply.thought.strip()
    else:
        parts = read_reply(reply.text)
        text = parts.think if parts.think is not None else reply.text.partition("<answer>")[0].strip()
        if parts.answer is None and parts.think is None:
            answer = _boxed_only(reply.text)
    text = text.removeprefix("<think>").strip()
    return Chain(text, answer, record.number, record.arm, finish_reason=record.finish_reason, tokens=record.tokens_out)


def _boxed_only(text: str) -> str | None:
    """Without tags, a lenient reader would take the whole text; only a marked answer counts here. None for a JSON
    object, which has no thought to learn from."""
    if text.strip().removeprefix("```json").lstrip().startswith("{"):
        return None
    found = read_final(text)
    return found if found is not None and found.strip() != text.strip() else None


def grade_chain(chain: Chain, draft: Draft) -> Chain:
    """The chain with the verdict of its task's grader. A truncated reply without an answer is wrong."""
    if chain.answer is None:
        return replace(chain, right=False, route="no answer")
    reply = Completion(f"<think>{chain.text}</think><answer>{chain.answer}</answer>")
    verdict = TASKS[draft.task].correct(reply, sample_of(draft))
    return replace(chain, right=verdict.right, route=verdict.route)
