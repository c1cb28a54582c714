"""Samples of a cold-start set: one question with everything that was written about it."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from saccade.report.pictures import picture
from saccade.runs.drafts import Chain, Draft, read_drafts
from saccade.runs.files import file_inside

SAMPLES = 12
PER_SOURCE = 2
"""Samples of each source that are in the set; one more that is not."""
LARGEST_IMAGE = 64 << 20
"""Bytes of a file elsewhere that is shown."""
LONGEST_DIFF = 1500
"""Words of a chain whose changes are marked; comparing is quadratic."""


@dataclass(frozen=True, slots=True)
class SampleCard:
    """One question with everything that was written about it."""

    id: str
    source: str
    question: str
    options: tuple[str, ...]
    gold: str
    pictures: tuple[Markup, ...]
    difficulty: str
    pseudo_cot: str
    description: str
    chain: Markup
    answer: str
    right: bool | None
    in_set: bool
    reason: str
    facts: tuple[tuple[str, str], ...]


def chosen_samples(folder: Path) -> tuple[list[Draft], tuple[str, ...]]:
    """Drafts to show (of each source the first that are in the set, and the first that is not), and every version of a
    prompt that wrote any."""
    kept: dict[str, list[Draft]] = {}
    dropped: dict[str, Draft] = {}
    prompts: set[str] = set()
    for draft in read_drafts(folder):
        prompts.update(step.prompt_version for step in draft.steps)
        if draft.chosen:
            of_source = kept.setdefault(draft.source, [])
            if len(of_source) < PER_SOURCE:
                of_source.append(draft)
        elif draft.of_arm("bridged"):
            dropped.setdefault(draft.source, draft)
    rounds = [[drafts[i] for drafts in kept.values() if i < len(drafts)] for i in range(PER_SOURCE)]
    good = [draft for one in rounds for draft in one]
    bad = list(dropped.values())[: SAMPLES // 3]
    return [*good[: SAMPLES - len(bad)], *bad], tuple(sorted(prompts))


def sample_card(draft: Draft, folder: Path, warnings: list[str]) -> SampleCard:
    """The chosen chain, or the one whose rejection says most: a right one that a filter dropped before a wrong one."""
    chain = _telling(draft)
    shas = [*draft.image_shas, *[None] * len(draft.images)]
    pictures = [picture(_image(folder, name, sha)) for name, sha in zip(draft.images, shas, strict=False)]
    if None in pictures:
        warnings.append(f"sample {draft.id}: an image cannot be read")
    first = chain.rejections[0] if chain.rejections else None
    bridged = draft.of_arm("bridged")
    facts = [("right", f"{sum(bool(one.right) for one in bridged)} of {len(bridged)}"), ("tokens", f"{chain.tokens:,}")]
    knew = [step.stage for step in draft.steps if step.saw_answer]
    if knew:
        facts.append(("saw the answer", ", ".join(dict.fromkeys(knew))))
    options = draft.meta.get("options")
    return SampleCard(
        id=draft.id,
        source=draft.source,
        question=draft.question.replace("<image>", "").strip(),
        options=tuple(map(str, options)) if isinstance(options, list | tuple) else (),
        gold=_plain(draft.answer),
        pictures=tuple(one for one in pictures if one is not None),
        difficulty=draft.difficulty or "not graded",
        pseudo_cot=draft.pseudo_cot or "",
        description=draft.description or "",
        chain=marked(chain),
        answer=chain.answer or "none",
        right=chain.right,
        in_set=bool(draft.chosen),
        reason=f"{first.filter.replace('_', ' ')}: {first.reason}" if first else "",
        facts=tuple(facts),
    )


def _image(folder: Path, name: str, sha: str | None) -> Path | None:
    """The image of a draft: a file of the set, or the one elsewhere whose hash the draft has, since the set may be of
    others, who must know a file to have it shown."""
    if (inside := file_inside(folder, name)) is not None:
        return inside
    path = Path(name)
    with suppress(OSError, ValueError):
        if path.is_file() and path.stat().st_size <= LARGEST_IMAGE:
            return path if hashlib.sha256(path.read_bytes()).hexdigest() == sha else None
    return None


def _telling(draft: Draft) -> Chain:
    if draft.chosen:
        return draft.chains[draft.chosen[0]]
    bridged = draft.of_arm("bridged")
    judged = [chain for chain in bridged if chain.rejections] or list(bridged)
    return next((chain for chain in judged if chain.right), judged[0])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def marked(chain: Chain) -> Markup:
    """The thought as it is learned; what polish took out is struck through, what it put in is marked."""
    before, after = _tokens(chain.text), _tokens(chain.words)
    if before == after or len(before) + len(after) > 4 * LONGEST_DIFF:
        return escape(chain.words)
    parts: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = "".join(before[a:b]), "".join(after[c:d])
        if kind == "equal":
            parts.append(str(escape(new)))
            continue
        if old.strip():
            parts.append(f"<del>{escape(old)}</del>")
        if new:
            parts.append(f"<ins>{escape(new)}</ins>")
    return Markup("".join(parts))


def _tokens(text: str) -> list[str]:
    """Words and the spaces between them."""
    pieces: list[str] = []
    word = ""
    for letter in text:
        if letter.isspace() != word[-1:].isspace() and word:
            pieces.append(word)
            word = ""
        word += letter
    return [*pieces, word] if word else pieces
