"""Where each token of a reply ends in its text, so that a page can show its log-prob there without the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
LONGEST_CUT = 8
"""Tokens that may share one character; more are no text of a tokenizer."""


def token_ends(text: str, token_ids: Sequence[int], decode: Decode) -> list[int] | None:
    """The end of each token in `text`, in characters; the first token begins at 0, also after an opened tag that the
    prompt holds. A token that ends inside a character ends where the character begins.

    None when the tokens do not decode to the text. Linear in the number of tokens: a few are decoded at a time, since
    single ones lose their spaces in some tokenizers.
    """
    total, begin, read = 0, 0, 0
    ends = list[int]()
    for i in range(1, len(token_ids) + 1):
        known = decode(token_ids[begin:read])
        now = decode(token_ids[begin:i])
        if not now.endswith("\ufffd") or i - read > LONGEST_CUT or i == len(token_ids):
            total += max(0, len(now) - len(known))
            begin, read = read, i
        ends.append(total)
    opened = len(text) - total
    if opened < 0 or (ends and decode(token_ids) != text[opened:]):
        return None
    return [end + opened for end in ends]
