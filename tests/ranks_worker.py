"""What two processes compute in tests/test_training_ranks.py: each law compares them with one process and writes what
it measured. `python -m torch.distributed.run --nproc-per-node 2 tests/ranks_worker.py FOLDER [LAW ...]`"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from families import FAMILIES, family
from ranks_compared import (
    ALL,
    LR,
    STEPS,
    RecordingSGD,
    World,
    prompts_of,
    reinforced,
    supervised,
    tied,
    units_of,
    whole,
)
from torch import Tensor
from training_runs import base_recipe, rl_recipe

from saccade.base import pretrain
from saccade.cli.runs import restarted, where_to_resume
from saccade.models.config import ModelConfig, ShardConfig
from saccade.models.policy import Policy, load_policy
from saccade.rollout.config import Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import Prompt
from saccade.training import sft
from saccade.training.config import OptimConfig, RLRecipe, SFTRecipe
from saccade.training.loop import Session
from saccade.training.optim import GuardedOptimizer, build_optimizer
from saccade.training.ranks import ONE, join
from saccade.training.rl import train
from saccade.training.sft import sft_step
from saccade.training.sharded_checkpoint import ShardWriter
from saccade.training.step import StepRunner


def halves(rank: int) -> list[int]:
    return [[0, 2], [1, 3]][rank]


def uneven(rank: int) -> list[int]:
    return [[0, 1, 2], [3]][rank]


def averaged_layers(world: World) -> dict[str, Any]:
    """A control: the sum over processes set on the root alone leaves the layers' gradients averaged."""
    policies = [world.policy(sharded, train=("language",)) for sharded in (True, False)]
    shards = policies[0].shards
    assert shards is not None
    for unit in shards.units[1:]:
        unit.set_gradient_divide_factor(float(world.ranks.size))
    found = []
    for policy, ranks, places in zip(policies, (world.ranks, ONE), (halves(world.ranks.rank), range(4)), strict=True):
        units = [units_of(policy, 0, 4)[i] for i in places]
        optimizer = RecordingSGD([p for _, p in policy.trainable()], lr=LR)
        guarded = GuardedOptimizer(optimizer, OptimConfig(lr=LR, max_grad_norm=float("inf")))
        sft_step(StepRunner(policy, guarded, 60, "on", ranks), units, LR)
        assert optimizer.first is not None
        found.append(dict(zip((name for name, _ in policy.trainable()), optimizer.first, strict=True)))
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    return {"ratio": float(found[0][name].norm() / found[1][name].norm())}


def bypassing(world: World) -> dict[str, Any]:
    """What happens to a call of the model that does not go through the root, and what loading gave."""
    sharded, one = world.policy(True, train=ALL), world.policy(False)
    try:
        sharded.model.model(input_ids=torch.tensor([[300, 301]]))
        error = "none"
    except RuntimeError as caught:
        error = str(caught)
    pairs = list(zip(sharded.model.named_parameters(), one.model.named_parameters(), strict=True))
    buffers = zip(sharded.model.named_buffers(), one.model.named_buffers(), strict=True)
    return {
        "error": error,
        "tied": tied(sharded),
        "same_names": all(a == b for (a, _), (b, _) in pairs),
        "weights": max(float((whole(a) - b).abs().max()) for (_, a), (_, b) in pairs),
        "buffers": max(float((a - b).abs().max()) for (_, a), (_, b) in buffers),
    }


def generating(world: World) -> dict[str, Any]:
    """Replies of other lengths in each process, then training."""
    rank, found = world.ranks.rank, []
    for sharded in (True, False):
        policy = world.policy(sharded, train=("language",))
        prompts = [Prompt(None, prompt) for prompt in prompts_of(policy)][rank::2]
        with policy.whole():
            kind = type(policy.model.lm_head.weight).__name__
            replies = open_engine(policy).generate(prompts, Sampling(max_new_tokens=4 + 5 * rank), 2, [7, 8])
        found.append(([one.token_ids for some in replies for one in some], kind))
    after = supervised(world, halves, train=("language",))
    return {"equal": found[0][0] == found[1][0], "kind": found[0][1], "gradient_after": after.get("gradient")}


