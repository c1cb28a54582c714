"""The optimizer by hand: who decays, how the rate runs, what a step clips, and when it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from saccade.training.optim import GuardedOptimizer, OptimConfig, TrainingStopped, build_optimizer, learning_rate
from saccade.training.optimizer_state import fitted, order


def guarded(grad: list[float], **options: Any) -> tuple[nn.Parameter, GuardedOptimizer]:
    """A weight at the origin with that gradient, under plain descent."""
    weight = nn.Parameter(torch.zeros(len(grad)))
    weight.grad = torch.tensor(grad)
    return weight, GuardedOptimizer(torch.optim.SGD([weight], lr=99.0), OptimConfig(lr=1.0, **options))


def test_options_omitted_from_a_recipe_give_plain_adamw_at_a_constant_rate() -> None:
    assert OptimConfig(lr=0.5).model_dump() == {
        "kind": "adamw",
        "lr": 0.5,
        "lr_of": {},
        "warmup_steps": 0,
        "warmup_ratio": 0.0,
        "decay": "constant",
        "final_lr_ratio": 0.0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_nonfinite_in_row": 5,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.0},
        {"warmup_steps": -1},
        {"warmup_ratio": -0.1},
        {"warmup_ratio": 1.0},
        {"final_lr_ratio": -0.1},
        {"final_lr_ratio": 1.1},
        {"eps": 0.0},
        {"eps": math.inf},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"weight_decay": -0.1},
        {"max_grad_norm": 0.0},
        {"max_nonfinite_in_row": 0},
        {"decay": "step"},
    ],
)
def test_an_option_beyond_its_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Input should|expected one of constant, linear, cosine"):
        OptimConfig(**{"lr": 1.0, **options})


def test_options_at_the_ends_of_their_ranges_are_taken() -> None:
    low = OptimConfig(lr=1e-9, warmup_ratio=0.99, final_lr_ratio=1.0, eps=1e-12, max_grad_norm=1e-3)
    high = OptimConfig(lr=9.0, warmup_steps=1, weight_decay=1e-3, max_grad_norm=math.inf, max_nonfinite_in_row=1)
    assert (low.lr, low.eps, high.max_grad_norm, high.max_nonfinite_in_row) == (1e-9, 1e-12, math.inf, 1)


# --------------------------------------------------------------------------------------------------------------- rate


def test_the_share_of_warm_up_is_rounded_up_but_not_by_round_off() -> None:
    # 0.07 * 100 is 7.000000000000001 in floating point
    assert [OptimConfig(lr=1.0, warmup_ratio=0.07).warmup(n) for n in (1, 14, 15, 100)] == [1, 1, 2, 7]
    assert OptimConfig(lr=1.0, warmup_steps=3).warmup(100) == 3


def test_beyond_the_last_step_the_rate_stays_at_its_end() -> None:
    linear = OptimConfig(lr=2.0, decay="linear", final_lr_ratio=0.25)
    assert [learning_rate(linear, step, 4) for step in (1, 3, 5, 6, 50)] == [2.0, 1.25, 0.5, 0.5, 0.5]
    cosine = OptimConfig(lr=2.0, decay="cosine")
    assert [learning_rate(cosine, step, 4) for step in (1, 3, 5, 7)] == pytest.approx([2.0, 1.0, 0.0, 0.0])


def test_a_run_that_is_all_warm_up_reaches_its_peak_and_decays_in_one_step() -> None:
    all_warm = OptimConfig(lr=1.0, warmup_steps=4, decay="linear")
    assert [learning_rate(all_warm, step, 4) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.0]


# ------------------------------------------------------------------------------------------------------------ weights


def test_weight_decay_acts_on_matrices_and_spares_vectors_and_scalars() -> None:
    shapes = {"scalar": (), "bias": (3,), "weight": (3, 2), "kernel": (2, 3, 2)}
    named = [(name, nn.Parameter(torch.ones(shape))) for name, shape in shapes.items()]
    parameters = dict(named)
    optimizer = build_optimizer(named, OptimConfig(lr=0.5, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-3))
    decayed, spared = optimizer.param_groups
    assert [id(p) for p in decayed["params"]] == [id(parameters["weight"]), id(parameters["kernel"])]
    assert [id(p) for p in spared["params"]] == [id(parameters["scalar"]), id(parameters["bias"])]
    for group, decay in ((decayed, 0.1), (spared, 0.0)):
        options = (group["weight_decay"], group["lr"], group["betas"], group["eps"])
        assert options == (decay, 0.5, (0.8, 0.95), 1e-3)
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert parameters["weight"].unique().tolist() == pytest.approx([1.0 - 0.5 * 0.1])
    assert parameters["bias"].unique().tolist() == [1.0]


def test_a_kind_of_weights_that_is_not_trained_makes_no_empty_group() -> None:
    (group,) = build_optimizer([("bias", nn.Parameter(torch.ones(3)))], OptimConfig(lr=1.0)).param_groups
    assert group["weight_decay"] == 0.0
    with pytest.raises(ValueError, match="no parameter trains"):
        build_optimizer([], OptimConfig(lr=1.0))


# --------------------------------------------------------------------------------------------------------------- step


def test_a_gradient_longer_than_the_bound_is_scaled_down_to_it_and_its_norm_is_returned() -> None:
    weight, optimizer = guarded([3.0, 4.0])
    assert optimizer.step(lr=0.5, loss=1.0) == (5.0, True)
    assert weight.tolist() == pytest.approx([-0.3, -0.4], abs=1e-5)
    assert weight.grad is None, "the next step begins without a gradient"


def test_a_gradient_within_the_bound_is_taken_as_it_is() -> None:
    weight, optimizer = guarded([3.0, 4.0], max_grad_norm=6.0)
    assert optimizer.step(lr=0.5, loss=1.0) == (5.0, True)
    assert weight.tolist() == [-1.5, -2.0]


@pytest.mark.parametrize(("grad", "loss"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_gradient_or_a_loss_that_is_not_finite_moves_nothing_and_keeps_what_led_to_it(
    grad: float, loss: float
) -> None:
    weight, optimizer = guarded([grad, 0.0])
    kept: list[bool] = []
    _, stepped = optimizer.step(lr=0.5, loss=loss, keep=lambda: kept.append(True))
    assert (stepped, kept, optimizer.nonfinite_in_row) == (False, [True], 1)
    assert weight.tolist() == [0.0, 0.0] and weight.grad is None


def test_only_steps_in_a_row_that_are_not_finite_stop_the_run() -> None:
    weight, optimizer = guarded([1.0], max_nonfinite_in_row=3)

    def step(loss: float) -> bool:
        weight.grad = torch.ones(1)
        return optimizer.step(0.1, loss)[1]

    assert [step(loss) for loss in (math.nan, math.nan, 1.0, math.nan, math.nan)] == [False, False, True, False, False]
    with pytest.raises(TrainingStopped, match="not finite for 3 updates in a row"):
        step(math.nan)


def stepped(config: OptimConfig, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model of two parts and its optimizer after a step, and what stands for its policy."""
    torch.manual_seed(0)
    named = [(name, nn.Parameter(torch.randn(3, 3, dtype=dtype))) for name in ("eye.a", "eye.b", "word.a", "word.b")]
    policy: Any = SimpleNamespace(trainable=lambda: named)
    optimizer = build_optimizer(named, config, {name: {"e": "vision", "w": "language"}[name[0]] for name, _ in named})
    torch.stack([(i + 1) * one.float().square().sum() for i, (_, one) in enumerate(named)]).sum().backward()
    optimizer.step()
    return policy, optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_follows_the_names_and_the_options_are_those_of_the_recipe_of_today(dtype: torch.dtype) -> None:
    policy, before = stepped(OptimConfig(lr=0.1, weight_decay=0.1, lr_of={"vision": 0.2}), dtype)
    saved, names = before.state_dict(), order(policy, before)
    today = OptimConfig(lr=0.1, betas=(0.5, 0.6), eps=1e-3, weight_decay=0.3, lr_of={"language": 0.2})
    now, optimizer = stepped(today, dtype)
    assert order(now, optimizer) == names
    optimizer.load_state_dict(fitted(saved, names[::-1], now, optimizer))
    moments = {name: optimizer.state[optimizer.stepped(one)]["exp_avg"] for name, one in now.trainable()}
    places = dict(zip(names[::-1], saved["state"].values(), strict=True))
    assert all(torch.equal(moments[name], places[name]["exp_avg"]) for name in names)
    told = {(group["betas"], group["eps"], group["weight_decay"]) for group in optimizer.param_groups}
    assert told == {((0.5, 0.6), 1e-3, 0.3)}
    assert [group["scale"] for group in optimizer.param_groups] == [1.0, 2.0]


def test_the_state_of_another_optimizer_is_refused_by_name() -> None:
    policy, optimizer = stepped(OptimConfig(lr=0.1), torch.float32)
    for odd in ({"state1": torch.zeros(3, 3)}, {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}):
        saved = optimizer.state_dict() | {"state": {0: odd}}
        with pytest.raises(ValueError, match=r"moments of eye\.a .*optim\.kind"):
            fitted(saved, None, policy, optimizer)
    with pytest.raises(ValueError, match=r"restore optim\.lr_of"):
        fitted({**optimizer.state_dict(), "param_groups": []}, None, policy, optimizer)
