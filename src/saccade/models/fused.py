"""Norms and gated feed-forward blocks that save fewer activations: the same numbers from custom autograd functions.

Written as separate operations, an RMS norm saves its input, the root mean square and the normalized input, and a gated
block saves gate, activation, up and product. Here a norm saves its input and one number per row, and a gated block
saves gate and up besides the product; their buffers are overwritten with their gradients. Without checkpointing this
takes a quarter less memory, with it the peak of one layer's backward pass is smaller. The work is done in chunks that
fit a CPU's cache. (The idea is from Liger Kernel, arXiv:2410.10989; this is plain torch and needs no Triton.)

A module is replaced only after a numerical check: random input through random weights must give what the family's own
code gives, in float32 and in training mode. All other modules are unchanged. `original_layers` temporarily restores the
family's own code, which the checks use as the reference.

Shape letters: N rows, D width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saccade.models.tower_attention import original_tower

PIECE = {"cpu": 2**16}
"""Elements processed at once, by device type: on a CPU, what fits its cache."""
LARGE_PIECE = 2**25
"""On other devices a piece only bounds memory; each costs a few kernel launches."""
TOLERANCE = 1e-5
"""Largest difference from the family's own output / its largest value in the float32 check of a module."""


def _pieces(x_ND: Tensor) -> Iterator[slice]:
    rows = max(1, PIECE.get(x_ND.device.type, LARGE_PIECE) // x_ND.shape[-1])
    for start in range(0, x_ND.shape[0], rows):
        yield slice(start, start + rows)


@dataclass(frozen=True, slots=True)
class NormRule:
    """y = x / rms(x) * (offset + weight), where rms(x)^2 = mean(x^2) + eps."""

    eps: float
    offset: float
    late: bool
    """Rounds to the model's dtype after multiplying by the weight (Gemma), not before (Llama)."""

    def inverse_rms(self, full: Tensor) -> Tensor:
        """1 / rms(x) of each row, (N, 1), in the same order of operations as the families."""
        return full.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()

    def weigh(self, normed: Tensor, weight_D: Tensor, dtype: torch.dtype) -> Tensor:
        """y from x / rms(x) in full precision; may overwrite `normed`."""
        if self.late:
            return normed.mul_(self.factor(weight_D, normed.dtype)).to(dtype)
        return normed.to(dtype) * self.factor(weight_D, dtype)

    def factor(self, weight_D: Tensor, dtype: torch.dtype) -> Tensor:
        return weight_D.to(dtype) + self.offset if self.offset else weight_D.to(dtype)


def _full(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _RmsNorm(torch.autograd.Function):
    """Saves the input, the weight and 1 / rms."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, rule: NormRule) -> Tensor:
        y_ND, inverse_N1 = torch.empty_like(x_ND), x_ND.new_empty((len(x_ND), 1), dtype=_full(x_ND.dtype))
        for rows in _pieces(x_ND):
            full = x_ND[rows].to(inverse_N1.dtype)
            inverse_N1[rows] = rule.inverse_rms(full)
            y_ND[rows] = rule.weigh(full * inverse_N1[rows], weight_D, x_ND.dtype)
        ctx.save_for_backward(x_ND, weight_D, inverse_N1)
        ctx.rule = rule
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # torch declares (ctx, *grads)
        x_ND, weight_D, inverse_N1 = ctx.saved_tensors
        dtype = inverse_N1.dtype
        factor_D = ctx.rule.factor(weight_D, dtype)
        need_x, need_weight = ctx.needs_input_grad[:2]
        dx_ND = torch.empty_like(x_ND) if need_x else None
        dweight_D = torch.zeros_like(weight_D, dtype=dtype) if need_weight else None
        for rows in _pieces(x_ND):
            normed = x_ND[rows] * inverse_N1[rows]
            grad = grad_ND[rows].to(dtype)
            both = grad * normed
            if dweight_D is not None:
                dweight_D += both.sum(0)
            if dx_ND is not None:
                # dx = (g - normed * mean(g * normed)) / rms with g = grad * factor
                mean_N1 = both.mul_(factor_D).mean(-1, keepdim=True)
                torch.mul(grad, factor_D, out=both)
                dx_ND[rows] = both.sub_(normed.mul_(mean_N1)).mul_(inverse_N1[rows])
        return dx_ND, None if dweight_D is None else dweight_D.to(weight_D.dtype), None


def rms_norm(x: Tensor, weight_D: Tensor, rule: NormRule) -> Tensor:
    """The norm over the last axis of x (..., D)."""
    x_ND = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        return _RmsNorm.apply(x_ND, weight_D, rule).view(x.shape)
    full = x_ND.to(_full(x.dtype))
    return rule.weigh(full * rule.inverse_rms(full), weight_D, x.dtype).view(x.shape)


@dataclass(frozen=True, slots=True)
class Activation:
    """The activation of a gate. `backward(grad, x)` writes the gradient into x."""

    name: str
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


def _silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward.grad_input(grad, x, grad_input=x)


def _gelu_tanh_backward(grad: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward.grad_input(grad, x, approximate="tanh", grad_input=x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS = (
    Activation("silu", F.silu, _silu_backward),
    Activation("gelu_tanh", _gelu_tanh, _gelu_tanh_backward),
)


class _Gated(torch.autograd.Function):
    """activation(gate) * up. Backward overwrites gate and up, so it can run only once (RuntimeError after that), and
    no other operation may need these two tensors, which holds for outputs of linear layers. If another operation did
    save them, autograd's version counter raises an error, except under saved-tensor hooks, where autograd does not
    check. Tensors that a forward hook keeps are overwritten."""

    @staticmethod
    def forward(ctx: Any, gate_ND: Tensor, up_ND: Tensor, activation: Activation) -> Tensor:
        out_ND = torch.empty(gate_ND.shape, dtype=gate_ND.dtype, device=gate_ND.device)
        for rows in _pieces(gate_ND):
            torch.mul(activation.forward(gate_ND[rows]), up_ND[rows], out=out_ND[rows])
        ctx.save_for_backward(gate_ND, up_ND)
        ctx.activation, ctx.spent = activation, False
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # torch declares (ctx, *grads)
        if ctx.spent:
            raise RuntimeError("second backward pass through a fused gated block; set model.fused_layers: false")
        ctx.spent = True
        gate_ND, up_ND = ctx.saved_tensors
        for rows in _pieces(gate_ND):
            grad, gate, up = grad_ND[rows], gate_ND[rows], up_ND[rows]
            at_gate = grad * up
            torch.mul(grad, ctx.activation.forward(gate), out=up)
            ctx.activation.backward(at_gate, gate)
        needs = ctx.needs_input_grad
        return gate_ND if needs[0] else None, up_ND if needs[1] else None, None


def gated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) * up of two fresh outputs (..., D) of linear layers, which backward overwrites."""
    if not torch.is_grad_enabled():
        return activation.forward(gate).mul_(up)
    gate_ND, up_ND = (x.reshape(-1, x.shape[-1]) for x in (gate, up))
    return _Gated.apply(gate_ND, up_ND, activation).view(*gate.shape)


class Fused(nn.Module):
    """A mixin placed before the family's class; uses its parameters and layers."""

    fused_rule: Any
    original_class: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        fused = next(kind for kind in type(self).__mro__ if kind in FUSED_CLASSES)
        return _empty, (fused, self.original_class), self.__dict__


class FusedNorm(Fused):
    weight: Tensor

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != self.weight.dtype:  # families differ in the output dtype here
            return self.original_class.forward(self, hidden_states)
        return rms_norm(hidden_states, self.weight, self.fused_rule)


class FusedGate(Fused):
    """down(activation(gate(x)) * up(x)); the layers are called as modules, so adapters and hooks on them still work."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.down_proj(gated(self.gate_proj(hidden_state), self.up_proj(hidden_state), self.fused_rule))


class FusedJointGate(Fused):
    """The same for blocks in which one layer computes gate and up."""

    gate_up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(gated(gate, up, self.fused_rule))


FUSED_CLASSES = (FusedNorm, FusedGate, FusedJointGate)


@cache
def _fused_class(fused: type[Fused], own: type[nn.Module]) -> type[Fused]:
    """The family's class with the fused forward."""
    return type(f"Fused{own.__name__}", (fused, own), {"original_class": own})


def _empty(fused: type[Fused], own: type[nn.Module]) -> nn.Module:
    """A module without state, for unpickling and copies."""
    kind = _fused_class(fused, own)
    return kind.__new__(kind)


@torch.no_grad()
def fuse(model: nn.Module) -> dict[str, int]:
    """Fuse all supported modules; returns the number of fused modules by original class. Skips modules on the meta
    device and modules that are already fused."""
    taken: dict[str, int] = {}
    for module in model.modules():
        own = type(module)
        if isinstance(module, Fused) or any(p.is_meta for p in module.parameters()):
            continue
        found = _norm_rule(module) if own.__name__.endswith("RMSNorm") else _gate_rule(module)
        if found is not None:
            fused, rule = found
            module.fused_rule = rule  # type: ignore[assignment]  # a plain attribute, no parameter
            module.__class__ = _fused_class(fused, own)
            taken[own.__name__] = taken.get(own.__name__, 0) + 1
    return taken


@contextmanager
def original_layers(model: nn.Module) -> Iterator[None]:
    """Restores the family's own code within the context, as the reference. A forward pass inside must also run its
    backward pass inside."""
    fused_modules = (module for module in model.modules() if isinstance(module, Fused))
    taken: list[tuple[nn.Module, type[Fused]]] = [(module, type(module)) for module in fused_modules]
    try:
        for module, fused in taken:
            if fused is not _fused_class(
                next(kind for kind in fused.__mro__ if kind in FUSED_CLASSES), fused.original_class
            ):
                raise ValueError(f"{fused.__name__} was wrapped in another class; load with model.fused_layers: false")
            module.__class__ = fused.original_class
        with original_tower(model):
            yield
    finally:
        for module, fused in taken:
            module.__class__ = fused


_FusedRule = tuple[type[Fused], NormRule | Activation] | None


def _norm_rule(module: nn.Module) -> _FusedRule:
    """The rule that reproduces the module's output for a random weight, or None."""
    names = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if names != {"weight"} or not isinstance(eps, float) or module.get_parameter("weight").dim() != 1:
        return None
    wide, rules = copy.deepcopy(module).float(), []
    for offset in (0.0, 1.0):
        both = [NormRule(eps, offset, late) for late in (offset == 1.0, offset == 0.0)]
        rules += [rule for rule in both if _norm_distance(wide, rule, eps) <= TOLERANCE]
    if not rules:
        return None
    # only the module's own dtype shows whether it rounds before or after the weight
    own = copy.deepcopy(module)
    return FusedNorm, min(rules, key=lambda rule: _norm_distance(own, rule, eps))


def _norm_distance(module: Any, rule: NormRule, eps: float) -> float:
    """Distance between the outputs of rule and module; overwrites the module's weight."""
    module.train()
    module.weight.copy_(_noise(tuple(module.weight.shape), module.weight))
    x_ND = 3 * _noise((32, *module.weight.shape), module.weight) + 0.5
    x_ND[:16] *= eps**0.5  # so small that eps counts
    expected = _output(module, x_ND)
    return float("inf") if expected is None else distance(rms_norm(x_ND, module.weight, rule), expected)


def _gate_rule(module: Any) -> _FusedRule:
    """The rule that reproduces the gated block, checked on a copy with narrow layers; or None."""
    children = dict(module.named_children()) if isinstance(module, nn.Module) else {}
    joint = children.keys() >= {"gate_up_proj", "down_proj"}
    layers = ("gate_up_proj", "down_proj") if joint else ("gate_proj", "up_proj", "down_proj")
    if not all(isinstance(children.get(name), nn.Linear) for name in layers):
        return None
    function = getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)
    if not callable(function) or len(inspect.signature(module.forward).parameters) != 1:
        return None
    fused = FusedJointGate if joint else FusedGate
    twin = _narrow_copy(module, layers)
    x_ND = _noise((48, NARROW), twin.down_proj.weight) * torch.tensor([0.1, 1.0, 10.0]).repeat(16)[:, None]
    values = torch.linspace(-12, 12, 256)
    expected, curve = _output(twin, x_ND), _output(function, values)
    if expected is None or curve is None:
        return None
    for activation in ACTIVATIONS:
        twin.fused_rule = activation
        apart = distance(activation.forward(values), curve), distance(fused.forward(twin, x_ND), expected)
        if max(apart) <= TOLERANCE:
            return fused, activation
    return None


NARROW = 16
"""Width of the layers in the check of a block."""


def _narrow_copy(module: nn.Module, layers: tuple[str, ...]) -> Any:
    """A narrow float32 copy of the block in training mode, which reveals dropout, with weights large enough to reveal
    clamping."""
    twin = copy.copy(module)
    twin._modules = {name: copy.deepcopy(child) for name, child in module._modules.items() if name not in layers}
    for name in layers:
        width = 2 * NARROW if name == "gate_up_proj" else NARROW
        layer = nn.utils.skip_init(nn.Linear, NARROW, width, bias=getattr(module, name).bias is not None)
        for seed, parameter in enumerate(layer.parameters(), len(name)):
            parameter.copy_(4 * _noise(tuple(parameter.shape), parameter, seed))
        twin._modules[name] = layer
    return twin.train()


def _output(function: Callable[[Tensor], object], x: Tensor) -> Tensor | None:
    """The family's own output for x; None if it needs other arguments or returns something else."""
    try:
        out = function(x)
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
        return None
    return out if isinstance(out, Tensor) and out.dtype == x.dtype and out.shape == x.shape else None


def _noise(shape: tuple[int, ...], like: Tensor, seed: int = 0) -> Tensor:
    """Normal random numbers from a fixed seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(like.device, like.dtype)


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference / largest value; infinite when that is not finite."""
    off = (found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30)
    return float(off) if torch.isfinite(off) else float("inf")
