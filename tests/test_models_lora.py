"""LoRA and QLoRA: adapted layers in every family, checkpoints of adapters, packed rows, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from family_matrix import LIMIT, batch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from saccade.models import lora
from saccade.models.adapter import PARTS
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs
from saccade.models.policy import Policy, load_policy
from saccade.planning.flops import ModelShape
from saccade.planning.stages import adapter_sizes
from saccade.verify.difference import difference, run
from saccade.verify.subject import sharing_modes

NO_PROJECTOR = {"gemma3"}
"""Families whose projector is a bare matrix, no linear layer."""
NEVER_RUN = {"llava_onevision": r"vision_tower\.encoder\.layers\.1\."}
"""Layers whose output the family itself does not use."""


def quick(*names: str) -> list[Any]:
    """All families; those that are not named are slow."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory):
    """Family -> directory of its tiny random checkpoint, written once."""
    folder = tmp_path_factory.mktemp("families")

    def get(name: str) -> Path:
        return folder / name if (folder / name).exists() else family(name).write(folder / name, seed=1)

    return get


def config(path: Path, targets: Any = "language", **keys: Any) -> ModelConfig:
    lora = {"rank": 4, "alpha": 8, "targets": targets}
    return ModelConfig.model_validate({"path": str(path), "device": "cpu", "lora": lora} | keys)


def parts_of(name: str) -> list[str]:
    return [part for part in PARTS if not (part == "projector" and name in NO_PROJECTOR)]


@torch.no_grad()
def scatter(policy: Policy, seed: int = 5) -> None:
    """Random values in both factors of every adapter, so that it changes the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.model.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 * parameter.shape[-1] ** -0.5)


def linear_of(policy: Policy, part: str) -> set[str]:
    """Linear layers of a part by the model's own tree, adapters and head left out."""
    names = {name for name, _ in policy.parameters_by_part()[part]}
    modules = policy.model.named_modules()
    found = {name for name, module in modules if isinstance(module, nn.Linear) and f"{name}.weight" in names}
    return {name.removesuffix(".base_layer") for name in found if "lora_" not in name} - {"lm_head"}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_linear_layer_of_every_named_part_is_adapted(paths, name) -> None:
    wanted = config(paths(name), parts_of(name))
    policy = load_policy(wanted)
    assert all("lora_" in key for key, _ in policy.trainable())
    for part in parts_of(name):
        moving = [key for key, p in policy.parameters_by_part()[part] if p.requires_grad]
        layers = linear_of(policy, part)
        assert layers and {key.partition(".lora_")[0] for key in moving} == layers, part
        assert len(moving) == 2 * len(layers), part
    shape = ModelShape.from_config(AutoConfig.from_pretrained(paths(name)))
    planned = adapter_sizes(wanted.lora, shape, 4)["adapters"]
    assert sum(planned.values()) == sum(p.numel() for _, p in policy.trainable())


@pytest.mark.parametrize("name", quick("qwen2_5_vl", "internvl", "gemma3"))
def test_packed_rows_equal_plain_rows_and_every_adapter_gets_a_gradient(paths, name) -> None:
    policy = load_policy(config(paths(name), parts_of(name)))
    scatter(policy)
    packed = batch(policy.adapter, "all of it")
    plain = run(policy, packed, "plain")
    unused = NEVER_RUN.get(name, "$^")
    still = [key for key, _ in policy.trainable() if not plain.gradients.get(key, torch.zeros(1)).any()]
    assert [key for key in still if not re.search(unused, key)] == []
    for sharing in sharing_modes(policy):
        apart = difference(run(policy, packed, "packed", sharing), plain)
        assert max(apart) <= LIMIT, f"{sharing}: {apart}"


def logprobs(policy: Policy) -> torch.Tensor:
    return branch_logprobs(policy, batch(policy.adapter, "all of it"))[0].detach()


def test_with_the_adapters_off_the_policy_is_its_base_and_trains_on_afterwards(paths) -> None:
    policy, base = load_policy(config(paths("qwen2_5_vl"), PARTS)), load_policy(str(paths("qwen2_5_vl")))
    scatter(policy)
    adapted, before = logprobs(policy), [name for name, _ in policy.trainable()]
    assert torch.equal(logprobs(policy.base_view()), logprobs(base))
    assert [name for name, _ in policy.trainable()] == before
    assert torch.equal(logprobs(policy), adapted) and not torch.equal(adapted, logprobs(base))
    assert policy.base_view().model is policy.model


def test_new_adapters_change_nothing_and_follow_from_the_seed(paths) -> None:
    first, again, other = (load_policy(config(paths("qwen2_5_vl")), seed=seed) for seed in (3, 3, 4))
    ours, theirs, third = ([p for _, p in policy.trainable()] for policy in (first, again, other))
    assert all(map(torch.equal, ours, theirs)) and not all(map(torch.equal, ours, third))
    assert torch.equal(logprobs(first), logprobs(load_policy(str(paths("qwen2_5_vl")))))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # which peft asks for
