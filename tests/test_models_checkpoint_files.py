"""Checkpoints as the hub has them: read with the processor's template, saved with every file that the source had."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from families import FAMILIES, family
from families._layouts import LAYOUTS, write_layout
from pictures import noise_image
from safetensors.torch import load_file, save_file

from saccade.base.tiny import write_checkpoint
from saccade.models.checkpoint_files import IMAGE_SETTINGS, is_kept, with_image_settings
from saccade.models.config import ModelConfig
from saccade.models.policy import load_adapter, load_policy
from saccade.runs.environment import hash_files, hash_model

IMAGE = noise_image(100, 60, 1)
TEXT_TEMPLATE = {"smolvlm": None}
"""SmolVLM's tokenizer has no template at all; the others have that of their language model."""


@pytest.fixture(scope="module", params=FAMILIES)
def source(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, family(request.param).write(tmp_path_factory.mktemp(request.param), seed=1)


def in_layout(source: tuple[str, Path], target: Path, layout) -> Path:
    name, directory = source
    kept = {"tokenizer_template": TEXT_TEMPLATE[name]} if name in TEXT_TEMPLATE else {}
    return write_layout(directory, target, layout, **kept)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_family_reads_both_layouts_alike_and_saves_what_it_has_read(source, layout, tmp_path):
    directory = source[1]
    published = in_layout(source, tmp_path / "published", layout)
    policy, expected = load_policy(str(published)), load_adapter(str(directory))
    for text, images in (("<image>How many?", [IMAGE]), ("2 + 2 = ?", [])):
        ours, theirs = policy.adapter.encode(text, images), expected.encode(text, images)
        assert torch.equal(ours.ids_P, theirs.ids_P)
        assert all(torch.equal(value, theirs.pixels[key]) for key, value in ours.pixels.items())
    policy.save(tmp_path / "saved")
    assert_files_are_kept(published, tmp_path / "saved")
    again = load_adapter(str(tmp_path / "saved"))
    assert torch.equal(again.encode("<image>How many?", [IMAGE]).ids_P, ours_ids(policy))
    assert again.stop_ids == policy.adapter.stop_ids


def ours_ids(policy) -> torch.Tensor:
    return policy.adapter.encode("<image>How many?", [IMAGE]).ids_P


def assert_files_are_kept(published: Path, saved: Path) -> None:
    kept = {path.name for path in published.iterdir() if is_kept(path.name)}
    assert {"tokenizer_config.json", "video_preprocessor_config.json"} < kept
    assert {path.name for path in saved.iterdir()} == kept | {"config.json", "model.safetensors"}
    for name in kept:
        assert (saved / name).read_bytes() == (published / name).read_bytes(), name
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved.iterdir()} == {0o644}


@pytest.mark.parametrize("name", ["idefics3", "gemma3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_family_s_own_processor_reads_a_saved_checkpoint_like_its_source(name, layout, tmp_path):
    """The two families whose processor loads without torchvision."""
    from transformers import AutoProcessor

    published = write_layout(family(name).write(tmp_path / "source"), tmp_path / "published", layout)
    load_policy(str(published)).save(tmp_path / "saved")
    content = [{"type": "image", "image": IMAGE}, {"type": "text", "text": "How many?"}]

    def read(path: Path):
        processor = AutoProcessor.from_pretrained(path)
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        return processor.apply_chat_template([{"role": "user", "content": content}], **options)

    theirs, ours = read(published), read(tmp_path / "saved")
    assert theirs.keys() == ours.keys() and len(theirs["input_ids"][0]) > 10
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_large_weights_are_saved_in_shards_that_load_again(tmp_path, monkeypatch):
    monkeypatch.setattr("saccade.models.policy.SHARD_SIZE", "100KB")
    policy = load_policy(str(family("qwen2_5_vl").write(tmp_path / "source")))
    policy.save(tmp_path / "saved")
    shards = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(shards.values())) > 1
    again = load_policy(str(tmp_path / "saved"))
    ours = dict(policy.model.named_parameters())
    assert all(torch.equal(ours[key], value) for key, value in again.model.named_parameters())


def test_a_source_that_is_removed_during_the_run_is_saved_all_the_same(tmp_path):
    """A resumed run loads from a checkpoint that it prunes later."""
    source = family("qwen2_5_vl").write(tmp_path / "source")
    names = {path.name for path in source.iterdir()}
    policy = load_policy(str(source))
    for path in source.iterdir():
        path.unlink()
    policy.save(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == names


@pytest.mark.parametrize(
    "name",
    ["trainer.pt", "state.json", "adapter_config.json", "model.safetensors.index.json", "modeling_x.py", "scores.json"],
)
def test_files_of_a_run_of_adapters_of_weights_and_code_are_not_kept(name):
    assert not is_kept(name)


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "additional_chat_templates/rag.jinja"]
)
def test_every_form_of_tokenizer_and_template_is_kept(name):
    assert is_kept(name)


