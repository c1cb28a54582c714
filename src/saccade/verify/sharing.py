"""Does the packed row equal the plain rows? In every sharing mode of the family, with gradients, and with controls that
must fail."""

from __future__ import annotations

import math
from collections.abc import Callable

from transformers.modeling_layers import GradientCheckpointingLayer

from saccade.models.adapter import PARTS
from saccade.models.forward import Path, default_sharing
from saccade.models.packing import pack
from saccade.models.policy import Policy, disable_checkpointing, enable_checkpointing
from saccade.models.sharing import HALF_FACTOR, HALF_FLOOR
from saccade.verify.difference import Pass, PassDifference, difference, largest, logprobs, root_mean_square, run
from saccade.verify.faults import FAULTS
from saccade.verify.fixtures import slice_of
from saccade.verify.parts import parts_packed
from saccade.verify.report import Check
from saccade.verify.subject import NO_EXACT, VerifySubject, attempt, in_one_line, sharing_modes, training

PATHS: tuple[Path, ...] = ("packed", "plain")
DRAWS = 8
"""Scenes and random losses over which half precision is averaged; on the base the ratio of two such averages is within
0.9 to 1.1."""


def shared_prefix(subject: VerifySubject) -> list[Check]:
    """All checks of sharing. A family without prompt sharing gets one line that reports this."""
    if subject.policy.adapter.sharing == "none":
        return [
            Check(
                "packed = plain",
                None,
                detail="this family does not support prompt sharing; it trains one row per reply",
            )
        ]
    checks = list[Check]()
    if subject.is_half:
        checks += attempt("packed = plain", lambda: half_precision(subject))
    if subject.exact is None:
        return [*checks, Check("packed = plain in float32", None, detail=NO_EXACT)]
    checks += attempt("packed = plain", lambda: packed_is_plain(subject))
    checks += parts_packed(subject, subject.exact)
    for name in FAULTS:
        checks += attempt(f"control: {name}", lambda name=name: [control(subject, name)])
    return checks


def packed_is_plain(subject: VerifySubject) -> list[Check]:
    """Log-probs and the gradient of all parts, in each sharing mode."""
    policy, packed = subject.exact, subject.packed
    assert policy is not None  # the caller has looked
    checks = list[Check]()
    with training(policy, PARTS):
        plain = run(policy, packed, "plain")
        for sharing in sharing_modes(policy):
            found = difference(run(policy, packed, "packed", sharing), plain)
            checks += [
                Check(
                    f"log-probs: packed ({sharing}) = plain",
                    found.logprobs <= subject.limit,
                    found.logprobs,
                    subject.limit,
                ),
                Check(
                    f"gradient: packed ({sharing}) = plain",
                    found.gradient <= subject.limit,
                    found.gradient,
                    subject.limit,
                ),
            ]
    return checks


def half_precision(subject: VerifySubject) -> list[Check]:
    """In the model's own dtype: the packed path is about as close to float32 as the plain path."""
    policy, truth_policy, packed = subject.policy, subject.exact, subject.packed
    name = f"packed ({default_sharing(policy)}) in {str(policy.model.dtype).removeprefix('torch.')}"
    if truth_policy is None:
        gap = root_mean_square(logprobs(policy, packed, "packed"), logprobs(policy, packed, "plain"))
        return [Check(f"log-probs: {name}", None, gap, detail=f"distance of packed from plain; {NO_EXACT}")]
    with training(policy, PARTS), training(truth_policy, PARTS):
        ours, plain = distances(policy, truth_policy)
    return [
        _as_near(f"log-probs: {name}", ours.logprobs, plain.logprobs, HALF_FLOOR),
        _as_near(f"gradient: {name}", ours.gradient, plain.gradient, 0.0),
    ]


def _as_near(name: str, ours: float, plain: float, floor: float) -> Check:
    bound = HALF_FACTOR * plain + floor
    return Check(name, ours <= bound, ours, bound, f"distance from float32; that of plain is {plain:.1e}")


def distances(policy: Policy, truth_policy: Policy) -> tuple[PassDifference, PassDifference]:
    """Distances of packed and plain from float32: root mean squares over tokens and `DRAWS` scenes and losses. A single
    gradient of a trained model depends on few tokens, and its round-off is random: one can be twice as far."""
    squares = {path: [0.0, 0.0] for path in PATHS}
    for seed in range(DRAWS):
        packed = pack(slice_of(policy.adapter, seed))
        truth = run(truth_policy, packed, "plain", seed=seed)
        for path in PATHS:
            found = run(policy, packed, path, seed=seed)
            squares[path][0] += root_mean_square(found.logprobs_R, truth.logprobs_R) ** 2
            squares[path][1] += difference(found, truth).gradient ** 2
    ours, plain = (PassDifference(*(math.sqrt(square / DRAWS) for square in squares[path])) for path in PATHS)
    return ours, plain


def control(subject: VerifySubject, name: str) -> Check:
    """A faulty batch must differ from the correct one by more than the bound."""
    policy = subject.exact
    assert policy is not None  # the caller has looked
    faulty = FAULTS[name](subject.groups, policy.adapter.sharing)
    label = f"control: {name}"
    if faulty is None:
        return Check(label, None, detail="this family cannot have the fault")
    right = pack(subject.groups)
    sharing = default_sharing(policy)
    apart = largest(logprobs(policy, faulty, "packed", sharing), logprobs(policy, right, "packed", sharing))
    return Check(label, apart > subject.limit, apart, subject.limit, "must differ by more than the bound")


def checkpointing(subject: VerifySubject) -> list[Check]:
    """Layers recomputed in the backward pass: the same gradient, or a ValueError; on both paths."""
    policy = subject.exact
    if policy is None:
        return [Check("recomputed = kept", None, detail=NO_EXACT)]
    paths: tuple[Path, ...] = ("plain",) if policy.adapter.sharing == "none" else ("plain", "packed")
    checks = list[Check]()
    for path in paths:
        name = f"recomputed = kept, {path}"
        checks += attempt(name, lambda path=path, name=name: [_recomputed(subject, policy, path, name)])
    return checks


def _recomputed(subject: VerifySubject, policy: Policy, path: Path, name: str) -> Check:
    with training(policy, PARTS):
        kept = run(policy, subject.packed, path)
        found = _with_checkpointing(policy, lambda: run(policy, subject.packed, path))
    if isinstance(found, ValueError):
        return Check(name, None, detail=f"refused: {in_one_line(found)}")
    apart = max(difference(found, kept))
    return Check(name, apart <= subject.limit, apart, subject.limit)


def _with_checkpointing(policy: Policy, call: Callable[[], Pass]) -> Pass | ValueError:
    """The result of the call, or the ValueError that refuses it."""
    layers = [m for m in policy.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    was_on = any(layer.gradient_checkpointing for layer in layers)
    enable_checkpointing(policy.model)
    try:
        return call()
    except ValueError as error:
        return error
    finally:
        if not was_on:
            disable_checkpointing(policy.model)
