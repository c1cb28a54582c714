"""Reading the letter of a choice. An answer that hedges, lists or contradicts itself reads as None."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from saccade.parsing.claim_words import CORRECTION, EVASIVE
from saccade.parsing.markup import LONGEST, plain
from saccade.parsing.option_texts import PREPOSITION, Texts, key_of, shortened, stem, texts_of
from saccade.parsing.reading import Reading, found

LETTERS = "ABCDEFGHIJ"
MAX_MENTIONS = 64
"""Letters of a text that are looked at, from the last."""

MAX_CUES = 32
"""Claims that are looked at, from the last."""
_ALONE = re.compile(r"[(\[{<\"'`“‘「]{0,9}([A-Za-z])[)\]}>\"'`”’」]{0,9}\s{0,9}[.:,;!?。]?[\"'`*]{0,9}")
_LEADING = re.compile(r"[(\[{<]?([A-Za-z])([)\]}>]?(?:\s*+[).:,、-]|\s))\s*+(\S.*)", re.DOTALL)
_TRAILING = re.compile(r"(\S.{0,200}?)\s*[(\[]([A-Za-z])[)\]][.!]?", re.DOTALL)
_LISTED = re.compile(r"(?:^|[\s,;(])[A-Z]\s*[).:](?=\s)")
_ADVERB = r"(?:\s+(?:clearly|surely|definitely|probably|obviously|therefore|thus|now|just|simply|indeed|then))?"
_CUE = re.compile(
    r"\b(?:answers?|ans|result|(?:correct|right|best|final)\s+(?:option|choice))"
    rf"(?:\s+(?:is|would\s+be|should\s+be|must\s+be){_ADVERB})?\s*(?:[:=]\s*)?(?:(?:option|choice|letter)\s+)?"
    r"|\b(?:choose|pick|select|go\s+with)\s+(?:(?:option|choice)\s+)?|(?:答案|应选|故选|选择|选)(?:应?该?[是为])?\s*(?::\s*)?",
    re.I,
)
_CONTENT_CUE = re.compile(r"(?:\b(?:is|are|says?|be|shows?|will|would|should|must)|'s)\b\s*(?::\s*)?|[:=]\s*", re.I)
_MENTION = re.compile(
    r"(?<![A-Za-z0-9'\\=+^_-])(?:[(\[{<]([A-Za-z])[)\]}>]|([A-Z])(?![A-Za-z0-9=+*^_]|'[a-z]))[)\]}>\"'*]*"
)
_ARTICLE = re.compile(
    r"\s(?!(?:is|was|are|seems|looks|appears|because|since|as|or|and|nor|but|not|would|must|can|it|for|per|to|through|in|so|with|if|when|"
    r"by|isn't|remains|works|fits|holds)\b)[a-z]"
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|n't|isn't|never|neither|nor|eliminat\w{1,5}|rul\w{1,3}\sout|exclud\w{1,4}|except|instead\sof|rather\sthan|opposite\sof|"
    r"than|cannot|between|(?:all|any\w{0,5}|every\w{0,5})(?:\s\w{1,12})?\s(?:but|except))|n't|不是?|非|排除)\s*(?:(?:be|the|is|option|choice|answer|选)\s*){0,2}[(\[\"'*]*$",
    re.I,
)
_DENIED_AFTER = re.compile(
    r"\s?(?:(?:is|are|was|were|seems?|looks?)\s(?:all\s|both\s)?(?:not\b|wrong|incorrect|false|out\b|impossible)|"
    r"(?:is|are|was|were)n't|cannot|can't|do(?:es)?\s?(?:not|n't)|"
    r"(?:would|could|must|will)\sbe\s(?:wrong|incorrect|false)|"
    r"(?:can|could|may|should|must)\sbe\s(?:ruled|eliminated|excluded|discarded|rejected|dismissed)|错|不对|不正确)",
    re.I,
)
_RIGHT_AFTER = re.compile(
    r"\s?(?:选项|正确|对|(?:is|was|are|seems?|looks?|appears?|must\sbe)\s(?:to\sbe\s)?(?:the\s)?(?:only\s|most\s)?"
    r"(?:correct|right|best|true|better|answer)\b(?!\s?\?))",
    re.I,
)
_DESCRIBED = re.compile(r"\s?(?:is|are|was|has|have|shows?)\s\w", re.I)
_CONDITION = re.compile(r"\s(?:if|when|assuming|provided|unless|otherwise)\b", re.I)
_JOIN = re.compile(
    r"(?:[\s,;/&、?()\[\]*\"']|\b(?:or|and|nor|maybe|perhaps|possibly|option|choice|to|through)\b|或者?|和|与|及)*",
    re.I,
)
_BOTH = re.compile(r"\b(?:or|and|nor)\b|[&或和与]", re.I)
_CLAUSE_END = re.compile(
    r"\n|\.\s|[;。!]|,\s(?=not|because|since|so|but|as|while|where|which|though|although)|\s(?=because|since)"
)


def read_choice(text: str, letters: Sequence[str] = LETTERS, options: Sequence[str] = ()) -> str | None:
    """The letter that an answer picks, upper case, or None when it picks none or more than one; see `parse_choice`."""
    return parse_choice(text, letters, options).value


def parse_choice(text: str, letters: Sequence[str] = LETTERS, options: Sequence[str] = ()) -> Reading[str]:
    """The letter that an answer picks, by which rule; or the reason why none can be read.

    Reads 'B', 'b', '(B)', '[B]', 'B.', 'B) foo', 'foo (B)', 'The answer is B', 'B is correct', 'Therefore, B.',
    'not A, but B', '故选B', 'B选项', and the text of exactly one option, alone or as what is claimed. With options
    given, 'B) foo' counts only if foo is not the text of another option. Takes any string; linear in its length.
    """
    text = plain(text[-LONGEST:])[-LONGEST:]
    if not text:
        return Reading(None, reason="nothing")
    allowed = {letter.upper() for letter in letters}
    texts = texts_of(letters, options)
    reason = "no letter"
    for read, how in _RULES:
        picked = read(text, texts, allowed)
        if picked in allowed:
            return found(picked, how)
        reason = ("not a letter of the options" if len(picked) == 1 else picked) if picked else reason
        if picked and len(picked) > 1:
            break
    return Reading(None, reason=reason)


def parse_choices(text: str, letters: Sequence[str] = LETTERS) -> Reading[frozenset[str]]:
    """All letters that an answer picks, where several may be right: 'A, C', 'AC', 'A and C', 'Options A and C'.

    'A or C' is a hedge, and letters that are denied are not picked.
    """
    text = plain(text[-LONGEST:])[-LONGEST:]
    allowed = {letter.upper() for letter in letters}
    run = _RUN.fullmatch(_AND.sub(", ", text))
    letters_said = re.sub(r"[^A-Za-z]", "", run[1]) if run else ""
    if run and (letters_said.isupper() or len(run[1].strip()) < 2 or "," in run[1]):
        said = frozenset(letters_said.upper())
        once = said <= allowed and len(said) == len(letters_said)
        return found(said, "letters") if once else Reading(None, reason="no letters of the options")
    if re.search(r"\bor\b|或", text):
        return Reading(None, reason="hedged")
    groups = [group for group in _groups(text, allowed) if not group.denied]
    strong = [group for group in groups if group.strong] or groups
    said = frozenset(letter for group in strong for letter in group.letters)
    return found(said, "mentions") if said else Reading(None, reason="no letter" if text else "nothing")


_ONE = r"[\[({]*[A-Za-z][\])}]*"
_RUN = re.compile(
    r"(?:.{0,400}?(?i:answers?(?:\s(?:is|are))?|答案是?|选)\s*+:?\s*+)?(?i:(?:the|correct|options?|choices?|statements?|both|only)\s+)*"
    rf"((?:[A-Z]{{1,26}}|{_ONE}(?:(?:[\s,;、/.]+|(?<=[\])}}])){_ONE}){{0,25}})[\s,;、/.]*)"
    r"(?i:only|(?:is|are)\s(?:all\s)?(?:correct|right|true)(?:[;,.].{0,200})?)?\.?",
    re.DOTALL,
)
_AND = re.compile(r",?\s{0,16}+(?:\band\b|[&和与])\s*+")


def _leading(text: str, texts: Texts, allowed: set[str]) -> str | None:
    """'B' and its kin as the whole text, or beside the option's text. A rule gives a letter, a reason, or None."""
    if alone := _ALONE.fullmatch(text):
        return alone[1].upper()
    if (trailing := _TRAILING.fullmatch(text)) and (owners := texts.get(key_of(trailing[1]))):
        return trailing[2].upper() if trailing[2].upper() in owners else "letter and text disagree"
    leading = _LEADING.fullmatch(text)
    if leading is None or leading[1].upper() not in allowed:
        return None
    letter, owners = (
        leading[1].upper(),
        texts.get(key_of(leading[3])) or texts.get(key_of(leading[3].strip("()[].")), []),
    )
    if owners and letter == "A" and leading[2].isspace() and leading[3][0].islower():
        return _owner(owners)  # an article
    if owners:
        return letter if letter in owners else "letter and text disagree"
    if leading[1].islower() and leading[2].startswith(")"):
        return letter
    return "lists several" if set(leading[2]) & set(")]}>.:") and _LISTED.search(leading[3]) else None


