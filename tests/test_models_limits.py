"""Limits on the size of images: kept by every family for every size, or refused by name; the same in all verbs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES, family
from pictures import noise_image
from PIL import Image

from saccade.models.config import ModelConfig
from saccade.models.counting import TokenCounter
from saccade.models.policy import load_adapter, load_policy
from saccade.planning.inputs import read_config, visual_tokens

SIZES = [(20, 57), (57, 57), (100, 60), (224, 300), (400, 130), (777, 512), (300, 40)]
LIMITS = {
    "qwen2_vl": {"max_pixels": 20_000, "max_visual_tokens": 20, "min_pixels": 12_000},
    "qwen2_5_vl": {"max_pixels": 20_000, "max_visual_tokens": 20, "min_pixels": 12_000},
    "qwen3_vl": {"max_pixels": 20_000, "max_visual_tokens": 20, "min_pixels": 12_000},
    "qwen3_5": {"max_pixels": 20_000, "max_visual_tokens": 20, "min_pixels": 12_000},
    "glm4v": {"max_pixels": 20_000, "max_visual_tokens": 20, "min_pixels": 12_000},
    "glm46v": {"max_pixels": 20_000, "max_visual_tokens": 20, "min_pixels": 12_000},
    "internvl": {"max_pixels": 7_000, "max_visual_tokens": 13, "min_pixels": 6_272},
    "idefics3": {"max_pixels": 20_000, "max_visual_tokens": 20},
    "smolvlm": {"max_pixels": 20_000, "max_visual_tokens": 20},
    "llava_onevision": {"max_pixels": 7_000, "max_visual_tokens": 60},
    "gemma3": {"max_pixels": 3_136, "max_visual_tokens": 4},
    "gemma4": {"max_pixels": 4_480, "max_visual_tokens": 139},
    "minicpmv4_6": {"max_pixels": 2_047, "max_visual_tokens": 11},
}
"""Per family a value of each limit that it has; the smaller ones bind at the sizes above."""
BINDING = set(LIMITS) - {"gemma3", "gemma4"}
"""The tiny Gemmas have one size, and no budget below the smallest."""


@pytest.fixture(scope="module", params=FAMILIES)
def source(request, tmp_path_factory) -> tuple[str, str]:
    return request.param, str(family(request.param).write(tmp_path_factory.mktemp(request.param), seed=1))


def measured(adapter) -> list[tuple[int, int]]:
    """(pixels, visual tokens) of an image of each size."""
    prompts = [adapter.encode("<image>?", [Image.new("RGB", size)]) for size in SIZES]
    tokens = [sum(int((p.ids_P == image_id).sum()) for image_id in adapter.image_ids) for p in prompts]
    areas = [p.frames[0].size_input[0] * p.frames[0].size_input[1] for p in prompts]
    return list(zip(areas, tokens, strict=True))


@pytest.mark.parametrize("key", ["max_pixels", "max_visual_tokens", "min_pixels"])
def test_every_family_keeps_a_limit_for_every_size_or_refuses_it_by_name(source, key):
    name, path = source
    limit = LIMITS[name].get(key)
    if limit is None:
        with pytest.raises(ValueError, match=rf"{key}.*{name}"):
            load_adapter(ModelConfig.model_validate({"path": path, key: 20_000_000}))
        return
    free = measured(load_adapter(path))
    bound = measured(load_adapter(ModelConfig.model_validate({"path": path, key: limit})))
    for pixels, tokens in bound:
        kept = {"max_pixels": pixels <= limit, "max_visual_tokens": tokens <= limit, "min_pixels": pixels >= limit}
        assert kept[key], (pixels, tokens)
    assert (free != bound) == (name in BINDING)


@pytest.mark.parametrize("key", ["max_pixels", "max_visual_tokens"])
def test_a_limit_below_the_family_s_smallest_image_is_refused_by_name(source, key):
    name, path = source
    if name.startswith(("qwen", "glm")) and key == "max_visual_tokens":
        assert measured(load_adapter(ModelConfig(path=path, max_visual_tokens=1)))[1][1] == 1
        return
    with pytest.raises(ValueError, match=rf"{key}.* 1\b.*{name}"):
        load_adapter(ModelConfig.model_validate({"path": path, key: 1}))


def test_a_limited_model_gives_the_features_of_its_prompts_and_is_saved_with_its_limit(source, tmp_path):
    name, path = source
    policy = load_policy(ModelConfig.model_validate({"path": path, "max_pixels": LIMITS[name]["max_pixels"]}))
    prompt = policy.adapter.encode("<image>?", [noise_image(400, 130, 1)])
    tokens = sum(int((prompt.ids_P == image_id).sum()) for image_id in policy.adapter.image_ids)
    with torch.no_grad():
        assert policy.adapter.vision(policy.model, [prompt])[0].shape[0] == tokens
    policy.save(tmp_path / "saved")
    saved = load_adapter(str(tmp_path / "saved"))
    assert measured(saved) == measured(policy.adapter)


def test_plan_and_check_count_with_the_limits(source):
    name, path = source
    model = ModelConfig.model_validate({"path": path, "max_pixels": LIMITS[name]["max_pixels"]})
    config, directory = read_config(path)
    tokens, origin = visual_tokens(config, directory, (400, 130), model)
    counted = TokenCounter(load_adapter(model)).prompt("<image>?", [(400, 130)])
    assert (tokens,) == counted.images and f"max_pixels {model.max_pixels:,}" in origin


def test_a_plan_from_config_json_alone_keeps_the_limits_too(tmp_path: Path):
    family("qwen2_5_vl").write(tmp_path / "whole")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
    config, directory = read_config(str(tmp_path / "bare"))
    for limit, most in ({"max_pixels": 784 * 50}, 50), ({"max_visual_tokens": 30}, 30), ({"min_pixels": 784 * 90}, 100):
        tokens, _ = visual_tokens(
            config, directory, (500, 300) if most < 90 else (50, 50), ModelConfig(path=".", **limit)
        )
        assert most * 0.8 <= tokens <= most


def test_the_smallest_size_cannot_exceed_the_largest():
    with pytest.raises(ValueError, match="min_pixels is 9 and max_pixels 8"):
        ModelConfig(path="base", min_pixels=9, max_pixels=8)
