"""After a run diverged: which of its checkpoints still gives finite log-probs."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import torch
from PIL import Image

from saccade.models.config import ModelConfig, ShardConfig
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import PROBE_PX, Policy, load_policy
from saccade.training import checkpoint
from saccade.training.checkpoint import Checkpoint
from saccade.training.optim import TrainingStopped
from saccade.training.resuming import START, set_aside_diverged


def go_back(run_dir: Path, model: ModelConfig) -> str:
    """Points `last` at the newest whole checkpoint whose log-probs are finite, sets newer ones aside, and says so: the
    end of the error's line. A probe runs on the CPU, so that it needs no memory of the GPU."""
    diverged: list[Path] = []
    advice = f"lower optim.lr in {run_dir / 'config.yaml'}, then: saccade resume {quote(str(run_dir))}"
    for path in reversed(checkpoint.steps(run_dir)):
        found = checkpoint.load(path)
        if isinstance(found, Checkpoint) and has_finite_logprobs(path, model):
            set_aside_diverged(run_dir, diverged)
            checkpoint.relink(run_dir, found.step, found.state["best_step"])
            return f"the newest checkpoint with finite log-probs is {path.name} (`last`); {advice} --accept-changes"
        diverged.append(path)
    return f"no checkpoint with finite log-probs was saved; {advice} --from {START}"


def refuse_diverged(policy: Policy, step: int) -> None:
    """TrainingStopped when a trained model gives no finite log-probs, whatever its last gradients were: no later step
    would tell."""
    if not torch.isfinite(_probe(policy)).all():
        raise TrainingStopped(f"after step {step}, the last one, the model gives no finite log-probs")


def load_checkpoint(model: ModelConfig, seed: int, path: Path | None, shard: ShardConfig | None = None) -> Policy:
    """The policy of a recipe's model with the weights of a checkpoint: its own, or its adapters on the base. Without a
    checkpoint the policy as a run starts. With `shard` all processes share it."""
    if path is not None and model.lora is None:
        return load_policy(model.model_copy(update={"path": str(path)}), shard=shard)
    return load_policy(model, seed, adapters=path, shard=shard)


def has_finite_logprobs(path: Path, model: ModelConfig) -> bool:
    """Whether the model at `path` gives finite log-probs for a gray image and a few tokens."""
    policy = load_checkpoint(model.model_copy(update={"device": "cpu", "quantize": None}), 0, path)
    return bool(torch.isfinite(_probe(policy)).all())


@torch.no_grad()
def _probe(policy: Policy) -> torch.Tensor:
    image = Image.new("RGB", (PROBE_PX, PROBE_PX), (128, 128, 128))
    prompt = policy.adapter.encode("<image>Describe it.", [image])
    branch = Branch(tuple(prompt.ids_P[-4:].tolist()))
    return branch_logprobs(policy, pack([(prompt, [branch])]), path="plain")[0]
