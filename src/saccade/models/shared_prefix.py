"""Attention of a packed row, exactly that of the separate rows: siblings share their prompt's keys and values.

A branch attends to its prompt and, causally, to itself. The two parts are computed apart by flash kernels and merged
by their log-sum-exps; no key is copied G times, nothing is padded, no mask is built. The backward pass hands each part
the *merged* output and log-sum-exp, from which a flash backward computes the part's exact gradients (the identity of
ring attention, arXiv:2310.01889). So forward and backward are two kernel calls over contiguous ranges:

    self:   every prompt and every branch, causally within itself
    cross:  all branches of a group against their prompt, without a mask

Shape letters: T tokens of the row, S of them in branches, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, pairwise
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.models.packing import Layout

Form = Literal["merged", "split"]


@dataclass(frozen=True)
class Spans:
    """Segments that attend to each other pairwise: queries `[q[i], q[i+1])` to keys `[k[i], k[i+1])`."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    causal: bool

    def pairs(self) -> Iterator[tuple[slice, slice]]:
        for i in range(len(self.q) - 1):
            yield slice(self.q[i], self.q[i + 1]), slice(self.k[i], self.k[i + 1])

    def longest(self) -> tuple[int, int]:
        """Longest segment of queries and of keys."""
        q, k = (max((b - a for a, b in pairwise(cut)), default=0) for cut in (self.q, self.k))
        return q, k

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """(start, count, length) of neighbouring equal segments, for a causal `Spans` whose q and k are the same."""
        lengths = [(b - a, a) for a, b in zip(self.q[:-1], self.q[1:], strict=True)]
        found = [(length, list(run)) for length, run in groupby(lengths, key=lambda one: one[0])]
        return tuple((run[0][1], len(run), length) for length, run in found if length)


class Saved(NamedTuple):
    """What a flash backward needs of its forward."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor


Gradients = tuple[Tensor, Tensor, Tensor]
"""Of q, k and v."""


class Kernel(Protocol):
    """Flash attention over spans. Tensors are (1, heads, tokens, D), log-sum-exps (1, H, tokens) in natural log."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float | None) -> tuple[Tensor, Tensor]: ...

    def backward(self, grad: Tensor, saved: Saved, spans: Spans, scale: float | None) -> Gradients: ...


class CpuFlash:
    """torch's flash kernel for CPUs, a call per pair of segments; neighbouring equal segments go as one batch."""

    @staticmethod
    def _pieces(spans: Spans, tensors: tuple[Tensor, ...], keys: tuple[Tensor, ...]) -> Iterator[list[Tensor]]:
        """Views of query-like and key-like tensors per kernel call, (batch, heads, length, ...)."""
        if spans.causal:
            for start, count, length in spans.runs:
                cut = slice(start, start + count * length)
                yield [_batched(x[:, :, cut], count) for x in (*tensors, *keys)]
        else:
            for q, k in spans.pairs():
                if q.stop > q.start:
                    yield [*(x[:, :, q] for x in tensors), *(x[:, :, k] for x in keys)]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float | None) -> tuple[Tensor, Tensor]:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = torch.empty_like(q), _new_lse(q)
        for q_i, out_i, lse_i, k_i, v_i in self._pieces(spans, (q, out, lse), (k, v)):
            found, found_lse = kernel(q_i, k_i, v_i, 0.0, spans.causal, scale=scale)
            out_i.copy_(found)
            lse_i.copy_(found_lse)
        return out, lse

    def backward(self, grad: Tensor, saved: Saved, spans: Spans, scale: float | None) -> Gradients:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        q, k, v, out, lse = saved
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        pieces = self._pieces(spans, (grad, q, out, lse, dq), (k, v, dk, dv))
        for grad_i, q_i, out_i, lse_i, dq_i, k_i, v_i, dk_i, dv_i in pieces:
            found = kernel(grad_i, q_i, k_i, v_i, out_i, lse_i, 0.0, spans.causal, scale=scale)
            for target, value in zip((dq_i, dk_i, dv_i), found, strict=True):
                target.copy_(value)
        return dq, dk, dv


class CudaFlash:
    """torch's built-in flash attention over sequences of unequal lengths: one launch for all segments.

    Tensors go in as (tokens, heads, D), half precision; fewer key/value heads than query heads are native to it.
    """

    def __init__(self) -> None:
        self._cuts: dict[tuple[int, ...], Tensor] = {}
        self._noise: dict[Spans, tuple[Tensor, Tensor]] = {}

    def _cut(self, cuts: tuple[int, ...], device: torch.device) -> Tensor:
        if cuts not in self._cuts:
            self._cuts[cuts] = torch.tensor(cuts, dtype=torch.int32, device=device)
        return self._cuts[cuts]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float | None) -> tuple[Tensor, Tensor]:
        longest_q, longest_k = spans.longest()
        out, lse, state, offset, _ = torch.ops.aten._flash_attention_forward(
            *(x[0].transpose(0, 1) for x in (q, k, v)),
            self._cut(spans.q, q.device),
            self._cut(spans.k, q.device),
            longest_q,
            longest_k,
            0.0,
            spans.causal,
            False,
            scale=scale,
        )
        self._noise[spans] = (state, offset)  # random state of dropout, which is 0: equal for every layer
        return out.transpose(0, 1)[None], lse[None]

    def backward(self, grad: Tensor, saved: Saved, spans: Spans, scale: float | None) -> Gradients:
        longest_q, longest_k = spans.longest()
        found = torch.ops.aten._flash_attention_backward(
            *(x[0].transpose(0, 1).contiguous() for x in (grad, *saved[:4])),
            saved.lse[0].contiguous(),
            self._cut(spans.q, grad.device),
            self._cut(spans.k, grad.device),
            longest_q,
            longest_k,
            0.0,
            spans.causal,
            *self._noise[spans],
            scale=scale,
        )
        dq, dk, dv = (x.transpose(0, 1)[None] for x in found)
        return dq, dk, dv


