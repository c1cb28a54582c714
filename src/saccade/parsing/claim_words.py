"""The words by which a text claims a value, takes it back or wavers; patterns of `saccade.parsing.claims`."""

from __future__ import annotations

import re

from saccade.parsing.number_words import DENOMINATORS, MAGNITUDES, TENS, UNITS_AND_TEENS


def words(text: str, ends: str = r"\b") -> str:
    """A pattern for any of the words that are separated by commas or line ends."""
    return rf"\b(?:{'|'.join(word.strip() for word in text.split(','))}){ends}"


SCRIPTS = r"\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0400-\u06ff\u1e00-\u1eff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af"
"""Letters beyond ASCII that are no signs of mathematics, for a character class."""
FORMULA = re.compile(
    r"\$\$([^$]{1,600})\$\$|(?<!\\)\$(?=[^$\s])([^$\n]{1,400}?)(?<!\\)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]",
    re.DOTALL,
)
SENTENCE_END = re.compile(r"(?<=[.!?;])[\s\"')*]+(?![a-z])|(?<=[。！？；])|\n+")
_SAYS = r"(?:(?:is|are|was|would be|should be|must be|comes to|=|:|：)[\s:：]*)+(?:given by\s|equal to\s)?"
_FOREIGN = (
    "ответ|respuesta|réponse|antwort|lösung|resposta|risposta|jawaban|cevap|đáp án|答え|解答|정답|"
    "답(?=[:：])|答(?=[:：])"
)
CUE = re.compile(
    rf"{words('answers?, ans, result, solutions?')}(?:\s+to\s[^.=:]{{1,80}}?)?\s*{_SAYS}"
    r"|\b(?:answer|ans)\b\s*(?=[-\d$\\(\[{])|答案(?:应该?|就)?(?:[是为]|:|：|=)*\s*"
    rf"|(?:{_FOREIGN})(?:\s(?:finale?|correcta|es|est|ist|é|è|la|le|die|adalah)\b)*\s*(?:は|:|：|=)*\s*",
    re.I,
)
"""'The answer is': a strong claim."""
_VERBS = r"""is, are, be, was, were, am, equals?, gets?, got, obtain(?:s|ed)?, gives?, giving, yields?, has, have, had,
finds?, found, becomes?, comes? (?:out )?to, amounts? to, (?<=\s)takes?, costs?, makes?, totals?, leaves?, leaving,
needs?,
contains?, so(?=\s[-\d$\\]), counts?, sees?, reads?, attains?, reach(?:es)?, shows?, conclude that,
holds?, weighs?, carr(?:y|ies), earns?, pays?, spends?, receives?, travels?, measures?, produces?, saves?,
requires?, scores?, seats?, results? in,
(?:sums?|adds? up|works out|evaluates?|simplif(?:y|ies)|reduces?|rounds) to, (?:it|that|there|he|she|what)'s"""
VERB = re.compile(
    rf"{words(_VERBS)}[\s:：]*(?:that\s)?|[=：]\s*|:(?!\d)\s*|"
    r"(?:(?<=\b[a-zA-Z]\s)|(?<![\w)}%]\s))(?:≈|\\approx)\s*|[是为有得共]\s*",
    re.I,
)
"""'is', 'gives', '=': a weak claim."""
_FILLERS = r"""about, approximately, approx\.?, roughly, around, nearly, exactly, precisely, only, just, now, also,
then, simply, therefore, thus, hence, equal to, equivalent to, located at, given by, at, on, a total of, in total, the,
an?(?!\s(?:half|third|quarter|fourth|fifth|tenth|hundred|thousand|million|dozen)\b), of, value, number,
point, its, maximum, minimum, length, area, volume, perimeter, radius, measure, size,
still, clearly, surely, definitely, probably, indeed, actually"""
FILLER = re.compile(
    rf"(?:\s*(?:{words(_FILLERS, '')}|~|≈|\\approx|\\sim|大?约|总?共|一共|：|:|\"|')(?![A-Za-z])\s*)+",
    re.I,
)
NEGATED = re.compile(
    r"(?:\bnot|\bno(?=\s)|\bcannot|n't|\bnever|\b(?:far|different|differs)\sfrom|\banything\sbut|"
    r"\bno\slonger|\bhardly|\bby\sno\smeans|\brather than|\binstead of|\bexcept(?:\s+for)?|\bwithout|"
    r"\bunlike|\bnor|\bneither|\bother than|不是|非|不)"
    r"\s*+(?:equal to|even|exactly|be|the|=|\$|\\\()*+\s*+$|"
    r"(?:n't|\bnot|\bnever)\s(?:think|believe|say|claim)\b[^.,;]{0,24}$|\bdoubt\b[^.,;]{0,24}$|"
    r"\b(?:nobody|no one|none|nothing)\b[^.,;]{0,24}$",
    re.I,
)
"""Stands in front of a value that is denied."""
DENIED = re.compile(
    r"[)\]}$\s]*(?:(?:is|are|was|does|do|would|can|could)\s?(?:not|n't)|isn't|aren't|"
    r"fails?\b|too\s(?:many|few|much|low|high|long|short|big|small|large)\b|(?:is|are|seems)\s(?:wrong|incorrect|false|impossible)|不对|不是)",
    re.I,
)
_BOUNDS = r"""at least, at most, more than, less than, fewer than, greater than, smaller than, larger than, over,
under, above, below, (?<!add )(?<!adds )up to, no more than, no less than, twice, thrice, half of, double, triple,
between, a (?:third|quarter) of, nearly, almost, beyond, (?:exceed|surpass|approach)(?:s|es|ed|ing)?, short of,
close to, near, within, before, until, prior to, question, step, figure, fig\.?, table, page, chapter, equation,
eq\.?, section,
problem, exercise, room, gate, lesson, (?:number|one|day|month|year) after, adds?, adding, subtract(?:s|ing)?,
(?:divid|multipl)(?:e|y|ed|ying|ing)(?: it)? by, divisible by,
factor of, (?:answer|result) has, (?:(?:end|start|beginn)ing|(?:it|number) (?:end|start|begin)s) (?:in|with)(?: an?)?,
(?:contains?|containing|has|with) (?:an?|the) digit,
rhymes with, bigger than, one of(?: the)?, (?:shirt|jersey|player|room|bus|house|flight|route|with|in the) number"""
_OPERATORS = (
    r"(?:(?:square |cube |cubic |fourth |nth )?root|reciprocal|inverse|opposite|negation|negative|cube|square|"
    r"log(?:arithm)?|absolute value|(?:co)?sine|tangent|factorial|complement|multiple|power|percent|derivative|"
    r"integral|remainder) of"
)
_SUPPOSED = "let(?=\\s), whether, suppose, supposing, assume, assuming, if"
BOUND = re.compile(rf"(?:{words(_BOUNDS)}|{words(_OPERATORS)})\s*$|{words(_SUPPOSED)}[^.,;]{{0,24}}$", re.I)
"""Precedes a number that is a bound, an operand of the value that is meant, or only supposed."""
OPERAND = re.compile(
    r"\s*(?:squared|cubed|factorial|to the (?:power|\w{3,10} power)|plus|minus|(?:divided|multiplied) by|"
    r"(?:more|less|fewer|greater|larger|smaller|higher|lower) than|"
    r"times (?:the|as|an?|more)|times (?=[-\d\\]))\b",
    re.I,
)
"""Follows a number that is an operand."""
HEDGED = re.compile(
    r"[\d)}\]]\s*(?:\|\s*[-\d\\]|(?:\\(?:to|rightarrow|Rightarrow|longrightarrow)|->|→|=>|⇒)|\.\.\.|…|\?\s*[-\d])|"
    r"\(\s*(?:\\text\s?\{\s*)?(?:or|and)\b|[\d}]\s*[-–—]+\s*(?:or|and)\b|\bor\b\s*\?"
)
"""A value that wavers between several, without words."""
_WAVERING = r"""or, maybe, perhaps, possibly, alternatively, might, could be, wait, hmm+, actually, instead, unless,
guess, not sure, unsure, but, however, correction, oops, otherwise"""
WAVERING = re.compile(rf"{words(_WAVERING)}|\?|也许|可能|或|但|不对|等等", re.I)
CORRECTION = re.compile(r"\b(?:wait|actually|correction|sorry|oops|hmm+|instead)\b|\bno[,:]|不对|更正|等等", re.I)
_REASONS = r"""because, since, as, where, while, whereas, when, with, for, from, by, given, using, if, after, due,
rounded, i\.e, note, explanation, which, that, in, per, of, on, check, reason, proof, so, steps?, hope, let, this,
these,
i am, i'm, the, therefore, at(?=\s\$?[a-z]\s?=), attained, achieved, reached, occur(?:s|ring)?"""
EXPLAINED = re.compile(rf"^(?:\s?[a-z]+(?:\s[a-z]+){{0,2}},)?[\s,;:(.\-–—*]*(?:{words(_REASONS)}|每)", re.I)
"""What may hold other numbers behind a value: an explanation or a closing remark."""
SUBORDINATE = re.compile(
    r"[\s,(]{1,9}(?:attained|achieved|reached|occurring|which\s(?:occurs|is\s(?:attained|achieved|reached|about|"
    r"approximately|roughly))|when|where|while|whereas|if|since|because|as|(?:at|for)(?=\s\$?[a-z]\s?=))\s"
    r"(?:(?!,\s*[a-z]{2}).){0,300}$",
    re.I | re.DOTALL,
)
"""A clause behind the claim, up to the end of the sentence."""
NOT_CLAUSE = re.compile(
    r"[,;]?\s{0,16}+(?:\(\s*+)?(?:but\s)?(?:and\s)?(?:not|rather than|instead of|不是)\s[^,;.]{1,40}\)?", re.I
)
_AFTER_A = "|".join([*DENOMINATORS, *MAGNITUDES])
_NUMBER_WORD = f"(?:{'|'.join(sorted([*UNITS_AND_TEENS, *TENS, *MAGNITUDES, *DENOMINATORS], key=len, reverse=True))})"
NUMBER_WORDS = re.compile(
    rf"(?:(?:(?:and\s)?an?\s(?={_AFTER_A})|and\s(?={_NUMBER_WORD}\b)|minus\s|negative\s|{_NUMBER_WORD}\b[\s-]?))+|"
    r"[零〇一二两三四五六七八九十百千万亿点负]{1,16}",
    re.I,
)
MATH_WORDS = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "or", "and", "frac", "infty", "mod"),
    *("arcsin", "arccos", "arctan", "cup", "cap", "in", "pm", "le", "ge", "leq", "geq", "cdot", "times", "infinity"),
    *("gcd", "lcm", "max", "min", "deg", "am", "cbrt", "abs", "inf", "oo"),
}
EVASIVE = re.compile(
    r"\A\W*(?:(?:hmm+|maybe|perhaps|well)\W+)?or\s|"
    r"\A(?:is|are|was|were|do|does|did|can|could|would|should|might|which|what)\b[^.!?\n]{1,200}\?\W*\Z|"
    r"\b(?:another|second|third|fourth|alternative)\s(?:possible\s|valid\s)?answer\s?(?:is|was|could be|would be|:)|"
    r"(?:^|[.;,:!]\s{0,3}|\band\s)(?:otherwise|or else|else|if (?:not|so))\b(?!.{0,60}\b(?:would|could)\b)"
    r"[^.;]{0,60}[\w$}]|"
    r"\b(?:no idea|g[ia]ve up|(?:do not|don't|cannot|can't|could not|couldn't|unable to|impossible to) "
    r"(?:know|tell|say|determine|answer))\b"
    r"(?!.{0,300}\b(?:but|yet|however|answer|so|thus|hence|guess|think|believe|estimate)\b)",
    re.I | re.DOTALL,
)
"""One answer of several, the other case of a condition, a question or a refusal: whatever value follows is not
claimed."""
CODE = re.compile(
    r"\bprint\s?\(|^[ \t]*(?:import|from)\s+[a-z]|\bdef\s+\w{1,40}\(|^[ \t]*return\s|\bmath\.[a-z]", re.MULTILINE
)
"""What is a program and no answer."""
PLAIN_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|finally|ok|okay|total|sum|answer|result|value|final|the|an?|about|exactly|"
    r"approximately|only|just|of|all|in(?=\sall)|around|roughly|area|length)\b|\W)*|"
    r".{0,200}\b(?:at|(?<!end )(?<!ends )in|as|won|side|year|point|namely|that\sis|option)"
    r"(?:\sthe\s(?:year|point))?\W*|.{0,200}[约共]\W*",
    re.I | re.DOTALL,
)
"""What may stand in front of a value that no verb claims."""
_SUBJECT = (
    r"(?:he|she|they|it|we|i|you|(?:(?:the|an?|each|his|her|their|my|our)\s)?"
    r"(?!(?:the|an?|each|his|her|their|my|our)\s)[a-z]{2,20}(?:\s[a-z]{2,20})?)"
)
_ACTS = (
    "run|ran|drive|drove|walk|swim|swam|jog|cycle|fly|flew|sell|sold|buy|bought|purchase|eat|ate|drink|drank|use|bake|plant|"
    "harvest|pick|collect|gather|catch|caught|raise|earn|pay|paid|spend|spent|save|donate|win|won|lose|lost|grow|grew|"
    "read|write|wrote|build|built|cook|need|own|keep|kept|receive|deliver|ship|print|work|sleep|slept|wait|charge|owe|"
    "travel|climb|produce|serve|order|borrow|lend|lent|give|gave|send|sent|bring|brought|made"
)
SUBJECT_VERB = re.compile(
    r"(?!.{0,90}(?:\b(?:never|not|no|hardly|nobody|none|without|neither|nor|if|whether|suppose|almost|nearly)\b|n't))"
    rf"\W*(?:(?:so|thus|therefore|hence|then|now|in\stotal|altogether),?\s)?{_SUBJECT}\s"
    rf"(?:(?:will|would|can|could|must|also|now|then|only|has|have|had)\s)?(?:{_ACTS})(?:s|es|d|ed)?\s"
    r"(?:(?:about|exactly|only|for|up|all|a\stotal\sof)\s)?\W*",
    re.I,
)
"""A subject with its verb in front of the only value: 'she sold 72 clips'."""
SHORT_WORDS = {
    *("an", "ans", "are", "as", "at", "but", "by", "for", "get", "has", "if", "in", "is", "it", "its", "no", "not"),
    *("of", "on", "or", "per", "so", "the", "to", "was", "yes"),
}
"""Short words that are no products of letters."""
VALUE = re.compile(
    r"(?<![A-Za-z'])[-+±−]?\s?(?:\\?\$\s?)?(?:\d|\.\d|\\(?!text|left\W*$)[A-Za-z{]|[(\[{]\s?[-+\d.\\a-zA-Z]|[√π∞∅]|"
    r"[€£¥]\s?\d|[a-zA-Z](?![A-Za-z'])(?=\s*(?:[-+*/^=<>≤≥()]|$|[.,;!]))|[a-z](?=\d))|[<>≤≥]\s?-?\d"
)
TEXT = re.compile(
    r"\\(?!mathbf\{\\?[ijk](?:math)?\})(?:text(?:bf|it|rm|normal)?|mathrm|mbox|mathbf|operatorname)\s?\{((?:[^{}]|\{[^{}]*\})*)\}"
)
ROUNDED = re.compile(
    r"\s*+[,(]?\s*+(?:or\s|which\sis\s)?(?:about|approximately|approx\.?|roughly|≈|\\approx)\s*+(-?\.?\d[\d.,]*(?:\s?\\?%)?)(?![\d/])"
    r"(?:\s?[a-zA-Z]{1,12}(?:\^?[23²³])?)?\)?",
    re.I,
)
"""'1/3 (about 33%)'."""
