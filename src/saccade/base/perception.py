"""Training of a family's vision encoder: dense read-outs per visual token, before the language model is trained.

Color, shape, size, digit and cell are read out through the language model's word embeddings, so that a visual token
becomes similar to the words for its content; a word of several tokens counts as their mean. Coordinates and printed
numbers are read by linear heads that are discarded afterwards. Shape letters: V visual tokens of an image, N of all
images, W words of a head, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.world import Scene
from saccade.world.config import COLORS, DIGITS, SHAPES, SIZES, TILE
from saccade.world.glyphs import HEIGHT, WIDTH

IGNORE = -100
EMPTY = "empty"
WORD_HEADS: dict[str, tuple[str, ...]] = {
    "color": (*COLORS, EMPTY),
    "shape": (*SHAPES, TILE, EMPTY),
    "size": SIZES,
    "digit": tuple(str(d) for d in DIGITS),
    "cell": tuple(f"{column}{row}" for row in "123456" for column in "abcdef"),
}
NUMBER_HEADS: dict[str, int] = {
    **{
        f"{corner}_{part}": 20 if part == "tens" else 10
        for corner in ("x1", "y1", "x2", "y2")
        for part in ("tens", "ones")
    },
    "label_tens": 20,
    "label_ones": 10,
    "bar_value": 10,
    "bar_color": len(COLORS),
}
PLACES = {"size": 0, "digit": 0, "color": 1, "shape": 2, "cell": 3}
"""Which of a cell's visual tokens, row by row, reads out a head where there are several; numbers are with the cell."""
SHARPNESS = 8.0
"""A feature equal to a word's embedding, less the mean of its head's words, has about this logit for the word."""


def cell_targets(scene: Scene) -> dict[str, Tensor]:
    """Content of each cell by head: (V,) class indices in reading order; -100 where a head does not apply."""
    side = scene.cells
    out = {head: torch.full((side * side,), IGNORE) for head in (*WORD_HEADS, *NUMBER_HEADS)}
    out["cell"] = (6 * torch.arange(side)[:, None] + torch.arange(side)).flatten()
    if scene.kind in ("shapes", "digits"):
        out["color"].fill_(len(COLORS))
        out["shape"].fill_(len(SHAPES) + 1)
        for thing in scene.objects:
            out["color"][thing.index] = COLORS.index(thing.color)
            out["shape"][thing.index] = WORD_HEADS["shape"].index(thing.shape)
            if thing.digit is None:
                out["size"][thing.index] = SIZES.index(thing.size)
            else:
                out["digit"][thing.index] = thing.digit - 1
            for corner, value in zip(("x1", "y1", "x2", "y2"), thing.box, strict=True):
                out[f"{corner}_tens"][thing.index] = int(value) // 10
                out[f"{corner}_ones"][thing.index] = int(value) % 10
    _figure_targets(scene, out)
    return out


def _figure_targets(scene: Scene, out: dict[str, Tensor]) -> None:
    """Printed numbers and bar tops, at the cell that contains their center."""
    cell_px = scene.size[0] // scene.cells

    def cell(x: float, y: float) -> int:
        column, row = (min(scene.cells - 1, int(v // cell_px)) for v in (x, y))
        return row * scene.cells + column

    for label in (*scene.labels, *(scene.figure.labels if scene.figure else ())):
        if label.text.isdigit() and int(label.text) < 200:
            width, height = (WIDTH + 1) * len(label.text) * label.scale, HEIGHT * label.scale
            at = cell(label.at[0] + width / 2, label.at[1] + height / 2)
            out["label_tens"][at], out["label_ones"][at] = int(label.text) // 10, int(label.text) % 10
    for bar in scene.bars:
        at = cell((bar.box[0] + bar.box[2]) / 2, bar.box[1] + 1)
        out["bar_value"][at], out["bar_color"][at] = bar.value, COLORS.index(bar.color)


class Readouts(nn.Module):
    """The temporary heads and the word embeddings used to read out the features."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        table_VD = model.get_input_embeddings().weight.detach().float()
        hidden = table_VD.shape[1]
        self.embeddings: dict[str, Tensor] = {
            head: torch.stack([_embedding(table_VD, tokenizer, word) for word in words])
            for head, words in WORD_HEADS.items()
        }
        """Head -> (W, D)."""
        self.words = {head: _directions(words_WD) for head, words_WD in self.embeddings.items()}
        self.heads = nn.ModuleDict({head: nn.Linear(hidden, n) for head, n in NUMBER_HEADS.items()})

    def forward(
        self, features_ND: Tensor, targets: dict[str, Tensor], likeness: float = 0.0
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy over heads, and accuracy by head. `targets` are (N,) as in `cell_targets`. `likeness`
        weighs the squared distance of a token to its words' embeddings, as a share of their squared norm."""
        losses, distances, accuracy = [], [], {}
        for head, target_N in targets.items():
            has_target = target_N != IGNORE
            if not bool(has_target.any()):
                continue
            rows = SHARPNESS * features_ND[has_target]
            logits = rows @ self.words[head].T if head in self.words else self.heads[head](rows)
            losses.append(F.cross_entropy(logits, target_N[has_target]))
            if likeness > 0 and head in self.embeddings:
                words_ND = self.embeddings[head][target_N[has_target]]
                distances.append((features_ND[has_target] - words_ND).square().mean() / words_ND.square().mean())
            accuracy[head] = float((logits.argmax(-1) == target_N[has_target]).float().mean())
        loss = torch.stack(losses).mean()
        return (loss + likeness * torch.stack(distances).mean() if distances else loss), accuracy


def _embedding(table_VD: Tensor, tokenizer: Any, word: str) -> Tensor:
    """Of a word within a sentence, (D,)."""
    return table_VD[tokenizer(f" {word}", add_special_tokens=False).input_ids].mean(0)


def _directions(words_WD: Tensor) -> Tensor:
    """Scaled and shifted so that a word has an inner product of about 1 with itself: the softmax over the words ignores
    what all of them share, and families differ in the norm of their embeddings."""
    apart_WD = words_WD - words_WD.mean(0)
    return apart_WD / apart_WD.square().sum(1).mean()


def token_targets(scene: Scene, tokens: int) -> dict[str, Tensor]:
    """`cell_targets` for an image of `tokens` visual tokens: as they are with one token for each cell. With 2 x 2 or
    more the words are spread over them as a phrase, "small red" above "circle a1", which a language model reads as it
    reads text. ValueError for another number of tokens."""
    side, targets = scene.cells, cell_targets(scene)
    fine = math.isqrt(tokens // side**2)
    if fine == 0 or tokens != (fine * side) ** 2:
        raise ValueError(
            f"perception: got {tokens} visual tokens for a scene of {side} x {side} cells; expected 1, 4 or another "
            "square number for each cell. Change world.cells or world.cell_px, or the model; one with a fixed size of "
            "images needs larger_share: 0"
        )
    if fine == 1:
        return targets
    out = {}
    for head, target in targets.items():
        row, column = divmod(PLACES.get(head, PLACES["cell"]), fine)
        grid = torch.full((fine * side, fine * side), IGNORE)
        grid[row::fine, column::fine] = target.view(side, side)
        if head == "color":  # an empty cell has no size
            grid[0::fine, 0::fine] = torch.where(target == len(COLORS), target, IGNORE).view(side, side)
        out[head] = grid.flatten()
    return out


def merge_targets(per_image: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Targets of a batch of images, concatenated by head."""
    return {head: torch.cat([t[head] for t in per_image]) for head in per_image[0]}
