"""From a packed batch to log-probs, by two paths that a test proves equal: `packed` (one row per group, the prompt and
its images once) and `plain` (one row per branch through the family's own forward, the reference).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from saccade.models.adapter import EncodedPrompt
from saccade.models.logprobs import token_logprobs
from saccade.models.packing import Packed, attention_mask
from saccade.models.policy import Policy

Path = Literal["packed", "plain"]


@dataclass(frozen=True, eq=False)
class Features:
    """Output of vision tower and projector, one tensor (V, D) per prompt, valid for one weights version."""

    per_prompt: tuple[Tensor, ...]
    version: int

    def take(self, indices: Sequence[int]) -> Features:
        """The features of some of the prompts."""
        return Features(tuple(self.per_prompt[i] for i in indices), self.version)


def vision_features(policy: Policy, prompts: Sequence[EncodedPrompt]) -> Features:
    """Run the tower once per prompt. Without gradient when tower and projector are frozen, so the result may be shared
    by rollout, reference and policy passes of the same weights version."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and not policy.vision_is_frozen()):
        return Features(policy.adapter.vision(policy.model, prompts), policy.version)


def branch_logprobs(
    policy: Policy,
    packed: Packed,
    features: Features | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    path: Path = "packed",
) -> tuple[Tensor, Tensor | None]:
    """Log-probs (R) of the loss tokens of `packed`, in its order, and their entropies if asked.

    `features` must be of the policy's current version (ValueError otherwise); without them the tower runs here.
    """
    with policy.recomputing():
        hidden_RD = _packed_hidden(policy, packed, features) if path == "packed" else _plain_hidden(policy, packed)
    return token_logprobs(
        hidden_RD, policy.model.lm_head.weight, packed.targets_R.to(policy.device), temperature, entropy
    )


def embedded(features: Features) -> dict[str, BaseModelOutputWithPooling] | None:
    """The features in the form in which transformers' models take ready vision outputs."""
    with_images: Any = tuple(f for f in features.per_prompt if f.shape[0])  # declared a tensor, read as a sequence
    return {"image": BaseModelOutputWithPooling(pooler_output=with_images)} if with_images else None


def _packed_hidden(policy: Policy, packed: Packed, features: Features | None) -> Tensor:
    if features is None:
        features = vision_features(policy, packed.prompts)
    elif features.version != policy.version:
        raise ValueError(
            f"vision features of weights version {features.version} given at version {policy.version}; take new ones"
        )
    needs_gradient = torch.is_grad_enabled() and not policy.vision_is_frozen()
    carried = [f.requires_grad for f in features.per_prompt if f.shape[0]]  # none for prompts of text alone
    if needs_gradient and carried and not any(carried):
        raise ValueError("vision tower or projector trains, but its features carry no gradient; pass features=None")
    device = policy.device
    hidden_BTD = policy.model.model(
        input_ids=packed.ids_BT.to(device),
        position_ids=packed.positions_3BT.to(device),
        attention_mask=attention_mask(packed.segments_BT.to(device), policy.model.dtype),
        mm_encoder_outputs=embedded(features),
        use_cache=False,
    ).last_hidden_state
    return hidden_BTD.flatten(0, 1)[packed.source_R.to(device)]


def _plain_hidden(policy: Policy, packed: Packed) -> Tensor:
    """One padded batch per group, images repeated, positions and mask left to transformers: what other trainers do."""
    device, rows = policy.device, []
    for prompt, branches in zip(packed.prompts, packed.branches, strict=True):
        P, G, T = len(prompt), len(branches), len(prompt) + max(len(b.ids) for b in branches)
        ids = torch.zeros(G, T, dtype=torch.long)
        mask = torch.zeros(G, T, dtype=torch.long)
        for row, branch in enumerate(branches):
            n = P + len(branch.ids)
            ids[row, :P], ids[row, P:n], mask[row, :n] = prompt.ids_P, torch.tensor(branch.ids), 1
        images = {name: torch.cat([value] * G).to(device) for name, value in prompt.pixels.items()}
        if images:
            images["mm_token_type_ids"] = (ids == policy.model.config.image_token_id).int().to(device)
        hidden_GTD = policy.model.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **images
        ).last_hidden_state
        rows += [hidden_GTD[row, P - 1 + b.loss_from : P - 1 + len(b.ids)] for row, b in enumerate(branches)]
    return torch.cat(rows)
