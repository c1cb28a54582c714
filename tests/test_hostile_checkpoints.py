"""Checkpoints that strangers wrote: what a file of theirs holds is one line that names it, and none chooses code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from families import family

from saccade.models.checkpoint_files import reading
from saccade.models.policy import load_adapter, load_policy
from saccade.planning.inputs import read_config, read_shape, visual_tokens
from saccade.training.checkpoint import sealed


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return family("qwen2_5_vl").write(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    "name, content, named",
    [
        ("config.json", {"image_token_id": None}, "config.json"),
        ("config.json", {"dtype": "x"}, "config.json"),
        ("config.json", {"text_config": {"hidden_size": "x"}}, "config.json"),
        ("config.json", {"quantization_config": 5}, "config.json"),
        ("config.json", b"[" * 100_000, "config.json"),
        ("config.json", b"", "config.json"),
        ("config.json", b'{"x": ' + b"1" * 5_000 + b"}", "config.json"),
        ("tokenizer.json", b"null", "tokenizer"),
        ("tokenizer.json", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "tokenizer"),
        ("tokenizer_config.json", b"[" * 100_000, "tokenizer"),
        ("tokenizer_config.json", {"model_max_length": {"a": 1}, "padding_side": "x"}, "tokenizer"),
        ("preprocessor_config.json", {"size": []}, "image"),
        ("preprocessor_config.json", {"temporal_patch_size": "x"}, "image"),
        ("preprocessor_config.json", {"image_mean": [0, 1e400, 0]}, "image"),
        ("preprocessor_config.json", {"rescale_factor": [0, 0, 0]}, "image"),
        ("generation_config.json", b"5", "image settings"),
        ("generation_config.json", {"eos_token_id": {"a": 1}}, "generation_config.json"),
        ("generation_config.json", {"eos_token_id": ["2"]}, "generation_config.json"),
        ("chat_template.json", b'{"chat_template": [{"name": "default"}]}', "chat template"),
        ("chat_template.jinja", b"{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "chat template"),
    ],
)
def test_whatever_a_file_of_a_checkpoint_holds_is_one_line_that_names_it(tiny, name, content, named, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    file = tmp_path / "m" / name
    if isinstance(content, dict):
        content = json.dumps(json.loads(file.read_text()) | content).encode()
    file.write_bytes(content)
    with pytest.raises(ValueError, match=named) as caught:
        load_adapter(str(tmp_path / "m"))
    assert str(tmp_path / "m") in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 800


def test_a_state_that_is_nested_however_deeply_is_one_that_was_changed(tmp_path):
    """JSON is read up to a depth, and written up to another one."""
    for depth in range(1, 1_100):
        (tmp_path / "state.json").write_text(f'{{"step": 7, "x": {"[" * depth}{"]" * depth}}}')
        assert "state.json" in str(sealed(tmp_path, "state.json"))


@pytest.mark.parametrize("held", [{}, [], {"weight_map": 5}, {"metadata": {}, "weight_map": {"lm_head.weight": 5}}])
def test_an_odd_index_of_the_weights_is_one_line(tiny, held, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "w.safetensors")
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match="m: the weights cannot be used"):
        load_policy(str(tmp_path / "m"))


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/w.safetensors", "inside/w.safetensors"])
def test_an_index_of_the_weights_names_files_beside_it(tiny, name, kind, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "w.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (tmp_path / "m" / f"{kind}.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"m/{kind}\.index\.json: names the file '.*', expected one beside it"):
        load_policy(str(tmp_path / "m"))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_checkpoint_names_no_code_of_attention(tiny, key, tmp_path):
    """transformers would fetch `somebody/kernel` from a hub and run it."""
    shutil.copytree(tiny, tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: "somebody/kernel"}))
    assert load_policy(str(tmp_path / "m")).model.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize(
    "content",
    [
        {"distributed_config": {"enable_expert_parallel": True}},
        {"_auto_class": "AutoModel"},
        {"_auto_class": {"a": 1}},
        {"output_attentions": True},
    ],
)
def test_what_is_loaded_can_be_saved(tiny, content, tmp_path):
    """Else a run would be lost at its first checkpoint."""
    shutil.copytree(tiny, tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))
    load_policy(str(tmp_path / "m")).save(tmp_path / "out")
    assert load_policy(str(tmp_path / "out")).model.config.output_attentions is False


def test_a_checkpoint_with_code_of_its_own_asks_nobody_and_runs_nothing(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny, tmp_path / "m")
    (tmp_path / "m" / "evil.py").write_text("raise SystemExit('ran')")
    maps = {"AutoConfig": "evil.A", "AutoTokenizer": ["evil.B", None], "AutoImageProcessor": "evil.C"}
    for name, changed in (("config.json", {"model_type": "evil"}), ("preprocessor_config.json", {})):
        file = tmp_path / "m" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changed | {"auto_map": maps}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run the code"))
    with pytest.raises(ValueError, match=r"config\.json cannot be used"):
        load_policy(str(tmp_path / "m"))


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.json", {"text_config": {"hidden_size": -5}}),
        ("config.json", {"vision_config": {"patch_size": 0}}),
        ("preprocessor_config.json", []),
        ("preprocessor_config.json", {"size": {"shortest_edge": "x"}}),
        ("preprocessor_config.json", {"min_pixels": "x"}),
    ],
)
def test_a_plan_of_an_odd_checkpoint_is_one_line(tiny, name, content, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    file = tmp_path / "m" / name
    held = json.loads(file.read_text())
    if isinstance(content, dict):
        content = held | {key: held.get(key, {}) | v if isinstance(v, dict) else v for key, v in content.items()}
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"m: config\.json .*cannot be used"):
        config, directory = read_config(str(tmp_path / "m"))
        read_shape(config)
        visual_tokens(config, directory, None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("Loading an AWQ model requires gptqmodel"), "gptqmodel.*install what is missing"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "more memory than there is"),
        (KeyError("x"), "copy the checkpoint again"),
        (OSError(28, "No space left on device"), r"^\[Errno 28\]"),
    ],
)
def test_the_way_out_of_a_checkpoint_that_cannot_be_used_fits_the_cause(error: Exception, words: str) -> None:
    with pytest.raises((ValueError, OSError), match=words), reading("m", "the weights"):
        raise error
