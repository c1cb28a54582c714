"""Packed rows: a prompt once, then every branch of it. Shape letters: B rows, T padded row length, R loss tokens.

A row is `[prompt | branch 1 | ... | branch G]`. Each branch attends to the prompt and to itself, its positions go on
from the prompt's, so G completions cost one prompt. GRPO packs a group's completions, SFT several replies (or several
whole questions) about one image. Related work: PrefixGrouper (arXiv:2506.05433) and tree training in AReaL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt, pad_positions

PAD_SEGMENT = -1
PROMPT_SEGMENT = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens that follow a prompt; the loss counts those from index `loss_from` on."""

    ids: Sequence[int]
    loss_from: int = 0


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of packed rows and the places where log-probs are wanted, in order of row, branch, token."""

    prompts: tuple[EncodedPrompt, ...]
    branches: tuple[tuple[Branch, ...], ...]
    ids_BT: Tensor
    positions_3BT: Tensor
    segments_BT: Tensor
    """-1 padding, 0 prompt, k for the row's k-th branch."""
    source_R: Tensor
    """Flat index into (B, T) of the position that predicts each loss token: the one before it, for a branch's first
    token the prompt's last."""
    targets_R: Tensor
    branch_index_R: Tensor
    """Branch of each loss token, counted over the whole batch."""

    @property
    def num_tokens(self) -> int:
        return int(self.targets_R.shape[0])

    @property
    def num_branches(self) -> int:
        return sum(len(row) for row in self.branches)

    @property
    def row_tokens(self) -> int:
        """Tokens that the language model reads, padding included."""
        return self.ids_BT.numel()


def row_length(prompt: EncodedPrompt, branches: Sequence[Branch]) -> int:
    return len(prompt) + sum(len(b.ids) for b in branches)


def pack(groups: Sequence[tuple[EncodedPrompt, Sequence[Branch]]]) -> Packed:
    """One row per group. Raises ValueError for an empty batch, an empty branch, or a branch without a loss token."""
    if not groups:
        raise ValueError("nothing to pack: got no groups")
    T = max(row_length(prompt, branches) for prompt, branches in groups)
    ids_BT = torch.zeros(len(groups), T, dtype=torch.long)
    segments_BT = torch.full((len(groups), T), PAD_SEGMENT)
    positions: list[Tensor] = []
    source: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    count = 0
    for row, (prompt, branches) in enumerate(groups):
        P = len(prompt)
        ids_BT[row, :P] = prompt.ids_P
        segments_BT[row, :P] = PROMPT_SEGMENT
        columns = [prompt.positions_3P]
        at = P
        for k, branch in enumerate(branches):
            n = len(branch.ids)
            if not 0 <= branch.loss_from < n:
                raise ValueError(
                    f"branch {k} of prompt {prompt.prompt_id}: got {n} tokens and loss from {branch.loss_from}; "
                    "expected at least one loss token"
                )
            ids_BT[row, at : at + n] = torch.tensor(branch.ids)
            segments_BT[row, at : at + n] = k + 1
            columns.append(torch.arange(prompt.next_position, prompt.next_position + n).expand(3, -1))
            for j in range(branch.loss_from, n):
                source.append(row * T + (at + j - 1 if j else P - 1))
            targets.extend(branch.ids[branch.loss_from :])
            owner.extend([count] * (n - branch.loss_from))
            count += 1
            at += n
        positions.append(torch.cat(columns, dim=1))
    return Packed(
        tuple(prompt for prompt, _ in groups),
        tuple(tuple(branches) for _, branches in groups),
        ids_BT,
        pad_positions(positions, T),
        segments_BT,
        torch.tensor(source),
        torch.tensor(targets),
        torch.tensor(owner),
    )


def attention_mask(segments_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, T, T): causal, siblings invisible to each other; a padded position sees only itself."""
    T = segments_BT.shape[1]
    key, query = segments_BT[:, None, :], segments_BT[:, :, None]
    allowed = torch.ones(T, T, dtype=torch.bool, device=segments_BT.device).tril() & (
        (key == PROMPT_SEGMENT) | (key == query)
    )
    allowed &= key != PAD_SEGMENT
    allowed |= torch.eye(T, dtype=torch.bool, device=segments_BT.device)
    return torch.zeros(allowed.shape, dtype=dtype, device=segments_BT.device).masked_fill_(
        ~allowed, torch.finfo(dtype).min
    )[:, None]
