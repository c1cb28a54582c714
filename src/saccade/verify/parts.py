"""The parts of a checkpoint, and whether each trains separately and is otherwise unchanged."""

from __future__ import annotations

from collections import Counter
from functools import partial

from saccade.models.adapter import PARTS
from saccade.models.policy import Policy
from saccade.verify.difference import difference, run
from saccade.verify.report import Check
from saccade.verify.subject import NO_EXACT, VerifySubject, attempt, training


def parts(subject: VerifySubject) -> list[Check]:
    """Every parameter belongs to one part, and only the trained part changes."""
    checks = [_whole(subject.policy)]
    if subject.exact is None:
        return [*checks, Check("a part trains alone", None, detail=NO_EXACT)]
    for part in PARTS:
        checks += attempt(f"{part} trains alone", partial(_alone, subject, subject.exact, part))
    return checks


def parts_packed(subject: VerifySubject, policy: Policy) -> list[Check]:
    """The packed gradient of one part equals the plain one. The critical case is a projector after a frozen tower:
    cached features have no gradient for it."""
    checks = list[Check]()
    for part in PARTS:
        name = f"{part} alone: packed = plain"
        checks += attempt(name, partial(_alone_packed, subject, policy, part, name))
    return checks


def _whole(policy: Policy) -> Check:
    by_part = policy.parameters_by_part()
    counts = Counter(id(p) for named in by_part.values() for _, p in named)
    every = {id(p) for p in policy.model.parameters()}
    sizes = {part: sum(p.numel() for _, p in by_part.get(part, ())) for part in PARTS}
    empty = [part for part, size in sizes.items() if not size]
    wrong = len(every ^ counts.keys()) + sum(n - 1 for n in counts.values()) + len(empty)
    detail = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
    return Check("every parameter is of one part", not wrong, float(wrong), 0.0, f"{detail} parameters")


def _alone(subject: VerifySubject, policy: Policy, part: str) -> list[Check]:
    with training(policy, (part,)):
        plain = run(policy, subject.packed, "plain")
        own = {name for name, _ in policy.parameters_by_part()[part]}
        strays = sorted(plain.gradients.keys() - own)
        moved = sum(bool(g.count_nonzero()) for g in plain.gradients.values())
    detail = f"{moved} of its {len(own)} tensors have a gradient, {len(strays)} of other parts"
    return [Check(f"{part} trains alone", bool(moved) and not strays, detail=detail)]


def _alone_packed(subject: VerifySubject, policy: Policy, part: str, name: str) -> list[Check]:
    with training(policy, (part,)):
        plain = run(policy, subject.packed, "plain")
        apart = difference(run(policy, subject.packed, "packed"), plain).gradient
    return [Check(name, apart <= subject.limit, apart, subject.limit)]
