"""A stand-in for a vLLM server: the routes that the engine uses, answered by the tiny model in this process.

It has weights of its own, which only an update changes, reads images from requests, and fails as it is told to.
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy, load_policy
from saccade.rollout.config import Sampling
from saccade.rollout.prompts import Prompt
from saccade.rollout.vllm_checks import EXTENSION
from saccade.rollout.vllm_worker import Checksum, architecture
from saccade.types import Completion, Frame

NEW = {"visual.": "model.visual.", "model.": "model.language_model."}
OLD = re.compile(r"^(visual\.|model\.)(?!language_model|visual)")
"""The beginnings of names in files of the tiny model's family, and in the model."""
Reply = tuple[int, Any]
"""Status and body."""
Fault = Callable[[str, Any], "Reply | str | None"]
"""(path, request) -> another answer, 'drop' to close the connection, or None to answer as usual."""


@dataclass(eq=False)
class StandIn:
    """One server; its fields may be changed while it runs."""

    policy: Policy
    url: str = ""
    version: str = "0.32.0"
    label: str = "default"
    context: int = 1024
    max_num_seqs: int = 64
    logprobs_mode: str = "processed_logprobs"
    extension: str = EXTENSION
    dev_routes: bool = True
    architecture: dict[str, Any] = field(default_factory=dict)
    """Overrides of the described one."""
    fault: Fault = lambda path, body: None
    change: Callable[[dict[str, Any]], Any] = lambda answer: answer
    """Applied to every answer of the generate route."""
    rescored: Callable[[EncodedPrompt, Completion, float], Completion] = lambda prompt, reply, temperature: reply
    """Gives the replies of groups (not the probe's) other log-probs, under the mistakes of a sampler."""
    paused: bool = False
    asked: list[tuple[str, Any]] = field(default_factory=list)
    answered: int = 0
    """Groups that were answered."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    """Cache of images by name, as vLLM has one."""
    clears_caches: bool = True

    def answer(self, path: str, body: Any) -> Reply | str:
        self.asked.append((path, body))
        if (faulty := self.fault(path, body)) is not None:
            return faulty
        route = path.partition("?")[0]
        if route in ("/server_info", "/collective_rpc") and not self.dev_routes:
            return 404, {"detail": "Not Found"}
        handler = {
            "/version": lambda: {"version": self.version},
            "/v1/models": lambda: {"data": [{"id": "tiny", "parent": None, "max_model_len": self.context}]},
            "/server_info": lambda: {"vllm_config": self.settings()},
            "/weight_info": lambda: {"weight_version": self.label},
            "/pause": lambda: self.pause(True),
            "/resume": lambda: self.pause(False),
            "/collective_rpc": lambda: {"results": [getattr(self, body["method"])(*body.get("args", []))]},
            "/update_weight_version": lambda: self.name(body["new_version"]),
            "/inference/v1/generate": lambda: self.generate(body),
        }.get(route)
        return (404, {"detail": "Not Found"}) if handler is None else (200, handler())

    def settings(self) -> dict[str, Any]:
        return {
            "model_config": {"logprobs_mode": self.logprobs_mode},
            "parallel_config": {"worker_extension_cls": self.extension},
            "scheduler_config": {"max_num_seqs": self.max_num_seqs},
        }

    def pause(self, paused: bool) -> dict[str, Any]:
        self.paused = paused
        if paused and self.clears_caches:
            self.features.clear()
        return {}

    def name(self, label: str) -> dict[str, Any]:
        self.label = label
        return {}

    def saccade_describe(self) -> dict[str, Any]:
        return {"architecture": architecture(self.policy.adapter.config.to_dict()) | self.architecture}

    def saccade_load(self, paths: list[str]) -> dict[str, Any]:
        total, state = Checksum(), {}
        for path in paths:
            for name, tensor in load_file(path).items():
                total.add(name, tensor)
                state[OLD.sub(lambda found: NEW[found[0]], name)] = tensor
        with self.lock:
            left = self.policy.model.load_state_dict(state, strict=False)
        assert not left.unexpected_keys and left.missing_keys in ([], ["lm_head.weight"])
        return {"checksum": total.value, "tensors": total.tensors}

    def generate(self, body: dict[str, Any]) -> Any:
        params, parts = body["sampling_params"], body.get("content_parts") or []
        images = [_image(part["url"]) for part in parts]
        with self.lock:
            prompt = self.encode(body["token_ids"], images)
            if parts:  # features are those of the time when the image was first seen
                name = "/".join(part["uuid"] for part in parts)
                with torch.no_grad():
                    (found,) = self.policy.adapter.vision(self.policy.model, [prompt])
                self.features.setdefault(name, found)
            replies = [
                self.reply(prompt, params, i, self.features[name] if parts else None) for i in range(params["n"])
            ]
            if params["n"] > 1:
                replies = [self.rescored(prompt, one, params["temperature"]) for one in replies]
            self.answered += 1
        answer = {
            "model": body["model"],
            "prompt_token_ids": prompt.ids_P.tolist(),
            "choices": [self.choice(i, one, params) for i, one in enumerate(replies)],
        }
        return self.change(answer)

    def encode(self, ids: list[int], images: list[Image.Image]) -> EncodedPrompt:
        """The prompt with expanded placeholders, read from ids alone."""
        adapter: Any = self.policy.adapter
        pixels, shas = adapter._pixels(images)
        texts = iter(adapter.placeholder_texts(pixels, images) if images else [])
        (placeholder,) = adapter.image_ids
        out: list[int] = []
        for token in ids:
            out += (
                adapter.tokenizer(next(texts), add_special_tokens=False).input_ids if token == placeholder else [token]
            )
        ids_P = torch.tensor(out)
        positions_3P, following = adapter.positions(ids_P, pixels)
        sizes = adapter.input_sizes(pixels, images) if images else []
        frames = tuple(Frame("pixels_resized", image.size, size) for image, size in zip(images, sizes, strict=True))
        return EncodedPrompt(ids_P, positions_3P, following, pixels, shas, frames, "stand-in")

    def reply(self, prompt: EncodedPrompt, params: dict[str, Any], index: int, features: Any) -> Completion:
        from saccade.models.forward import Features
        from saccade.rollout.engine import open_engine

        given = Prompt(None, prompt, (), None if features is None else Features(features, self.policy.version))
        sampling = Sampling(
            max_new_tokens=params["max_tokens"],
            greedy=params["temperature"] == 0,
            temperature=params["temperature"] or 1.0,
            min_new_tokens=params["max_tokens"] if params.get("ignore_eos") else 0,
        )
        ((done,),) = open_engine(self.policy).generate([given], sampling, 1, [params.get("seed", 0) + index])
        return done

    def choice(self, index: int, done: Completion, params: dict[str, Any]) -> dict[str, Any]:
        content = [{"token_id": t, "logprob": lp} for t, lp in zip(done.token_ids, done.logprobs, strict=True)]
        return {
            "index": index,
            "finish_reason": done.finish_reason,
            "stop_reason": None,
            "token_ids": list(done.token_ids),
            "logprobs": None if params.get("logprobs") is None else {"content": content},
            "weight_versions": [{"version": self.label, "start": 0, "end": len(done.token_ids)}],
        }


def _image(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


@contextmanager
def stand_in(policy: Policy | None = None, port: int = 0, **fields: Any) -> Iterator[StandIn]:
    """Serves on a free local port (or the given one) until the block ends."""
    server = StandIn(policy or load_policy("base"), **fields)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def do_GET(self) -> None:
            self.respond(None)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            self.respond(json.loads(content or b"null"))

        def respond(self, body: Any) -> None:
            said = server.answer(self.path, body)
            if said == "drop":
                self.close_connection = True
                return
            status, answer = said
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.fault = lambda path, body: "drop"  # open connections end too
        http.shutdown()
        thread.join(timeout=10)
        http.server_close()


def moved(policy: Policy, scale: float = 0.02) -> Policy:
    """The policy after a step that changed all weights, in place."""
    generator = torch.Generator().manual_seed(policy.version)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    policy.version += 1
    return policy


MISTAKES = ("none", "precision", "temperature", "pixels", "positions", "weights")


def mistaken(policy: Policy, mistake: str, prompt: EncodedPrompt, reply: Completion, temperature: float) -> Completion:
    """The reply with the log-probs of a sampler that makes one of the known mistakes."""
    pixels = {name: value * 0 if value.is_floating_point() else value for name, value in prompt.pixels.items()}
    plain = torch.arange(len(prompt)).expand(3, -1)
    if mistake == "none":
        return reply
    if mistake == "precision":
        noise = torch.randn(len(reply.logprobs), generator=torch.Generator().manual_seed(0)) * 4e-3
        noise[0] = 8e-3
        return replace(reply, logprobs=tuple(a + float(b) for a, b in zip(reply.logprobs, noise, strict=True)))
    if mistake == "pixels":
        prompt = replace(prompt, pixels=pixels)
    if mistake == "positions":
        prompt = replace(prompt, positions_3P=plain, next_position=len(prompt))
    scorer = moved(load_policy("base")) if mistake == "weights" else policy
    at = 1.0 if mistake == "temperature" else temperature
    with torch.no_grad():
        found, _ = branch_logprobs(scorer, pack([(prompt, [Branch(reply.token_ids)])]), temperature=at)
    return replace(reply, logprobs=tuple(found.tolist()))