def with_ends(directory: Path, ends: list[int]) -> Path:
    path = directory / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}))
    return directory


def test_the_ends_of_the_generation_config_end_a_turn_and_stay_out_of_texts(tmp_path):
    directory = family("idefics3").write(tmp_path)
    extra = load_adapter(str(directory)).tokenizer.convert_tokens_to_ids("<|vision_end|>")
    adapter = load_adapter(str(with_ends(directory, [extra])))
    assert extra in adapter.stop_ids
    assert adapter.decode([*adapter.encode_reply("7")[:-1], extra]) == "7"
    with pytest.raises(ValueError, match="reserved token"):
        adapter.encode("what is <|vision_end|>?", [])


def test_a_generation_end_that_is_an_ordinary_token_ends_a_turn_but_may_be_written(tmp_path):
    directory = family("qwen2_5_vl").write(tmp_path)
    seven = load_adapter(str(directory)).tokenizer("7").input_ids[0]
    adapter = load_adapter(str(with_ends(directory, [seven])))
    assert seven in adapter.stop_ids
    assert adapter.decode(adapter.encode_reply("7")) == "7"


def test_the_answer_tag_of_glm_ends_a_reply_and_is_part_of_it(tmp_path):
    directory = family("glm4v").write(tmp_path)
    tokenizer = load_adapter(str(directory)).tokenizer
    tokenizer.add_tokens(["</answer>"])
    tokenizer.save_pretrained(directory)
    end = tokenizer.convert_tokens_to_ids("</answer>")
    adapter = load_adapter(str(with_ends(directory, [end, tokenizer.convert_tokens_to_ids("<|user|>")])))
    assert end in adapter.stop_ids
    ids = adapter.encode_reply("<think>a</think><answer>7</answer>")
    assert adapter.decode(ids) == adapter.decode(ids[:-1]) == "<think>a</think><answer>7</answer>"


@pytest.mark.parametrize("name", FAMILIES)
def test_no_token_that_ends_a_turn_may_stand_in_a_question_or_a_reply(name, tmp_path):
    adapter = load_adapter(str(family(name).write(tmp_path)))
    assert adapter.stop_ids
    for token in adapter.tokenizer.convert_ids_to_tokens(adapter.stop_ids):
        with pytest.raises(ValueError, match="reserved token"):
            adapter.encode(f"what is {token}?", [])
        with pytest.raises(ValueError, match="reserved token"):
            adapter.encode_reply(f"it is {token}")


def test_boxes_around_glm_answers_are_dropped_inside_the_answer(tmp_path):
    adapter = load_adapter(str(family("glm4v").write(tmp_path)))
    boxed = "<answer><|begin_of_box|>B<|end_of_box|></answer>"
    assert adapter.decode(adapter.tokenizer(boxed).input_ids) == "<answer>B</answer>"


def test_a_limit_of_pixels_is_saved_with_the_processor(tmp_path):
    for layout in LAYOUTS:
        published = write_layout(family("qwen2_5_vl").write(tmp_path / f"s{layout}"), tmp_path / layout, layout)
        limited = load_policy(ModelConfig(path=str(published), max_pixels=50 * 784))
        limited.save(tmp_path / f"saved {layout}")
        large = noise_image(500, 300, 2)
        counts = [
            len(load_adapter(str(path)).encode("<image>?", [large]))
            for path in (published, tmp_path / f"saved {layout}")
        ]
        assert counts[0] > counts[1] == len(limited.adapter.encode("<image>?", [large]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda tensors, name: tensors.pop(name), "is missing; copy it again"),
        (lambda tensors, name: tensors.update({name: tensors[name].flatten()}), r"has shape \[\d+\], expected"),
        (lambda tensors, name: tensors.update({name: tensors[name][:-1].contiguous()}), "has shape"),
    ],
    ids=["gone", "of another rank", "of another size"],
)
def test_a_tensor_that_does_not_fit_is_refused_and_never_drawn_at_random(tmp_path, damage, words):
    write_checkpoint(tmp_path, "S")
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors, next(name for name in sorted(tensors) if name.endswith("mlp.down_proj.weight")))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"the weights do not fit config.json: .*mlp.down_proj.weight {words}"):
        load_policy(str(tmp_path))


def test_a_pipe_beside_the_weights_is_not_waited_for(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "more.safetensors")
    found: list[str | None] = []
    hashing = threading.Thread(target=lambda: found.append(hash_model(str(tmp_path))), daemon=True)
    hashing.start()
    hashing.join(20)
    assert found == [hash_files([tmp_path / "config.json"])]


def test_settings_of_others_with_half_of_a_surrogate_pair_are_written_as_they_are() -> None:
    held = {"image_processor_type": "\ud800", "size": 1}
    changed = with_image_settings({IMAGE_SETTINGS: json.dumps(held).encode()}, {"size": 2})
    assert json.loads(changed[IMAGE_SETTINGS]) == held | {"size": 2}
