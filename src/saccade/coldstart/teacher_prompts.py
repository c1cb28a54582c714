"""Prompts of the teachers: versioned text files. Every row records the version and hash of its prompts."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from saccade.data.records import MARKER
from saccade.disk import read_text
from saccade.runs.drafts import Draft
from saccade.tasks.templates import write_options

SLOTS = ("question", "pseudo_cot", "description", "answer", "words")
_SLOT = re.compile(r"\{(\w+)\}")
_HEAD = re.compile(r"version: *(\S+)\n---\n")


@dataclass(frozen=True, slots=True)
class TeacherPrompt:
    """A prompt template with slots such as `{question}`."""

    id: str
    """'<file>@<version>:<first 8 hex digits of its SHA-256>'."""
    text: str

    def fill(self, **values: str) -> str:
        """The text with its slots filled; braces inside a value are never treated as a slot."""
        return _SLOT.sub(lambda slot: values[slot[1]], self.text)


@lru_cache
def load_prompt(name: str) -> TeacherPrompt:
    """A packaged prompt by name, or a file. ValueError for a missing file or header, or an unknown slot."""
    path = Path(str(resources.files("saccade"))) / "coldstart" / "prompts" / f"{name}.md"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (Path(__file__).parent / "prompts").glob("*.md")))
        raise ValueError(f"no prompt {name!r}; expected a file, or one of {known}")
    whole = read_text(path)
    head = _HEAD.match(whole)
    if head is None:
        raise ValueError(f"{path}:1: expected a line 'version: 1' and a line '---' before the prompt text")
    text = whole[head.end() :].rstrip("\n")
    for slot in _SLOT.findall(text):
        if slot not in SLOTS:
            raise ValueError(f"{path}: unknown slot {{{slot}}}, expected one of {', '.join(SLOTS)}")
    return TeacherPrompt(f"{path.stem}@{head[1]}:{hashlib.sha256(whole.encode()).hexdigest()[:8]}", text)


def question_text(draft: Draft) -> str:
    """The question as text, with its options; markers of several images become '(picture k)'."""
    question = draft.question
    for k in range(1, question.count(MARKER) + 1):
        question = question.replace(MARKER, f"(picture {k}) " if len(draft.images) > 1 else "", 1)
    return question.strip() + write_options(draft.meta.get("options") or ())
