"""The state of an optimizer in a checkpoint: moments by the name of their parameter. What the recipe says (weight
decay, betas, rates of parts) is the recipe's, which may have been edited since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from saccade.models.policy import Policy
from saccade.training.master_weights import MASTERS, MasterAdamW, Masters

_MOMENTS = {"exp_avg", "exp_avg_sq"}


def order(policy: Policy, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters in the order of the optimizer, whose groups the recipe makes."""
    stepped = optimizer.stepped if isinstance(optimizer, Masters) else lambda parameter: parameter
    names = {id(stepped(parameter)): name for name, parameter in policy.trainable()}
    return [names[id(one)] for group in optimizer.param_groups for one in group["params"]]


def fitted(saved: dict[str, Any], before: Sequence[str] | None, policy: Policy, optimizer: Any) -> dict[str, Any]:
    """The saved state for an optimizer that the recipe of today made. `before` is the order when it was saved, None in
    checkpoints of earlier versions. ValueError for the state of another optimizer."""
    now, own = order(policy, optimizer), optimizer.state_dict()
    kept, masters = dict(saved["state"]), list(saved.get(MASTERS, []))
    if before is not None and list(before) != now:
        place = {name: i for i, name in enumerate(before)}
        kept = {i: kept[place[name]] for i, name in enumerate(now) if place[name] in kept}
        low = {name for name, parameter in policy.trainable() if optimizer.stepped(parameter) is not parameter}
        found = dict(zip([name for name in before if name in low], masters, strict=False))
        masters = [found[name] for name in now if name in found]
    elif before is None and _sizes(saved) != _sizes(own):
        raise ValueError("its groups of parameters are others; restore optim.lr_of")
    if isinstance(optimizer, MasterAdamW):
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        for i, state in kept.items():
            shapes = {key: state[key].shape for key in _MOMENTS if key in state}
            if any(shapes.get(key) != parameters[i].shape for key in _MOMENTS):
                raise ValueError(f"the moments of {now[i]} are not those of optim.kind adamw; restore optim.kind")
    elif any(_MOMENTS & set(state) for state in kept.values()):
        raise ValueError("the moments are those of optim.kind adamw; restore optim.kind")
    return {"state": kept, "param_groups": own["param_groups"], MASTERS: masters}


def _sizes(state: dict[str, Any]) -> list[int]:
    return [len(group["params"]) for group in state["param_groups"]]
