"""Attention over a packed row: every form equals the dense mask, values and gradients, for any lengths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples
from torch import Tensor

from saccade.models.packing import Layout
from saccade.models.shared_prefix import (
    SHORT,
    CpuFlash,
    CudaFlash,
    MergedPrefix,
    SplitPrefix,
    batch_segments,
    fastest_kernel,
    shared_attention,
)

HEADS, KV_HEADS, D = 4, 2, 8
LAYOUTS = [
    Layout((5,), ((3, 1, 7),)),
    Layout((9, 4), ((2, 2, 2), (6, 1))),
    Layout((3, 8, 1), ((), (4,), (2, 5))),
    Layout((40, 3), ((SHORT + 9, 30, 30, 2), (1,))),
    Layout((6,), ((),)),
]


def reference(layout: Layout, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The dense softmax, from the definition."""
    group_T, branch_T = layout.segments()
    sees = torch.ones(layout.length, layout.length, dtype=torch.bool).tril()
    sees &= (group_T[:, None] == group_T) & ((branch_T[None] == 0) | (branch_T[:, None] == branch_T))
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~sees, -math.inf)
    return torch.softmax(scores, -1) @ v


def inputs(layout: Layout, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        # transposed as a model's are, so that views are strided
        torch.randn(1, layout.length, heads, D, generator=generator, dtype=torch.float64).transpose(1, 2)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def run(attend, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of a fixed random sum of it."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    out = attend(*leaves)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


def assert_equals_the_dense_mask(form, layout: Layout) -> None:
    tensors, scale = inputs(layout), 0.3
    expected = run(lambda q, k, v: reference(layout, q, k, v, scale), tensors)
    got = run(lambda q, k, v: form.attend(0, q, k, v, scale), tensors)
    for name, a, b in zip(("output", "dq", "dk", "dv"), got, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-12, rtol=0), f"{name} of {layout}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("form", ["merged", "split"])
def test_a_packed_row_attends_as_the_dense_mask_says(form: str, layout: Layout) -> None:
    assert_equals_the_dense_mask(shared_attention(layout, torch.device("cpu"), torch.float64, form), layout)


GROUPS = st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 12), max_size=4)), min_size=1, max_size=4)


@settings(max_examples=examples(40))
@given(GROUPS)
def test_any_lengths_attend_as_the_dense_mask_says(groups: list[tuple[int, list[int]]]) -> None:
    layout = Layout(tuple(P for P, _ in groups), tuple(tuple(lengths) for _, lengths in groups))
    assert_equals_the_dense_mask(MergedPrefix(layout, CpuFlash()), layout)


@given(st.lists(st.integers(0, 2 * SHORT), max_size=30))
def test_every_segment_is_in_exactly_one_batch(lengths: list[int]) -> None:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    T = sum(lengths)
    target = torch.zeros(1, 1, T)
    row = torch.arange(1.0, T + 1)[None, None]
    for batch in batch_segments(starts, lengths):
        seen = batch.gather(target).clone()
        assert not seen.any(), "a token is in two batches"
        batch.scatter(target, batch.gather(row))
    assert torch.equal(target, row)


@pytest.fixture
def varlen_on_cpu() -> Iterator[list[bool]]:
    """torch's varlen flash operators with a plain implementation for CPU tensors: the CUDA form's own arithmetic (cuts,
    order of arguments, what is merged) runs without a GPU. What the real kernels compute, only a GPU can show."""
    calls: list[bool] = []

    def each(cu_q: Tensor, cu_k: Tensor) -> Iterator[tuple[slice, slice]]:
        for i in range(len(cu_q) - 1):
            yield slice(int(cu_q[i]), int(cu_q[i + 1])), slice(int(cu_k[i]), int(cu_k[i + 1]))

    def probabilities(q: Tensor, k: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[1:], dtype=torch.bool).tril(), -math.inf)
        return scores, k

    def forward(q, k, v, cu_q, cu_k, max_q, max_k, dropout, causal, debug, *, scale=None, **_):
        calls.append(causal)
        assert dropout == 0.0 and not debug
        assert max_q == max((b - a for a, b in itertools.pairwise(cu_q)), default=0)
        out, lse = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0])
        for rows, keys in each(cu_q, cu_k):
            scores, _ = probabilities(q[rows], k[keys], causal, scale)
            repeated = v[keys].repeat_interleave(q.shape[1] // v.shape[1], 1)
            out[rows] = torch.einsum("hqk,khd->qhd", torch.softmax(scores, -1), repeated)
            lse[:, rows] = torch.logsumexp(scores, -1)
        return out, lse, torch.empty(2, dtype=torch.uint64), torch.empty(0), torch.empty(0)

    def backward(grad, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, dropout, causal, state, unused, *, scale=None, **_):
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        per = q.shape[1] // k.shape[1]
        for rows, keys in each(cu_q, cu_k):
            scores, repeated = probabilities(q[rows], k[keys], causal, scale)
            weights = torch.exp(scores - lse[:, rows, None])  # the log-sum-exp given, not one computed here
            delta = (grad[rows] * out[rows]).sum(-1).T[:, :, None]
            dp = torch.einsum("qhd,khd->hqk", grad[rows], v[keys].repeat_interleave(per, 1))
            ds = weights * (dp - delta) * scale
            dq[rows] = torch.einsum("hqk,khd->qhd", ds, repeated)
            dk[keys] = torch.einsum("hqk,qhd->khd", ds, q[rows]).unflatten(1, (-1, per)).sum(2)
            dv[keys] = torch.einsum("hqk,qhd->khd", weights, grad[rows]).unflatten(1, (-1, per)).sum(2)
        return dq, dk, dv

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    yield calls
    library._destroy()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_cuda_form_asks_for_two_launches_whose_merge_is_the_dense_mask(
    varlen_on_cpu: list[bool], layout: Layout
) -> None:
    assert_equals_the_dense_mask(MergedPrefix(layout, CudaFlash()), layout)
    has_branches = layout.length > layout.prompt_tokens
    assert varlen_on_cpu == ([True, False] if has_branches else [True])


def test_the_merged_form_is_refused_where_there_is_no_kernel_for_it() -> None:
    assert fastest_kernel(torch.device("cuda"), torch.bfloat16) == "merged"
    assert fastest_kernel(torch.device("cuda"), torch.float32) == "split"
    assert fastest_kernel(torch.device("cuda"), torch.bfloat16, head_size=100) == "split"
    assert fastest_kernel(torch.device("cpu"), torch.float32, head_size=7) == "merged"
    assert isinstance(shared_attention(LAYOUTS[0], torch.device("cuda"), torch.float32, "split"), SplitPrefix)
    with pytest.raises(ValueError, match=r"no flash kernel for torch\.float32 on cuda"):
        shared_attention(LAYOUTS[0], torch.device("cuda"), torch.float32, "merged")