def _place(text: str, texts: Texts, allowed: set[str]) -> str | None:
    """The letter of 'the third option'."""
    match = _NTH.fullmatch(text)
    place = _ORDINALS.index(_NUMERALS.get(match[1].lower(), match[1].lower())) if match else -1
    if match is None or (place >= len(allowed) and place < len(_ORDINALS) - 1):
        return None
    return sorted(allowed)[min(place, len(allowed) - 1)]


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "last")
_NUMERALS = {"1st": "first", "2nd": "second", "3rd": "third", "4th": "fourth", "5th": "fifth", "6th": "sixth"}
_NTH = re.compile(
    rf"(?:(?:it|the\s(?:correct\s|right\s)?(?:answer|option|choice))\sis\s)?(?:the\s)?"
    rf"({'|'.join([*_ORDINALS, *_NUMERALS])})\s(?:option|choice|answer|one)[.!]?",
    re.I,
)


def _option(text: str, texts: Texts, allowed: set[str]) -> str | None:
    """The letter of the one option whose text this is, or the first clause, or what follows 'in the picture,'."""
    lead = _LEAD.match(text)
    for part in (text, re.split(r"[,.;:!]\s", text, maxsplit=1)[0], text[lead.end() :] if lead else ""):
        key = key_of(part)
        bare = shortened(PREPOSITION.sub("", key))
        if (
            key
            and (owners := texts.get(key) or texts.get(shortened(key)) or texts.get(bare))
            and (part is text or not _digits(key))
        ):
            return _owner(owners)
    said = stem(shortened(key_of(text)))
    owners = {letter for option, owners in texts.items() if stem(option) == said for letter in owners}
    return owners.pop() if len(owners) == 1 and said else None


