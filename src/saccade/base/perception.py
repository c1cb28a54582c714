"""Training of the vision encoder: dense read-outs per visual token, before the language model is trained.

Color, shape, size, digit and cell are read out through the language model's word embeddings, so that a visual token
becomes similar to the words for its content. Coordinates and printed numbers are read by linear heads that are
discarded afterwards. Shape letters: B images, V visual tokens of an image, D hidden size.
"""

from __future__ import annotations

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
SHARPNESS = 8.0
"""Logits are SHARPNESS times the inner product with a word's embedding (whose norm is about 1)."""


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
        hidden = model.config.text_config.hidden_size
        self.embedding = model.model.language_model.embed_tokens
        self.words: dict[str, Tensor] = {
            head: torch.tensor([_word_id(tokenizer, word) for word in words]) for head, words in WORD_HEADS.items()
        }
        self.heads = nn.ModuleDict({head: nn.Linear(hidden, n) for head, n in NUMBER_HEADS.items()})

    def forward(self, features_ND: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy over heads, and accuracy by head. `targets` are (N,) as in `cell_targets`."""
        losses, accuracy = [], {}
        for head, target_N in targets.items():
            has_target = target_N != IGNORE
            if not bool(has_target.any()):
                continue
            rows = features_ND[has_target]
            if head in self.words:
                table = self.embedding.weight[self.words[head]].detach()
                logits = SHARPNESS * rows @ table.T
            else:
                logits = self.heads[head](SHARPNESS * rows)
            losses.append(F.cross_entropy(logits, target_N[has_target]))
            accuracy[head] = float((logits.argmax(-1) == target_N[has_target]).float().mean())
        return torch.stack(losses).mean(), accuracy


def _word_id(tokenizer: Any, word: str) -> int:
    ids = tokenizer(f" {word}", add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"' {word}' is {len(ids)} tokens; perception read-outs need one token per word")
    return ids[0]


def merge_targets(per_image: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Targets of a batch of images, concatenated by head."""
    return {head: torch.cat([t[head] for t in per_image]) for head in per_image[0]}
