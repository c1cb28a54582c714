"""What a run must know about a vLLM server before its first step: each mistake is one line with the way out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from operator import index
from typing import Any

from saccade.endpoint.errors import EndpointError
from saccade.models.policy import Policy
from saccade.rollout.config import VllmServerConfig
from saccade.rollout.vllm_nccl import check_backend
from saccade.rollout.vllm_pool import VllmServer, is_gone
from saccade.rollout.vllm_worker import architecture

EXTENSION = "saccade.rollout.vllm_worker.Extension"
OLDEST = (0, 32)
TIMEOUT_S = 30.0
HOW = "saccade launch --vllm 1 starts servers as they must be, docs/engines.md shows the options"


def check_server(server: VllmServer, policy: Policy, config: VllmServerConfig, way: str) -> dict[str, Any]:
    """Sets the server's model and context, and returns its settings. `way` is how it will get weights.

    ValueError: it does not answer, is no vLLM or an old one, lacks a route or an option, or serves another model.
    """
    check_version(_reach(server, config.start_s), server.url)
    models = server.client.get("/v1/models", TIMEOUT_S)["data"]
    own = next(one for one in models if one.get("parent") is None)
    server.model, server.context = str(own["id"]), index(own["max_model_len"])
    try:
        settings = server.client.get("/server_info?config_format=json", TIMEOUT_S)["vllm_config"]
    except EndpointError as error:
        if error.status != 404:
            raise
        raise ValueError(
            f"{server.url}: the server has no routes for training; start it with VLLM_SERVER_DEV_MODE=1 in its "
            f"environment, on an address that only the trainer reaches ({HOW})"
        ) from None
    check_settings(settings, policy, way, server.url)
    if settings["parallel_config"].get("worker_extension_cls") == EXTENSION:
        described = server.client.post("/collective_rpc", {"method": "saccade_describe"}, TIMEOUT_S)["results"][0]
        check_architecture(described["architecture"], policy, server.url)
    return settings


def _reach(server: VllmServer, wait_s: float) -> Any:
    """The answer to a question for the version, after waiting for a server that is starting."""
    until = time.monotonic() + wait_s
    while True:
        try:
            return server.client.get("/version", TIMEOUT_S)
        except EndpointError as error:
            if not is_gone(error):
                raise ValueError(
                    f"{server.url}: got status {error.status} for /version; expected a vLLM server"
                ) from None
            if time.monotonic() >= until:
                raise ValueError(
                    f"{server.url}: no server answers after {wait_s:g} s ({error}); start it, correct "
                    f"rollout.engine.urls, or raise rollout.engine.start_s ({HOW})"
                ) from None
            time.sleep(min(1.0, max(0.05, until - time.monotonic())))


def check_version(answer: Any, url: str) -> None:
    """ValueError for anything but vLLM 0.32 or newer."""
    version = answer.get("version") if isinstance(answer, dict) else None
    parts = str(version).split(".")[:2]
    if version is None or not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise ValueError(f"{url}: got {str(answer)[:200]!r} for /version; expected a vLLM server")
    if tuple(map(int, parts)) < OLDEST:
        raise ValueError(f"{url}: got vLLM {version}, expected 0.32 or newer: older ones take no ids with images")


def check_settings(settings: Mapping[str, Any], policy: Policy, way: str, url: str) -> None:
    """ValueError for options without which the engine would train on wrong numbers."""
    mode = settings["model_config"].get("logprobs_mode")
    if mode != "processed_logprobs":
        raise ValueError(
            f"{url}: got log-probs of mode {mode!r}, which are before the temperature; start the server with "
            f"--logprobs-mode processed_logprobs ({HOW})"
        )
    extension = settings["parallel_config"].get("worker_extension_cls")
    if way == "file" and extension != EXTENSION:
        raise ValueError(
            f"{url}: got the worker extension {extension or None!r}, so it cannot load weights from files; start the "
            f"server with --worker-extension-cls {EXTENSION} ({HOW})"
        )
    if way == "nccl":
        check_backend(settings, url)
    if way == "adapters":
        assert policy.adapters is not None
        rank = policy.adapters.rank
        lora = settings.get("lora_config") or {}
        if not lora:
            raise ValueError(f"{url}: the server takes no LoRA adapters; start it with --enable-lora ({HOW})")
        if index(lora.get("max_lora_rank", 0)) < rank:
            raise ValueError(
                f"{url}: the server takes LoRA adapters of rank {lora.get('max_lora_rank')} at most, got rank {rank}; "
                f"start it with --max-lora-rank {rank}"
            )


def check_architecture(theirs: Mapping[str, Any], policy: Policy, url: str) -> None:
    """ValueError when the served model has another shape than the policy: its weights would not fit."""
    ours = architecture(policy.adapter.config.to_dict())
    differ = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    if differ:
        key = differ[0]
        raise ValueError(
            f"{url}: the server has another model: {key} is {theirs[key]} there, expected {ours[key]} of the "
            "model that this run trains; serve that one"
        )