@pytest.mark.parametrize("rslora", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_saved_policy_loads_in_plain_peft_and_holds_adapters_only(paths, tmp_path, rslora) -> None:
    keys = {"rank": 4, "alpha": 8, "targets": PARTS, "rslora": rslora}
    policy = load_policy(config(paths("qwen2_5_vl"), lora=keys))
    scatter(policy)
    policy.save(tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for _, p in policy.trainable())
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
        "preprocessor_config.json",
    }
    theirs = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(paths("qwen2_5_vl")), tmp_path / "saved"
    ).eval()
    prompt = batch(policy.adapter, "all of it").prompts[0]
    inputs = {"input_ids": prompt.ids_P[None], **policy.adapter.plain_inputs(prompt, prompt.ids_P[None])}
    with torch.no_grad():
        ours_1PV, theirs_1PV = policy.model(**inputs).logits, theirs(**inputs).logits
    assert (ours_1PV - theirs_1PV).abs().max() < 1e-4
    merged = load_policy(str(tmp_path / "saved"))
    assert merged.adapters is None and (logprobs(merged) - logprobs(policy)).abs().max() < 1e-4
    continued = load_policy(config(paths("qwen2_5_vl"), lora=keys), adapters=tmp_path / "saved")
    assert torch.equal(logprobs(continued), logprobs(policy))
    assert [name for name, _ in continued.trainable()] == [name for name, _ in policy.trainable()]


def test_adapters_keep_the_limits_of_images_that_they_were_trained_with(paths, tmp_path) -> None:
    policy = load_policy(config(paths("qwen2_5_vl"), max_pixels=28 * 28 * 4))
    policy.save(tmp_path / "saved")
    image = Image.new("RGB", (112, 112))
    limited = policy.adapter.encode("<image>?", [image])
    assert torch.equal(load_policy(str(tmp_path / "saved")).adapter.encode("<image>?", [image]).ids_P, limited.ids_P)
    assert len(load_policy(str(paths("qwen2_5_vl"))).adapter.encode("<image>?", [image]).ids_P) > len(limited.ids_P)


def test_the_features_of_a_frozen_tower_stay_shared_with_adapters_beside_it(paths) -> None:
    assert load_policy(config(paths("qwen2_5_vl"))).vision_is_frozen()
    assert not load_policy(config(paths("qwen2_5_vl"), r".*visual\.blocks\.0\.attn\.qkv")).vision_is_frozen()


@pytest.mark.parametrize("name", quick("qwen2_5_vl"))
def test_qlora_quantizes_the_language_layers_and_nothing_else(paths, name) -> None:
    policy = load_policy(config(paths(name), quantize="nf4"))
    four = {key for key, module in policy.model.named_modules() if type(module).__name__ == "Params4bit"}
    four |= {key for key, p in policy.model.named_parameters() if type(p).__name__ == "Params4bit"}
    names = {key.removesuffix(".weight").removesuffix(".base_layer") for key in four}
    assert names == linear_of(policy, "language")
    scatter(policy)
    packed = batch(policy.adapter, "all of it")
    plain = run(policy, packed, "plain")
    assert plain.gradients and all("lora_" in key for key in plain.gradients)
    for sharing in sharing_modes(policy):
        assert max(difference(run(policy, packed, "packed", sharing), plain)) <= LIMIT


def test_a_policy_on_four_bits_stays_close_to_its_base() -> None:
    whole, four = logprobs(load_policy("base")), logprobs(load_policy(config(Path("base"), quantize="nf4")))
    assert 0 < (whole - four).abs().mean() < 0.3 * whole.std()


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"lora": {"rank": 0, "alpha": 8}}, "greater than or equal to 1"),
        ({"lora": {"rank": -4, "alpha": 8}}, "greater than or equal to 1"),
        ({"lora": {"rank": 4, "alpha": 0}}, "greater than 0"),
        ({"lora": {"rank": 4, "alpha": 8, "dropout": 1.0}}, "less than 1"),
        ({"lora": {"rank": 4, "alpha": 8, "targets": []}}, "got no target"),
        ({"lora": {"rank": 4, "alpha": 8, "targets": "q_proj("}}, "no regular expression"),
        ({"lora": {"rank": 4, "alpha": 8}, "train": ["vision"]}, "only adapters train"),
        ({"lora": {"rank": 4, "alpha": 8}, "quantize": "nf4", "dtype": "float64"}, "float32 or bfloat16"),
    ],
)
def test_keys_that_contradict_each_other_are_refused_with_the_way_out(keys, words) -> None:
    with pytest.raises(ValueError, match=words):
        ModelConfig.model_validate({"path": "base"} | keys)


@pytest.mark.parametrize(
    "targets, words",
    [
        ("q_proj", "'q_proj' matches no linear layer"),
        ("lm_head", "the head is not adapted"),
        (["language", "visul"], "'visul' matches no linear layer"),
    ],
)
def test_a_target_that_matches_nothing_names_the_layers_that_there_are(paths, targets, words) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_policy(config(paths("llava_onevision"), targets))
    assert "model.language_model.layers.N.self_attn.q_proj" in str(caught.value)


