"""The output of a frozen vision tower, kept while the projector behind it trains.

Features after a trained projector need a gradient, so each pass must compute them; but what comes before the projector
is the same in all passes of a step, and most of the cost. The family's own code runs both times. When it first runs,
the inputs of the projector's modules are kept. When it runs again, the tower's layers return what they are given, and
the projector's modules get the kept inputs instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saccade.models.adapter import EncodedPrompt
from saccade.models.policy import Policy

TowerOutput = dict[str, Tensor]
"""Input of each of the projector's modules that the tower alone determines, by the module's name."""


def shares_tower(policy: Policy) -> bool:
    """True when the projector trains behind a frozen tower, in one process: several run the tower in each update."""
    if policy.shards is not None:
        return False
    parts = policy.parameters_by_part()
    trains = {part: any(p.requires_grad for _, p in parts[part]) for part in ("vision", "projector")}
    return trains["projector"] and not trains["vision"]


def features_and_tower(policy: Policy, prompt: EncodedPrompt) -> tuple[Tensor, TowerOutput]:
    """Features of one prompt, without gradient, and what the tower gave for them."""
    kept: TowerOutput = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(options.values()))
            if isinstance(given, Tensor) and not given.requires_grad:  # else it comes from the projector itself
                kept[name] = given

        return hook

    modules = _projector(policy)
    handles = [module.register_forward_pre_hook(keep(name), with_kwargs=True) for name, module in modules]
    try:
        with torch.enable_grad():
            (features,) = policy.adapter.vision(policy.model, [prompt])
    finally:
        for handle in handles:
            handle.remove()
    return features.detach(), kept


def features_again(policy: Policy, prompt: EncodedPrompt, tower: TowerOutput) -> Tensor:
    """Features of the same prompt by today's projector, which gets a gradient where gradients are enabled."""
    if not prompt.pixels:
        return policy.adapter.vision(policy.model, [prompt])[0]

    def give(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            if args:
                return (tower[name], *args[1:]), options
            return args, options | {next(iter(options)): tower[name]}

        return hook

    modules = [(name, module) for name, module in _projector(policy) if name in tower]
    handles = [module.register_forward_pre_hook(give(name), with_kwargs=True) for name, module in modules]
    try:
        with _idle(_layers(policy)):
            return policy.adapter.vision(policy.model, [prompt])[0]
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _idle(layers: list[nn.Module]) -> Iterator[None]:
    """Within the context the layers return their first argument."""
    for layer in layers:
        layer.forward = _first  # shadows the method of the class
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _first(hidden: Tensor, *args: Any, **options: Any) -> Tensor:
    return hidden


def _layers(policy: Policy) -> list[nn.Module]:
    """The layers of the tower: what its lists of modules hold."""
    vision = {name for name, _ in policy.parameters_by_part()["vision"]}
    found: list[nn.Module] = []
    inside: list[str] = []
    for name, module in policy.model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{one}.") for one in inside):
            continue
        held = [f"{name}.{inner}" for inner, _ in module.named_parameters()]
        if held and vision.issuperset(held):
            inside.append(name)
            found += list(module)
    return found


def _projector(policy: Policy) -> list[tuple[str, nn.Module]]:
    """The outermost modules that hold parameters of the projector only, by name."""
    names = {name for name, _ in policy.parameters_by_part()["projector"]}
    found: list[tuple[str, nn.Module]] = []
    for name, module in policy.model.named_modules():
        held = [f"{name}.{inner}" for inner, _ in module.named_parameters()]
        whole = bool(held) and names.issuperset(held) and not isinstance(module, nn.ModuleList)
        if whole and not any(name.startswith(f"{outer}.") for outer, _ in found):
            found.append((name, module))
    return found
