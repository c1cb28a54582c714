"""The tokenizer of the tiny models: byte-level BPE over a small word list, with a token for each digit and each tag.

It covers any text (byte fallback), so that the tiny model can read real data; each word of the visual world, each digit
and each cell name ("b3") is one token, with or without a leading space.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>", '{"bbox_2d": [', '"label": "')

VOCABULARY = """
a about above across add after again all along alternatively also altogether always an and angle angles answer any
appears are area as at axis bar bars be been before below between big bigger blue both bottom box boxes but by can
centre change changed chart check choice choose circle circles colour coloured colours column compare count counting
cross crosses degrees detect diamond diamonds did difference differs digit digits do does done each eight eighth either
empty equal equals every exactly expression false far few fewer fifth figure find first five following for four fourth
from give given gives good got green grey has have height here hmm how however hypotenuse i if image images in inside
instead is it its just label labels large larger largest last least left leftmost leg legs length less let like line
list listed long look looking looks lower lowest many me mean mistake missing moved more most much multiply name new
next nine no none not nothing now number numbers object objects of on once one only option options or orange order other
out over perimeter picture pink please point position present purple question re-check read reading recheck rectangle
red relation removed result right rightmost row rows rule same so say scan second see seven shape shapes short shorter
shortest should side sides six size small smaller smallest so some square squares star stars start still subtract sum
tall taller tallest ten than that the their them then there these they thing third this three tile tiles times to
together top total triangle triangles true try two under up upper value values wait was we what where whether which
while wide width will with within word write x y yellow yes you your zero topmost bottommost assistant user system json
bbox marked minus cell cells holds hold color colors same sum plus
"""
WORDS = tuple(VOCABULARY.split())

PIECES = r" ?\b[a-f][1-6]\b| ?\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s+(?!\S)|\s+"
"""Pieces within which BPE merges: a cell name, a digit, a word, a run of punctuation, white space."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _corpus() -> Iterator[str]:
    """Every word in the forms it takes in sentences, often enough that BPE merges it into one token."""
    for word in WORDS:
        forms = (f" {word}", word, f" {word.capitalize()}", word.capitalize())
        for form, times in zip(forms, (40, 20, 14, 14), strict=True):
            for _ in range(times):
                yield form
    for mark in (
        ", ",
        ". ",
        ": ",
        "? ",
        " = ",
        " + ",
        " - ",
        " x ",
        " * ",
        '", "',
        "], ",
        "]}",
        '"}',
        '"}]',
        "}, ",
        "[{",
        "[]",
    ):
        for _ in range(60):
            yield mark


def build_tokenizer(vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """The same tokenizer on every call: training is deterministic in the corpus and the vocabulary size."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    digits = [form for d in "0123456789" for form in (d, f" {d}") for _ in range(500)]
    cells = [form for c in "abcdef" for r in "123456" for form in (f"{c}{r}", f" {c}{r}") for _ in range(60)]
    core.train_from_iterator([*digits, *cells, *_corpus()], trainer)
    core.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        additional_special_tokens=[s for s in SPECIALS if s not in ("<|im_end|>", "<|endoftext|>")],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
