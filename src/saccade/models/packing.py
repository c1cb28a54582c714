"""Packed rows: every prompt once, then every branch of it. Shape letters: T tokens of the row, R loss tokens.

A batch is one row without padding: `[P1 | P2 | ... | c11 | ... | c1G | c21 | ...]`. Each branch attends to its own
prompt and to itself, and its positions continue from the prompt's, so G completions cost one prompt. GRPO packs a
group's completions, SFT several replies (or several whole questions) about one image. All prompts precede all branches,
so that attention is two calls on contiguous ranges. Related work: PrefixGrouper (arXiv:2506.05433) and tree training
in AReaL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.types import Span


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens that follow a prompt; the loss covers those in `spans`, ascending ranges of `ids`, or all when None."""

    ids: Sequence[int]
    spans: tuple[Span, ...] | None = None

    def loss_places(self) -> list[int]:
        """Indices into `ids` of the loss tokens."""
        spans = ((0, len(self.ids)),) if self.spans is None else self.spans
        return [place for start, stop in spans for place in range(start, stop)]


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions of prompts and branches in a packed row, in tokens."""

    prompts: tuple[int, ...]
    """Length of each prompt."""
    branches: tuple[tuple[int, ...], ...]
    """Lengths of each prompt's branches."""

    @property
    def prompt_tokens(self) -> int:
        """Total length of the prompts; the branches start here."""
        return sum(self.prompts)

    @property
    def length(self) -> int:
        return self.prompt_tokens + sum(map(sum, self.branches))

    @property
    def plain_tokens(self) -> int:
        """Tokens of the same batch with the prompt repeated for each branch, without padding."""
        return sum(P * len(lengths) + sum(lengths) for P, lengths in zip(self.prompts, self.branches, strict=True))

    def spans(self) -> Iterator[tuple[int, int, int, int]]:
        """(group, branch, start, end) in row order; branch 0 is the prompt, k the group's k-th branch."""
        starts = accumulate((*self.prompts, *(n for lengths in self.branches for n in lengths)), initial=0)
        for group, P in enumerate(self.prompts):
            start = next(starts)
            yield group, 0, start, start + P
        for group, lengths in enumerate(self.branches):
            for k, n in enumerate(lengths):
                start = next(starts)
                yield group, k + 1, start, start + n

    def segments(self) -> tuple[Tensor, Tensor]:
        """(group_T, branch_T): owner of each token; branch 0 is the prompt."""
        group_T, branch_T = torch.empty(self.length, dtype=torch.long), torch.empty(self.length, dtype=torch.long)
        for group, branch, start, end in self.spans():
            group_T[start:end], branch_T[start:end] = group, branch
        return group_T, branch_T


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed row and its loss tokens, in order of group, branch, token."""

    prompts: tuple[EncodedPrompt, ...]
    branches: tuple[tuple[Branch, ...], ...]
    layout: Layout
    ids_T: Tensor
    positions_3T: Tensor
    source_R: Tensor
    """Row index of the position that predicts each loss token: the preceding one, which for a branch's first token is
    the prompt's last token."""
    targets_R: Tensor
    branch_index_R: Tensor
    """Branch of each loss token, counted over the whole batch."""

    @property
    def num_tokens(self) -> int:
        return int(self.targets_R.shape[0])

    @property
    def num_branches(self) -> int:
        return sum(len(row) for row in self.branches)

    def groups(self) -> Iterator[Packed]:
        """Each group as a separate batch; the loss tokens keep their order."""
        for prompt, branches in zip(self.prompts, self.branches, strict=True):
            yield pack([(prompt, branches)])


def pack(groups: Sequence[tuple[EncodedPrompt, Sequence[Branch]]]) -> Packed:
    """One row for all groups. ValueError for an empty batch, an empty branch, or a branch without a loss token."""
    if not groups:
        raise ValueError("nothing to pack: got no groups")
    layout = Layout(
        tuple(len(prompt) for prompt, _ in groups),
        tuple(tuple(len(branch.ids) for branch in branches) for _, branches in groups),
    )
    ids: list[Tensor] = [prompt.ids_P for prompt, _ in groups]
    positions: list[Tensor] = [prompt.positions_3P for prompt, _ in groups]
    source: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    count, at, prompt_end = 0, layout.prompt_tokens, 0
    for prompt, branches in groups:
        prompt_end += len(prompt)
        for k, branch in enumerate(branches):
            n, places = len(branch.ids), branch.loss_places()
            if not places or places[0] < 0 or places[-1] >= n or any(b <= a for a, b in pairwise(places)):
                raise ValueError(
                    f"branch {k} of prompt {prompt.prompt_id}: got {n} tokens and the loss spans {branch.spans}; "
                    "expected at least one loss token, in ascending spans inside the branch"
                )
            ids.append(torch.tensor(branch.ids))
            positions.append(torch.arange(prompt.next_position, prompt.next_position + n).expand(3, -1))
            source.extend(at + j - 1 if j else prompt_end - 1 for j in places)
            targets.extend(branch.ids[j] for j in places)
            owner.extend([count] * len(places))
            count += 1
            at += n
    return Packed(
        prompts=tuple(prompt for prompt, _ in groups),
        branches=tuple(tuple(branches) for _, branches in groups),
        layout=layout,
        ids_T=torch.cat(ids),
        positions_3T=torch.cat(positions, dim=1),
        source_R=torch.tensor(source),
        targets_R=torch.tensor(targets),
        branch_index_R=torch.tensor(owner),
    )