def test_a_part_without_linear_layers_is_refused(paths) -> None:
    with pytest.raises(ValueError, match="part 'projector' has no linear layer of this model"):
        load_policy(config(paths("gemma3"), ["projector"]))


@pytest.fixture
def saved(paths, tmp_path: Path) -> Path:
    """Adapters beside a copy of their base."""
    shutil.copytree(paths("qwen2_5_vl"), tmp_path / "base")
    load_policy(config(tmp_path / "base")).save(tmp_path / "saved")
    return tmp_path / "saved"


def rebase(saved: Path, base: Path) -> None:
    file = saved / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(base)}))


def test_adapters_of_another_base_are_refused(saved, paths, tmp_path) -> None:
    family("qwen2_5_vl").write(tmp_path / "twin", seed=2)
    rebase(saved, tmp_path / "twin")
    with pytest.raises(ValueError, match="trained on another base"):
        load_policy(str(saved))
    (saved / "base.json").unlink()  # as peft alone writes a directory
    rebase(saved, paths("internvl"))
    with pytest.raises(ValueError, match="for the base model"):
        load_policy(str(saved))
    shutil.rmtree(tmp_path / "twin")
    rebase(saved, tmp_path / "twin")
    with pytest.raises(ValueError, match=r"the base model of these adapters, .*twin, is not there"):
        load_policy(str(saved))


def test_adapters_without_their_weights_or_a_readable_configuration_are_refused(saved) -> None:
    weights = (saved / "adapter_model.safetensors").rename(saved / "away")
    with pytest.raises(ValueError, match=r"got adapter_config.json without adapter_model.safetensors"):
        load_policy(str(saved))
    weights.rename(saved / "adapter_model.safetensors")
    file = saved / "adapter_config.json"
    whole = json.loads(file.read_text())
    for text, words in (
        ("{", "adapter_config.json cannot be used"),
        (json.dumps(whole | {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}), "which chooses code"),
        (json.dumps(whole | {"alora_invocation_tokens": [1]}), "adapters for the base model .* cannot be used"),
        (json.dumps(whole | {"peft_type": "IA3"}), "got adapters of type 'IA3', expected LORA"),
        (json.dumps(whole | {"base_model_name_or_path": None}), "names no base model"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            load_policy(str(saved))


def test_recomputed_layers_give_the_gradients_of_the_adapters_with_dropout_too(paths) -> None:
    keys = {"rank": 4, "alpha": 8, "dropout": 0.3}
    found = []
    for checkpointing in (False, True):
        policy = load_policy(config(paths("qwen2_5_vl"), lora=keys, gradient_checkpointing=checkpointing))
        scatter(policy)
        assert policy.adapters is not None
        with policy.adapters.dropping(seed=1):
            found.append(run(policy, batch(policy.adapter, "all of it"), "packed"))
        assert not policy.adapter.vision(policy.model, batch(policy.adapter, "one image").prompts)[0].requires_grad
    assert max(difference(found[1], found[0])) <= LIMIT
    without = run(policy, batch(policy.adapter, "all of it"), "packed")
    assert difference(found[1], without).logprobs > 0.01


def test_adapters_with_missing_tensors_are_refused(saved) -> None:
    from safetensors.torch import save_file

    tensors = load_file(saved / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, saved / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="1 tensors are in one of them only"):
        load_policy(str(saved))


def test_new_adapters_on_top_of_adapters_are_refused_with_the_way_out(saved) -> None:
    with pytest.raises(ValueError, match=r"saccade export .*saved --out DIR"):
        load_policy(config(saved))


@pytest.mark.parametrize("package, keys", [("peft", {}), ("bitsandbytes", {"quantize": "nf4"})])
def test_a_missing_package_is_named_before_weights_are_read(paths, monkeypatch, package, keys) -> None:
    find = lora.find_spec
    for module in (lora, __import__("saccade.models.quantize", fromlist=["quantize"])):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else find(name))
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *a, **k: pytest.fail("read weights"))
    with pytest.raises(ValueError, match=rf"package {package}, which is not installed; pip install 'saccade\[lora\]'"):
        load_policy(config(paths("qwen2_5_vl"), **keys))


def test_the_gradient_of_b_is_that_of_the_whole_weight_times_a(paths) -> None:
    """W + s B A: dL/dB = s dL/dW A^T, with the dL/dW of a full run, since B is 0."""
    full, policy = (
        load_policy(ModelConfig(path=str(paths("qwen2_5_vl")), device="cpu")),
        load_policy(config(paths("qwen2_5_vl"))),
    )
    packed = batch(policy.adapter, "all of it")
    ours, whole = run(policy, packed, "packed").gradients, run(full, packed, "packed").gradients
    factors = dict(policy.model.named_parameters())
    compared = 0
    for name, grad in ours.items():
        if ".lora_B." in name:
            weight, a = whole[name.replace(".lora_B.default", "")], factors[name.replace("lora_B", "lora_A")].detach()
            assert torch.allclose(grad, 8 / 4 * weight @ a.T, rtol=1e-3, atol=1e-4 * float(grad.abs().max())), name
            compared += 1
    assert compared == len(linear_of(policy, "language"))
