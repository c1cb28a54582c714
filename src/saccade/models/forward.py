"""From a packed batch to log-probs, by two paths that tests prove equal: `packed` (every prompt and its images once,
with the sharing mode that the family supports) and `plain` (one row per branch through the family's own forward, the
reference).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from saccade.models import shared_prefix
from saccade.models.adapter import EncodedPrompt
from saccade.models.attention import no_mask
from saccade.models.dense_masks import dense_masks
from saccade.models.logprobs import Entropy, head_of, token_logprobs
from saccade.models.packing import Packed
from saccade.models.policy import Policy
from saccade.models.tower_output import TowerOutput, features_again, features_and_tower, shares_tower
from saccade.models.two_phase import two_phase_hidden

Path = Literal["packed", "plain"]
SharingMode = Literal["merged", "split", "masks", "two_phase"]
"""How a packed batch is attended: merged flash kernels, plain sdpa, dense masks, or the family's cache."""


PATCHES_AT_ONCE = 65_536
"""Most patches in one call of the vision tower: 16 images of 896 x 896 pixels in patches of 14."""


@dataclass(frozen=True, eq=False)
class Features:
    """Output of vision encoder and projector for one prompt, valid for one version of the weights."""

    values: Tensor
    """(V, D), or (V, K, D) where a visual token has K vectors; (0, ...) for a text-only prompt."""
    version: int
    tower: TowerOutput | None = None
    """What a frozen tower gave, from which a projector that trains computes the features of each pass."""


def vision_features(policy: Policy, prompts: Sequence[EncodedPrompt]) -> list[Features]:
    """Run the vision encoder (the "tower") once per prompt.

    Without gradient when it and the projector are frozen, so that rollout, reference and policy passes at the same
    weights version can share the result. When only the projector trains, they can share the tower's output, which a
    call without gradient keeps (`project_again`).
    """
    if not torch.is_grad_enabled() and shares_tower(policy):
        with policy.adapted():
            pairs = [features_and_tower(policy, prompt) for prompt in prompts]
        return [Features(values, policy.version, tower) for values, tower in pairs]
    frozen = policy.vision_is_frozen()

    def encode() -> list[Tensor]:
        return [one for chunk in tower_batches(policy, prompts) for one in policy.adapter.vision(policy.model, chunk)]

    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen), policy.adapted():
        found = encode() if frozen else policy.run(encode)  # a frozen vision side is never sharded
        return [Features(one, policy.version) for one in found]


def project_again(
    policy: Policy, prompts: Sequence[EncodedPrompt], before: Sequence[Features]
) -> list[Features] | None:
    """Features of this pass from the tower's output in earlier ones, of any weights; None when one lacks it."""
    if not shares_tower(policy) or any(one.tower is None for one in before):
        return None
    pairs = zip(prompts, before, strict=True)
    return [Features(features_again(policy, prompt, one.tower or {}), policy.version) for prompt, one in pairs]


def tower_batches(policy: Policy, prompts: Sequence[EncodedPrompt]) -> list[list[EncodedPrompt]]:
    """Split the prompts into one list per call of the tower, which bounds the memory for activations."""
    batches: list[list[EncodedPrompt]] = [[]]
    patches = 0
    for prompt in prompts:
        own = policy.adapter.patches(prompt)
        if batches[-1] and patches + own > PATCHES_AT_ONCE:
            batches.append([])
            patches = 0
        batches[-1].append(prompt)
        patches += own
    return batches


