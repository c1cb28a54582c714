"""The vision tower: windows in few calls, the attention that a recipe may ask for, and output that passes share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from pictures import noise_image
from pydantic import ValidationError
from training_runs import rl_recipe, write_world
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionBlock

from saccade.models import tower_attention
from saccade.models.config import ModelConfig
from saccade.models.forward import project_again, vision_features
from saccade.models.fused import original_layers
from saccade.models.policy import Policy, load_policy, loading_options
from saccade.models.tower_output import _layers
from saccade.planning.flops import ModelShape
from saccade.training.rl import train

WINDOWED = ("glm46v", "glm4v", "minicpmv4_6", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl")


def encoded(policy: Policy) -> list[Any]:
    """Images of three sizes, two of them in one prompt, none a whole number of windows."""
    encode = policy.adapter.encode
    pair = encode("<image>a<image>", [noise_image(120, 260, 1), noise_image(84, 84, 3)])
    return [encode("<image>How many?", [noise_image(300, 200, 1)]), pair]


def features_and_gradient(policy: Policy, prompts: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    policy.model.zero_grad()
    found = torch.cat([one.flatten() for one in policy.adapter.vision(policy.model, prompts)])
    found.square().sum().backward()
    grads = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    return found.detach(), torch.cat(grads)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tower_s_windows_in_few_calls_give_what_the_family_s_own_loop_gives(name, tmp_path, monkeypatch):
    config = ModelConfig(path=str(family(name).write(tmp_path, seed=2)), train=("vision", "projector"))
    policy, calls = load_policy(config), Counter[str]()
    prompts, sdpa = encoded(policy), torch.nn.functional.scaled_dot_product_attention

    def counted(*args: Any, **options: Any) -> Any:
        calls[now] += 1
        return sdpa(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    now = "ours"
    ours = features_and_gradient(policy, prompts)
    now = "theirs"
    with original_layers(policy.model):
        theirs = features_and_gradient(policy, prompts)
    assert (ours[0] - theirs[0]).abs().max() < 1e-5 * theirs[0].abs().max()
    assert (ours[1] - theirs[1]).norm() < 1e-4 * theirs[1].norm()
    if name in WINDOWED:
        assert calls["ours"] <= calls["theirs"]
    if name == "qwen2_5_vl":  # the one with windows within an image
        assert calls["ours"] < 0.7 * calls["theirs"]


@pytest.mark.parametrize("asked", ["sdpa", "eager"])
def test_an_attention_that_is_asked_for_is_the_family_s_own(asked, tmp_path):
    path = str(family("qwen2_5_vl").write(tmp_path, seed=2))
    plain, policy = load_policy(path), load_policy(ModelConfig(path=path, attn_implementation=asked))
    assert policy.model.model.visual.config._attn_implementation == asked
    assert plain.model.model.visual.config._attn_implementation == tower_attention.NAME
    assert plain.model.config.vision_config._attn_implementation == "sdpa"  # a copy of the model can be built from it
    assert ModelShape.from_model(plain.model).parameters == ModelShape.from_model(policy.model).parameters
    for a, b in zip(*(p.adapter.vision(p.model, encoded(p)) for p in (plain, policy)), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_flash_attention_where_it_cannot_work_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    for changes in ({"dtype": "float32"}, {"dtype": "bfloat16", "device": "cpu"}):
        with pytest.raises(ValidationError, match="flash_attention_2 needs dtype bfloat16 and a GPU"):
            ModelConfig.model_validate({"path": "base", "attn_implementation": "flash_attention_2", **changes})
    config = ModelConfig(path="base", dtype="bfloat16", attn_implementation="flash_attention_2")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="flash_attention_2 needs a GPU, but the device is cpu; use auto"):
            load_policy(config)
    cuda = torch.device("cuda")
    with pytest.raises(ValueError, match="takes no masks, which this family needs"):
        tower_attention.check(config, "masks", cuda)
    monkeypatch.setattr(tower_attention, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package flash-attn"):
        tower_attention.check(config, "attention", cuda)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_from_a_kept_tower_output_have_the_values_and_gradients_of_a_whole_pass(name, tmp_path, monkeypatch):
    policy = load_policy(ModelConfig(path=str(family(name).write(tmp_path, seed=2)), train=("projector",)))
    prompts = [*encoded(policy), policy.adapter.encode("no image", [])]
    with torch.no_grad():
        before = vision_features(policy, prompts)
    for _, parameter in policy.trainable():
        parameter.data.mul_(1.1)  # as an update does; the tower's output outlives it
    policy.version += 1
    with original_layers(policy.model):
        expected = features_and_gradient(policy, prompts)
    with monkeypatch.context() as patch:
        patch.setattr(type(_layers(policy)[0]), "forward", None)  # the tower's layers do not run
        again = project_again(policy, prompts, before)
    assert again is not None and {one.version for one in again} == {1}
    found = torch.cat([one.values.flatten() for one in again])
    policy.model.zero_grad()
    found.square().sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
    assert (found - expected[0]).abs().max() < 1e-5 * expected[0].abs().max()
    assert (gradient - expected[1]).norm() < 1e-4 * expected[1].norm()


def test_a_step_that_trains_the_projector_runs_the_tower_once_for_each_prompt(tmp_path, monkeypatch):
    world = write_world(tmp_path / "world")
    parts = ["projector", "language"]
    recipe = rl_recipe(world, model={"path": str(world / "model"), "device": "cpu", "train": parts}, num_steps=1)
    calls, block = [], Qwen2_5_VLVisionBlock.forward
    monkeypatch.setattr(Qwen2_5_VLVisionBlock, "forward", lambda *args, **kw: calls.append(1) or block(*args, **kw))
    result = train(recipe, tmp_path / "run")
    depth, prompts = len(result.policy.model.model.visual.blocks), recipe.prompts_per_step
    # the first batch is checked on both paths, which run the family's own code twice
    checks = len(calls) - depth * prompts
    assert 0 <= checks <= 4 * depth
    assert result.policy.version == 1


def test_weights_for_a_gpu_never_pass_through_the_host():
    assert loading_options(torch.device("cuda", 1)) == {"device_map": {"": torch.device("cuda", 1)}}
    assert loading_options(torch.device("cpu")) == {}
