"""A trained vision tower over several processes: it runs once per update, in the same places in every process.

Backward passes of the tower and of the language model exchange different gradients, so all processes must make them in
the same order, also one whose prompts have no images. Therefore the tower's forward passes come first, the language
model's passes run on detached copies of the features, and the gradients of these copies go through the tower last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import Features, tower_batches
from saccade.models.policy import Policy
from saccade.training.ranks import Ranks


@dataclass(frozen=True, eq=False)
class TowerPass:
    """The features of the prompts of one update, and the tower's graph behind them."""

    calls: list[tuple[list[Tensor], list[Tensor]]]
    """Of each call of the tower: its outputs, and the detached copies that collect their gradients."""
    leaves: dict[int, Features] = field(default_factory=dict)
    """Detached features by the identity of the encoded prompt."""

    def features(self, prompts: Sequence[EncodedPrompt]) -> list[Features]:
        return [self.leaves[id(prompt)] for prompt in prompts]

    def backward(self) -> None:
        """The tower's backward pass, after all passes of the language model."""
        for outputs, leaves in self.calls:
            grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
            torch.autograd.backward(outputs, grads)


def encode(policy: Policy, prompts: Sequence[EncodedPrompt], blank: EncodedPrompt, ranks: Ranks) -> TowerPass | None:
    """Runs the tower over all images of the prompts; a process with fewer calls than the others repeats it on `blank`,
    a prompt with a small image. None when no process has an image: then there is nothing to train the tower on.

    All activations of the tower are kept until `backward`, those of the whole update.
    """
    unique = list({id(one): one for one in prompts}.values())
    with_images = [one for one in unique if one.pixels]
    if not ranks.max(len(with_images)):
        return None
    chunks = [chunk for chunk in tower_batches(policy, with_images) if chunk]
    chunks += [[blank]] * (ranks.max(len(chunks)) - len(chunks))
    chunks[0] = chunks[0] + [one for one in unique if not one.pixels]
    found = TowerPass([])
    for chunk in chunks:

        def run(chunk: list[EncodedPrompt] = chunk) -> list[Tensor]:
            return [one.clone() for one in policy.adapter.vision(policy.model, chunk)]  # not views of one output

        outputs = policy.run(run)
        leaves = [one.detach().requires_grad_() for one in outputs]
        found.leaves.update({id(one): Features(leaf, policy.version) for one, leaf in zip(chunk, leaves, strict=True)})
        found.calls.append((outputs, leaves))
    return found
