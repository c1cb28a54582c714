"""Does the built-in engine sample from the model's distribution? Compared with uncached passes and the trainer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import branch_logprobs
from saccade.models.fused import original_layers
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import Policy
from saccade.models.sharing import HALF_FACTOR, HALF_FLOOR
from saccade.rollout.config import Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import Prompt
from saccade.types import Completion
from saccade.verify.difference import largest, reference, root_mean_square
from saccade.verify.report import Check
from saccade.verify.subject import HALF_MARGIN, NO_EXACT, VerifySubject, attempt

TOKENS = 12
TEMPERATURE = 0.8
ROLLOUT_FLOOR = 2e-5
"""Nats; the engine's softmax and recorded log-probs are float32 for every dtype."""


def head(subject: VerifySubject) -> list[Check]:
    """Log-probs and entropies equal those of the logits from the model's own forward, including softcaps."""
    policy, (prompt, branches) = subject.policy, subject.groups[0]
    with torch.no_grad():
        ours_R, entropy_R = branch_logprobs(policy, pack([(prompt, branches[:1])]), path="plain", entropy=True)
        full_RV = torch.log_softmax(own_logits(policy, prompt, branches[0].ids), -1)
    assert entropy_R is not None  # requested above
    theirs_R = full_RV.gather(1, torch.tensor(branches[0].ids, device=full_RV.device)[:, None])[:, 0]
    limit = HALF_FLOOR * 10 if subject.is_half else subject.limit
    entropy = -(full_RV.exp() * full_RV).sum(-1)
    values, spread = largest(ours_R, theirs_R), largest(entropy_R, entropy)
    return [
        Check("log-probs = softmax of the model's logits", values <= limit, values, limit),
        Check("entropies = softmax of the model's logits", spread <= limit, spread, limit),
    ]


def own_logits(policy: Policy, prompt: EncodedPrompt, ids: Sequence[int]) -> Tensor:
    """(n, V) logits that predict each of these n tokens, from the family's own forward and layers, one row, no cache;
    float32 or float64."""
    row_1T = torch.cat([prompt.ids_P, torch.tensor(ids, dtype=torch.long)])[None]
    inputs = policy.adapter.plain_inputs(prompt, row_1T) | {"attention_mask": torch.ones_like(row_1T)}
    with original_layers(policy.model):
        logits_1TV = policy.model(
            input_ids=row_1T.to(policy.device),
            use_cache=False,
            **{name: value.to(policy.device) for name, value in inputs.items()},
        ).logits
    logits_RV = logits_1TV[0, len(prompt) - 1 : -1]
    return logits_RV if logits_RV.dtype == torch.float64 else logits_RV.float()


def engine(subject: VerifySubject) -> list[Check]:
    """Greedy and sampled replies to all three prompts."""
    checks = attempt("cached = uncached greedy tokens", lambda: [_greedy(subject)])
    return checks + attempt("rollout = trainer log-probs", lambda: [_rollout(subject)])


def _generate(subject: VerifySubject, sampling: Sampling, n: int) -> list[list[Completion]]:
    prompts = [Prompt(None, encoded) for encoded in subject.prompts]
    return open_engine(subject.policy).generate(prompts, sampling, n, range(len(prompts)))


def _greedy(subject: VerifySubject) -> Check:
    """Every token is the argmax without a cache. One forward pass over prompt and reply proves it: if every token is
    the best given the preceding ones, decoding without a cache would have produced the same reply."""
    policy = subject.policy
    replies = _generate(subject, Sampling(max_new_tokens=TOKENS, greedy=True), 1)
    margin, differing = 0.0, 0
    for prompt, (reply,) in zip(subject.prompts, replies, strict=True):
        with torch.no_grad():
            logits_RV = own_logits(policy, prompt, reply.token_ids)
        logits_RV[:, list(policy.adapter.banned_ids)] = -torch.inf
        chosen_R = logits_RV.gather(1, torch.tensor(reply.token_ids, device=logits_RV.device)[:, None])[:, 0]
        behind_R = logits_RV.amax(-1) - chosen_R
        margin, differing = max(margin, float(behind_R.max())), differing + int((behind_R > 0).sum())
    bound = HALF_MARGIN if subject.is_half else subject.limit
    total = sum(len(reply.token_ids) for (reply,) in replies)
    detail = f"{differing} of {total} tokens are not the likeliest without a cache, by this much at most"
    return Check("cached = uncached greedy tokens", margin <= bound, margin, bound, detail if differing else "")


def _rollout(subject: VerifySubject) -> Check:
    policy = subject.policy
    sampling = Sampling(max_new_tokens=TOKENS, temperature=TEMPERATURE)
    replies = _generate(subject, sampling, 3)
    packed = pack([(p, [Branch(r.token_ids) for r in own]) for p, own in zip(subject.prompts, replies, strict=True)])
    sampled = torch.tensor([value for own in replies for reply in own for value in reply.logprobs])
    name = "rollout = trainer log-probs"
    trained = _tempered(policy, packed)
    if not subject.is_half:
        apart = largest(sampled, trained)
        bound = max(subject.limit, ROLLOUT_FLOOR)
        return Check(name, apart <= bound, apart, bound)
    if subject.exact is None:
        return Check(name, None, root_mean_square(sampled, trained), detail=f"distance from the trainer; {NO_EXACT}")
    truth = _tempered(subject.exact, packed)
    far, plain = root_mean_square(sampled, truth), root_mean_square(trained, truth)
    bound = HALF_FACTOR * plain + HALF_FLOOR
    return Check(name, far <= bound, far, bound, f"distance from float32; that of the trainer is {plain:.1e}")


def _tempered(policy: Policy, packed: Packed) -> Tensor:
    with torch.no_grad(), reference(policy, "plain"):
        return branch_logprobs(policy, packed, temperature=TEMPERATURE, path="plain")[0].cpu()
