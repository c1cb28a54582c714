"""Rollouts from vLLM servers: a request per group, weights after every update, servers that may die and come back."""

from __future__ import annotations

import fcntl
import logging
import math
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from saccade.endpoint.errors import EndpointError
from saccade.endpoint.plain import PlainClient
from saccade.endpoint.secrets import read_key
from saccade.models.policy import Policy
from saccade.rollout.config import Sampling, VllmServerConfig
from saccade.rollout.prompts import Prompt
from saccade.rollout.vllm_checks import HOW, TIMEOUT_S, check_server
from saccade.rollout.vllm_nccl import NcclTransfer, check_nccl
from saccade.rollout.vllm_pool import PAUSED_WAIT_S, Pool, VllmServer, is_gone, is_paused
from saccade.rollout.vllm_probe import compare_probe, probe_bound, probe_params, probe_prompt
from saccade.rollout.vllm_process import a_free_port
from saccade.rollout.vllm_requests import (
    GENERATE,
    IncompleteReply,
    UnusableReply,
    check_prompt,
    completions,
    generate_request,
    sampling_params,
    understood,
)
from saccade.rollout.vllm_weights import WeightFiles, write_adapters, write_weights
from saccade.types import Completion

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_REPEATS = 8
"""How often a group is drawn again because its replies were of other weights or aborted; then somebody else uses the
servers too."""


@dataclass(eq=False)
class Current:
    """The weights that all servers shall have."""

    label: str
    version: int
    files: WeightFiles
    probes: dict[tuple[int, ...], list[float]] = field(default_factory=dict)
    """Tokens of the probe's reply -> the trainer's log-probs of them."""


