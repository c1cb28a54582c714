"""Training a bfloat16 model: small updates are not lost, gradients add up in float32, and a resumed run is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import rl_recipe, write_world

from saccade.training import loop, optim
from saccade.training.checkpoint import latest
from saccade.training.config import OptimConfig
from saccade.training.optim import GuardedOptimizer, build_optimizer, check_optimizer
from saccade.training.rl import train

TINY = OptimConfig(lr=1e-6)


def pushed(parameter: nn.Parameter, optimizer: GuardedOptimizer | torch.optim.Optimizer, steps: int) -> nn.Parameter:
    """The parameter after steps that all want it smaller; Adam moves by lr whatever the gradient's size."""
    for _ in range(steps):
        parameter.sum().backward()
        if isinstance(optimizer, GuardedOptimizer):
            optimizer.step(TINY.lr, 0.0)
        else:
            optimizer.step()
            optimizer.zero_grad()
    return parameter


def test_an_update_of_a_millionth_is_not_lost_in_bfloat16() -> None:
    plain = nn.Parameter(torch.ones(3, 3, dtype=torch.bfloat16))
    assert (pushed(plain, torch.optim.AdamW([plain], lr=1e-6, weight_decay=0.0), 2100) == 1).all(), "what is mended"
    kept = nn.Parameter(torch.ones(3, 3, dtype=torch.bfloat16))
    optimizer = GuardedOptimizer(build_optimizer([("w", kept)], TINY), TINY)
    pushed(kept, optimizer, 1)
    master = optimizer.optimizer.state_dict()["masters"][0]
    assert master.dtype == torch.float32
    assert master == pytest.approx(torch.full((3, 3), 1 - 1e-6), abs=1e-7)
    assert (pushed(kept, optimizer, 2099) == 1 - 2**-8).all(), "2,100 millionths are past half of the step below 1"


def test_gradients_of_many_micro_batches_add_up_in_float32() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = GuardedOptimizer(build_optimizer([("w", weight)], TINY), TINY)
    for share in (1.0, *[2.0**-9] * 512):  # in bfloat16 each of the small ones would round to nothing beside the 1
        (share * weight).sum().backward()
    assert weight.grad is None
    assert optimizer.parameters[0].grad == 2.0
    norm, stepped = optimizer.step(1e-6, 0.0)
    assert (norm, stepped) == (2.0, True)


def test_weights_of_full_precision_have_no_masters() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer([("w", weight)], TINY)
    assert optimizer.param_groups[0]["params"][0] is weight
    low = build_optimizer([("w", nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16)))], TINY)
    with pytest.raises(ValueError, match=r"restore model\.dtype"):
        low.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_a_resumed_bfloat16_run_continues_from_the_masters_bit_by_bit(tmp_path: Path, kind: str) -> None:
    folder = write_world(tmp_path / "world")
    model = {"path": str(folder / "model"), "device": "cpu", "dtype": "bfloat16"}
    optim = {"lr": 1e-4, "kind": kind}
    recipe = rl_recipe(folder, model=model, num_steps=3, optim=optim, checkpoint={"every": 1, "keep": 9})
    train(recipe, tmp_path / "run")
    whole = saved(tmp_path / "run")
    for step in (2, 3):  # as if it had been killed after step 1
        for file in (tmp_path / "run" / "checkpoints" / f"step-{step:06d}").iterdir():
            file.unlink()
        (tmp_path / "run" / "checkpoints" / f"step-{step:06d}").rmdir()
    train(recipe, tmp_path / "run", resume=True)
    again = saved(tmp_path / "run")
    assert len(whole) > 10 and all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert any((master.bfloat16().float() != master).any() for master in whole), "the masters hold more than the model"


def saved(run: Path) -> list[torch.Tensor]:
    found = latest(run)
    assert found is not None and found.step == 3
    return torch.load(found.path / "trainer.pt", weights_only=True)["optimizer"]["masters"]


def losses(weight: nn.Parameter, kind: str, target: torch.Tensor, steps: int = 60) -> list[float]:
    config = OptimConfig(lr=0.02, kind=kind)
    optimizer = GuardedOptimizer(build_optimizer([("w", weight)], config), config)
    found = []
    for _ in range(steps):
        loss = (weight - target).square().mean()
        loss.backward()
        found.append(float(loss.detach()))
        optimizer.step(config.lr, found[-1])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_of_8_bits_train_nearly_as_those_of_32(dtype: torch.dtype) -> None:
    target = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide, narrow = (
        losses(nn.Parameter(torch.zeros(64, 128, dtype=dtype)), kind, target) for kind in ("adamw", "adamw_8bit")
    )
    assert narrow[-1] < 0.3 * narrow[0]
    assert narrow == pytest.approx(wide, rel=0.1)


def test_moments_of_8_bits_take_a_quarter_of_the_bytes_and_masters_stay_wide() -> None:
    config, sizes = OptimConfig(lr=1e-3), {}
    for kind in ("adamw", "adamw_8bit"):
        weight = nn.Parameter(torch.ones(64, 256, dtype=torch.bfloat16))
        optimizer = build_optimizer([("w", weight)], config.model_copy(update={"kind": kind}))
        weight.sum().backward()
        optimizer.step()
        state = optimizer.state_dict()
        sizes[kind] = sum(x.nbytes for x in state["state"][0].values() if isinstance(x, torch.Tensor))
        assert [one.dtype for one in state["masters"]] == [torch.float32]
    assert sizes["adamw_8bit"] < 0.35 * sizes["adamw"]


def test_an_optimizer_that_cannot_run_is_refused_before_the_model_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    world = write_world(tmp_path / "world")
    model = {"path": str(world / "model"), "device": "cpu"}
    with pytest.raises(ValueError, match=r"paged_adamw_8bit' needs a GPU, but model.device is cpu; use adamw_8bit"):
        rl_recipe(world, model=model, optim={"lr": 1e-3, "kind": "paged_adamw_8bit"})
    with pytest.raises(ValueError, match="adamw_8bit' has no float64"):
        rl_recipe(world, model=model | {"dtype": "float64"}, optim={"lr": 1e-3, "kind": "adamw_8bit"})
    with pytest.raises(ValueError, match="moves its state between GPU and host memory, but the model is on cpu"):
        check_optimizer("paged_adamw_8bit", torch.device("cpu"))
    monkeypatch.setattr(optim, "find_spec", lambda name: None)
    monkeypatch.setattr(loop, "load_checkpoint", None)
    with pytest.raises(ValueError, match=r"adamw_8bit' needs bitsandbytes: pip install 'saccade\[lora\]'"):
        train(rl_recipe(world, model=model, optim={"lr": 1e-3, "kind": "adamw_8bit"}), tmp_path / "run")
