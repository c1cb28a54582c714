"""Families with positions on three axes: their prompts are their own processor's, packed rows equal plain rows."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from families import family
from pictures import noise_image

from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs, default_sharing, vision_features
from saccade.models.packing import Branch, pack
from saccade.models.policy import load_policy
from saccade.verify.difference import reference

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "glm46v")
EVERYTHING = ("vision", "projector", "language")


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def directory(name, tmp_path_factory):
    return family(name).write(tmp_path_factory.mktemp(name), seed=1)


@pytest.fixture(scope="module")
def policy(directory):
    return load_policy(ModelConfig(path=str(directory), train=EVERYTHING))


def prompts_of(policy):
    """Two images in one prompt, one image in another, text alone in a third."""
    encode = policy.adapter.encode
    two = encode("<image> and <image> what changed?", [noise_image(90, 150, 2), noise_image(200, 60, 3)])
    one = encode("<image>How many red shapes are there?", [noise_image(100, 60, 1)])
    return two, one, encode("2 + 2 = ?", [])


def batch(prompts, lengths=((12, 1, 20), (17, 3), (6, 2))):
    tokens = random.Random(0)
    rows = [[Branch([tokens.randrange(20, 600) for _ in range(n)], ((n // 5, n),)) for n in row] for row in lengths]
    return pack(list(zip(prompts, rows, strict=True)))


def gradients(policy, packed, path):
    policy.model.zero_grad()
    weights_R = torch.randn(packed.num_tokens, generator=torch.Generator().manual_seed(3))
    with reference(policy, path):
        logprobs_R, _ = branch_logprobs(policy, packed, path=path)
        (logprobs_R * weights_R).sum().backward()
    return logprobs_R.detach(), {key: p.grad.clone() for key, p in policy.trainable() if p.grad is not None}


def flat(gradient):
    return torch.cat([gradient[key].flatten() for key in sorted(gradient)])


def assert_paths_agree(policy, packed):
    ours, grad = gradients(policy, packed, "packed")
    plain, reference = gradients(policy, packed, "plain")
    assert (ours - plain).abs().max() < 1e-5
    assert grad.keys() == reference.keys()
    assert (flat(grad) - flat(reference)).norm() / flat(reference).norm() < 1e-5
    return grad


SIZES = {
    "one image": [(100, 60)],
    "one long image": [(31, 333)],
    "two": [(130, 61), (64, 200)],
    "one that is shrunk": [(517, 259)],
    "none": [],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_ids_and_inputs_equal_those_of_the_family_processor(policy, directory, name, sizes):
    images = [noise_image(*size, seed=i) for i, size in enumerate(sizes)]
    question = "How many red circles are there?"
    ours = policy.adapter.encode("<image>" * len(images) + question, images)
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
    processor = family(name).processor(directory)
    theirs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    assert torch.equal(ours.ids_P, theirs["input_ids"][0])
    inputs = policy.adapter.plain_inputs(ours, ours.ids_P[None])
    assert inputs.keys() == (theirs.keys() - {"input_ids", "attention_mask"} if images else set())
    for key, value in inputs.items():
        assert torch.equal(value, theirs[key]), key
    assert bool(ours.pixels) == bool(images)


def test_positions_equal_those_of_the_family_model(policy):
    for prompt in prompts_of(policy):
        theirs_31P, _ = policy.model.model.get_rope_index(
            prompt.ids_P[None],
            mm_token_type_ids=(prompt.ids_P == policy.model.config.image_token_id).int()[None],
            image_grid_thw=prompt.pixels.get("image_grid_thw"),
        )
        assert torch.equal(policy.adapter.position_ids(prompt.positions_3P[:, None]), theirs_31P)
        assert prompt.next_position == int(theirs_31P.max()) + 1
        assert (prompt.next_position == len(prompt)) == (not prompt.pixels)


def test_packed_rows_equal_plain_rows_in_log_probs_and_gradients(policy, name):
    assert default_sharing(policy) == ("two_phase" if name == "qwen3_5" else "merged")
    grad = assert_paths_agree(policy, batch(prompts_of(policy)))
    for part in EVERYTHING:
        assert all(key in grad for key, _ in policy.parameters_by_part()[part]), part
        assert any(grad[key].norm() > 0 for key, _ in policy.parameters_by_part()[part]), part


@pytest.mark.parametrize("lengths", [(1, 1), (2, 1), (70,)], ids=str)
def test_short_and_single_branches_equal_plain_rows_too(policy, lengths):
    """A cache treats a single new token otherwise than several, and linear attention works in chunks of 64."""
    assert_paths_agree(policy, batch(prompts_of(policy)[:1], [lengths]))


@pytest.mark.parametrize("fault", ["image changed", "position off by one"])
def test_the_packed_test_would_notice(policy, fault):
    """Negative controls: else the equality above would hold for a model that looks at no image or no position."""
    prompts = prompts_of(policy)
    packed = batch(prompts)
    right, _ = branch_logprobs(policy, packed)
    features = vision_features(policy, prompts)
    if fault == "image changed":
        features = [replace(f, values=f.values * 1.05) for f in features]
    else:
        packed = batch([replace(p, next_position=p.next_position + 1) for p in prompts])
    wrong, _ = branch_logprobs(policy, packed, features=features)
    assert (wrong - right).abs().max() > 1e-3


def test_features_are_what_the_model_computes_for_itself(policy, name):
    prompts = prompts_of(policy)
    features = policy.adapter.vision(policy.model, prompts)
    hidden = policy.model.config.get_text_config().hidden_size
    for prompt, one in zip(prompts[:2], features[:2], strict=True):
        tokens = int((prompt.ids_P == policy.model.config.image_token_id).sum())
        assert one.shape == ((tokens, 3, hidden) if name == "qwen3_vl" else (tokens, hidden))
    assert len(features[2]) == 0 and policy.adapter.as_mm_outputs(features[2:]) is None

    pixels = policy.adapter.join_pixels(prompts)
    theirs = policy.model.model.get_image_features(pixels["pixel_values"], pixels["image_grid_thw"], return_dict=True)
    ours = policy.adapter.as_mm_outputs(features)["image"]
    levels = [(ours.pooler_output, theirs.pooler_output)]
    if name == "qwen3_vl":
        assert type(ours) is type(theirs)
        levels += zip(ours.deepstack_features, theirs.deepstack_features, strict=True)
    for mine, their in levels:
        assert torch.equal(torch.cat(tuple(mine)), torch.cat(tuple(their)))


def test_every_deepstack_level_of_qwen3_vl_reaches_the_log_probs(tmp_path):
    policy = load_policy(ModelConfig(path=str(family("qwen3_vl").write(tmp_path, seed=2))))
    packed = batch(prompts_of(policy))
    right, _ = branch_logprobs(policy, packed)
    features = vision_features(policy, packed.prompts)
    for level in range(3):
        factor_K1 = torch.ones(3, 1)
        factor_K1[level] = 1.1
        changed = [replace(f, values=f.values * factor_K1) if len(f.values) else f for f in features]
        wrong, _ = branch_logprobs(policy, packed, features=changed)
        assert (wrong - right).abs().max() > 1e-3, level


PROJECTORS = {
    "qwen2_vl": {"merger"},
    "qwen2_5_vl": {"merger"},
    "qwen3_vl": {"merger", "deepstack_merger_list"},
    "qwen3_5": {"merger"},
    "glm4v": {"merger", "downsample"},
    "glm46v": {"merger", "downsample"},
}


def test_parts_cover_every_parameter_once(policy, name):
    parts = policy.parameters_by_part()
    listed = [key for named in parts.values() for key, _ in named]
    assert sorted(listed) == sorted(key for key, _ in policy.model.named_parameters())
    assert {key.split(".")[2] for key, _ in parts["projector"]} == PROJECTORS[name]
    assert all(key.startswith("model.visual.") for part in ("vision", "projector") for key, _ in parts[part])
    assert not [key for key, _ in parts["language"] if "visual" in key]
    assert sum(p.numel() for p in policy.model.parameters()) < 300_000


@pytest.mark.parametrize("size", [(100, 60), (517, 259)], ids=str)
def test_the_frame_is_the_family_s_and_its_input_what_the_tower_sees(policy, name, size):
    (frame,) = policy.adapter.encode("<image>where?", [noise_image(*size, 1)]).frames
    by_patch = {(100, 60): {14: (112, 56), 16: (96, 64)}, (517, 259): {14: (308, 140), 16: (288, 128)}}
    assert frame.name == ("pixels_resized" if name == "qwen2_5_vl" else "thousand")
    assert frame.size_original == size
    assert frame.size_input == by_patch[size][16 if name.startswith("qwen3") else 14]


def test_replies_come_back_and_markup_is_refused(policy):
    adapter = policy.adapter
    reply = adapter.encode_reply("<answer>7</answer>")
    assert adapter.decode(reply) == "<answer>7</answer>"
    assert reply[-1] in adapter.stop_ids
    assert set(adapter.image_ids) <= set(adapter.banned_ids)
    assert not set(adapter.stop_ids) & set(adapter.banned_ids)
    for token in (adapter.image_token, adapter.end):
        with pytest.raises(ValueError, match="reserved token"):
            adapter.encode_reply(f"look at {token}")
        with pytest.raises(ValueError, match="reserved token"):
            adapter.encode(f"look at {token}", [])


GLM_STOPS = {"<|user|>", "<|endoftext|>", "<|observation|>"}


@pytest.mark.parametrize("name", ["glm4v", "glm46v"])
def test_a_glm_turn_ends_where_the_users_next_turn_begins(name, tmp_path):
    adapter = load_policy(ModelConfig(path=str(family(name).write(tmp_path)))).adapter
    assert set(adapter.tokenizer.convert_ids_to_tokens(adapter.stop_ids)) == GLM_STOPS
    assert adapter.tokenizer.convert_ids_to_tokens(adapter.encode_reply("7")[-1]) == "<|user|>"
    text = adapter.tokenizer.decode(adapter.encode("<image>7?", [noise_image(60, 60, 1)]).ids_P)
    assert text.startswith("[gMASK]<sop><|user|>\n<|begin_of_image|><|image|>")
    assert "<|image|><|end_of_image|>7?<|assistant|>\n" in text


THINKING = {"qwen3_5": "<think>\n", "glm46v": "<think>"}


def test_what_a_template_writes_after_the_opening_of_the_turn_is_passed_through(policy, name):
    text = policy.adapter.tokenizer.decode(policy.adapter.encode("2 + 2 = ?", []).ids_P)
    opening = "<|assistant|>\n" if name.startswith("glm") else "<|im_end|>\n<|im_start|>assistant\n"
    assert text.endswith("2 + 2 = ?" + opening + THINKING.get(name, ""))


def checkpointed(name, directory):
    return load_policy(ModelConfig(path=str(directory), train=EVERYTHING, gradient_checkpointing=True))


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v"])
def test_gradient_checkpointing_changes_nothing(name, tmp_path):
    directory = family(name).write(tmp_path, seed=1)
    plain, policy = load_policy(ModelConfig(path=str(directory), train=EVERYTHING)), checkpointed(name, directory)
    packed = batch(prompts_of(policy))
    ours, grad = gradients(policy, packed, "packed")
    reference, reference_grad = gradients(plain, packed, "packed")
    assert torch.equal(ours, reference)
    assert (flat(grad) - flat(reference_grad)).norm() / flat(reference_grad).norm() < 1e-6


def test_qwen3_5_refuses_gradient_checkpointing_where_its_cache_would_be_dropped(tmp_path):
    directory = family("qwen3_5").write(tmp_path, seed=1)
    policy = checkpointed("qwen3_5", directory)
    packed = batch(prompts_of(policy))
    with pytest.raises(ValueError, match=r"gradient checkpointing drops.*shared_prefix: off"):
        branch_logprobs(policy, packed)
    plain, grad = gradients(policy, packed, "plain")
    assert grad
    with torch.no_grad():
        ours, _ = branch_logprobs(policy, packed)
    assert (ours - plain).abs().max() < 1e-5
