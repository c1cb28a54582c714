"""Does another engine sample from the trainer's distribution, and does it follow an update of the weights?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from saccade.models.policy import Policy
from saccade.rollout.config import EngineConfig, Sampling
from saccade.rollout.engine import Engine, open_engine
from saccade.rollout.prompts import Prompt
from saccade.types import Completion
from saccade.verify.causes import bound_of, likely_causes, parity
from saccade.verify.decoding import TEMPERATURE, TOKENS, own_logits
from saccade.verify.report import Check
from saccade.verify.subject import VerifySubject, attempt

REPLIES = 4
STEP = 0.02
"""Standard deviation of the change of all weights that the engine must follow."""


def sampler(subject: VerifySubject, config: EngineConfig) -> list[Check]:
    """Prompt ids, greedy tokens, log-probs, and log-probs after an update. The engine is closed at the end; the policy
    keeps its weights."""
    opened: list[Engine] = []

    def open_it() -> list[Check]:
        opened.append(open_engine(subject.policy, config))
        return [Check("reads prompts and gets weights", True)]

    checks = attempt("reads prompts and gets weights", open_it)
    if not opened:
        return checks
    (engine,) = opened
    try:
        checks += attempt("greedy tokens", lambda: [_greedy(subject, engine)])
        checks += attempt("log-probs", lambda: [_sampled(subject, engine, "log-probs")])
        checks += attempt("log-probs after an update", lambda: _updated(subject, engine))
    finally:
        engine.close()
    return checks


def _prompts(subject: VerifySubject) -> list[Prompt]:
    asked = subject.questions.values()
    return [Prompt(None, one.encode(subject.policy.adapter), one.images) for one in asked]


def _greedy(subject: VerifySubject, engine: Engine) -> Check:
    """Every token is the likeliest by the trainer's own passes, up to round-off."""
    policy, prompts = subject.policy, _prompts(subject)
    replies = engine.generate(prompts, Sampling(max_new_tokens=TOKENS, greedy=True), 1, range(len(prompts)))
    behind, differ, total = 0.0, 0, 0
    for prompt, (reply,) in zip(prompts, replies, strict=True):
        logits_RV = _allowed_logits(policy, prompt, reply.token_ids)
        chosen_R = logits_RV.gather(1, torch.tensor(reply.token_ids, device=logits_RV.device)[:, None])[:, 0]
        behind_R = logits_RV.amax(-1) - chosen_R
        behind, differ = max(behind, float(behind_R.max())), differ + int((behind_R > 0).sum())
        total += len(reply.token_ids)
    bound = bound_of(policy)
    detail = f"{differ} of {total} tokens are not the trainer's likeliest, by this much at most"
    return Check("greedy tokens", behind <= bound, behind, bound, detail if differ else "")


def _sampled(subject: VerifySubject, engine: Engine, name: str) -> Check:
    """The largest difference of a log-prob of sampled replies, and the worst one's likely cause if it is too large."""
    policy, prompts = subject.policy, _prompts(subject)
    sampling = Sampling(max_new_tokens=TOKENS, temperature=TEMPERATURE)
    replies = engine.generate(prompts, sampling, REPLIES, range(len(prompts)))
    pairs = [(prompt, reply) for prompt, group in zip(prompts, replies, strict=True) for reply in group]
    ours = [reference_logprobs(policy, prompt, reply, TEMPERATURE) for prompt, reply in pairs]
    theirs = [torch.tensor(reply.logprobs) for _, reply in pairs]
    found = parity(torch.cat(ours), torch.cat(theirs))
    bound = bound_of(policy)
    detail = f"mean {found.mean:.1e}, k3 {found.k3:.1e}, effective sample size {found.ess:.4f}"
    if not found.max <= bound:
        gaps = [float((a - b).abs().nan_to_num().max()) for a, b in zip(ours, theirs, strict=True)]
        prompt, reply = pairs[gaps.index(max(gaps))]
        others = [one.encoded for one in prompts]
        ((cause, _),) = likely_causes(policy, prompt.encoded, [reply], TEMPERATURE, others)
        detail += f"; likely cause: {cause}"
    return Check(name, found.max <= bound, found.max, bound, detail)


def _updated(subject: VerifySubject, engine: Engine) -> list[Check]:
    policy = subject.policy
    with _changed(policy):
        engine.sync(policy)
        checks = [_sampled(subject, engine, "log-probs after an update")]
    engine.sync(policy)
    return checks


@contextmanager
def _changed(policy: Policy) -> Iterator[None]:
    """All weights a step away within the block, and as before after it."""
    parameters = list(policy.model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_((STEP * noise).to(parameter))
    policy.version += 1
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)
        policy.version += 1


@torch.no_grad()
def _allowed_logits(policy: Policy, prompt: Prompt, ids: Sequence[int]) -> Tensor:
    """(R, V) logits without the tokens that are never sampled."""
    logits_RV = own_logits(policy, prompt.encoded, ids)
    logits_RV[:, list(policy.adapter.banned_ids)] = -torch.inf
    return logits_RV


def reference_logprobs(policy: Policy, prompt: Prompt, reply: Completion, temperature: float) -> Tensor:
    """(R,) log-probs of a reply's tokens among those that may be sampled, from the family's own forward pass."""
    logprobs_RV = torch.log_softmax(_allowed_logits(policy, prompt, reply.token_ids) / temperature, -1)
    return logprobs_RV.gather(1, torch.tensor(reply.token_ids, device=logprobs_RV.device)[:, None])[:, 0].float().cpu()
