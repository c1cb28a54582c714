"""The sections of a recipe that describe sampling and the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from saccade.config import Config

CudaGraphs = Literal["auto", "on", "off"]


class Sampling(Config):
    """How replies are drawn. The default distribution is the one whose log-probs are trained: temperature 1, no cut.

    The cuts act in the order top-k, top-p (of the mass that top-k left), min-p, as in transformers. They change what is
    drawn, never the log-probs that are recorded: those are of the whole temperature-scaled distribution.
    """

    max_new_tokens: int = Field(default=256, ge=1)
    min_new_tokens: int = Field(default=0, ge=0)
    """The tokens that end a turn cannot be drawn before a reply has this many others."""
    temperature: float = Field(default=1.0, ge=1e-6)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """The likeliest tokens whose probabilities together reach this."""
    top_k: int = Field(default=0, ge=0)
    """0 keeps all tokens."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Tokens at least this many times as likely as the likeliest; 0 keeps all."""
    greedy: bool = False
    stop_strings: tuple[str, ...] = ()
    """A reply ends with the token that completes one of these in its text, such as '</answer>', and keeps it."""
    repetition_stop: int = Field(default=0, ge=0)
    """A reply ends when its last tokens are one run of 1 to 64 tokens, that many times in a row; 0 is off."""

    @model_validator(mode="after")
    def _possible(self) -> Sampling:
        if self.repetition_stop == 1:
            raise ValueError("repetition_stop is 1, which would end every reply at once; use 0 (off) or 2 and more")
        if "" in self.stop_strings:
            raise ValueError("stop_strings holds an empty text, which every reply contains; remove it")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens} but max_new_tokens {self.max_new_tokens}; expected at most "
                "that"
            )
        return self

    def request(self) -> dict[str, Any]:
        """The options of a chat request to an OpenAI-compatible server, without `repetition_stop`, which servers lack.

        Options that only some servers accept (top_k, min_p, min_tokens) are sent when set. Servers cut off the stop
        text.
        """
        drawn = {"temperature": 0.0} if self.greedy else {"temperature": self.temperature, "top_p": self.top_p}
        more = {"top_k": self.top_k, "min_p": self.min_p, "min_tokens": self.min_new_tokens, "stop": self.stop_strings}
        return {"max_tokens": self.max_new_tokens, **drawn, **{key: value for key, value in more.items() if value}}


class BuiltinEngineConfig(Config):
    """The engine in the trainer's own process, on the policy's weights."""

    kind: Literal["builtin"] = "builtin"
    max_rows: int = Field(default=512, ge=1)
    """Replies decoded at once, at most."""
    memory_mb: int | None = Field(default=None, ge=1)
    """MiB for keys and values while decoding. Replies enter as this allows and grow in pieces; those that find no room
    wait and continue later. null: on a GPU, 80% of what is free when a call begins; on a CPU, no limit."""
    cuda_graphs: CudaGraphs = "auto"
    """Replay decoding steps as CUDA graphs. auto: where the model is on a GPU and every recording proves equal to its
    step; on: required, or the run stops; off: never."""
    keep_mb: int = Field(default=1024, ge=0)
    """With CUDA graphs: recorded steps are kept for the next call with as many prompts and replies, if their keys and
    values take at most this many MiB, which then stay allocated while the model trains; 0 keeps none."""


Transfer = Literal["file", "adapters", "nccl"]


class VllmServerConfig(Config):
    """vLLM servers, found by their addresses. `saccade launch --vllm N` starts them and gives the addresses."""

    kind: Literal["vllm_server"] = "vllm_server"
    urls: tuple[str, ...] = ()
    """Addresses such as http://127.0.0.1:8100, of servers for the same model. Groups go to the least loaded one."""
    weights: Transfer = "file"
    """How servers get new weights. file: through a directory that trainer and servers share, LoRA adapters merged;
    adapters: LoRA adapters alone, loaded under a new name each time; nccl: from GPU to GPU."""
    weights_dir: Path | None = None
    """The directory for `file` and `adapters`; null: a temporary one of this machine."""
    groups_at_once: int = Field(default=64, ge=1)
    """Groups that a server has at a time, at most."""
    timeout_s: float = Field(default=600.0, gt=0.0)
    """Seconds for one answer of a server; then the group is sent again, to another server if there is one."""
    deadline_s: float = Field(default=1800.0, gt=0.0)
    """Seconds for a group or an update of weights in all, including the wait for servers that are being restarted."""
    start_s: float = Field(default=60.0, ge=0.0)
    """Seconds that a run waits at its start for a server that does not answer."""
    probe_bound: float | None = Field(default=None, gt=0.0)
    """Largest difference, in nats, between log-probs of servers and trainer for a short reply that is compared after
    every update of weights. null: 0.005 in float32, 0.3 in bfloat16."""
    api_key_file: Path | None = None
    """A file with the servers' key; the key itself would end up in the run's config.yaml."""

    @field_validator("urls")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from saccade.endpoint.plain import base_url

        found = tuple(base_url(url) for url in value)
        if len(set(found)) < len(found):
            raise ValueError(f"got {', '.join(found)}; expected a different address for each server")
        return found


