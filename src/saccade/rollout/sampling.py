"""Sampling the next token of every row. Shape letters: N rows, V vocabulary, C blocks of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.rollout.config import Sampling

BLOCK = 256
"""Tokens per block. The running sum over the vocabulary has one entry per block, then one block is searched."""
CHUNK = 1 << 24
"""Most logits processed at once: 64 MiB in float32, independent of the number of rows."""


class TokenSampler:
    """Samples tokens and returns their log-probs under the full temperature-scaled distribution, as used in training.

    `banned` tokens are never sampled; `stops` are not sampled in rows marked as early. One number in [0, 1) determines
    a row's draw.
    """

    def __init__(self, sampling: Sampling, banned: Sequence[int], stops: Sequence[int], device: torch.device) -> None:
        self.sampling = sampling
        self.banned = torch.tensor(banned, dtype=torch.long, device=device)
        self.stops = torch.tensor(stops, dtype=torch.long, device=device)

    def __call__(self, logits_NV: Tensor, uniform_N: Tensor, early: Sequence[int]) -> tuple[list[int], list[float]]:
        """Tokens and log-probs on the host, with one transfer. `early`: rows in which no stop token may be sampled.

        `uniform_N` is float64. Log-probs are nonfinite where the logits are: the caller must check.
        """
        device, rows = logits_NV.device, max(1, CHUNK // logits_NV.shape[1])
        early_N = torch.zeros(len(logits_NV), dtype=torch.bool)
        early_N[list(early)] = True
        early_N, uniform_N = early_N.to(device), uniform_N.to(device)
        any_early = bool(early)
        found = []
        for start in range(0, len(logits_NV), rows):
            some = slice(start, start + rows)
            found.append(self._pick(logits_NV[some], uniform_N[some], early_N[some] if any_early else None))
        tokens, logprobs = torch.cat(found, 1).tolist()
        return [int(token) for token in tokens], logprobs

    def _pick(self, logits_NV: Tensor, uniform_N: Tensor, early_N: Tensor | None) -> Tensor:
        """(2, N) float64: tokens (exact in float64) and log-probs."""
        temperature = self.sampling.temperature
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        logprobs_NV = torch.log_softmax(logits_NV if temperature == 1 else logits_NV / temperature, -1)
        weights_NV = logprobs_NV.exp()
        weights_NV[:, self.banned] = 0
        if early_N is not None:
            weights_NV[:, self.stops] = weights_NV[:, self.stops].masked_fill(early_N[:, None], 0)
        next_N = weights_NV.argmax(-1) if self.sampling.greedy else draw(cut(weights_NV, self.sampling), uniform_N)
        return torch.stack([next_N.double(), logprobs_NV.gather(1, next_N[:, None])[:, 0].double()])


def cut(weights_NV: Tensor, sampling: Sampling) -> Tensor:
    """The weights with 0 for tokens excluded by top-k, top-p and min-p; they need not sum to 1."""
    if 0 < sampling.top_k < weights_NV.shape[1]:
        largest_NK, order_NK = weights_NV.topk(sampling.top_k, -1)
        weights_NV = torch.zeros_like(weights_NV).scatter_(1, order_NK, largest_NK)
    if sampling.top_p < 1:
        sorted_NV, order_NV = weights_NV.sort(-1, descending=True)
        cumulative_NV = sorted_NV.cumsum(-1, dtype=torch.float64)
        before_NV = cumulative_NV - sorted_NV
        beyond_NV = before_NV >= sampling.top_p * cumulative_NV[:, -1:]
        beyond_NV[:, 0] = False
        weights_NV = torch.zeros_like(weights_NV).scatter_(1, order_NV, sorted_NV.masked_fill(beyond_NV, 0))
    if sampling.min_p:
        weights_NV = weights_NV.masked_fill(weights_NV < sampling.min_p * weights_NV.amax(-1, keepdim=True), 0)
    return weights_NV


def draw(weights_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """Inverse transform sampling: the first token at which the running sum of weights exceeds uniform x their sum."""
    blocks_NCB = F.pad(weights_NV, (0, -weights_NV.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    mass_NC = blocks_NCB.sum(-1, dtype=torch.float64)
    upto_NC = mass_NC.cumsum(-1)
    point_N1 = (uniform_N * upto_NC[:, -1])[:, None]
    block_N1 = _first_beyond(upto_NC, mass_NC, point_N1)
    inside_NB = blocks_NCB.gather(1, block_N1[:, :, None].expand(-1, -1, BLOCK))[:, 0].double()
    point_N1 = point_N1 - (upto_NC - mass_NC).gather(1, block_N1)
    return (block_N1 * BLOCK + _first_beyond(inside_NB.cumsum(-1), inside_NB, point_N1))[:, 0]


def _first_beyond(cumulative_NX: Tensor, weights_NX: Tensor, point_N1: Tensor) -> Tensor:
    """(N, 1) index of the first running sum above the point, or the likeliest if round-off hits a zero weight."""
    inside_N1 = torch.minimum(point_N1.clamp_min(0), cumulative_NX[:, -1:] * (1 - 2**-52))
    found_N1 = torch.searchsorted(cumulative_NX, inside_N1, right=True).clamp_max_(cumulative_NX.shape[1] - 1)
    return torch.where(weights_NX.gather(1, found_N1) > 0, found_N1, weights_NX.argmax(-1, keepdim=True))
