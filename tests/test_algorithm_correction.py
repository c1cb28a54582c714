"""Corrections for the distance between sampler and trainer: literals, published formulas, what they combine with."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from saccade.algorithm import Denominators, LossConfig, LossInputs, build_loss
from saccade.algorithm.correction_config import AnyCorrection, NoCorrection, TokenTruncate, default_correction

GAP_R = torch.tensor([0.0, 1.5, -2.0, 0.3, 0.2, -0.1], dtype=torch.float64)
INDEX_R = torch.tensor([0, 0, 0, 1, 1, 2])
RATIO = [math.exp(one) for one in GAP_R.tolist()]
WHOLE = [math.exp(-0.5), math.exp(0.5), math.exp(-0.1)]
"""exp of the sum of each of the three replies."""
GEOMETRIC = [math.exp(-0.5 / 3), math.exp(0.25), math.exp(-0.1)]
PARSED: TypeAdapter[AnyCorrection] = TypeAdapter(AnyCorrection)


def corrected(**options: Any) -> tuple[list[float] | None, list[bool] | None]:
    weight_R, kept_R = PARSED.validate_python(options).build()(GAP_R, INDEX_R, 3)
    return None if weight_R is None else weight_R.tolist(), None if kept_R is None else kept_R.tolist()


def at_tokens(values: list[float]) -> list[float]:
    return [values[i] for i in INDEX_R.tolist()]


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"kind": "token_truncate"}, [min(r, 2.0) for r in RATIO]),
        ({"kind": "token_truncate", "limit": 1.2, "low": 0.5}, [min(max(r, 0.5), 1.2) for r in RATIO]),
        ({"kind": "token_mask"}, [r if r <= 3.0 else 0.0 for r in RATIO]),
        ({"kind": "icepop"}, [r if 0.5 <= r <= 5.0 else 0.0 for r in RATIO]),
        ({"kind": "sequence_truncate", "limit": 1.2}, at_tokens([min(r, 1.2) for r in WHOLE])),
        ({"kind": "sequence_mask", "limit": 1.2}, at_tokens([r if r <= 1.2 else 0.0 for r in WHOLE])),
    ],
)
def test_weights_equal_the_published_formula(options: dict[str, Any], weights: list[float]) -> None:
    got, kept = corrected(**options)
    assert got == pytest.approx(weights)
    assert kept is None
    assert any(w != r for w, r in zip(weights, RATIO, strict=True)), "the case reaches a limit"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0.5 <= r <= 2.0 for r in at_tokens(WHOLE)]),
        ({"high": 1.5}, [r <= 1.5 for r in at_tokens(WHOLE)]),
        ({"over": "mean", "low": 0.9, "high": 1.1}, [0.9 <= r <= 1.1 for r in at_tokens(GEOMETRIC)]),
        ({"level": "token", "low": 0.5, "high": 2.0}, [0.5 <= r <= 2.0 for r in RATIO]),
        ({"estimator": "k2", "level": "token", "high": 0.1}, [g**2 / 2 <= 0.1 for g in GAP_R.tolist()]),
        ({"estimator": "k3", "over": "mean"}, [False, False, False, False, False, True]),
        ({"estimator": "k3", "over": "max", "high": 1.2}, [False, False, False, True, True, True]),
        ({"estimator": "k2", "over": "sum", "high": 0.1}, [False, False, False, True, True, True]),
    ],
)  # fmt: skip
def test_rejection_keeps_what_is_within_its_limits(options: dict[str, Any], kept: list[bool]) -> None:
    assert corrected(kind="rejection", **options) == (None, kept)


def test_no_correction_touches_nothing() -> None:
    assert corrected(kind="none") == corrected(kind="off_policy_mask") == (None, None)


def test_a_ratio_beyond_every_limit_stays_finite() -> None:
    gap_R = torch.tensor([500.0, -500.0])
    for kind in ("token_truncate", "sequence_truncate", "token_mask", "icepop"):
        weight_R, _ = PARSED.validate_python({"kind": kind}).build()(gap_R, torch.tensor([0, 1]), 2)
        assert weight_R is not None and bool(torch.isfinite(weight_R).all()), kind


def test_the_weight_multiplies_the_surrogate_and_not_the_kl() -> None:
    logprobs_R = torch.linspace(-2, -1, 6, dtype=torch.float64).requires_grad_()
    advantages_R = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, 0.5], dtype=torch.float64)
    zeros_R = torch.full((6,), -1.5, dtype=torch.float64)
    weight_R = torch.tensor([0.0, 0.5, 2.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    given = LossInputs(logprobs_R, zeros_R, advantages_R, INDEX_R, 3, zeros_R, weight_R=weight_R)
    config = LossConfig(kl_coef=0.1)
    out = build_loss(config)(given, Denominators(6, 3))
    unweighted = dataclasses.replace(given, weight_R=None, advantages_R=advantages_R * weight_R)
    bare = build_loss(LossConfig())(unweighted, Denominators(6, 3))
    charged = build_loss(config)(dataclasses.replace(given, advantages_R=0 * advantages_R), Denominators(6, 3))
    torch.testing.assert_close(out.loss, bare.loss + charged.loss, rtol=1e-12, atol=1e-12)
    assert float(out.metrics["sampler/masked"]) == 2


def test_the_off_policy_mask_drops_bad_replies_that_the_policy_has_left() -> None:
    # mean of log p_sampler - log p: 1 in the first two replies, 0 in the last; only the first has A < 0
    sampler_R, logprobs_R = torch.full((6,), -1.0), torch.tensor([-2.0] * 5 + [-1.0], requires_grad=True)
    advantages_R = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, -1.0])
    given = LossInputs(logprobs_R, sampler_R, advantages_R, INDEX_R, 3, sampler_logprobs_R=sampler_R)
    options = {"correction": {"kind": "off_policy_mask", "limit": 0.5}, "surrogate": {"kind": "reinforce"}}
    build_loss(LossConfig.model_validate(options))(given, Denominators(6, 3)).loss.backward()
    assert logprobs_R.grad is not None
    assert (logprobs_R.grad * 6).tolist() == pytest.approx([0.0, 0.0, 0.0, -1.0, -1.0, 1.0])


def test_the_default_depends_on_the_engine() -> None:
    assert default_correction("builtin") == NoCorrection()
    assert default_correction("vllm_server") == default_correction("vllm_colocated") == TokenTruncate(limit=2.0)
    assert default_correction("vllm_server", staleness=1) == NoCorrection()
    assert LossConfig().corrected("vllm_server").correction == TokenTruncate(limit=2.0)
    named = LossConfig.model_validate({"correction": {"kind": "none"}})
    assert named.corrected("vllm_server") == named


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "token_truncate", "low": 2.0}, "low: got 2; expected less than limit"),
        ({"kind": "rejection", "estimator": "k2"}, "no limit is published for estimator 'k2'"),
        ({"kind": "rejection", "level": "token", "over": "mean", "high": 2.0}, "no effect with level 'token'"),
        ({"kind": "rejection", "low": 3.0}, "low: got 3; expected less than high"),
        ({"kind": "tis"}, "does not match any of the expected tags"),
    ],
)
def test_a_correction_without_effect_or_limits_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig.model_validate({"correction": options})