def saving(world: World) -> dict[str, Any]:
    """A checkpoint holds the weights of when it was asked for, while training goes on; another policy reads it."""
    policy, run = world.policy(True, train=ALL), world.folder / "saving"
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), OptimConfig(lr=LR)), OptimConfig(lr=LR))
    units = units_of(policy, 0, 4)
    runner, writer = StepRunner(policy, optimizer, 60, "on", world.ranks), ShardWriter(world.ranks)
    sft_step(runner, [units[i] for i in halves(world.ranks.rank)], LR)
    then = {name: whole(p).clone() for name, p in policy.model.named_parameters()}
    published: list[Path] = []
    writer.start(run, policy, optimizer, {"step": 1}, published.append)
    sft_step(runner, [units[i] for i in halves(world.ranks.rank)], LR)
    writer.finish()
    path = run / "checkpoints" / "step-000001"
    again = load_policy(ModelConfig(path=str(path), device="cpu", train=ALL), shard=ShardConfig())
    read = {name: whole(p) for name, p in again.model.named_parameters()}
    policy.save(run / "ordinary")
    ordinary = load_policy(ModelConfig(path=str(run / "ordinary"), device="cpu")) if world.ranks.is_first else None
    policy_weights = {name: whole(p) for name, p in policy.model.named_parameters()}
    moved = max(float((p - then[name]).abs().max()) for name, p in policy_weights.items())
    return {
        "apart": max(float((read[name] - one).abs().max()) for name, one in then.items()),
        "moved_since": moved,
        "ordinary": None if ordinary is None else apart_from(ordinary, policy_weights),
        "published": len(published),
        "own_group": writer.group is not None and writer.group is not torch.distributed.group.WORLD,
        "left": sorted(one.name for one in path.parent.iterdir()),
    }


def copied(world: World) -> dict[str, Any]:
    """Four processes, two copies of the model in two shards each."""
    found = supervised(replace(world, shard=ShardConfig(replicate=2)), lambda rank: [rank], train=ALL)
    policy = replace(world, shard=ShardConfig(replicate=2)).policy(True, train=ALL)
    layer = policy.model.model.language_model.layers[0].mlp.down_proj.weight
    return found | {"placements": str(layer.placements), "local": list(layer.to_local().shape)}


def half_precision(world: World) -> dict[str, Any]:
    """Shards are float32 and passes bfloat16, as one process does with master weights."""
    config = {"dtype": "bfloat16", "train": ALL}
    policies = [world.policy(sharded, **config) for sharded in (True, False)]
    found = []
    for policy, ranks, places in zip(policies, (world.ranks, ONE), (halves(world.ranks.rank), range(4)), strict=True):
        options = OptimConfig(lr=1e-3)
        guarded = GuardedOptimizer(build_optimizer(policy.trainable(), options), options)
        runner = StepRunner(policy, guarded, 60, "on", ranks)
        units = [units_of(policy, 0, 4)[i] for i in places]
        found.append([sft_step(runner, units, 1e-3)["loss/train"] for _ in range(STEPS)])
    sharded = policies[0]
    with sharded.whole():
        computing = str(sharded.model.lm_head.weight.dtype)
    return {"losses": found, "shards": str(sharded.model.lm_head.weight.dtype), "computing": computing}


def dying(world: World) -> dict[str, Any]:
    """The second process ends in the middle of step 3, once; torchrun starts all again, and they resume."""
    first_time, run = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0", world.folder / "run"
    real = Session.end_step

    def end_step(self: Session, step: int, *rest: Any, **more: Any) -> bool:
        if first_time and step == 3 and world.ranks.rank == 1:
            os._exit(9)
        return real(self, step, *rest, **more)

    Session.end_step = end_step  # type: ignore[method-assign]  # this process only
    train(run_recipe(world.folder), run, resume=where_to_resume(run) if restarted(run) else False)
    return {"restarted": not first_time}


def adapting(world: World) -> dict[str, Any]:
    train(adapter_recipe(world.folder), world.folder / "run")
    return {}


def adapter_recipe(folder: Path) -> RLRecipe:
    model = {"path": str(folder / "model"), "device": "cpu", "lora": {"rank": 4, "alpha": 8}}
    return rl_recipe(folder, model=model, checkpoint={"every": 2, "keep": 3}, loss={"kl_coef": 0.05})


def six_steps(world: World) -> dict[str, Any]:
    """A longer run, begun or resumed."""
    run = world.folder / "run"
    train(run_recipe(world.folder, 6), run, resume=run.exists())
    return {}


def apart_from(policy: Policy, weights: dict[str, Tensor]) -> float:
    return max(float((p.detach() - weights[name]).abs().max()) for name, p in policy.model.named_parameters())


def running(world: World) -> dict[str, Any]:
    """A whole RL run; the test compares its files with those of one process."""
    train(run_recipe(world.folder), world.folder / "run")
    return {}


def fine_tuning(world: World) -> dict[str, Any]:
    """A whole SFT run, whose steps the processes share out; the test compares its metrics with those of one process."""
    sft.train(examples_recipe(world.folder), world.folder / "sft")
    return {}


