"""Phrases that reveal that a chain was written from a description: patterns for the polisher."""

from __future__ import annotations

import re

PROTECTED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"```.*?```",
        r"`[^`\n]+`",
        r"\$\$.+?\$\$",
        r"\$(?!\s)[^$\n]{1,400}?(?<!\s)\$(?!\d)",
        r"\\\\\((?:(?!\\\\\().)*?\\\\\)",  # with doubled strokes, as JSON within JSON has them
        r"\\\\\[(?:(?!\\\\\[).)*?\\\\\]",
        r"\\\\|\\\((?:[^\\]|\\\\|\\(?![\\(]))*?\\\)",  # no nested opening: many unclosed ones stay linear
        r"\\\\|\\\[(?:[^\\]|\\\\|\\(?![\\\[]))*?\\\]",
        r"</?\w+>",
    )
)
"""Code, formulas, tags."""

EXEMPT = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?:problem|question|job|product|item|task|role|exercise)(?:'s)?\s+descriptions?\b",
        r"\bdescriptions? (?:in|of) the (?:problem|question|task)\b",
        r"\b(?:match|fit|meet|satisf|answer)\w*\s+(?:to\s+)?the description of (?:a|an|any|each)\b",
        r"\bcaptions?\s+(?:below|under|underneath|beneath|above|beside|next to|at the|printed)\b",
    )
)
"""Descriptions of other things, and captions printed in the picture."""

PICTURE = r"(?:image|picture|photo|photograph|figure|diagram|chart|graph|plot|scene|drawing|map|table|screenshot)"
VISUAL = r"(?:image|picture|photo|photograph|figure|diagram|chart|graph|plot|drawing|map|screenshot)"

_DET = r"the user(?:'|\u2019)s|the|this|that|these|those|an|a|your|our"
_DROPPED = (
    r"original|detailed|textual|text|written|verbal|visual|brief|long|short|full|plain|image(?:'|\u2019)?s?|picture(?:'|\u2019)?s?"
    r"|figure|photo|scene|chart|diagram"
)
NOUN = (
    rf"(?:\b(?P<det>{_DET})\s+|(?<![\w'\u2019.,;:-])(?<![\w.,;:-] )(?P<bare>))"
    rf"(?P<kept>(?:(?:provided|given|above|same|whole|entire|first|second)\s+)*)(?:(?:{_DROPPED})\s+)*"
    r"(?P<head>descriptions?|captions?)\b(?!['\u2019]s)"
)
"""A noun phrase for the text given to the reasoner; without an article only at the start of a sentence."""

_FORMS = {
    "say": ("say", "says", "said", "said", "saying"),
    "mention": ("mention", "mentions", "mentioned", "mentioned", "mentioning"),
    "state": ("state", "states", "stated", "stated", "stating"),
    "describe": ("describe", "describes", "described", "described", "describing"),
    "note": ("note", "notes", "noted", "noted", "noting"),
    "tell": ("tell", "tells", "told", "told", "telling"),
    "specify": ("specify", "specifies", "specified", "specified", "specifying"),
    "report": ("report", "reports", "reported", "reported", "reporting"),
    "read": ("read", "reads", "read", "read", "reading"),
    "claim": ("claim", "claims", "claimed", "claimed", "claiming"),
    "explain": ("explain", "explains", "explained", "explained", "explaining"),
    "declare": ("declare", "declares", "declared", "declared", "declaring"),
    "point out": ("point out", "points out", "pointed out", "pointed out", "pointing out"),
    "refer to": ("refer to", "refers to", "referred to", "referred to", "referring to"),
    "talk about": ("talk about", "talks about", "talked about", "talked about", "talking about"),
    "speak of": ("speak of", "speaks of", "spoke of", "spoken of", "speaking of"),
}
_SHOW = ("show", "shows", "showed", "shown", "showing")
_KINDS = {form: [k for k in range(5) if forms[k] == form] for forms in _FORMS.values() for form in forms}
SAYING = "(?:" + "|".join(sorted(_KINDS, key=len, reverse=True)) + r")\b"
SEEING = r"(?:shows|depicts|displays|illustrates|portrays|represents|contains)"

_ADVERB = (
    r"also|then|clearly|explicitly|specifically|just|only|further|later|even|simply|actually|really|never|not|do|does|did"
    r"|doesn't|don't|didn't|doesn\u2019t|didn\u2019t|seems to|appears to|might|may|could|would|should|will|can|cannot"
    r"|can't|must|provided|given|above|here|be|been|have|has|had|is|was|to|goes on to|continues to|that|, which"
)
ADVERBS = rf"(?:\s*(?:{_ADVERB})\b)*\s+"
"""What may come between the description and its verb."""

COMPLEMENTS = {
    " so": " it",
    " nothing about": " nothing of",
    " us about": " us",
    " me about": " me",
    " you about": " you",
}
"""What follows a verb of saying -> what follows 'show'."""


_BARE = re.compile(r"do|does|did|\w+n['\u2019]t|to|might|may|could|would|should|will|can|cannot|must")


def saying_as_showing(verb: str, between: str) -> str:
    """The form of 'show' for a form of a verb of saying; `between` is the text before it, which distinguishes past
    tense from participle."""
    kinds = _KINDS[" ".join(verb.lower().split())]
    words = between.lower().split()
    helped = any(word in ("has", "have", "had", "is", "was", "be", "been") for word in words)
    bare = any(_BARE.fullmatch(word) for word in words)
    form = 3 if helped else 0 if bare else 2
    return _SHOW[form if form in kinds else kinds[0]]


BLOCKING = re.compile(
    r"\b(?:wording|worded|phrasing|phrased|typos?|authors?|writers?|wrote|sentences?|paragraphs?|puts? it"
    r"|its description|their descriptions?|(?:description|caption)s? calls?"
    r"|(?:image|picture|photo|figure)s? (?:and|or|nor|with) (?:the|its) (?:description|caption))\b",
    re.IGNORECASE,
)
"""In a sentence on the words of a description, 'the image' would make no sense."""

_SIGHTS = r"(?:image|picture|photo|figure|diagram|chart|graph|visual)"
_IMAGE = rf"(?:the |this |that |any |an? )?(?:actual |original )?{_SIGHTS}s?"
BLIND = re.compile(
    r"\b(?:can(?:no|')?t|can\u2019t|cannot|could not|couldn't|unable to|not able to|could) "
    rf"(?:actually |directly |really )?(?:see|view|look at|access|observe) {_IMAGE}\b"
    rf"|\bwithout (?:seeing|viewing|access to|looking at|the actual) {_IMAGE}"
    rf"|\b(?:do not|don't|don\u2019t) have (?:access to |the actual )?{_IMAGE}\b"
    rf"|\bno {_SIGHTS} (?:is|was|has been) (?:provided|given|attached|shown|available)\b"
    rf"|\b{_SIGHTS} (?:is not|isn't|was not|wasn't) (?:provided|given|attached|available|visible)\b"
    r"|\bas an? (?:text|language|text-only|text-based)\b[\w -]{0,12}model\b"
    r"|\b(?:the user|you) (?:describes?|described|mentions?|mentioned|wrote|told me)\b",
    re.IGNORECASE,
)
"""The writer says that it cannot see the image, or that it relies on what someone described."""
