"""Our losses and TRL's on the same tensors: TRL's own loss function, with its model replaced by given log-probs."""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saccade.algorithm import Denominators, LossConfig, LossInputs, build_loss
from saccade.algorithm.correction import off_policy_mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed; it is in the extra 'bench'"),
]
LENGTHS, CAP = [3, 1, 5, 2], 8
INDEX_R = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
ADVANTAGES_B = torch.tensor([1.5, -0.5, -1.0, 0.75], dtype=torch.float64)
MASK_BT = torch.tensor([[float(t < n) for t in range(max(LENGTHS))] for n in LENGTHS], dtype=torch.float64)
WHOLE = Denominators(tokens=sum(LENGTHS), sequences=4, max_length=CAP)


def tokens(seed: int, scale: float = 0.6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -1.5 + scale * torch.randn(sum(LENGTHS), generator=generator, dtype=torch.float64)


def padded(values_R: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(MASK_BT).masked_scatter(MASK_BT.bool(), values_R)


def trl_loss(logprobs_R: torch.Tensor, method: Any = None, **options: Any) -> torch.Tensor:
    """TRL's loss of one process and one micro-batch, with defaults as of GRPOConfig."""
    from trl import GRPOTrainer
    from trl.experimental.gmpo import GMPOTrainer

    function = {"gmpo": GMPOTrainer._compute_loss, None: GRPOTrainer._compute_loss}[method]
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    args.sapo_temperature_pos, args.sapo_temperature_neg = 1.0, 1.25  # exact in float32, in which TRL takes them
    accelerator = SimpleNamespace(
        num_processes=1,
        sync_gradients=True,
        gather=lambda one: one,
        reduce=lambda one, reduction: one,
        pad_across_processes=lambda one, **_: one,
    )
    entropies = padded(tokens(7).abs())
    trainer = SimpleNamespace(
        args=args,
        accelerator=accelerator,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        loss_type="dapo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=CAP,
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
        entropy_coef=0.0,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (padded(logprobs_R), entropies, None),
    )
    for name in ("delta",):
        if name in options:
            setattr(args, name, options.pop(name))
    ratio = options.pop("importance_sampling_ratio", None)
    vars(trainer).update(options)
    trainer.get_off_policy_mask = GRPOTrainer.get_off_policy_mask
    trainer.get_high_entropy_mask = lambda *given: GRPOTrainer.get_high_entropy_mask(trainer, *given)  # type: ignore[arg-type]  # a double
    ids = torch.ones_like(MASK_BT, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": MASK_BT,
        "advantages": ADVANTAGES_B,
        "old_per_token_logps": padded(tokens(1)),
        "ref_per_token_logps": padded(tokens(2)),
        "sampling_per_token_logps": padded(tokens(3)),
        "num_items_in_batch": MASK_BT.sum(),
    }
    return function(trainer, None, inputs if ratio is None else inputs | {"importance_sampling_ratio": ratio})


def our_inputs(logprobs_R: torch.Tensor, **more: Any) -> LossInputs:
    entropy_R = tokens(7).abs()
    return LossInputs(
        logprobs_R,
        tokens(1),
        ADVANTAGES_B[INDEX_R],
        INDEX_R,
        4,
        tokens(2),
        sampler_logprobs_R=tokens(3),
        entropy_R=entropy_R,
        **more,
    )


GSPO = {"surrogate": {"low": 3e-4, "high": 4e-4}, "aggregation": "sequence_mean"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dapo": ({"surrogate": {"high": 0.28}}, {"epsilon_high": 0.28}),
    "grpo with KL": (
        {"aggregation": "sequence_mean", "kl_coef": 0.04},
        {"loss_type": "grpo", "beta": 0.04},
    ),
    "dr_grpo": ({"aggregation": "constant"}, {"loss_type": "dr_grpo"}),
    "gspo": (
        GSPO | {"ratio": "sequence"},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    ),
    "cispo": ({"surrogate": {"kind": "cispo", "high": 0.1}}, {"loss_type": "cispo", "epsilon_high": 1.1}),
    "sapo": (
        {"surrogate": {"kind": "sapo", "tau_negative": 1.25}, "aggregation": "sequence_mean"},
        {"loss_type": "sapo"},
    ),
    "gmpo": (
        {"surrogate": {"kind": "gmpo"}, "aggregation": "sequence_mean"},
        {"method": "gmpo", "epsilon_low": 0.4, "epsilon_high": 0.4},
    ),
    "dual clip": ({"surrogate": {"dual": 1.5}}, {"delta": 1.5}),
    "entropy bonus": ({"entropy_coef": 0.1}, {"_entropy_bonus_enabled": True, "entropy_coef": 0.1}),
    "off-policy mask": (
        {"correction": {"kind": "off_policy_mask", "limit": 0.05}},
        {"off_policy_mask_threshold": 0.05},
    ),
}


def agrees(name: str, ours: dict[str, Any], theirs: dict[str, Any], **more: Any) -> bool:
    """True; AssertionError with both values where they differ."""
    mine, other = tokens(0).requires_grad_(), tokens(0).requires_grad_()
    value = build_loss(LossConfig.model_validate(ours))(our_inputs(mine, **more), WHOLE).loss
    expected = trl_loss(other, **theirs)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12, msg=name)
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12, msg=name)
    return True


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_trl(name: str) -> None:
    assert agrees(name, *CASES[name])


def test_a_weight_of_importance_sampling_enters_where_trl_has_it() -> None:
    weight_R = (tokens(1) - tokens(3)).exp().clamp(max=2.0)
    theirs = {"use_vllm": True, "vllm_importance_sampling_correction": True, "beta": 0.1}
    given = theirs | {"importance_sampling_ratio": padded(weight_R)}
    assert agrees("token_truncate", {"kl_coef": 0.1}, given, weight_R=weight_R)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_chosen_tokens_are_those_of_trl(share: float) -> None:
    threshold = torch.quantile(tokens(7).abs().float(), 1 - share)
    assert agrees(
        "top entropy", {"top_entropy": share}, {"top_entropy_quantile": share}, chosen_R=tokens(7).abs() >= threshold
    )


def test_the_off_policy_mask_is_that_of_trl() -> None:
    from trl import GRPOTrainer

    for limit in (0.01, 0.1, 0.5):
        theirs_B = GRPOTrainer.get_off_policy_mask(
            ADVANTAGES_B[:, None], padded(tokens(0)), padded(tokens(3)), MASK_BT, limit
        )[:, 0]
        assert torch.equal(off_policy_mask(our_inputs(tokens(0)), limit), theirs_B[INDEX_R].double())


def test_the_comparison_can_fail() -> None:
    with pytest.raises(AssertionError):
        agrees("another clip", {"surrogate": {"high": 0.28}}, {})
