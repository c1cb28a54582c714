"""Negative controls: packed batches with one fault each. An equality test that accepts one of them proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from saccade.models.adapter import EncodedPrompt, Sharing
from saccade.models.packing import Branch, Layout, Packed, pack
from saccade.verify.fixtures import BranchGroup

Fault = Callable[[Sequence[BranchGroup], Sharing], Packed | None]
"""(groups, the family's sharing) -> the faulty batch; None where the family cannot have this fault."""


def positions_off_by_one(groups: Sequence[BranchGroup], sharing: Sharing) -> Packed:
    """Every reply starts one position too late."""
    return pack([(replace(p, next_position=p.next_position + 1), b) for p, b in groups])


def start_at_length(groups: Sequence[BranchGroup], sharing: Sharing) -> Packed | None:
    """Replies start at the number of prompt tokens; with M-RoPE the correct start is the largest position + 1."""
    if all(p.next_position == len(p) for p, _ in groups):
        return None
    return pack([(replace(p, next_position=len(p)), b) for p, b in groups])


def image_changed(groups: Sequence[BranchGroup], sharing: Sharing) -> Packed | None:
    """Every pixel is 1% farther from mid-gray."""
    if not any(p.pixels for p, _ in groups):
        return None
    return pack([(_brighter(p), b) for p, b in groups])


def siblings_visible(groups: Sequence[BranchGroup], sharing: Sharing) -> Packed:
    """Every reply also attends to the preceding replies. Where a cache is shared instead of a row, the replies are
    joined in one branch, which is the content of a cache that was not copied."""
    if sharing == "two_phase":
        return pack([(prompt, _after_siblings(branches)) for prompt, branches in groups])
    right = pack(groups)
    parts = {field.name: getattr(right, field.name) for field in fields(Packed)}
    return JoinedBranches(**{**parts, "layout": joined(right.layout)})


FAULTS: dict[str, Fault] = {
    "positions off by one": positions_off_by_one,
    "siblings visible": siblings_visible,
    "start at len(prompt)": start_at_length,
    "image changed by 1%": image_changed,
}


@dataclass(frozen=True, eq=False)
class JoinedBranches(Packed):
    """A packed batch whose attention treats all branches of a group as one."""

    def groups(self) -> Iterator[Packed]:
        for group in super().groups():
            yield replace(group, layout=joined(group.layout))


def joined(layout: Layout) -> Layout:
    return Layout(layout.prompts, tuple((sum(lengths),) for lengths in layout.branches))


def _after_siblings(branches: Sequence[Branch]) -> list[Branch]:
    out, before = [], list[int]()
    for branch in branches:
        shifted = [len(before) + j for j in branch.loss_places()]
        out.append(Branch([*before, *branch.ids], tuple((j, j + 1) for j in shifted)))
        before += branch.ids
    return out


def _brighter(prompt: EncodedPrompt) -> EncodedPrompt:
    changed = {name: x * 1.01 if x.is_floating_point() else x for name, x in prompt.pixels.items()}
    return replace(prompt, pixels=changed)
