"""Optimizers for models that compute in bfloat16: updates are applied to float32 copies of the weights.

bfloat16 keeps 8 binary digits: the number before 1 is 0.996, so an update of 1e-6, typical in RL, rounds to
nothing and the model never moves. The remedy is that of mixed-precision training (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.1), with gradients summed in float32 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

MASTERS = "masters"
"""Key of the float32 weights in the optimizer state."""


def needs_master(parameter: Tensor) -> bool:
    """True for weights of less than 32 bits."""
    return parameter.is_floating_point() and parameter.element_size() < 4


class Masters(torch.optim.Optimizer):
    """Mixed into an optimizer, steps float32 masters of the low-precision parameters and all others as they are.

    After each backward pass a low-precision parameter's gradient is added to its master's and dropped, so that clipping
    and accumulation over micro-batches see float32. Each step writes the rounded masters into the model. The masters
    belong to `state_dict`: a model that is saved in bfloat16 and loaded again has lost what they hold.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], **options: Any) -> None:
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        stepped = [{**group, "params": [self._stepped(p) for p in group["params"]]} for group in groups]
        super().__init__(stepped, **options)

    def stepped(self, parameter: Tensor) -> Tensor:
        """The float32 master of a parameter, or the parameter itself."""
        return next((master for one, master in self._pairs if one is parameter), parameter)

    def write_back(self) -> None:
        """Rounds the masters into the model."""
        self._write_back()

    def _stepped(self, parameter: nn.Parameter) -> nn.Parameter:
        """What the optimizer steps in place of `parameter`."""
        if not needs_master(parameter):
            return parameter
        master = nn.Parameter(parameter.detach().float())
        parameter.register_post_accumulate_grad_hook(_hand_over(master))
        self._pairs.append((parameter, master))
        return master

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for parameter, _ in self._pairs:  # a backward pass that was broken off may have left one
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self._write_back()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), MASTERS: [master.detach() for _, master in self._pairs]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """ValueError when the state is of a model in another precision."""
        kept = state_dict.get(MASTERS, [])
        if [one.shape for one in kept] != [master.shape for _, master in self._pairs]:
            raise ValueError(
                f"the optimizer state holds {len(kept)} float32 weights, expected {len(self._pairs)}; "
                "restore model.dtype"
            )
        super().load_state_dict({name: value for name, value in state_dict.items() if name != MASTERS})
        for (_, master), value in zip(self._pairs, kept, strict=True):
            master.copy_(value)
        self._write_back()

    @torch.no_grad()
    def _write_back(self) -> None:
        for parameter, master in self._pairs:
            parameter.copy_(master)


class MasterAdamW(Masters, torch.optim.AdamW):
    """AdamW with float32 masters."""


def _hand_over(master: nn.Parameter) -> Callable[[Tensor], None]:
    """A hook that moves a parameter's gradient to its master's, in float32."""

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None  # the hook runs right after it was accumulated
        grad = parameter.grad.float()
        master.grad = grad if master.grad is None else master.grad.add_(grad)
        parameter.grad = None

    return hook
