"""Prompts and replies in the terms of vLLM: what a request for one group holds, and how its answer becomes completions.

The generate endpoint takes token ids with one placeholder per image and the images themselves, and returns the expanded
prompt, which must be ours, with the ids and log-probs of every reply.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any

from PIL import Image

from saccade.data.images import load_image, png_of
from saccade.models.adapter import Adapter
from saccade.rollout.config import Sampling
from saccade.rollout.prompts import Prompt
from saccade.rollout.replies import LONGEST_RUN
from saccade.types import Completion, FinishReason

GENERATE = "/inference/v1/generate"
NO_LOGPROB = -9999.0
"""What vLLM writes for a log-prob that it does not have."""
MOST_LOGPROB = 0.5
"""A log-prob is 0 at most, but for the rounding of a server that computes in bfloat16."""
FORBIDDEN = -100.0
"""The strongest bias of a logit that vLLM takes."""


class OtherPrompt(ValueError):
    """The server read a prompt differently; training on its replies would be wrong."""


class IncompleteReply(ValueError):
    """A reply without its prompt, choices, tokens or log-probs: a server that answers the probe so cannot be used."""


class UnusableReply(Exception):
    """A reply that is to be drawn again: aborted, too long, or of other weights than expected."""


@contextmanager
def understood(refused: Callable[[str], Exception]) -> Iterator[None]:
    """Within the context an answer of another form than vLLM's, whose values are of other types, is `refused`. A
    ValueError passes, since it may be ours: read a whole number with `operator.index`, not with `int`."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ArithmeticError, StopIteration) as error:
        raise refused(f"the answer has another form than vLLM's ({type(error).__name__}: {error})") from None


def sampling_params(adapter: Adapter, sampling: Sampling, n: int, seed: int) -> dict[str, Any]:
    """The fields of vLLM's SamplingParams.

    A greedy group is one reply, repeated by the caller. Tokens that must not be sampled get the bias -100. Log-probs
    are those of the distribution that is sampled ("processed"): after temperature, bias, top-k, top-p and min-p.
    """
    params: dict[str, Any] = {
        "n": 1 if sampling.greedy else n,
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "max_tokens": sampling.max_new_tokens,
        "min_tokens": sampling.min_new_tokens,
        "logprobs": 0,
        "seed": int.from_bytes(hashlib.sha256(f"vllm/{seed}".encode()).digest()[:6], "big"),
        "stop_token_ids": list(adapter.stop_ids),
        "skip_special_tokens": False,
        "logit_bias": {str(token): FORBIDDEN for token in adapter.banned_ids},
    }
    if not sampling.greedy:
        params |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p}
    if sampling.stop_strings:
        params["stop"] = list(sampling.stop_strings)
    if sampling.repetition_stop:
        params["repetition_detection"] = {
            "max_pattern_size": LONGEST_RUN,
            "min_pattern_size": 1,
            "min_count": sampling.repetition_stop,
        }
    return params


def image_names(adapter: Adapter, prompt: Prompt) -> list[str]:
    """A name for each image, under which a server may cache it: a hash of its content and of how it is resized."""
    settings = hashlib.sha256(repr(sorted(adapter.processors[1].to_dict().items())).encode()).hexdigest()[:12]
    encoded = prompt.encoded
    sizes = ["{}x{}".format(*frame.size_input) for frame in encoded.frames]
    return [f"{sha}-{size}-{settings}" for sha, size in zip(encoded.image_shas, sizes, strict=True)]


def png_url(image: Image.Image) -> str:
    """The image without loss as a data URL; little compression, because it travels once and time matters more."""
    return f"data:image/png;base64,{base64.b64encode(png_of(image, 1)).decode()}"