class VllmColocatedConfig(Config):
    """vLLM in the trainer's own process and on its device, which needs both in one environment. On a GPU it sleeps
    while the model trains."""

    kind: Literal["vllm_colocated"] = "vllm_colocated"
    max_rows: int = Field(default=64, ge=1)
    """Replies decoded at once, at most."""
    context: int | None = Field(default=None, ge=1)
    """Tokens of a prompt and its reply, at most; null: as many as the model has, at most 8192."""
    images: int = Field(default=8, ge=1)
    """Images of a prompt, at most."""
    gpu_memory: float = Field(default=0.4, gt=0.0, lt=1.0)
    """Share of the GPU's memory for vLLM's weights, keys and values while it is awake."""
    kv_gb: int = Field(default=1, ge=1)
    """GiB for keys and values on a CPU."""
    probe_bound: float | None = Field(default=None, gt=0.0)
    """See `VllmServerConfig`."""


def _with_kind(value: Any) -> Any:
    """Without a `kind` a section describes the built-in engine."""
    return {"kind": "builtin", **value} if isinstance(value, dict) else value


EngineConfig = Annotated[
    Annotated[BuiltinEngineConfig | VllmServerConfig | VllmColocatedConfig, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]
"""What `open_engine` takes."""

DEFAULT_ENGINE = BuiltinEngineConfig()


class RolloutConfig(Config):
    """How replies are sampled, by default; a stage may override it. The default distribution is the one that is
    trained."""

    moved: ClassVar[dict[str, str]] = {
        **{key: f"sampling.{key}" for key in Sampling.model_fields},
        **{key: f"engine.{key}" for key in ("max_rows", "memory_mb", "cuda_graphs", "keep_mb")},
    }

    sampling: Sampling = Sampling()
    """For all stages; a stage sets `max_new_tokens` and may override the rest."""
    engine: EngineConfig = DEFAULT_ENGINE
    resample_rounds: int = Field(default=0, ge=0)
    """Dynamic sampling: rounds of fresh prompts, at most, that replace a step's groups of equal rewards; 0 is off."""
    staleness: Literal[0, 1] = 0
    """1: the replies of the next step are sampled while this one trains, by a policy one step older. Needs an engine
    with weights of its own."""
    max_failed_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """A run stops when a reward fails (not: gives 0) for more than this share of a round's replies; 1 never stops."""

    @model_validator(mode="after")
    def _stages_set_the_cap(self) -> RolloutConfig:
        if self.sampling.max_new_tokens != Sampling.model_fields["max_new_tokens"].default:
            raise ValueError(
                f"sampling.max_new_tokens: got {self.sampling.max_new_tokens}, but each stage has its own cap; "
                "set stages.N.max_new_tokens"
            )
        if self.sampling.greedy:
            raise ValueError("sampling.greedy: got true, but equal replies give no gradient; remove it")
        return self


def check_staleness(config: RolloutConfig) -> None:
    """ValueError for one step ahead with the built-in engine, which samples with the weights that are being trained.
    Callers with an engine of their own skip this check."""
    if config.staleness and config.engine.kind == "builtin":
        raise ValueError(
            "rollout.staleness: got 1 with rollout.engine.kind 'builtin', which shares the trainer's weights, so it "
            "cannot sample while they move; set rollout.staleness: 0, or an engine with weights of its own such as "
            "rollout.engine: {kind: vllm_server, ...}"
        )
