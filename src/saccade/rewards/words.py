"""Text rewards: character similarity, script of the thinking text, and stated facts about the image."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from saccade import grading, parsing
from saccade.rewards.answers import MISSING, answer_of
from saccade.rewards.options import Share, Where
from saccade.types import Completion, Sample, Score

LONGEST, MOST_GOLD = 20_000, 100_000
"""Characters of an answer and of each gold text that are compared, and of all gold texts together; edit distance is
quadratic."""


def char_similarity(
    completion: Completion,
    sample: Sample,
    threshold: Share = 0.5,
    case: bool = False,
    spaces: bool = False,
    where: Where = "tag",
) -> Score:
    """Character similarity of the answer to the gold text; 0 below `threshold`, so that similar length earns nothing.

    `case` and `spaces` make the comparison sensitive to case and white space. With a list of gold texts the most
    similar one counts.

    Formula: s = 1 - edit distance / longer length; s if s >= threshold, else 0. Of longer texts the first 20,000
    characters are compared.
    Source: ANLS (arXiv 1905.13648); VLM-R1's default reward has the ratio without a threshold.
    """
    answer = answer_of(completion, where)
    if answer is None:
        return Score(0.0, MISSING[where])
    golds = [str(one) for one in sample.answer] if isinstance(sample.answer, list | tuple) else [str(sample.answer)]
    folded = [_fold(gold[:LONGEST], case, spaces) for gold in golds]
    if not folded or not all(folded):
        return Score(0.0, masked="gold cannot be graded: gold is empty")
    if (length := sum(map(len, folded))) > MOST_GOLD:
        return Score(
            0.0, masked=f"gold cannot be graded: {length:,} characters of texts, expected {MOST_GOLD:,} at most"
        )
    from rapidfuzz.distance import Levenshtein

    text = _fold(answer[:LONGEST], case, spaces)
    best = max(Levenshtein.normalized_similarity(text, gold) for gold in folded)
    return Score(best if best >= threshold else 0.0, None if best == 1.0 else f"similarity {best:.2f}")


def _fold(text: str, case: bool, spaces: bool) -> str:
    text = text if case else grading.fold(text)
    return (text if spaces else "".join(text.split()))[:LONGEST]


# ------------------------------------------------------------------------------------------------------------ language

Script = Literal["arabic", "cyrillic", "devanagari", "greek", "hangul", "han", "hebrew", "kana", "latin", "thai"]
_NAMES: dict[str, Script] = {
    **{"ARABIC": "arabic", "CYRILLIC": "cyrillic", "DEVANAGARI": "devanagari", "GREEK": "greek", "HANGUL": "hangul"},
    **{"CJK": "han", "HEBREW": "hebrew", "HIRAGANA": "kana", "KATAKANA": "kana", "LATIN": "latin", "THAI": "thai"},
}


def language_consistency(completion: Completion, sample: Sample, script: Script | None = None) -> Score:
    """The share of letters in the think block that belong to the question's script, or `script`; 0 without letters.

    The script is a proxy for the language that needs no model: it distinguishes Chinese from English, but not French
    from English. Japanese may use kana and han. Greek letters are ignored unless `script` is greek: in mathematics they
    are symbols.

    Formula: letters of the script / letters.
    Source: DeepSeek-R1 (arXiv 2501.12948), language consistency reward.
    """
    think = parsing.read_reply(completion.text).think
    if think is None:
        return Score(0.0, "no think block")
    wanted = script or _main(_scripts(sample.question, None))
    if wanted is None:
        return Score(0.0, masked="the question has no letters: name the script under options")
    counts = _scripts(think, wanted)
    total = sum(counts.values())
    if not total:
        return Score(0.0, "no letters")
    allowed = ("kana", "han") if wanted == "kana" else (wanted,)
    share = sum(counts[one] for one in allowed) / total
    return Score(share, None if share == 1.0 else f"{share:.0%} {wanted}")


def _scripts(text: str, wanted: str | None) -> Counter[str]:
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    if wanted != "greek":
        counts.pop("greek", None)
    return counts


def _main(counts: Counter[str]) -> str | None:
    """The script with the most letters; any kana makes it Japanese."""
    known = {script: n for script, n in counts.items() if script != "other"}
    return "kana" if "kana" in known else max(known, key=lambda one: known[one], default=None)


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return _NAMES.get(unicodedata.name(letter, "").split(" ")[0], "other")


# ---------------------------------------------------------------------------------------------------------- perception


def perception(completion: Completion, sample: Sample, facts: str = "facts") -> Score:
    """The share of the facts in `sample.meta[facts]` that the reply states; for data with annotated perception.

    A fact is a text, or a list of alternative texts; it is stated when its words occur in the reply consecutively and
    in order. To judge facts by meaning, use your own reward or `llm_judge`. Stating everything is not penalized here:
    combine it with an accuracy as gate.

    Formula: facts stated / facts.
    Source: Perception-R1 (arXiv 2506.07218), visual perception reward.
    """
    wanted = sample.meta.get(facts)
    if not isinstance(wanted, list | tuple) or not wanted:
        return Score(0.0, masked=f"sample {sample.id!r} has no list of facts in meta[{facts!r}]")
    words = f" {' '.join(_words(completion.text))} "
    stated = [any(_says(words, form) for form in _forms(fact)) for fact in wanted]
    share = sum(stated) / len(stated)
    return Score(share, None if share == 1.0 else f"{sum(stated)} of {len(stated)} facts")


def _forms(fact: Any) -> Sequence[str]:
    return [str(form) for form in fact] if isinstance(fact, list | tuple) else [str(fact)]


def _says(words: str, form: str) -> bool:
    wanted = " ".join(_words(form))
    return bool(wanted) and f" {wanted} " in words


def _words(text: str) -> list[str]:
    kept = "".join(c if c.isalnum() or c in ".-" else " " for c in parsing.normalized(text).casefold())
    return [word.strip(".-") for word in kept.split() if word.strip(".-")]
