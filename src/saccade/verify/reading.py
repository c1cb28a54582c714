"""Does the adapter match the family's ids, pixels and positions? Does the tower return the features they need?"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import branch_logprobs, check_features, vision_features
from saccade.models.policy import Policy
from saccade.verify.difference import largest, logprobs
from saccade.verify.fixtures import FixtureQuestion
from saccade.verify.report import Check
from saccade.verify.subject import FAILURES, VerifySubject, in_one_line

IDS, PIXELS = "ids = the family's processor", "pixels = the family's processor"


def load_processor(path: str) -> tuple[Any, str]:
    """The family's combined processor, or None and why it is not available."""
    try:
        return AutoProcessor.from_pretrained(path, trust_remote_code=False), ""
    except FAILURES as error:
        return None, f"the family's processor cannot be loaded here: {in_one_line(error)}"


def against_processor(subject: VerifySubject, processor: Any, reason: str) -> list[Check]:
    """Ids and pixels of all questions; `reason` is why there is no processor."""
    if not callable(processor) or not hasattr(processor, "apply_chat_template"):
        why = reason or f"AutoProcessor gives {type(processor).__name__}, which reads no images"
        return [Check(IDS, None, detail=why), Check(PIXELS, None, detail=why)]
    wrong, off, compared = list[str](), 0.0, set[str]()
    for name, question in subject.questions.items():
        theirs = _processed(processor, question)
        ours = question.encode(subject.policy.adapter)
        if (at := first_difference(ours.ids_P, theirs["input_ids"][0])) is not None:
            wrong.append(f"{name}: {at}")
        for key in ours.pixels.keys() & theirs.keys():
            off = max(off, _distance(ours.pixels[key], theirs[key]))
            compared.add(key)
    names = ", ".join(sorted(compared))
    pixels = Check(PIXELS, off == 0.0 and bool(compared), off, 0.0, names or "the two have no input in common")
    return [Check(IDS, not wrong, float(len(wrong)), 0.0, "; ".join(wrong)), pixels]


def _processed(processor: Any, question: FixtureQuestion) -> Any:
    return processor.apply_chat_template(
        question.messages(), tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def _distance(ours: Tensor, theirs: Tensor) -> float:
    if ours.numel() != theirs.numel():  # families differ in axes of length 1
        return float("inf")
    return largest(ours.flatten(), theirs.flatten()) if ours.numel() else 0.0


def first_difference(ours: Tensor, theirs: Tensor) -> str | None:
    """A description of where two rows of ids start to differ."""
    if torch.equal(ours, theirs):
        return None
    n = min(len(ours), len(theirs))
    places = (ours[:n] != theirs[:n]).nonzero()
    at = int(places[0]) if len(places) else n
    mine, other = (x[at].item() if at < len(x) else "nothing" for x in (ours, theirs))
    return f"{len(ours)} ids, expected {len(theirs)}; at {at} got {mine}, expected {other}"


def positions(subject: VerifySubject) -> list[Check]:
    """Positions and start of the reply, against the model's own (M-RoPE) or 0, 1, 2, ..."""
    rope = getattr(subject.policy.model.model, "get_rope_index", None)
    name = "positions = the model's own" if rope else "positions = 0, 1, 2, ..."
    wrong = list[str]()
    for (prompt, _), label in zip(subject.groups, subject.questions, strict=True):
        count = torch.arange(len(prompt)).expand(3, -1)
        expected = _model_positions(subject.policy, rope, prompt) if rope and prompt.pixels else count
        if not torch.equal(prompt.positions_3P, expected):
            wrong.append(f"{label}: {int((prompt.positions_3P != expected).any(0).sum())} of {len(prompt)} tokens")
        if prompt.next_position != int(expected.max()) + 1:
            wrong.append(f"{label}: a reply begins at {prompt.next_position}, expected {int(expected.max()) + 1}")
    return [Check(name, not wrong, float(len(wrong)), 0.0, "; ".join(wrong))]


def _model_positions(policy: Policy, rope: Any, prompt: EncodedPrompt) -> Tensor:
    ids_1P = prompt.ids_P[None]
    is_image_1P = torch.isin(ids_1P, torch.tensor(policy.adapter.image_ids)).int()
    offered = {"mm_token_type_ids": is_image_1P} | policy.adapter.plain_inputs(prompt, ids_1P)
    taken = inspect.signature(rope).parameters
    found, _ = rope(ids_1P, **{name: value for name, value in offered.items() if name in taken})
    return found[:, 0]


def features(subject: VerifySubject) -> list[Check]:
    """One feature per image token; features do not depend on other prompts in the batch; stale ones are refused."""
    policy, prompts, packed = subject.policy, subject.prompts, subject.packed
    with torch.no_grad():
        together = vision_features(policy, prompts)
        check_features(policy, prompts, together)
        images = sum(len(prompt.frames) for prompt in prompts)
        counts = Check(
            "image tokens = features", True, detail=f"{[len(f.values) for f in together]} for {images} images"
        )
        alone = torch.cat([vision_features(policy, [p])[0].values.flatten() for p in prompts])
        joined = torch.cat([f.values.flatten() for f in together])
        scale = float(joined.double().square().mean().sqrt()) or 1.0
        apart = largest(alone, joined) / scale
        bound = 0.1 if subject.is_half else 1e-3
        own = Check("features alone = among others", apart <= bound, apart, bound, "relative to their size")
        if policy.adapter.sharing == "none":
            return [
                counts,
                own,
                Check("features kept = taken anew", None, detail="the family's packed path is missing"),
            ]
        kept, _ = branch_logprobs(policy, packed, together)
        gap = largest(kept, logprobs(policy, packed, "packed"))
    return [counts, own, Check("features kept = taken anew", gap == 0.0, gap, 0.0), _refuses_old(subject)]


def _refuses_old(subject: VerifySubject) -> Check:
    policy = subject.policy
    old = vision_features(policy, subject.prompts)
    policy.version += 1
    try:
        check_features(policy, subject.prompts, old)
    except ValueError:
        return Check("features of older weights refused", True)
    finally:
        policy.version -= 1
    return Check("features of older weights refused", False, detail="they were accepted")
