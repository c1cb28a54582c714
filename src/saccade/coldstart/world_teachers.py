"""Oracle teachers for the procedural world: the whole pipeline without a model, with exactly measurable quality.

The describer looks up the scene of a sample and writes its facts within a budget of tokens (words), with configurable
rates of misread and omitted facts. The reasoner gets only the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from saccade.coldstart.blind import LETTERS, SOLVERS, Finding
from saccade.coldstart.facts import Fact, facts_of, read_facts
from saccade.coldstart.recipe import WorldDescriber, WorldReasoner
from saccade.coldstart.teacher_prompts import question_text
from saccade.coldstart.teachers import TeacherCall, TeacherError, TeacherReply
from saccade.data.records import BROKEN
from saccade.runs.drafts import Draft, StepRecord
from saccade.world import World, WorldConfig, WorldItem

DOUBTS = ("Wait, let me check that again.", "Hmm, is that all?", "Alternatively, go through it once more.")
OPENINGS = (
    "According to the description, here is what matters.",
    "The description says what stands where.",
    "Let me go through what the description mentions.",
    "As described, these things are in the image.",
    "Let me look at what is there.",
)


@dataclass
class OracleDescriber:
    """The describer. `worlds`: settings of each source by name."""

    config: WorldDescriber
    worlds: Mapping[str, WorldConfig]
    model: str = "world-describer"

    async def check(self, needs_vision: bool) -> None:
        """Always available."""

    def close(self) -> None:
        """Nothing to close."""

    async def write(self, call: TeacherCall) -> TeacherReply:
        item = self._item(call.draft)
        budget = call.sampling.max_new_tokens
        if call.stage == "pseudo_cot":
            text = self._first_look(item, call)
        else:
            facts = self._seen(item, call.draft)
            notes = call.draft.pseudo_cot if call.stage == "description" else ""
            ordered = sorted(facts, key=lambda fact: fact.sentence not in (notes or ""))  # stable sort
            text = _within([fact.sentence for fact in ordered], budget)
            if call.show_answer:
                text += f" The correct answer is {call.gold}."
        return TeacherReply(text, None, _record(self.model, call, question_text(call.draft), text))

    def __post_init__(self) -> None:
        self._of_world = lru_cache(256)(self._make)  # a row needs its scene up to three times

    def _item(self, draft: Draft) -> WorldItem:
        meta = draft.meta
        if meta.get("world_kind") is None or draft.source not in self.worlds:
            raise TeacherError("not of the world", f"{draft.id}: its scene is not known", retriable=False)
        try:
            return self._of_world(draft.source, meta["seed"], meta["index"], draft.task, meta["split"])
        except BROKEN as error:
            why = f"{draft.id}: its scene cannot be drawn again from its meta ({type(error).__name__}: {error})"
            raise TeacherError("not of the world", why, retriable=False) from None

    def _make(self, source: str, seed: int, index: int, task: str, split: str) -> WorldItem:
        return World(self.worlds[source]).item(seed, index, task, split)

    def _seen(self, item: WorldItem, draft: Draft) -> list[Fact]:
        """The facts this describer sees: the same in every stage."""
        rng = Random(f"eyes/{draft.id}")
        seen: list[Fact] = []
        for fact in facts_of(item.scene):
            omitted, wrong = rng.random() < self.config.omission_rate, rng.random() < self.config.error_rate
            misread = fact.misread(rng)
            if not omitted:
                seen.append(misread if wrong else fact)
        return seen

    def _first_look(self, item: WorldItem, call: TeacherCall) -> str:
        """A caption and the facts that the question needs."""
        facts = self._seen(item, call.draft)
        aimed = [fact for fact in facts if _matters(fact, item)]
        kinds = {"shapes": "coloured shapes in a grid", "digits": "tiles with digits", "chart": "a bar chart"}
        what = kinds.get(item.scene.kind, "a figure with numbers")
        needed = " ".join(fact.sentence for fact in aimed) or "Nothing in the picture fits the question."
        conclusion = f" So the answer is {call.gold}." if call.show_answer else ""
        return f"Caption: the picture shows {what}. Reasoning: the question needs these. {needed}{conclusion}"


def _matters(fact: Fact, item: WorldItem) -> bool:
    """Whether the question is about the object that the fact describes."""
    cell, color = getattr(fact, "cell", None), getattr(fact, "color", None)
    if cell is not None:
        return any(getattr(target, "cell", None) == cell for target in item.question.targets)
    return color is None or any(target.color == color for target in item.question.targets)


def _within(sentences: Sequence[str], budget: int) -> str:
    """The longest prefix of whole sentences within `budget` words."""
    text, used = [], 0
    for sentence in sentences:
        used += len(sentence.split())
        if used > budget:
            break
        text.append(sentence)
    return " ".join(text) or "There is a picture."


@dataclass
class OracleReasoner:
    """The reasoner: uses only the question and the text of the draft."""

    config: WorldReasoner
    model: str = "world-reasoner"

    async def check(self, needs_vision: bool) -> None:
        """Always available."""

    def close(self) -> None:
        """Nothing to close."""

    async def write(self, call: TeacherCall) -> TeacherReply:
        draft = call.draft
        if draft.task not in SOLVERS:
            known = ", ".join(SOLVERS)
            raise TeacherError(
                "task without words", f"{draft.task}: the oracle reasoner supports {known}", retriable=False
            )
        rng = Random(f"mind/{draft.id}/{call.arm}/{call.number}/{call.sampling.seed}")
        options = tuple(draft.meta.get("options") or ())
        found = SOLVERS[draft.task](draft.question, options, read_facts(call.context), rng)
        answer = call.gold if call.show_answer else found.answer
        if rng.random() < self.config.slip_rate:
            answer = _slip(answer, options, rng)
        text = f"<think>{_chain(found, answer, rng)}</think>\n<answer>{answer}</answer>"
        return TeacherReply(text, None, _record(self.model, call, f"{question_text(draft)} {call.context}", text))


def _chain(found: Finding, answer: str, rng: Random) -> str:
    lines = [rng.choice(OPENINGS), *found.steps]
    if rng.random() < 0.5:
        lines += [rng.choice(DOUBTS), *found.steps]
    return "\n".join([*lines, f"So the answer is {answer}."])


def _slip(answer: str, options: Sequence[str], rng: Random) -> str:
    """A different answer of the same format."""
    if options:
        return rng.choice([letter for letter in LETTERS[: len(options)] if letter != answer])
    if answer in ("yes", "no"):
        return "no" if answer == "yes" else "yes"
    return str(int(answer) + rng.choice((-1, 1)))


def _record(model: str, call: TeacherCall, prompt: str, text: str) -> StepRecord:
    """Tokens are words here; time and cost are zero."""
    return StepRecord(
        stage=call.stage,
        model=model,
        prompt_version="world@1",
        sampling=call.sampling.model_dump(),
        tokens_in=len(prompt.split()),
        tokens_out=len(text.split()),
        cost=0.0,
        seconds=0.0,
        saw_answer=call.show_answer,
        number=call.number,
        arm=call.arm,
    )