def pretraining(world: World) -> dict[str, Any]:
    """The base, which the test compares with one process."""
    pretrain.train(base_recipe(world.folder / "base"))
    return {}


def examples_recipe(folder: Path) -> SFTRecipe:
    """Five prompts a step, so that shares differ."""
    return SFTRecipe.model_validate(
        {
            "model": {"path": str(folder / "model"), "device": "cpu", "train": ALL},
            "data": [{"source": "vlm_r1", "path": str(folder / "data.jsonl"), "reply": "gold"}],
            "num_steps": 3,
            "prompts_per_step": 5,
            "optim": {"lr": 1e-3},
            "checkpoint": {"every": 3, "keep": 1},
        }
    )


def run_recipe(folder: Path, steps: int = 4) -> RLRecipe:
    held_out = {"source": "vlm_r1", "path": str(folder / "data.jsonl")}
    return rl_recipe(
        folder,
        model={"path": str(folder / "model"), "device": "cpu", "train": ALL},
        eval={"every": 2, "data": [held_out], "decoding": {"max_new_tokens": 4}},
        checkpoint={"every": 2, "keep": 3},
        num_steps=steps,
    )


def families(world: World) -> dict[str, Any]:
    """Every family with a text-only prompt in one process: all ways to share a prompt, all kinds of towers."""
    found: dict[str, Any] = {}
    for name in FAMILIES:
        path = world.folder / name
        world.ranks.on_first(lambda name=name, path=path: family(name).write(path, seed=1))
        options = {"path": str(path), "train": ALL, "tokens_per_micro_batch": 400}
        found[name] = supervised(world, uneven, texts=1, pictures=3, **options).get("whole_gradient")
    return found


EVERY_TERM = {"kl_coef": 0.1, "entropy_coef": 0.01, "top_entropy": 0.5, "correction": {"kind": "token_mask"}}
LAWS: dict[str, Callable[[World], dict[str, Any]]] = {
    "sft_full": lambda w: supervised(w, halves, train=ALL),
    "sft_frozen_tower": lambda w: supervised(w, uneven, train=("language",)),
    "sft_text_only_rank": lambda w: supervised(w, uneven, texts=1, pictures=3, train=ALL),
    "sft_projector_only": lambda w: supervised(w, uneven, train=("projector",)),
    "sft_empty_rank": lambda w: supervised(w, lambda rank: [[0, 1, 2, 3], []][rank], train=ALL),
    "sft_recomputing": lambda w: supervised(w, uneven, train=ALL, gradient_checkpointing=True),
    "sft_plain_rows": lambda w: supervised(w, uneven, train=("language",), shared_prefix="off"),
    "sft_lora": lambda w: supervised(w, uneven, texts=1, pictures=3, lora={"rank": 4, "alpha": 8}),
    "sft_lora_everywhere": lambda w: supervised(
        w, uneven, lora={"rank": 4, "alpha": 8, "targets": ALL}, gradient_checkpointing=True
    ),
    "rl_lora_kl": lambda w: reinforced(w, uneven, silent={3}, loss={"kl_coef": 0.1}, lora={"rank": 4, "alpha": 8}),
    "rl_full": lambda w: reinforced(w, halves, train=ALL),
    "rl_projector_only": lambda w: reinforced(w, uneven, train=("projector",)),
    "rl_no_signal_on_a_rank": lambda w: reinforced(w, uneven, silent={3}, train=ALL),
    "rl_text_only_rank": lambda w: reinforced(w, uneven, texts=1, pictures=3, train=ALL),
    "rl_mini_batches": lambda w: reinforced(w, uneven, loss=EVERY_TERM, update={"mini_batches": 3}, train=ALL),
    "averaged_layers": averaged_layers,
    "bypassing": bypassing,
    "generating": generating,
    "saving": saving,
    "running": running,
    "fine_tuning": fine_tuning,
    "pretraining": pretraining,
    "families": families,
    "copied": copied,
    "half_precision": half_precision,
    "dying": dying,
    "six_steps": six_steps,
    "adapting": adapting,
    "rl_kl_and_recomputed": lambda w: reinforced(
        w, uneven, loss={"kl_coef": 0.1}, update={"old_logprobs": "recompute", "updates_per_rollout": 2}
    ),
}


def main() -> None:
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    world = World(folder, join())
    for name in wanted or LAWS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            started = time.perf_counter()
            found = LAWS[name](world)
        serious = {str(w.message).splitlines()[0] for w in caught if not issubclass(w.category, DeprecationWarning)}
        found["warnings"] = sorted(serious)
        found["seconds"] = round(time.perf_counter() - started, 2)
        (folder / f"{name}-{world.ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