def generate_request(adapter: Adapter, prompt: Prompt, params: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The body of a generate request. ValueError for a prompt without its original images."""
    encoded = prompt.encoded
    if len(prompt.images) != len(encoded.frames):
        raise ValueError(
            f"sample {prompt.name!r}: got {len(prompt.images)} images for {len(encoded.frames)} placeholders; a server "
            "needs the prompt's original images"
        )
    body: dict[str, Any] = {
        "model": model,
        "token_ids": list(encoded.compact_ids),
        "sampling_params": dict(params),
        "return_token_ids": True,
    }
    if prompt.images:
        names = image_names(adapter, prompt)
        body["content_parts"] = [
            {"type": "image_url", "url": png_url(load_image(image)), "uuid": name}
            for image, name in zip(prompt.images, names, strict=True)
        ]
    return body


def check_prompt(adapter: Adapter, prompt: Prompt, returned: Any, where: str) -> None:
    """OtherPrompt, with both sides, when the server's expanded prompt is not ours; IncompleteReply when it has none."""
    ours = prompt.encoded.ids_P.tolist()
    if returned == ours:
        return
    if not isinstance(returned, list):
        raise IncompleteReply(f"{where}: the reply has no prompt_token_ids; expected vLLM 0.32 or newer")
    first = next(
        (i for i, (a, b) in enumerate(zip(ours, returned, strict=False)) if a != b), min(map(len, (ours, returned)))
    )
    images = set(adapter.image_ids)
    counts = [sum(token in images for token in ids) for ids in (ours, returned)]
    if counts[0] != counts[1]:
        why = (
            f"{counts[0]} visual tokens here, {counts[1]} there: its image processor has other limits; serve the model "
            "directory that this run uses (saccade launch --vllm does)"
        )
    else:
        why = "it has another tokenizer; serve the model that this run uses"
    raise OtherPrompt(
        f"{where}: sample {prompt.name!r}: the server read the prompt differently from token {first}: got "
        f"{_window(adapter, returned, first)} ({len(returned)} tokens), expected {_window(adapter, ours, first)} "
        f"({len(ours)} tokens); {why}"
    )


def _window(adapter: Adapter, ids: Sequence[int], start: int) -> str:
    some = [index(i) for i in ids[start : start + 6]]
    return f"{some} {adapter.processors[0].decode(some)!r}"


def completions(
    adapter: Adapter, prompt: Prompt, answer: Any, params: Mapping[str, Any], version: int, where: str
) -> list[Completion]:
    """The replies of an answer to a request with these parameters, in order. IncompleteReply for one without token ids
    or log-probs, UnusableReply for one that the server cut short or did not end."""
    n = params["n"]
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != n:
        got = len(choices) if isinstance(choices, list) else "no"
        raise IncompleteReply(f"{where}: got {got} choices; expected {n}")
    ordered = sorted(choices, key=lambda choice: choice.get("index", 0))
    return [_completion(adapter, prompt, choice, params["max_tokens"], version, where) for choice in ordered]


def _completion(
    adapter: Adapter, prompt: Prompt, choice: Mapping[str, Any], most: int, version: int, where: str
) -> Completion:
    reason = finish_reason(choice, where)
    ids, logprobs = choice.get("token_ids"), choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(ids, list) or not isinstance(content, list) or len(content) != len(ids) or not ids:
        got = "no log-probs" if not isinstance(content, list) else f"{len(content)} log-probs"
        tokens = len(ids) if isinstance(ids, list) else "no"
        raise IncompleteReply(f"{where}: got {got} for {tokens} tokens; expected one for each")
    if len(ids) > most:
        raise UnusableReply(f"{where}: got a reply of {len(ids):,} tokens, expected {most:,} at most")
    size = adapter.config.get_text_config().vocab_size
    if not all(type(token) is int and 0 <= token < size for token in ids):
        raise UnusableReply(f"{where}: a reply has tokens that are none of the model's {size:,}")
    values = tuple(one["logprob"] + 0.0 for one in content)
    if any(value > MOST_LOGPROB for value in values):
        raise UnusableReply(f"{where}: got a log-prob of {max(values):g}, expected 0 at most")
    return Completion(
        text=prompt.encoded.opened + adapter.decode(ids),
        token_ids=tuple(ids),
        logprobs=tuple(math.nan if value <= NO_LOGPROB else value for value in values),
        finish_reason=reason,
        frames=prompt.encoded.frames,
        weights_version=version,
    )


def finish_reason(choice: Mapping[str, Any], where: str) -> FinishReason:
    """vLLM's reason in our terms. Raises UnusableReply for a reply that was aborted or failed."""
    reason = choice.get("finish_reason")
    if reason == "stop":
        return "stop_string" if isinstance(choice.get("stop_reason"), str) else "stop"
    if reason == "length":
        return "length"
    if reason == "repetition":
        return "repetition"
    raise UnusableReply(f"{where}: a reply ended with {reason!r}")
