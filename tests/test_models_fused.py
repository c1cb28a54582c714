"""Norms and gated blocks that keep less give the family's own numbers, and what they do not know they leave alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES
from family_matrix import LIMIT, batch, load
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.fused import ACTIVATIONS, NormRule, fuse, gated, original_layers, rms_norm
from saccade.models.policy import Policy, load_policy
from saccade.verify.difference import Pass, difference, run, weights_of

RULES = [NormRule(1e-6, 0.0, False), NormRule(1e-5, 1.0, True), NormRule(1e-6, 0.0, True)]


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load(request.param, tmp_path_factory.mktemp(request.param))


def with_our_layers(policy: Policy) -> Pass:
    """A pass over plain rows that goes through the layers as they are."""
    packed = batch(policy.adapter, "all of it")
    logprobs_R, _ = branch_logprobs(policy, packed, path="plain")
    named = policy.trainable()
    loss = (logprobs_R * weights_of(packed, 0).to(logprobs_R)).sum()
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return Pass(logprobs_R.detach(), {name: g for (name, _), g in zip(named, found, strict=True) if g is not None})


def kept_bytes(call: Callable[[], object]) -> int:
    """Bytes that autograd keeps, every storage once."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = call()
    del out
    return sum(kept.values())


def test_every_family_s_numbers_stay(policy: Policy) -> None:
    own = run(policy, batch(policy.adapter, "all of it"), "plain")
    apart = difference(with_our_layers(policy), own)
    assert max(apart) <= LIMIT, apart


def test_every_family_has_norms_and_gates_that_are_taken_over_and_keep_less(policy: Policy) -> None:
    names = {type(module).__name__ for module in policy.model.modules() if hasattr(module, "fused_rule")}
    assert any(name.endswith("RMSNorm") for name in names) and any(name.endswith("MLP") for name in names)
    packed = batch(policy.adapter, "one image")
    weights = sum(p.untyped_storage().nbytes() for p in policy.model.parameters())  # autograd keeps those either way
    ours = kept_bytes(lambda: branch_logprobs(policy, packed, path="plain"))
    with original_layers(policy.model):
        theirs = kept_bytes(lambda: branch_logprobs(policy, packed, path="plain"))
    share = {"qwen2_5_vl": 0.9}.get(policy.model.config.model_type, 0.97)  # other towers have norms of another kind
    assert ours - weights < share * (theirs - weights)