_LEAD = re.compile(
    r"(?:(?:in|on|from|based\son|according\sto|looking\sat|as\sshown\sin)\s[^,.]{1,60},\s|(?:so|thus|hence|therefore),?\s)",
    re.I,
)


def _predicate(text: str, texts: Texts, allowed: set[str]) -> str | None:
    """The letter of the one option that is said of a subject: 'the volume doubles' for 'It doubles'."""
    words = key_of(text).split()
    if len(words) > MAX_PREDICATE or words[:1] not in (["the"], ["its"], ["this"], ["their"]):
        return None
    said = (" ".join(words[count:]) for count in range(1, min(len(words), 7)))
    owners = next((owners for part in said if f"it {part}" in texts and (owners := texts[f"it {part}"])), [])
    return _owner(owners)


MAX_PREDICATE = 20
"""Words of a sentence that may be an option's."""


def _digits(text: str) -> bool:
    return any(char.isdigit() for char in text)


def _owner(letters: list[str]) -> str | None:
    if not letters:
        return None
    return letters[0] if len(letters) == 1 else "options with the same text"


def _content(text: str, texts: Texts, allowed: set[str]) -> str | None:
    """The letter of the option whose text is what the last claim says to the end of its clause; a weak claim yields to
    a letter that is claimed, or named behind it."""
    groups = [group for group in _groups(text, allowed) if not group.denied] if texts else []
    for cues in (_CUE, _CONTENT_CUE):
        for cue in reversed(list(cues.finditer(text))[-MAX_CUES:] if texts else []):
            letter = _MENTION.match(text, cue.end())
            names_one = letter is not None and (letter[1] or letter[2]).upper() in allowed
            owners, end = _stated(text, cue.end(), texts)
            if not owners or (names_one and _ends(text, letter)):
                continue
            if cues is _CUE:
                return _owner(owners)
            if any(group.end in (cue.start(), cue.start() - 1) for group in groups):  # 'B is green' describes
                continue
            outside = [group for group in groups if not cue.end() <= group.start < end]
            later = [group for group in outside if group.strong or (not 3 <= group.start < end and not group.described)]
            return None if any(not set(group.letters) <= set(owners) for group in later) else _owner(owners)
    return None


def _ends(text: str, letter: re.Match[str] | None) -> bool:
    """A lone letter of the options names one even where it is also the text of another."""
    return letter is not None and re.match(r"[\s.,;:!]*(?:\n|$)", text[letter.end() : letter.end() + 20]) is not None


def _stated(text: str, start: int, texts: Texts) -> tuple[list[str], int]:
    """The letters of the option whose text runs from `start` to the end of the line, or of the clause; and that end."""
    line = text[start : start + 200].partition("\n")[0]
    clause = _CLAUSE_END.split(line, maxsplit=1)[0]
    for part in (line, clause):
        for cut in ("", "the ", "a ", "an ", "on the ", "in the ", "to the ", "at the ", "on ", "in ", "at "):
            if owners := texts.get(key_of(part.strip(" \"'`*.:").removeprefix(cut))):
                return owners, start + len(part)
    return [], start


@dataclass(frozen=True, slots=True)
class _Group:
    """Letters that are named together."""

    letters: tuple[str, ...]
    strong: bool
    """Behind 'the answer is', or called right."""
    described: bool
    """Only spoken about: 'B is larger'."""
    denied: bool
    start: int
    end: int


