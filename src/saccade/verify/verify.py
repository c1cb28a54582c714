"""All checks of one checkpoint: `saccade verify MODEL`."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Literal

from saccade.models.adapter import PARTS
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, base_path, load_policy, resolve_path
from saccade.rollout.config import EngineConfig
from saccade.verify.decoding import engine, head
from saccade.verify.difference import throughout
from saccade.verify.parts import parts
from saccade.verify.reading import against_processor, features, load_processor, positions
from saccade.verify.report import Check, VerifyReport
from saccade.verify.sampler import sampler
from saccade.verify.sharing import checkpointing, shared_prefix
from saccade.verify.subject import VerifySubject, attempt, subject_of

Dtype = Literal["float32", "bfloat16", "float64"]


def verify(
    path: str, dtype: Dtype = "float32", device: str = "auto", other_engine: EngineConfig | None = None
) -> VerifyReport:
    """Load a checkpoint (a directory, a hub name, or 'base') and check it; with `other_engine` also an engine of vLLM.
    ValueError when it cannot be loaded."""
    policy = load_policy(ModelConfig(path=path, dtype=dtype, device=device, train=PARTS))
    processor, reason = load_processor(base_path(resolve_path(path)))
    return verify_policy(policy, path, processor, reason, other_engine=other_engine)


def verify_policy(
    policy: Policy,
    name: str,
    processor: Any = None,
    reason: str = "no processor was given",
    limit: float | None = None,
    other_engine: EngineConfig | None = None,
) -> VerifyReport:
    """Check a policy with any adapter.

    `processor` is the family's own, `reason` is why there is none; `limit` overrides the bound on differences, which is
    meant for trained weights: 1e-3 in float32, 1e-8 in float64.
    """
    began = time.perf_counter()
    subject = subject_of(policy, limit)
    with throughout(policy.model.dtype):
        sections = _sections(subject, processor, reason)
    if other_engine is not None:
        sections["vLLM"] = sampler(subject, other_engine)
    sections["checkpointing"] = checkpointing(subject)  # separate: recomputation in backward is outside that context
    return VerifyReport(
        model=name,
        family=policy.model.config.model_type,
        dtype=str(policy.model.dtype).removeprefix("torch."),
        device=str(policy.device),
        sections={section: tuple(checks) for section, checks in sections.items()},
        seconds=time.perf_counter() - began,
    )


def _sections(subject: VerifySubject, processor: Any, reason: str) -> dict[str, list[Check]]:
    return {
        "prompts": [
            *attempt("ids and pixels", partial(against_processor, subject, processor, reason)),
            *attempt("positions", partial(positions, subject)),
        ],
        "vision": attempt("features", partial(features, subject)),
        "log-probs": attempt("log-probs = softmax of the model's logits", partial(head, subject)),
        "shared prefix": shared_prefix(subject),
        "parts": parts(subject),
        "engine": engine(subject),
    }
