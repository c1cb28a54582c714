"""Weights from the trainer's GPU to a server's GPUs, by vLLM's own transfer engine over NCCL.

NCCL has no timeout: every round runs on a thread with a deadline. This needs vLLM in the trainer's environment too, and
GPUs on both sides. It follows the interface of vLLM 0.32 and 0.33 and has not run, for want of two GPUs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from operator import index
from typing import Any
from urllib.parse import urlsplit

import torch

from saccade.models.policy import Policy
from saccade.rollout.vllm_pool import VllmServer
from saccade.rollout.vllm_weights import checkpoint_state


def check_nccl(policy: Policy) -> None:
    """ValueError when this side cannot send weights by NCCL."""
    way_out = "set rollout.engine.weights: file"
    if policy.device.type != "cuda":
        raise ValueError(
            f"rollout.engine.weights: nccl needs the model on a GPU, and it is on {policy.device}; {way_out}"
        )
    if find_spec("vllm") is None:
        raise ValueError(f"rollout.engine.weights: nccl needs vLLM in the trainer's environment too; {way_out}")


def check_backend(settings: Mapping[str, Any], url: str) -> None:
    """ValueError for a server that was not started for NCCL."""
    backend = (settings.get("weight_transfer_config") or {}).get("backend")
    if backend != "nccl":
        raise ValueError(
            f"{url}: got the weight transfer backend {backend!r}, expected nccl; start the server with "
            """--weight-transfer-config '{"backend": "nccl"}'"""
        )


class NcclTransfer:
    """A group of the trainer and one server's workers, which lasts as long as the server."""

    def __init__(self, server: VllmServer, policy: Policy, port: int, deadline_s: float) -> None:
        """TimeoutError when the server does not join in time."""
        base, factory, nccl = (
            import_module(f"vllm.distributed.weight_transfer.{name}") for name in ("base", "factory", "nccl_engine")
        )
        transfer = self

        class Source(base.WeightSource):
            """The policy's tensors under the names of a checkpoint, adapters merged."""

            def metadata(self) -> list[Any]:
                return [base.ParamMeta(name, one.dtype, tuple(one.shape)) for name, one in transfer.tensors()]

            def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
                return iter(transfer.tensors())

        self.policy, self.deadline_s, self._state = policy, deadline_s, dict[str, torch.Tensor]()
        world = server.client.get("/get_world_size?include_dp=true", 30.0)["world_size"]
        options = nccl.NCCLTrainerInitInfo(
            rank=0, master_address=str(urlsplit(server.url).hostname), master_port=port, world_size=index(world) + 1
        )
        client: Any = _Client(server, deadline_s)
        self._engine: Any = within(
            deadline_s,
            f"{server.url}: joining the NCCL group",
            lambda: factory.WeightTransferTrainerFactory.trainer_init(options, client=client, source=Source()),
        )
        self._url = server.url

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """What is sent in this round."""
        return list(self._state.items())

    def send(self, policy: Policy) -> None:
        """Send all weights; the server must be paused. TimeoutError when it does not take them in time."""
        self.policy, self._state = policy, checkpoint_state(policy)
        try:
            within(self.deadline_s, f"{self._url}: sending weights by NCCL", self._engine.send_weights)
        finally:
            self._state = {}


class _Client:
    """The routes of a weight update, as vLLM's trainer side calls them."""

    def __init__(self, server: VllmServer, timeout_s: float) -> None:
        self.server, self.timeout_s = server, timeout_s

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._post("/init_weight_transfer_engine", {"init_info": init_info})

    def shutdown_weight_transfer_engine(self) -> None:
        self._post("/shutdown_weight_transfer_engine", None)

    def start_weight_update(self) -> None:
        self._post("/start_weight_update", None)

    def update_weights(self, update_info: Any) -> None:
        self._post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._post("/finish_weight_update", None if weight_version is None else {"weight_version": weight_version})

    def _post(self, path: str, body: Any) -> None:
        self.server.client.post(path, body, self.timeout_s, plain=True)


def within(seconds: float, what: str, work: Callable[[], Any]) -> Any:
    """The result of `work`, on a daemon thread. TimeoutError when it takes longer; the thread is then left behind,
    since nothing can interrupt it."""
    box: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            box.append((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            box.append((None, error))

    thread = threading.Thread(target=run, name="saccade-nccl", daemon=True)
    thread.start()
    thread.join(seconds)
    if not box:
        raise TimeoutError(f"{what} took longer than {seconds:g} s; restart the servers")
    result, problem = box[0]
    if problem is not None:
        raise problem
    return result