class VllmServerEngine:
    """See `saccade.rollout.engine.Engine`. Its start checks all servers and gives them the policy's weights.

    ValueError for servers that cannot serve this policy, or prompts that they read differently; TimeoutError when no
    server answers within `deadline_s`.
    """

    def __init__(self, policy: Policy, config: VllmServerConfig) -> None:
        if not config.urls:
            raise ValueError(
                "rollout.engine.urls: got no address; give those of running servers, or start the run with "
                "'saccade launch RECIPE --vllm 1'"
            )
        self.policy, self.config = policy, config
        self.way = transfer(policy, config)
        key = read_key(config.api_key_file, "rollout.engine.api_key_file")
        servers = [VllmServer(PlainClient(url, key, config.groups_at_once + 2)) for url in config.urls]
        self.pool = Pool(servers, config.groups_at_once)
        with understood(lambda what: ValueError(f"{', '.join(config.urls)}: {what}; {HOW}")):
            settings = [check_server(server, policy, config, self.way) for server in servers]
            self._most_replies = min(index(one["scheduler_config"]["max_num_seqs"]) for one in settings)
        self._probe = probe_prompt(policy)
        self._bound = probe_bound(policy, config.probe_bound)
        self._name = on_first(policy, lambda: secrets.token_hex(4))
        self._directory = on_first(policy, lambda: self._make_directory())
        self._current: Current | None = None
        self._groups: dict[str, NcclTransfer] = {}
        self.sync(policy)

    def _make_directory(self) -> Path:
        parent = self.config.weights_dir
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="saccade-weights-", dir=parent)).resolve()
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        return directory

    # ------------------------------------------------------------------------------------------------ generation

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """See `Engine.generate`. Features are ignored."""
        if len(seeds) != len(prompts):
            raise ValueError(f"got {len(seeds)} seeds for {len(prompts)} prompts; expected one for each")
        self._check_sizes(prompts, sampling, n)
        jobs = list(zip(prompts, seeds, strict=True))
        threads = self.config.groups_at_once * len(self.pool.servers)
        return self.pool.map(lambda job: self._group(job[0], sampling, n, job[1]), jobs, threads)

    def _check_sizes(self, prompts: Sequence[Prompt], sampling: Sampling, n: int) -> None:
        context = min(server.context for server in self.pool.servers)
        for prompt in prompts:
            total = len(prompt.encoded) + sampling.max_new_tokens
            if total > context:
                raise ValueError(
                    f"sample {prompt.name!r}: got a prompt of {len(prompt.encoded):,} tokens and up to "
                    f"{sampling.max_new_tokens:,} new ones, but a server's context holds {context:,}; start the "
                    f"servers with --max-model-len {total} or more"
                )
        if not sampling.greedy and n > self._most_replies:
            raise ValueError(
                f"got groups of {n} replies, but a server decodes {self._most_replies} at once; start the servers with "
                f"--max-num-seqs {n} or more"
            )

    def _group(self, prompt: Prompt, sampling: Sampling, n: int, seed: int) -> list[Completion]:
        """The replies to one prompt, from whichever server gives them first."""
        adapter = self.policy.adapter
        params = sampling_params(adapter, sampling, n, seed)
        body = generate_request(adapter, prompt, params, model="")
        tokens, until = len(prompt.encoded) + n * sampling.max_new_tokens, time.monotonic() + self.config.deadline_s
        repeats, last = 0, ""
        while True:
            try:
                with self.pool.server(tokens, until) as server:
                    found = self._answer(server, prompt, body, until)
            except TimeoutError as error:
                raise TimeoutError(
                    f"sample {prompt.name!r}: {error} within {self.config.deadline_s:g} s (rollout.engine.deadline_s; "
                    f"last: {last or 'nothing'})"
                ) from None
            if isinstance(found, list):
                return found * n if sampling.greedy else found
            last, again = found
            repeats += again
            if repeats > MOST_REPEATS:
                raise ValueError(
                    f"sample {prompt.name!r}: {last}, {repeats} times; see the server's log, and whether another run "
                    "sends weights to it"
                )

    def _answer(
        self, server: VllmServer, prompt: Prompt, body: dict[str, Any], until: float
    ) -> list[Completion] | tuple[str, bool]:
        """The replies, or why to ask again and whether the server had answered."""
        current = self._current
        assert current is not None
        try:
            self._bring(server, current, until)
            left_s = max(0.1, min(self.config.timeout_s, until - time.monotonic()))
            answer = server.client.post(GENERATE, {**body, "model": self._model(server, current)}, left_s)
            found = self._read_answer(server, prompt, answer, body["sampling_params"], current)
        except EndpointError as error:
            if is_paused(error):
                time.sleep(PAUSED_WAIT_S)
            elif is_gone(error):
                server.failed(error)
            elif error.status == 404 and self.way == "adapters":
                server.holds = None  # restarted: the adapters are gone
                return str(error), True
            else:
                raise _explained(error, server.url) from None
            return str(error), False
        except (UnusableReply, IncompleteReply) as reason:
            return str(reason), True
        server.failures = 0
        return found

    def _read_answer(
        self, server: VllmServer, prompt: Prompt, answer: Any, params: dict[str, Any], current: Current
    ) -> list[Completion]:
        with understood(lambda what: UnusableReply(f"{server.url}: {what}")):
            check_prompt(self.policy.adapter, prompt, answer.get("prompt_token_ids"), server.url)
            self._check_weights(answer, current, server)
            return completions(self.policy.adapter, prompt, answer, params, current.version, server.url)

    def _check_weights(self, answer: Any, current: Current, server: VllmServer) -> None:
        """Raises UnusableReply unless every token was written with the current weights."""
        if self.way == "adapters":
            labels = {str(answer.get("model"))}
        else:
            choices = [choice for choice in answer.get("choices", ()) if isinstance(choice, dict)]
            spans = [span for choice in choices for span in choice.get("weight_versions") or [{}]]
            labels = {str(span.get("version")) for span in spans}
        if labels != {current.label}:
            server.holds = None
            raise UnusableReply(
                f"{server.url}: the reply is of the weights {', '.join(sorted(labels))}, expected {current.label}"
            )

    def _model(self, server: VllmServer, current: Current) -> str:
        return current.label if self.way == "adapters" else server.model

    # ------------------------------------------------------------------------------------------------ weights

    def sync(self, policy: Policy) -> None:
        """Give all servers that answer the policy's weights, and compare log-probs of a short reply; the others get
        them when they answer again. All processes of a run must call this."""
        before = self._current
        if before is not None and policy is self.policy and policy.version == before.version:
            return
        self.policy = policy
        label = f"{self._name}-{policy.version}"
        with policy.whole():
            files = on_first(policy, lambda: self._write(policy, self._directory / label))
            self._current = on_first(policy, lambda: self._update_all(Current(label, policy.version, files)))
        if before is not None:
            on_first(policy, lambda: self._drop(before))

    def _write(self, policy: Policy, directory: Path) -> WeightFiles:
        if self.way == "nccl":
            return WeightFiles(directory)  # nothing is written
        return write_adapters(policy, directory) if self.way == "adapters" else write_weights(policy, directory)

    def _update_all(self, current: Current) -> Current:
        """Updates every server that answers, at least one, and compares its log-probs."""
        wait_s = self.config.start_s if self._current is None else self.config.deadline_s
        until = time.monotonic() + wait_s
        for server in self.pool.servers:
            server.rests_until = 0.0
        while True:
            answers = self.pool.map(
                lambda server: self._try(server, current), self.pool.servers, len(self.pool.servers)
            )
            pairs = zip(self.pool.servers, answers, strict=True)
            fit = [self._fits(server, current, *answer) for server, answer in pairs if answer]
            if any(fit):
                return current
            if time.monotonic() >= until:
                urls = ", ".join(server.url for server in self.pool.servers)
                raise TimeoutError(
                    f"none of {urls} took the weights within {wait_s:g} s (last: {self.pool.last_error})"
                )
            time.sleep(min(1.0, wait_s / 10))

    def _fits(self, server: VllmServer, current: Current, answer: Any) -> bool:
        try:
            self._compare(server, current, answer)
        except EndpointError as error:
            server.failed(error)
            return False
        return True

    def _try(self, server: VllmServer, current: Current) -> tuple[Any] | None:
        """The answer to the probe after the update; None when the server does not answer."""
        try:
            self._bring(server, current, math.inf, compare=False)
            return (self._ask_probe(server, current),)
        except EndpointError as error:
            if not is_gone(error):
                raise _explained(error, server.url) from None
            server.failed(error)
            return None

    def _bring(self, server: VllmServer, current: Current, until: float, compare: bool = True) -> None:
        """Gives a server the current weights unless it has them. Raises EndpointError when it does not answer, or when
        other groups have tried to update it until then."""
        if server.holds == current.label:
            return
        with server.updating, self._alone(server):
            if server.holds == current.label:
                return
            if time.monotonic() >= until:
                raise EndpointError(server.url, f"no weights in time (last: {server.last_error or 'nothing'})")
            with understood(lambda what: EndpointError(server.url, what)):
                self._load_adapters(server, current) if self.way == "adapters" else self._load_file(server, current)
            server.holds = current.label
            if compare:
                self._compare(server, current, self._ask_probe(server, current))

    def _load_file(self, server: VllmServer, current: Current) -> None:
        wait_s = self.config.timeout_s
        if server.client.get("/weight_info", TIMEOUT_S).get("weight_version") == current.label:
            return  # another process of this run was first
        server.client.post("/pause?mode=wait", None, wait_s)  # clears the caches of prefixes, images and features
        self._send(server, current) if self.way == "nccl" else self._read(server, current)
        server.client.post("/update_weight_version", {"new_version": current.label}, TIMEOUT_S)
        server.client.post("/resume", None, TIMEOUT_S)

    def _send(self, server: VllmServer, current: Current) -> None:
        """By NCCL. A server that has failed has left its group, and gets a new one."""
        if self.policy.version != current.version or (self.policy.shards and not self.policy.shards.is_first):
            raise EndpointError(server.url, "the first process sends it the weights before the next step")
        if server.failures or server.url not in self._groups:
            self._groups[server.url] = NcclTransfer(server, self.policy, a_free_port(), self.config.timeout_s)
        self._groups[server.url].send(self.policy)

    def _read(self, server: VllmServer, current: Current) -> None:
        """The server reads the files; a checksum shows that it has."""
        try:
            body = {"method": "saccade_load", "args": [current.files.paths]}
            found = server.client.post("/collective_rpc", body, self.config.timeout_s)["results"][0]
        except EndpointError as error:
            if error.status == 500 and "Worker failed" in error.body:
                raise ValueError(
                    f"{server.url}: the server could not load the weights and must be restarted: {error.body[:300]!r}"
                ) from None
            raise
        if (found["checksum"], found["tensors"]) != (current.files.checksum, current.files.tensors):
            raise ValueError(
                f"{server.url}: read {found['tensors']} tensors with the checksum {found['checksum']}, expected "
                f"{current.files.tensors} with {current.files.checksum}: it does not see the files in "
                f"{current.files.directory}; set rollout.engine.weights_dir to a directory that both see"
            )

    def _load_adapters(self, server: VllmServer, current: Current) -> None:
        names = [one["id"] for one in server.client.get("/v1/models", TIMEOUT_S)["data"]]
        if current.label not in names:
            body = {"lora_name": current.label, "lora_path": str(current.files.directory)}
            server.client.post("/v1/load_lora_adapter", body, self.config.timeout_s, plain=True)

    def _drop(self, old: Current) -> None:
        """Forget the weights of the last version."""
        if self.way == "adapters":
            for server in self.pool.servers:
                try:
                    server.client.post("/v1/unload_lora_adapter", {"lora_name": old.label}, TIMEOUT_S, plain=True)
                except EndpointError as error:  # a server that is gone has forgotten them too
                    log.debug("%s: %s", server.url, error)
        old.files.remove()

    def _ask_probe(self, server: VllmServer, current: Current) -> dict[str, Any]:
        body = generate_request(self.policy.adapter, self._probe, probe_params(), self._model(server, current))
        return server.client.post(GENERATE, body, self.config.timeout_s)

    def _compare(self, server: VllmServer, current: Current, answer: dict[str, Any]) -> None:
        """ValueError when the server's log-probs are not those of the weights that it was given, EndpointError for an
        answer that cannot be used."""
        try:
            (reply,) = self._read_answer(server, self._probe, answer, probe_params(), current)
        except UnusableReply as reason:
            raise EndpointError(server.url, str(reason)) from None
        problem = compare_probe(self.policy, self._probe, reply, current.probes, self._bound)
        if problem is not None:
            raise ValueError(f"{server.url}: {problem}")

    @contextmanager
    def _alone(self, server: VllmServer) -> Iterator[None]:
        """Within the context no other process of this run updates that server."""
        path = self._directory / f"{server.url.rpartition('/')[2].replace(':', '-')}.lock"
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """See `Engine.close`. The servers keep running, with the last weights."""
        for server in self.pool.servers:
            server.client.close()
        on_first(self.policy, lambda: shutil.rmtree(self._directory, ignore_errors=True))


def transfer(policy: Policy, config: VllmServerConfig) -> str:
    """How weights get to the servers. ValueError for a way that this policy does not have."""
    if config.weights == "adapters" and policy.adapters is None:
        raise ValueError("rollout.engine.weights: got 'adapters', but the model trains no LoRA adapters; use file")
    if config.weights == "nccl":
        check_nccl(policy)
    return config.weights


def on_first(policy: Policy, work: Callable[[], T]) -> T:
    """The result of `work` in the first of a run's processes, for all of them; its error too."""
    if policy.shards is None:
        return work()
    box: list[Any] = [None]
    if policy.shards.is_first:
        try:
            box = [(work(), None)]
        except (ValueError, OSError) as error:  # TimeoutError and EndpointError are OSErrors
            box = [(None, f"{error}")]
    dist.broadcast_object_list(box, src=0)
    result, problem = box[0]
    if problem is not None:
        raise ValueError(problem)
    return result


def _explained(error: EndpointError, url: str) -> ValueError:
    """A refusal of the server in one line, with the way out where it is known."""
    if error.status in (403, 404) and GENERATE in error.url:
        return ValueError(f"{url}: the server does not take token ids; start it with --enable-scale-out ({error})")
    return ValueError(f"{url}: {error}")
