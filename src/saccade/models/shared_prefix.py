"""Attention of a packed row, identical to that of separate rows: siblings share their prompt's keys and values.

A branch attends to its prompt and, causally, to itself. Flash kernels compute the two parts separately, and the results
are merged with their log-sum-exps: keys are not copied G times, and no padding or mask is needed. The backward pass
gives each part the *merged* output and log-sum-exp, from which a flash backward computes the part's exact gradients
(the identity of ring attention, arXiv:2310.01889). Forward and backward are thus two kernel calls over contiguous
ranges:

    self:   every prompt and every branch, causally within itself
    cross:  all branches of a group against their prompt, without a mask

Shape letters: T tokens of the row, S of them in branches, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.models.packing import Layout

AttentionKernel = Literal["merged", "split"]


SHORT = 128
"""Causal segments up to this length are padded and batched with others of similar length: a call costs more than the
padding."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Causal segments of one row that are batched in one kernel call."""

    start: int
    count: int
    length: int
    """Length of the longest segment."""
    tokens_T: Tensor | None = None
    """None: the segments are adjacent and of equal length. Otherwise the (count x length) token indices to gather. A
    shorter segment repeats its last token: as a key no real query sees it, as a query its gradient is 0."""
    real_T: Tensor | None = None
    """Indices into `tokens_T` that are not padding."""

    def gather(self, x: Tensor, zero_padding: bool = False) -> Tensor:
        """(1, heads, T, ...) -> (count, heads, length, ...), a view where possible."""
        if self.tokens_T is None or self.real_T is None:
            cut = x[0, :, self.start : self.start + self.count * self.length]
        elif zero_padding:
            cut = x.new_zeros(x.shape[1], len(self.tokens_T), *x.shape[3:])
            cut[:, self.real_T] = x[0][:, self.tokens_T[self.real_T]]
        else:
            cut = x[0][:, self.tokens_T]
        return cut.unflatten(1, (self.count, self.length)).transpose(0, 1)

    def scatter(self, target: Tensor, value: Tensor) -> None:
        """The inverse of `gather`."""
        if self.tokens_T is None or self.real_T is None:
            self.gather(target).copy_(value)
        else:
            flat = value.transpose(0, 1).flatten(1, 2)
            target[0].index_copy_(1, self.tokens_T[self.real_T], flat[:, self.real_T])