def _mentioned(text: str, texts: Texts, allowed: set[str]) -> str | None:
    """The one letter that is named and not denied: behind the last cue, else anywhere."""
    everything = _groups(text, allowed)
    groups = [group for group in everything if not group.denied]
    cases = {letter for group in groups if _CONDITION.match(text, group.end) for letter in group.letters}
    if EVASIVE.search(text) or len(cases) > 1 or any(_OR_ELSE.match(text, group.end) for group in groups):
        return "hedged" if groups else None
    strong = [group for group in groups if group.strong]
    named = [group for group in groups if not group.described] or groups
    if strong:
        taken_back = CORRECTION.search(text, strong[-1].end, named[-1].start)
        return "hedged" if taken_back and named[-1].letters != strong[-1].letters else _only(text, strong[-1], texts)
    letters = {letter for group in named for letter in group.letters}
    if len(letters) > 1:
        return "hedged" if any(len(group.letters) > 1 for group in named) else "lists several"
    if any(letters & set(group.letters) for group in everything if group.denied):
        return "hedged"
    return _only(text, named[-1], texts) if named else None


def _only(text: str, group: _Group, texts: Texts) -> str:
    """The letter of a group, unless it has several or another option's text behind it."""
    if len(set(group.letters)) > 1:
        return "hedged"
    rest = text[group.end : group.end + 200].lstrip(" \"'`*.):,-")
    owners = texts.get(key_of(_CLAUSE_END.split(rest, maxsplit=1)[0])) if texts else None
    return group.letters[0] if not owners or group.letters[0] in owners else "letter and text disagree"


def _groups(text: str, allowed: set[str]) -> list[_Group]:
    """The letters that a text names, those joined by commas, 'and' or 'or' together."""
    cued = {cue.end() for cue in _CUE.finditer(text)}
    mentions = [m for m in _MENTION.finditer(text) if _names(text, m, allowed)][-MAX_MENTIONS:]
    named = cued | {word.end() for word in _OPTION.finditer(text)}
    mentions += [m for end in named if (m := _LOWER.match(text, end)) and m[1].upper() in allowed]
    groups: list[_Group] = []
    for mention in sorted(mentions, key=lambda one: one.start()):
        letter = (mention[1] or mention[2]).upper()
        after_denied = _DENIED_AFTER.match(text, mention.end()) is not None
        right = not after_denied and _RIGHT_AFTER.match(text, mention.end()) is not None
        mine = _Group(
            (letter,),
            right or not cued.isdisjoint(range(_opening(text, mention.start()), mention.start() + 1)),
            not right and _DESCRIBED.match(text, mention.end()) is not None,
            after_denied or _DENIED_BEFORE.search(text[max(0, mention.start() - 30) : mention.start()]) is not None,
            mention.start(),
            mention.end(),
        )
        last = groups[-1] if groups else None
        gap = text[last.end : mine.start] if last else "."
        if (
            last is None
            or letter in last.letters
            or len(gap) > 40
            or not _JOIN.fullmatch(gap)
            or "\n" in gap
            or (last.denied and ";" in gap)
            or (after_denied and not _BOTH.search(gap))
        ):
            groups.append(mine)
        else:
            groups[-1] = _Group(
                (*last.letters, letter),
                last.strong or mine.strong,
                mine.described,
                last.denied or after_denied,
                last.start,
                mine.end,
            )
    return groups


_OR_ELSE = re.compile(r"[\s,]{1,4}or\s(?:none|neither|nothing|something|another|other|any)\b", re.I)
_OPTION = re.compile(r"\b(?:option|choice|letter)\s", re.I)
_LOWER = re.compile(r"[\"'`*\[{<(]*([a-z])()(?=\s*(?:[)\].,;:!*\]}]|$))[)\]}>]?")


def _opening(text: str, start: int) -> int:
    """Where the brackets, quotes and spaces in front of a letter begin."""
    reach = max(0, start - 8)
    return reach + len(text[reach:start].rstrip(" ([{<\"'`*"))


def _names(text: str, mention: re.Match[str], allowed: set[str]) -> bool:
    """Whether a letter names an option, and is no article and no 'I'."""
    letter = (mention[1] or mention[2]).upper()
    if letter not in allowed:
        return False
    if mention[1] is not None:
        return True
    if letter == "I":
        return re.match(r"\s*(?:[.,;:!)]|$)", text[mention.end() : mention.end() + 3]) is not None
    return letter != "A" or _ARTICLE.match(text, mention.end(2)) is None


_RULES = (
    (_leading, "letter"),
    (_place, "place"),
    (_option, "option text"),
    (_predicate, "option text"),
    (_content, "option text"),
    (_mentioned, "mention"),
)
"""In this order; the first that gives a letter decides."""
