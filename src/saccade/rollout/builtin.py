"""The built-in engine: each prompt is prefilled once, its completions decode together against cached keys and values.

Shape letters: B prompts, N = B x n rows, P padded prompt length, T cache length, H key/value heads, D head size,
V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt, pad_positions
from saccade.models.forward import Features, vision_features
from saccade.models.policy import Policy
from saccade.rollout.engine import Sampling
from saccade.types import Completion, FinishReason


class RowCache:
    """Keys and values of all rows in preallocated tensors; the part of `transformers.Cache` that models call."""

    is_compileable = False

    def __init__(self, layers: int) -> None:
        self.keys: list[Tensor] = [torch.empty(0)] * layers
        self.values: list[Tensor] = [torch.empty(0)] * layers
        self.length = 0
        self.capacity = 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append (N, H, t, D) of one layer; returns what it stores. The caller moves `length` on after the last."""
        start, end = self.length, self.length + key.shape[2]
        if self.capacity == 0:
            self.keys[layer_idx], self.values[layer_idx] = key, value
            return key, value
        self.keys[layer_idx][:, :, start:end] = key
        self.values[layer_idx][:, :, start:end] = value
        return self.keys[layer_idx][:, :, :end], self.values[layer_idx][:, :, :end]

    def get_seq_length(self, *_: object) -> int:
        return self.length

    def expand(self, n: int, extra: int) -> None:
        """Repeat each row n times and make room for `extra` more tokens."""
        self.length = self.keys[0].shape[2]
        self.capacity = self.length + extra
        for store in (self.keys, self.values):
            for i, tensor in enumerate(store):
                wide = tensor.new_empty(tensor.shape[0] * n, tensor.shape[1], self.capacity, tensor.shape[3])
                wide[:, :, : self.length] = tensor.repeat_interleave(n, 0)
                store[i] = wide

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]