def test_original_layers_puts_everything_back_even_after_an_error(policy: Policy) -> None:
    before = [type(module) for module in policy.model.modules()]
    with pytest.raises(KeyError), original_layers(policy.model):
        assert not any(type(module).__name__.startswith("Fused") for module in policy.model.modules())
        raise KeyError
    assert [type(module) for module in policy.model.modules()] == before


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_norm_is_its_formula_forward_and_backward(rule: NormRule, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 700, 3, 96, generator=generator).transpose(1, 2).to(dtype).requires_grad_()
    weight = torch.randn(96, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(2, 3, 700, 96, generator=generator).to(dtype)
    wide_x, wide_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    expected = wide_x / (wide_x.square().mean(-1, keepdim=True) + rule.eps).sqrt() * (rule.offset + wide_weight)
    expected.backward(grad.double())
    found = rms_norm(x, weight, rule)
    found.backward(grad)
    limit = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for ours, theirs in ((found, expected), (x.grad, wide_x.grad), (weight.grad, wide_weight.grad)):
        assert ours is not None and theirs is not None and ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=limit, atol=limit * float(theirs.detach().abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(rms_norm(x, weight, rule), found.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("joint", [False, True])
def test_the_gate_is_activation_times_up_forward_and_backward(activation, dtype, joint) -> None:
    generator = torch.Generator().manual_seed(4)
    both = torch.randn(3, 500, 2 * 200, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(3, 500, 200, generator=generator).to(dtype)

    def halves() -> tuple[Tensor, Tensor]:
        fresh = both * 1.0  # an output of a layer, not a leaf
        gate, up = fresh.chunk(2, dim=-1)
        return (gate, up) if joint else (gate.contiguous(), up.contiguous())

    function = F.silu if activation.name == "silu" else nn.GELU(approximate="tanh")
    gate, up = halves()
    expected = function(gate) * up
    (wanted,) = torch.autograd.grad(expected, both, grad)
    found = gated(*halves(), activation)
    (gradient,) = torch.autograd.grad(found, both, grad)
    limit = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 0.0}[dtype]  # the very same roundings
    torch.testing.assert_close(found, expected, rtol=limit, atol=limit)
    torch.testing.assert_close(gradient, wanted, rtol=limit, atol=limit)
    with torch.no_grad():
        torch.testing.assert_close(gated(*halves(), activation), expected.detach(), rtol=limit, atol=limit)


def test_a_second_backward_pass_through_a_gate_is_an_error_and_no_wrong_gradient() -> None:
    x = torch.ones(2, 4, requires_grad=True)
    out = gated(x * 1.0, x * 2.0, ACTIVATIONS[0]).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass"):
        out.backward()


@pytest.mark.parametrize("trains", ["gate_proj", "up_proj", "down_proj"])
def test_a_gate_with_one_adapter_alone_gets_its_gradient(tmp_path: Path, trains: str) -> None:
    policy = load("qwen2_5_vl", tmp_path)
    names = [name for name, _ in policy.model.named_modules() if name.endswith(trains) and "language_model" in name]
    inject = LoraConfig(r=4, target_modules=names, init_lora_weights=False)
    torch.manual_seed(5)
    inject_adapter_in_model(inject, policy.model)
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    assert len(policy.trainable()) == 2 * len(names) > 0
    assert max(difference(with_our_layers(policy), run(policy, batch(policy.adapter, "all of it"), "plain"))) <= LIMIT


class ShiftedRMSNorm(nn.Module):
    """Looks like an RMS norm and is none."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


class BiasedRMSNorm(ShiftedRMSNorm):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(8))


class Block(nn.Module):
    """A gated block; `scale` and the activation make it another function."""

    def __init__(self, activation: Callable[[Tensor], Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.act_fn, self.scale = activation, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) * self.scale


class TwoArguments(Block):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Limited(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=10) * self.up_proj(x).clamp(-10, 10))


class Dropping(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, self.training)


class GroupedRMSNorm(nn.Module):
    """One class, two formulas."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.weight, self.eps, self.groups = nn.Parameter(torch.ones(8)), 1e-6, groups

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (self.groups, -1))
        return self.weight * (parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + self.eps)).flatten(-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        ShiftedRMSNorm,
        lambda: ShiftedRMSNorm(2048),
        BiasedRMSNorm,
        lambda: nn.RMSNorm((4, 8), eps=1e-6),
        lambda: GroupedRMSNorm(2),
        lambda: Block(F.relu),
        lambda: Block(F.silu, scale=1.01),
        lambda: Block(F.gelu),
        lambda: Block(lambda x: x * torch.sigmoid(1.702 * x)),
        lambda: TwoArguments(F.silu),
        lambda: Limited(F.silu),
        lambda: Dropping(F.silu),
    ],
    ids=[
        "shifted",
        "shifted_wide",
        "bias",
        "two_axes",
        "groups",
        "relu",
        "scaled",
        "gelu",
        "quick_gelu",
        "arguments",
        "limited",
        "dropout",
    ],
)
def test_what_computes_something_else_is_left_alone(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    module = make().to(dtype).eval()
    before = type(module)
    assert fuse(nn.Sequential(module)) == {}
    assert type(module) is before and not hasattr(module, "fused_rule")


def test_modules_of_one_class_are_told_apart_and_none_is_taken_twice() -> None:
    one, two = GroupedRMSNorm(1), GroupedRMSNorm(2)
    model = nn.Sequential(one, two)
    assert fuse(model) == {"GroupedRMSNorm": 1} and type(two) is GroupedRMSNorm
    assert fuse(model) == {}
    with torch.device("meta"):
        assert fuse(nn.Sequential(Block(F.silu))) == {}


def test_original_layers_within_original_layers_is_the_same_and_a_class_put_around_ours_is_refused() -> None:
    model = nn.Sequential(Block(F.silu), Block(F.silu))
    fuse(model)
    taken = type(model[0])
    with original_layers(model), original_layers(model):
        assert type(model[0]) is type(model[1]) is Block
    assert type(model[0]) is type(model[1]) is taken
    model[1].__class__ = type("Sharded", (taken,), {})
    with pytest.raises(ValueError, match="Sharded was wrapped"), original_layers(model):
        pass
    assert type(model[0]) is taken


def test_what_is_taken_over_can_be_pickled() -> None:
    block = Block(F.silu)
    fuse(nn.Sequential(block))
    again = pickle.loads(pickle.dumps(block))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(again(x), block(x), rtol=0, atol=0)
    assert type(again) is type(block)


def test_a_norm_whose_input_has_another_dtype_is_the_family_s_own() -> None:
    norm = GroupedRMSNorm(1)
    fuse(nn.Sequential(norm))
    assert norm(torch.ones(2, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_second_backward_pass_under_hooks_on_saved_tensors_is_an_error_too() -> None:
    x = torch.ones(2, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        out = gated(x * 1.0, x * 2.0, ACTIVATIONS[0]).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass"):
        out.backward()


def test_what_is_taken_over_is_counted_by_class() -> None:
    assert fuse(nn.Sequential(Block(F.silu), Block(F.silu), Block(F.relu))) == {"Block": 2}


def test_the_switch_leaves_the_family_s_code_alone_and_a_copy_or_a_saved_model_is_as_before(tmp_path: Path) -> None:
    policy = load("qwen2_5_vl", tmp_path / "first")
    policy.save(tmp_path / "second")
    plain = load_policy(ModelConfig(path=str(tmp_path / "second"), device="cpu", fused_layers=False))
    assert not any(hasattr(module, "fused_rule") for module in plain.model.modules())
    packed = batch(policy.adapter, "one image")
    with torch.no_grad():
        ours, _ = branch_logprobs(policy, packed)
        copied, _ = branch_logprobs(Policy(copy.deepcopy(policy.model), policy.adapter, ()), packed)
        theirs, _ = branch_logprobs(plain, packed)
    torch.testing.assert_close(copied, ours, rtol=0, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=LIMIT)
