"""The vision tower: windows in few calls, the attention that a recipe may ask for, and output that passes share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from pictures import noise_image
from pydantic import ValidationError

from saccade.models import tower_attention
from saccade.models.config import ModelConfig
from saccade.models.fused import original_layers
from saccade.models.policy import Policy, load_policy, loading_options

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


def test_weights_for_a_gpu_never_pass_through_the_host():
    assert loading_options(torch.device("cuda", 1)) == {"device_map": {"": torch.device("cuda", 1)}}
    assert loading_options(torch.device("cpu")) == {}
