"""Rollouts from vLLM inside the trainer's process: weights are copied there, and on a GPU it sleeps between rollouts.

vLLM's handles for that are private; they are those of versions 0.32 and 0.33.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from saccade.data.images import load_image
from saccade.models.policy import Policy
from saccade.rollout.config import Sampling, VllmColocatedConfig
from saccade.rollout.prompts import Prompt
from saccade.rollout.vllm_probe import compare_probe, probe_bound, probe_params, probe_prompt
from saccade.rollout.vllm_requests import check_prompt, completions, image_names, sampling_params
from saccade.rollout.vllm_weights import checkpoint_state, write_weights
from saccade.rollout.vllm_worker import renew_packed
from saccade.types import Completion

WHERE = "vLLM in this process"
LONGEST = 8192


class VllmColocatedEngine:
    """See `saccade.rollout.engine.Engine`. ValueError when vLLM is not installed beside the trainer, for a run of
    several processes, and when its replies to the probe are not those of the policy's weights."""

    def __init__(self, policy: Policy, config: VllmColocatedConfig) -> None:
        if find_spec("vllm") is None:
            raise ValueError(
                "rollout.engine.kind: vllm_colocated needs vLLM in the trainer's environment, and it is not installed; "
                "install it there, or use vllm_server (docs/engines.md)"
            )
        if policy.shards is not None:
            raise ValueError(
                "rollout.engine.kind: vllm_colocated runs in one process, and this run has several; use vllm_server"
            )
        self.policy, self.config = policy, config
        self._sleeps = policy.device.type == "cuda"
        self.context = config.context or min(policy.context_length, LONGEST)
        self._directory = Path(tempfile.mkdtemp(prefix="saccade-vllm-"))
        weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        write_weights(policy, self._directory)
        policy.save_files(self._directory)
        self._llm: Any = self._open()
        self._probe = probe_prompt(policy)
        self._bound = probe_bound(policy, config.probe_bound)
        self._version: int | None = None
        self.sync(policy)

    def _open(self) -> Any:
        """vLLM's own object, in this process and without children."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # before its first import
        options: dict[str, Any] = {"enable_sleep_mode": True, "gpu_memory_utilization": self.config.gpu_memory}
        if not self._sleeps:
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(self.config.kv_gb)
            options = {"enforce_eager": True}
        return _vllm("vllm").LLM(
            str(self._directory),
            dtype=str(self.policy.model.dtype).removeprefix("torch."),
            max_model_len=self.context,
            max_num_seqs=self.config.max_rows,
            limit_mm_per_prompt={"image": self.config.images, "video": 0},
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            **options,
        )

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """See `Engine.generate`. Features are ignored."""
        if len(seeds) != len(prompts):
            raise ValueError(f"got {len(seeds)} seeds for {len(prompts)} prompts; expected one for each")
        for prompt in prompts:
            total = len(prompt.encoded) + sampling.max_new_tokens
            if total > self.context:
                raise ValueError(
                    f"sample {prompt.name!r}: got a prompt of {len(prompt.encoded):,} tokens and up to "
                    f"{sampling.max_new_tokens:,} new ones, but vLLM's context holds {self.context:,}; set "
                    f"rollout.engine.context to {total} or more"
                )
        params = [sampling_params(self.policy.adapter, sampling, n, seed) for seed in seeds]
        with _Awake(self):
            found = self._ask(prompts, params)
        return [group * n if sampling.greedy else group for group in found]

    def _ask(self, prompts: Sequence[Prompt], params: Sequence[Mapping[str, Any]]) -> list[list[Completion]]:
        adapter = self.policy.adapter
        requests = [self._request(prompt) for prompt in prompts]
        done = self._llm.generate(
            requests, [_vllm("vllm").SamplingParams(**_own(one)) for one in params], use_tqdm=False
        )
        found = []
        for prompt, answer, asked in zip(prompts, done, params, strict=True):
            check_prompt(adapter, prompt, list(answer.prompt_token_ids), WHERE)
            choices = {"choices": [_choice(output) for output in answer.outputs]}
            found.append(completions(adapter, prompt, choices, asked, self._version or 0, WHERE))
        return found

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        request: dict[str, Any] = {"prompt_token_ids": list(prompt.encoded.compact_ids)}
        if prompt.images:
            request["multi_modal_data"] = {"image": [load_image(one) for one in prompt.images]}
            request["multi_modal_uuids"] = {"image": image_names(self.policy.adapter, prompt)}
        return request

    def sync(self, policy: Policy) -> None:
        """Copy the policy's weights, forget caches made with the old ones, and compare log-probs of a short reply."""
        if policy is self.policy and policy.version == self._version:
            return
        self.policy = policy
        with _Awake(self):
            core: Any = self._llm.llm_engine.engine_core.engine_core
            runner: Any = core.model_executor.driver_worker.worker.model_runner
            runner.reload_weights(weights_iterator=iter(checkpoint_state(policy).items()))
            renew_packed(runner.get_model())
            self._llm.reset_prefix_cache()
            core.reset_encoder_cache()
            self._llm.reset_mm_cache()
            self._version = policy.version
            ((reply,),) = self._ask([self._probe], [probe_params()])
        problem = compare_probe(policy, self._probe, reply, {}, self._bound)
        if problem is not None:
            raise ValueError(f"{WHERE}: {problem}")

    def close(self) -> None:
        """See `Engine.close`."""
        self._llm = None
        shutil.rmtree(self._directory, ignore_errors=True)


class _Awake:
    """Within the block vLLM has its weights and memory on the GPU; after it, they are the trainer's. On a CPU nothing
    happens."""

    def __init__(self, engine: VllmColocatedEngine) -> None:
        self.llm, self.sleeps = engine._llm, engine._sleeps

    def __enter__(self) -> None:
        if self.sleeps and self.llm.llm_engine.is_sleeping():
            self.llm.wake_up()

    def __exit__(self, *_: object) -> None:
        if self.sleeps:
            self.llm.sleep(level=1)


def _vllm(module: str) -> Any:
    """A module of vLLM, which type checkers need not have."""
    return import_module(module)


def _own(params: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields as vLLM's class takes them in process."""
    own = dict(params)
    if "logit_bias" in own:
        own["logit_bias"] = {int(token): bias for token, bias in own["logit_bias"].items()}
    if "repetition_detection" in own:
        own["repetition_detection"] = _vllm("vllm.sampling_params").RepetitionDetectionParams(
            **own["repetition_detection"]
        )
    return own


def _choice(output: Any) -> dict[str, Any]:
    """An output in the form of the generate endpoint."""
    logprobs = output.logprobs and [
        {"logprob": at[token].logprob} for at, token in zip(output.logprobs, output.token_ids, strict=True)
    ]
    return {
        "index": output.index,
        "token_ids": list(output.token_ids),
        "logprobs": {"content": logprobs},
        "finish_reason": output.finish_reason,
        "stop_reason": output.stop_reason,
    }