class _Merged(torch.autograd.Function):
    """See the module's docstring; saves q, k, v, the output and one float per head and token."""

    @staticmethod
    def forward(  # type: ignore[override]  # torch declares (ctx, *args)
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, shared: MergedPrefix, scale: float | None
    ) -> Tensor:
        P, kernel = shared.prompt_tokens, shared.kernel
        out, lse = kernel.forward(q, k, v, shared.self_spans, scale)
        if q.shape[2] > P:
            cross, cross_lse = kernel.forward(q[:, :, P:], k[:, :, :P], v[:, :, :P], shared.cross_spans, scale)
            merged_lse = torch.logaddexp(lse[:, :, P:], cross_lse)
            own_share = torch.exp(lse[:, :, P:] - merged_lse)[..., None]
            cross_share = torch.exp(cross_lse - merged_lse)[..., None]
            out[:, :, P:] = (out[:, :, P:] * own_share + cross * cross_share).to(out.dtype)
            lse[:, :, P:] = merged_lse
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.shared, ctx.scale = shared, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # as above
        saved = Saved(*ctx.saved_tensors)
        shared: MergedPrefix = ctx.shared
        P, kernel = shared.prompt_tokens, shared.kernel
        dq, dk, dv = kernel.backward(grad, saved, shared.self_spans, ctx.scale)
        if grad.shape[2] > P:
            q, k, v, out, lse = saved
            branches = Saved(q[:, :, P:], k[:, :, :P], v[:, :, :P], out[:, :, P:], lse[:, :, P:])
            cross = kernel.backward(grad[:, :, P:], branches, shared.cross_spans, ctx.scale)
            dq[:, :, P:] += cross[0]
            dk[:, :, :P] += cross[1]
            dv[:, :, :P] += cross[2]
        return dq, dk, dv, None, None


class MergedPrefix:
    """`SharedAttention` of a packed row by merged flash kernels."""

    def __init__(self, layout: Layout, kernel: Kernel) -> None:
        lengths = (*layout.prompts, *(n for row in layout.branches for n in row))
        segments = tuple(accumulate(lengths, initial=0))
        self.prompt_tokens = layout.prompt_tokens
        self.kernel = kernel
        self.self_spans = Spans(segments, segments, causal=True)
        self.cross_spans = Spans(
            tuple(accumulate(map(sum, layout.branches), initial=0)),
            tuple(accumulate(layout.prompts, initial=0)),
            causal=False,
        )

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        return _Merged.apply(query, key, value, self, scale)


class SplitPrefix:
    """`SharedAttention` of a packed row by plain sdpa calls, one per prompt and branch: portable, any dtype."""

    def __init__(self, layout: Layout) -> None:
        self.spans = list(layout.spans())

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
        prompts: dict[int, slice] = {}
        out = []
        for group, branch, start, end in self.spans:
            own = slice(start, end)
            if branch == 0:
                prompts[group] = own
                part = F.scaled_dot_product_attention(
                    query[:, :, own], key[:, :, own], value[:, :, own], is_causal=True, scale=scale
                )
            else:
                k, v = (torch.cat([x[:, :, prompts[group]], x[:, :, own]], 2) for x in (key, value))
                n = end - start
                mask = torch.ones(n, k.shape[2], dtype=torch.bool, device=k.device).tril(k.shape[2] - n)
                part = F.scaled_dot_product_attention(query[:, :, own], k, v, attn_mask=mask, scale=scale)
            out.append(part)
        return torch.cat(out, 2)


def fastest_form(device: torch.device, dtype: torch.dtype) -> Form:
    """Flash kernels exist for CPUs, and on CUDA for half precision."""
    has_flash = device.type == "cpu" or (device.type == "cuda" and dtype in (torch.float16, torch.bfloat16))
    return "merged" if has_flash else "split"


def shared_attention(
    layout: Layout, device: torch.device, dtype: torch.dtype, form: Form
) -> MergedPrefix | SplitPrefix:
    """The attention of a packed row. ValueError when the merged form is asked for where there is no flash kernel."""
    if form == "split":
        return SplitPrefix(layout)
    if fastest_form(device, dtype) != "merged":
        raise ValueError(f"no flash kernel for {dtype} on {device.type}; use bfloat16 on a GPU, or the split form")
    return MergedPrefix(layout, CpuFlash() if device.type == "cpu" else CudaFlash())


def _new_lse(q: Tensor) -> Tensor:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape[:3], dtype=dtype)


def _batched(x: Tensor, count: int) -> Tensor:
    """(1, heads, count * length, ...) as (count, heads, length, ...), a view."""
    return x.unflatten(2, (count, -1))[0].transpose(0, 1)