def branch_logprobs(
    policy: Policy,
    packed: Packed,
    features: Sequence[Features] | None = None,
    temperature: float = 1.0,
    entropy: Entropy = False,
    path: Path = "packed",
    sharing: SharingMode | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs (R) of the loss tokens of `packed`, in its order, and their entropies if `entropy`, with a gradient
    if that is 'gradient'.

    `features`, one per prompt of `packed`, must be of the policy's current version (ValueError otherwise); without them
    the vision encoder runs here. `sharing` None selects the fastest mode of the family and the device.
    """

    def compute() -> tuple[Tensor, Tensor | None]:
        with policy.adapted(), policy.recomputing():
            if path == "plain":
                hidden_RD = _plain_hidden(policy, packed)
            else:
                hidden_RD = _packed_hidden(policy, packed, features, sharing or default_sharing(policy))
        targets_R = packed.targets_R.to(policy.device)
        return token_logprobs(hidden_RD, head_of(policy.model), targets_R, temperature, entropy)

    return policy.run(compute)


def default_sharing(policy: Policy) -> SharingMode:
    """The fastest sharing mode of this family. ValueError when it has none."""
    sharing = policy.adapter.sharing
    if sharing == "attention":
        return shared_prefix.fastest_kernel(policy.device, policy.model.dtype, policy.head_size)
    if sharing == "none":
        raise ValueError(
            f"{policy.model.config.model_type}: prompt sharing is not supported; set update.shared_prefix: off"
        )
    return sharing


def check_features(policy: Policy, prompts: Sequence[EncodedPrompt], features: Sequence[Features]) -> None:
    """ValueError when features do not match these prompts, come from older weights, or lack a required gradient."""
    stale = next((one.version for one in features if one.version != policy.version), None)
    if stale is not None:
        raise ValueError(
            f"vision features of weights version {stale} given at version {policy.version}; recompute them"
        )
    needs_gradient = torch.is_grad_enabled() and not policy.vision_is_frozen()
    has_gradient = [f.values.requires_grad for f in features if f.values.shape[0]]  # empty for text-only prompts
    if needs_gradient and has_gradient and not any(has_gradient):
        raise ValueError("vision tower or projector trains, but its features have no gradient; pass features=None")
    image_ids = torch.tensor(policy.adapter.image_ids, dtype=torch.long)
    for prompt, one in zip(prompts, features, strict=True):
        tokens = int(torch.isin(prompt.ids_P, image_ids).sum())
        if tokens != one.values.shape[0]:
            raise ValueError(
                f"prompt {prompt.prompt_id} has {tokens} image tokens but {one.values.shape[0]} visual features; "
                "expected equal numbers: the image processor's files and the model's config do not match"
            )


def _packed_hidden(policy: Policy, packed: Packed, features: Sequence[Features] | None, sharing: SharingMode) -> Tensor:
    if features is None:
        features = vision_features(policy, packed.prompts)
    check_features(policy, packed.prompts, features)
    if sharing in ("masks", "two_phase"):
        hidden_of = _masked_hidden if sharing == "masks" else _two_phase_hidden
        return torch.cat([hidden_of(policy, group, features[i]) for i, group in enumerate(packed.groups())])
    device, model = policy.device, policy.model
    attention = shared_prefix.shared_attention(packed.layout, device, model.dtype, sharing)
    hidden_1TD = model.model(
        input_ids=packed.ids_T[None].to(device),
        position_ids=policy.adapter.position_ids(packed.positions_3T[:, None]).to(device),
        attention_mask=no_mask(device, model.dtype),
        mm_encoder_outputs=policy.adapter.as_mm_outputs([one.values for one in features]),
        use_cache=False,
        shared_attention=attention,
    ).last_hidden_state
    return hidden_1TD[0, packed.source_R.to(device)]


def _masked_hidden(policy: Policy, packed: Packed, features: Features) -> Tensor:
    device, model, adapter = policy.device, policy.model, policy.adapter
    masks = dense_masks(packed, adapter.mask_rules(model), adapter.image_ids, model.dtype)
    hidden_1TD = model.model(
        input_ids=packed.ids_T[None].to(device),
        position_ids=adapter.position_ids(packed.positions_3T[:, None]).to(device),
        attention_mask={kind: mask.to(device) for kind, mask in masks.items()},
        mm_encoder_outputs=adapter.as_mm_outputs([features.values]),
        use_cache=False,
    ).last_hidden_state
    return hidden_1TD[0, packed.source_R.to(device)]


def _two_phase_hidden(policy: Policy, packed: Packed, features: Features) -> Tensor:
    outputs: dict[str, Any] | None = policy.adapter.as_mm_outputs([features.values])
    return two_phase_hidden(policy.model, policy.adapter, packed, outputs, policy.device)


def _plain_hidden(policy: Policy, packed: Packed) -> Tensor:
    """One padded batch per group, images repeated; transformers computes positions and mask, as in other trainers."""
    device, rows = policy.device, []
    for prompt, branches in zip(packed.prompts, packed.branches, strict=True):
        P, G, T = len(prompt), len(branches), len(prompt) + max(len(b.ids) for b in branches)
        ids_GT = torch.zeros(G, T, dtype=torch.long)
        mask_GT = torch.zeros(G, T, dtype=torch.long)
        for row, branch in enumerate(branches):
            n = P + len(branch.ids)
            ids_GT[row, :P], ids_GT[row, P:n], mask_GT[row, :n] = prompt.ids_P, torch.tensor(branch.ids), 1
        inputs = policy.adapter.plain_inputs(prompt, ids_GT)
        hidden_GTD = policy.model.model(
            input_ids=ids_GT.to(device),
            attention_mask=mask_GT.to(device),
            use_cache=False,
            **{name: value.to(device) for name, value in inputs.items()},
        ).last_hidden_state
        rows += [hidden_GTD[row, [P - 1 + j for j in b.loss_places()]] for row, b in enumerate(branches)]
    return torch.cat(rows)