class BuiltinEngine:
    """Generates with the policy's own weights, in process. Sampler log-probs equal the trainer's to round-off."""

    def __init__(self, policy: Policy, max_rows: int = 512) -> None:
        self.policy = policy
        self.max_rows = max_rows
        self.version = policy.version

    def sync(self, policy: Policy, version: int) -> None:
        self.policy, self.version = policy, version

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        sampling: Sampling,
        n: int,
        seed: int,
        features: Features | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. A prompt's replies depend on its place in the call and the seed, on no neighbour."""
        if features is None:
            features = vision_features(self.policy, prompts)
        out: list[list[Completion]] = [[] for _ in prompts]
        width = min(n, self.max_rows)  # replies to one prompt at once
        per_call = self.max_rows // width
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), per_call):
            chunk = order[start : start + per_call]
            for first in range(0, n, width):
                g = min(width, n - first)
                draws = [_uniforms(seed, i, n, sampling.max_new_tokens)[first : first + g] for i in chunk]
                rows = self._decode([prompts[i] for i in chunk], features.take(chunk), sampling, g, torch.cat(draws))
                for place, i in enumerate(chunk):
                    out[i] += rows[place * g : (place + 1) * g]
        return out

    def _decode(
        self, prompts: list[EncodedPrompt], features: Features, sampling: Sampling, n: int, uniforms_NT: Tensor
    ) -> list[Completion]:
        model, device = self.policy.model, self.policy.device
        cache = RowCache(model.config.text_config.num_hidden_layers)
        hidden_BD, valid_BP = self._prefill(prompts, features, cache)
        cache.expand(n, sampling.max_new_tokens)
        tokens_NT = torch.zeros(len(prompts) * n, sampling.max_new_tokens, dtype=torch.long)
        logprobs_NT = torch.zeros(tokens_NT.shape)
        lengths_N = torch.full((len(tokens_NT),), sampling.max_new_tokens)
        finished_N = torch.zeros(len(tokens_NT), dtype=torch.bool)
        active = torch.arange(len(tokens_NT), device=device)
        start_N = torch.tensor([p.next_position for p in prompts], device=device).repeat_interleave(n)
        mask_NT = torch.zeros(len(tokens_NT), cache.capacity, dtype=model.dtype, device=device)
        mask_NT[:, : valid_BP.shape[1]].masked_fill_(~valid_BP.repeat_interleave(n, 0), torch.finfo(model.dtype).min)
        logits_NV = model.lm_head(hidden_BD).repeat_interleave(n, 0)
        stops = torch.tensor(self.policy.adapter.stop_ids, device=device)
        for t in range(sampling.max_new_tokens):
            next_N, logprob_N = self._pick(logits_NV, sampling, uniforms_NT[active.cpu(), t].to(device))
            tokens_NT[active.cpu(), t], logprobs_NT[active.cpu(), t] = next_N.cpu(), logprob_N.float().cpu()
            done = torch.isin(next_N, stops)
            if done.any():
                lengths_N[active[done].cpu()] = t + 1
                finished_N[active[done].cpu()] = True
                kept = (~done).nonzero()[:, 0]
                active, next_N = active[kept], next_N[kept]
                cache.keep(kept)
            if len(active) == 0 or t + 1 == sampling.max_new_tokens:
                break
            logits_NV = self._step(next_N, start_N[active] + t, mask_NT[active], cache)
        return self._completions(prompts, n, tokens_NT, logprobs_NT, lengths_N, finished_N)

    def _prefill(self, prompts: list[EncodedPrompt], features: Features, cache: RowCache) -> tuple[Tensor, Tensor]:
        """Right-padded prompts in one pass; hidden state of each prompt's last token and the mask of real tokens."""
        model, device = self.policy.model, self.policy.device
        P = max(len(p) for p in prompts)
        ids_BP = torch.zeros(len(prompts), P, dtype=torch.long)
        valid_BP = torch.zeros(len(prompts), P, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            ids_BP[row, : len(prompt)], valid_BP[row, : len(prompt)] = prompt.ids_P, True
        allowed = torch.ones(P, P, dtype=torch.bool).tril() & valid_BP[:, None, :] | torch.eye(P, dtype=torch.bool)
        mask = torch.zeros(allowed.shape, dtype=model.dtype).masked_fill_(~allowed, torch.finfo(model.dtype).min)
        hidden_BPD = model.model(
            input_ids=ids_BP.to(device),
            position_ids=pad_positions([p.positions_3P for p in prompts], P).to(device),
            attention_mask=mask[:, None].to(device),
            mm_encoder_outputs=self.policy.adapter.embedded(features.per_prompt),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last = torch.tensor([len(p) - 1 for p in prompts], device=device)
        return hidden_BPD[torch.arange(len(prompts), device=device), last], valid_BP.to(device)

    def _step(self, next_N: Tensor, position_N: Tensor, mask_NT: Tensor, cache: RowCache) -> Tensor:
        model = self.policy.model
        hidden_N1D = model.model(
            input_ids=next_N[:, None],
            position_ids=position_N.view(1, -1, 1).expand(3, -1, -1),
            attention_mask=mask_NT[:, None, None, : cache.length + 1],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.length += 1
        return model.lm_head(hidden_N1D[:, 0])

    def _pick(self, logits_NV: Tensor, sampling: Sampling, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens and their log-probs under the full temperature-scaled distribution, which is what is trained."""
        logits_NV = logits_NV.float()
        allowed_NV = logits_NV.clone()
        allowed_NV[:, list(self.policy.adapter.banned_ids)] = -torch.inf
        scaled_NV = logits_NV / sampling.temperature
        next_N = allowed_NV.argmax(-1) if sampling.greedy else _draw(allowed_NV, sampling, uniform_N)
        logprob_N = scaled_NV.gather(1, next_N[:, None])[:, 0] - torch.logsumexp(scaled_NV, -1)
        return next_N, logprob_N

    def _completions(
        self,
        prompts: list[EncodedPrompt],
        n: int,
        tokens_NT: Tensor,
        logprobs_NT: Tensor,
        lengths_N: Tensor,
        finished_N: Tensor,
    ) -> list[Completion]:
        out = []
        for row, length in enumerate(lengths_N.tolist()):
            ids = tokens_NT[row, :length].tolist()
            reason: FinishReason = "stop" if finished_N[row] else "length"
            out.append(
                Completion(
                    text=self.policy.adapter.decode(ids),
                    token_ids=tuple(ids),
                    logprobs=tuple(logprobs_NT[row, :length].tolist()),
                    finish_reason=reason,
                    frames=prompts[row // n].frames,
                    weights_version=self.version,
                )
            )
        return out


def _uniforms(seed: int, index: int, n: int, length: int) -> Tensor:
    """The random numbers of one prompt's replies, (n, length) in [0, 1), a function of (seed, place in the call)."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(n, length, generator=generator, dtype=torch.float64)


def _draw(logits_NV: Tensor, sampling: Sampling, uniform_N: Tensor) -> Tensor:
    """Inverse-transform sampling from the temperature-scaled distribution, cut to top-k and top-p where asked."""
    probs_NV = torch.softmax(logits_NV / sampling.temperature, -1)
    if sampling.top_k or sampling.top_p < 1:
        sorted_NV, order_NV = probs_NV.sort(-1, descending=True)
        cut = torch.zeros_like(sorted_NV, dtype=torch.bool)
        if sampling.top_k:
            cut[:, sampling.top_k :] = True
        cut |= sorted_NV.cumsum(-1) - sorted_NV >= sampling.top_p
        probs_NV = torch.zeros_like(probs_NV).scatter_(1, order_NV, sorted_NV.masked_fill(cut, 0.0))
    cumulative_NV = probs_NV.double().cumsum(-1)
    point_N1 = (uniform_N * cumulative_NV[:, -1])[:, None]
    drawn_N = torch.searchsorted(cumulative_NV, point_N1, right=True)[:, 0]
    # round-off may leave the point beyond the last token with mass: fall back to the likeliest
    last_N = probs_NV.argmax(-1)
    inside_N = drawn_N.clamp_max(probs_NV.shape[1] - 1)
    valid = (drawn_N < probs_NV.shape[1]) & (probs_NV.gather(1, inside_N[:, None])[:, 0] > 0)
    return torch.where(valid, inside_N, last_N)