def batch_segments(starts: Sequence[int], lengths: Sequence[int]) -> list[Segments]:
    """Batches that cover every nonempty segment once: long ones alone, short ones with others of similar length."""
    found: list[Segments] = []
    ordered = sorted((n, start) for start, n in zip(starts, lengths, strict=True) if n)
    while ordered:
        longest, _ = ordered[-1]
        slack = max(8, longest // 6) if longest <= SHORT else 0
        members = sorted(start for n, start in ordered if n >= longest - slack)
        sizes = {start: n for n, start in ordered}
        ordered = [(n, start) for n, start in ordered if n < longest - slack]
        together = all(b - a == longest for a, b in pairwise(members)) and len({sizes[m] for m in members}) == 1
        if together:
            found.append(Segments(members[0], len(members), longest))
        elif longest > SHORT:
            found += [Segments(start, 1, longest) for start in members]
        else:
            at = torch.arange(longest)
            last = torch.tensor([sizes[m] - 1 for m in members])[:, None]
            tokens = torch.tensor(members)[:, None] + torch.minimum(at, last)
            found.append(
                Segments(members[0], len(members), longest, tokens.flatten(), (at <= last).flatten().nonzero()[:, 0])
            )
    return found


@dataclass(frozen=True)
class Spans:
    """Pairs of segments: queries `[q[i], q[i+1])` attend to keys `[k[i], k[i+1])`."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    causal: bool

    def pairs(self) -> Iterator[tuple[slice, slice]]:
        for i in range(len(self.q) - 1):
            yield slice(self.q[i], self.q[i + 1]), slice(self.k[i], self.k[i + 1])

    def longest(self) -> tuple[int, int]:
        """Lengths of the longest query segment and the longest key segment."""
        q, k = (max((b - a for a, b in pairwise(cut)), default=0) for cut in (self.q, self.k))
        return q, k

    @cached_property
    def batches(self) -> list[Segments]:
        """For causal spans, in which queries and keys are the same segments."""
        return batch_segments(self.q[:-1], [b - a for a, b in pairwise(self.q)])


class Saved(NamedTuple):
    """Tensors that a flash backward needs from its forward."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor


Gradients = tuple[Tensor, Tensor, Tensor]
"""Gradients of q, k and v."""


class FlashKernel(Protocol):
    """Flash attention over spans. Tensors are (1, heads, tokens, D), log-sum-exps (1, H, tokens) in natural log."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float | None) -> tuple[Tensor, Tensor]: ...

    def backward(self, grad: Tensor, saved: Saved, spans: Spans, scale: float | None) -> Gradients: ...


class CpuFlash:
    """torch's flash kernel for CPUs; short segments of similar length are batched."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float | None) -> tuple[Tensor, Tensor]:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out = torch.empty_like(q)
        lse = q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
        if spans.causal:
            for batch in spans.batches:
                found, found_lse = kernel(*(batch.gather(x) for x in (q, k, v)), 0.0, True, scale=scale)
                batch.scatter(out, found)
                batch.scatter(lse, found_lse)
        else:
            for rows, keys in spans.pairs():
                if rows.stop > rows.start:
                    found, found_lse = kernel(q[:, :, rows], k[:, :, keys], v[:, :, keys], 0.0, False, scale=scale)
                    out[:, :, rows], lse[:, :, rows] = found, found_lse
        return out, lse

    def backward(self, grad: Tensor, saved: Saved, spans: Spans, scale: float | None) -> Gradients:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        q, k, v, out, lse = saved
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        if spans.causal:
            for batch in spans.batches:
                taken = (batch.gather(x) for x in saved)
                found = kernel(batch.gather(grad, zero_padding=True), *taken, 0.0, True, scale=scale)
                for target, value in zip((dq, dk, dv), found, strict=True):
                    batch.scatter(target, value)
        else:
            for rows, keys in spans.pairs():
                if rows.stop > rows.start:
                    (grad_i, q_i, out_i, lse_i), (k_i, v_i) = _cut(rows, grad, q, out, lse), _cut(keys, k, v)
                    found = kernel(grad_i, q_i, k_i, v_i, out_i, lse_i, 0.0, False, scale=scale)
                    dq[:, :, rows], dk[:, :, keys], dv[:, :, keys] = found
        return dq, dk, dv


class CudaFlash:
    """torch's built-in variable-length flash attention: one launch for all segments.

    Takes tensors (tokens, heads, D) in half precision; grouped-query attention is supported natively.
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
        self._noise[spans] = (state, offset)  # random state of dropout, which is off: equal for every layer
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
    """See the module docstring; saves q, k, v, the output and one float per head and token."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, shared: MergedPrefix, scale: float | None) -> Tensor:
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # torch declares (ctx, *grads)
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

    def __init__(self, layout: Layout, kernel: FlashKernel) -> None:
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


def fastest_kernel(device: torch.device, dtype: torch.dtype, head_size: int = 128) -> AttentionKernel:
    """Flash kernels ('merged') on CPUs, and on CUDA for half precision, head sizes up to 256 divisible by 8, and GPUs
    since Ampere; otherwise 'split'."""
    if device.type == "cuda":
        fits = dtype in (torch.float16, torch.bfloat16) and head_size % 8 == 0 and head_size <= 256
        recent = not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)
        return "merged" if fits and recent else "split"
    return "merged" if device.type == "cpu" else "split"


def shared_attention(
    layout: Layout, device: torch.device, dtype: torch.dtype, kernel: AttentionKernel
) -> MergedPrefix | SplitPrefix:
    """The attention of a packed row. ValueError for 'merged' where no flash kernel is available."""
    if kernel == "split":
        return SplitPrefix(layout)
    if fastest_kernel(device, dtype) != "merged":
        raise ValueError(f"no flash kernel for {dtype} on {device.type}; use bfloat16 on a GPU, or the split kernel")
    return MergedPrefix(layout, CpuFlash() if device.type == "cpu" else CudaFlash())


def _cut(tokens: slice, *tensors: Tensor) -> list[Tensor]:
    return [x[:, :, tokens] for x in tensors]
