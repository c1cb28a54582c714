"""The peers of the built-in engine: transformers' `generate`, with inputs repeated (TRL's way) and with
num_return_sequences; and vLLM in process, where it is installed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig, LogitsProcessor, LogitsProcessorList

from saccade.models.adapter import EncodedPrompt

Replies = list[list[int]]
"""Token ids per reply, prompts in order, those of one prompt together; the stop token counts."""


class ForcedLengths(LogitsProcessor):
    """Each row ends with the stop token as its n-th token and not before, n being told for each row."""

    def __init__(self, lengths: Sequence[int], prompt_length: int, stop_ids: Sequence[int]) -> None:
        self.lengths_N, self.prompt_length, self.stop_ids = torch.tensor(lengths), prompt_length, list(stop_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last_N1 = (self.lengths_N <= input_ids.shape[1] - self.prompt_length + 1)[:, None]
        scores[:, self.stop_ids] = -torch.inf
        scores = scores.masked_fill(last_N1, -torch.inf)
        scores[:, self.stop_ids[:1]] = scores[:, self.stop_ids[:1]].masked_fill(last_N1, 0.0)
        return scores


class Generate:
    """`generate` on a model of its own (Saccade may have changed the attention of the policy's)."""

    def __init__(self, directory: Path, pad_id: int, stop_ids: Sequence[int], banned_ids: Sequence[int]) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
        self.pad_id, self.stop_ids, self.banned_ids = pad_id, list(stop_ids), list(banned_ids)

    def inputs(self, prompts: Sequence[EncodedPrompt], times: int) -> dict[str, Tensor]:
        """Left-padded ids with the images, each prompt `times` times; what TRL hands to `generate`."""
        rows = [prompt for prompt in prompts for _ in range(times)]
        P = max(len(prompt) for prompt in rows)
        ids_NP = torch.full((len(rows), P), self.pad_id)
        mask_NP = torch.zeros_like(ids_NP)
        for i, prompt in enumerate(rows):
            ids_NP[i, P - len(prompt) :], mask_NP[i, P - len(prompt) :] = prompt.ids_P, 1
        images = {name: torch.cat([prompt.pixels[name] for prompt in rows]) for name in rows[0].pixels}
        types_NP = (ids_NP == self.model.config.image_token_id).int()
        return {"input_ids": ids_NP, "attention_mask": mask_NP, "mm_token_type_ids": types_NP, **images}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[EncodedPrompt], n: int, lengths: Sequence[int], *, repeat: bool) -> Replies:
        """n replies to each prompt, of the given lengths. `repeat`: inputs repeated, else num_return_sequences."""
        inputs = self.inputs(prompts, n if repeat else 1)
        P, longest = inputs["input_ids"].shape[1], max(lengths)
        equal = min(lengths) == longest
        config = GenerationConfig(
            max_new_tokens=longest,
            min_new_tokens=longest if equal else None,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=1 if repeat else n,
            suppress_tokens=self.banned_ids,
            eos_token_id=self.stop_ids,
            pad_token_id=self.pad_id,
        )
        forced = LogitsProcessorList([] if equal else [ForcedLengths(lengths, P, self.stop_ids)])
        out = self.model.generate(**inputs, generation_config=config, logits_processor=forced)
        return [self._cut(row) for row in out[:, P:].tolist()]

    def _cut(self, ids: list[int]) -> list[int]:
        end = next((i + 1 for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        return ids[:end]


class VLLM:
    """vLLM in this process, on the same weights and images; its CPU seconds are then this process's too."""

    def __init__(self, directory: Path, max_length: int, max_rows: int) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import LLM  # optional

        self.llm = LLM(
            str(directory),
            dtype="float32",
            enforce_eager=True,
            max_model_len=max_length,
            max_num_seqs=max_rows,
            gpu_memory_utilization=0.3,  # of the machine on a CPU; its default wants nearly all of it free
            enable_prefix_caching=False,  # the same prompts come again in every repeat
            limit_mm_per_prompt={"image": 1, "video": 0},
        )

    def __call__(self, chats: Sequence[str], images: Sequence[Any], n: int, new_tokens: int) -> Replies:
        """n replies of exactly `new_tokens` to each prompt; `chats` hold one image placeholder each."""
        from vllm import SamplingParams

        params = SamplingParams(n=n, temperature=1.0, max_tokens=new_tokens, ignore_eos=True)
        requests = [
            {"prompt": chat, "multi_modal_data": {"image": image}} for chat, image in zip(chats, images, strict=True)
        ]
        done = self.llm.generate(requests, params, use_tqdm=False)
        return [list(one.token_ids) for request in done for one in request.outputs]
