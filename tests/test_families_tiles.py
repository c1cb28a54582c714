"""Families with positions on one axis: their prompts are their own processor's, packed rows equal plain rows."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from families import family, gemma4
from pictures import noise_image
from replies import builtin, generate

from saccade.models.adapter import MaskRules
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs, default_sharing, vision_features
from saccade.models.packing import Branch, pack
from saccade.models.policy import freeze, load_policy
from saccade.rollout.config import Sampling
from saccade.verify.difference import reference

NAMES = ("internvl", "smolvlm", "idefics3", "llava_onevision", "gemma3", "gemma4", "minicpmv4_6")
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


def batch(policy):
    """Two images in one prompt, one image in another, text alone in a third; completions of unlike lengths."""
    encode, tokens = policy.adapter.encode, random.Random(0)

    def branch(n, start=0):
        return Branch([tokens.randrange(20, 250) for _ in range(n)], ((start, n),))

    two = encode("<image> and <image> what changed?", [noise_image(90, 150, 2), noise_image(200, 60, 3)])
    one = encode("<image>How many red shapes are there?", [noise_image(100, 60, 1)])
    text = encode("2 + 2 = ?", [])
    return pack(
        [
            (two, [branch(12), branch(1), branch(20, 4)]),
            (one, [branch(17), branch(3)]),
            (text, [branch(6), branch(2)]),
        ]
    )


def gradients(policy, packed, path):
    policy.model.zero_grad()
    weights_R = torch.randn(packed.num_tokens, generator=torch.Generator().manual_seed(3))
    with reference(policy, path):
        logprobs_R, _ = branch_logprobs(policy, packed, path=path)
        (logprobs_R * weights_R).sum().backward()
    return logprobs_R.detach(), {name: p.grad.clone() for name, p in policy.trainable() if p.grad is not None}


def flat(gradient):
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)])


SIZES = {"one": [(100, 60)], "small": [(40, 40)], "large": [(230, 180)], "two": [(130, 60), (64, 200)], "none": []}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_ids_and_inputs_equal_those_of_the_family_processor(policy, directory, name, sizes):
    images = [noise_image(*size, seed=i) for i, size in enumerate(sizes)]
    question = "How many red circles are there?"
    ours = policy.adapter.encode("<image>" * len(images) + question, images)
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
    try:
        processor = family(name).processor(directory)
    except ImportError as error:
        pytest.skip(f"the family's own processor does not load here: {error}")
    theirs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    assert torch.equal(ours.ids_P, theirs["input_ids"][0])
    inputs = policy.adapter.plain_inputs(ours, ours.ids_P[None])
    assert inputs.keys() == theirs.keys() - {"input_ids", "attention_mask"}
    for key, value in inputs.items():
        assert torch.equal(value, theirs[key]), key
    assert bool(ours.pixels) == bool(images)


def test_positions_count_up_on_one_axis(policy):
    packed = batch(policy)
    for prompt in packed.prompts:
        assert prompt.next_position == len(prompt)
        assert torch.equal(prompt.positions_3P, torch.arange(len(prompt)).expand(3, -1))
    shaped = policy.adapter.position_ids(packed.positions_3T[:, None])
    assert torch.equal(shaped[0], packed.positions_3T[0]) and shaped.shape == (1, packed.layout.length)


def test_packed_rows_equal_plain_rows_in_log_probs_and_gradients(policy):
    packed = batch(policy)
    ours, grad = gradients(policy, packed, "packed")
    plain, reference = gradients(policy, packed, "plain")
    assert (ours - plain).abs().max() < 1e-5
    assert grad.keys() == reference.keys()
    assert (flat(grad) - flat(reference)).norm() / flat(reference).norm() < 1e-5
    for part in EVERYTHING:
        assert any(name in grad and grad[name].norm() > 0 for name, _ in policy.parameters_by_part()[part]), part


def test_the_plain_path_is_the_family_s_own_forward(policy):
    """Logits of the whole model, head and cap included, one row at a time."""
    packed = batch(policy)
    found, _ = branch_logprobs(policy, packed, path="plain")
    expected = []
    for prompt, branches in zip(packed.prompts, packed.branches, strict=True):
        for branch in branches:
            ids_1T = torch.cat([prompt.ids_P, torch.tensor(branch.ids)])[None]
            inputs = policy.adapter.plain_inputs(prompt, ids_1T)
            logits_TV = policy.model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), **inputs).logits[0]
            logprobs_TV = torch.log_softmax(logits_TV.float(), -1)[:-1]
            expected.append(logprobs_TV.gather(-1, ids_1T[0, 1:, None])[len(prompt) - 1 + branch.loss_places()[0] :, 0])
    assert (found - torch.cat(expected)).abs().max() < 1e-5


def test_what_the_engine_samples_has_the_log_probs_that_training_finds(directory):
    policy = load_policy(ModelConfig(path=str(directory), dtype="float64"))
    prompts = batch(policy).prompts
    groups = generate(builtin(policy, max_rows=4), prompts, Sampling(max_new_tokens=16), n=2, seed=0)
    pairs = zip(prompts, groups, strict=True)
    packed = pack([(prompt, [Branch(reply.token_ids) for reply in group]) for prompt, group in pairs])
    sampled = torch.tensor([logprob for group in groups for reply in group for logprob in reply.logprobs])
    for path in ("packed", "plain"):
        trained, _ = branch_logprobs(policy, packed, path=path)
        assert (sampled - trained).abs().max() < 2e-5


@pytest.mark.parametrize("train", [("projector",), ("projector", "language"), ("language",), ("vision",)], ids="+".join)
def test_the_same_parameters_get_gradients_whatever_is_frozen(policy, train):
    packed = batch(policy)
    freeze(policy, train)
    try:
        _, ours = gradients(policy, packed, "packed")
        _, plain = gradients(policy, packed, "plain")
    finally:
        freeze(policy, EVERYTHING)
    assert ours.keys() == plain.keys()
    assert (flat(ours) - flat(plain)).norm() / flat(plain).norm() < 1e-5


def test_changed_image_features_change_the_log_probs(policy):
    """A negative control: else the equality above would hold for a model that looks at no image."""
    packed = batch(policy)
    right, _ = branch_logprobs(policy, packed)
    features = vision_features(policy, packed.prompts)
    changed = [replace(f, values=f.values * 1.05) for f in features]
    wrong, _ = branch_logprobs(policy, packed, features=changed)
    assert (wrong - right).abs().max() > 1e-4


def test_every_image_token_has_one_feature_and_no_other_token_has(policy):
    packed = batch(policy)
    features = vision_features(policy, packed.prompts)
    for prompt, one in zip(packed.prompts, [f.values for f in features], strict=True):
        assert one.shape[0] == int((prompt.ids_P == policy.model.config.image_token_id).sum())


PROJECTORS = {
    "internvl": ("multi_modal_projector",),
    "smolvlm": ("connector",),
    "idefics3": ("connector",),
    "llava_onevision": ("multi_modal_projector", "image_newline"),
    "gemma3": ("multi_modal_projector",),
    "gemma4": ("embed_vision",),
    "minicpmv4_6": ("merger",),
}


def test_parts_cover_every_parameter_once(policy, name):
    parts = policy.parameters_by_part()
    listed = [key for named in parts.values() for key, _ in named]
    assert sorted(listed) == sorted(key for key, _ in policy.model.named_parameters())
    assert {key.split(".")[1] for key, _ in parts["projector"]} == set(PROJECTORS[name])
    assert not [key for key, _ in parts["language"] if "vision" in key]


FRAMES = {
    "internvl": "thousand",
    "smolvlm": "unit",
    "idefics3": "unit",
    "llava_onevision": "unit",
    "gemma3": "thousand",
    "gemma4": "thousand",
    "minicpmv4_6": "thousand",
}
INPUTS = {
    "internvl": (112, 56),  # 2 x 1 tiles of 56
    "smolvlm": (192, 128),  # 3 x 2 tiles of 64
    "idefics3": (192, 128),
    "llava_onevision": (112, 68),  # 2 x 2 tiles of 56, less the padding
    "gemma3": (56, 56),
    "gemma4": (80, 48),  # 20 x 12 patches of 4
    "minicpmv4_6": (64, 64),  # 2 x 2 slices of 32
}


def test_the_frame_is_the_family_s_and_its_input_what_the_tower_sees(policy, name):
    (frame,) = policy.adapter.encode("<image>where?", [noise_image(100, 60, 1)]).frames
    assert (frame.name, frame.size_original, frame.size_input) == (
        FRAMES[name],
        (100, 60),
        INPUTS[name],
    )


def test_replies_come_back_and_image_markup_is_refused(policy):
    adapter = policy.adapter
    assert adapter.decode(adapter.encode_reply("<answer>7</answer>")) == "<answer>7</answer>"
    assert adapter.encode_reply("7")[-1] in adapter.stop_ids
    assert set(adapter.image_ids) <= set(adapter.banned_ids)
    with pytest.raises(ValueError, match="reserved token"):
        adapter.encode_reply(f"look at {adapter.image_token}")


def test_each_family_shares_in_the_way_that_is_right_for_it(policy, name):
    others = {"gemma3": "masks", "gemma4": "masks", "minicpmv4_6": "two_phase"}
    assert default_sharing(policy) == others.get(name, "merged")


def test_gradient_checkpointing_changes_nothing_or_is_refused(directory, policy, name):
    checkpointed = load_policy(ModelConfig(path=str(directory), train=EVERYTHING, gradient_checkpointing=True))
    packed = batch(policy)
    if name == "minicpmv4_6":
        with pytest.raises(ValueError, match="gradient_checkpointing: false"):
            gradients(checkpointed, packed, "packed")
        return
    ours, grad = gradients(checkpointed, packed, "packed")
    plain, reference = gradients(policy, packed, "plain")
    assert (ours - plain).abs().max() < 1e-5
    assert grad.keys() == reference.keys()
    assert (flat(grad) - flat(reference)).norm() / flat(reference).norm() < 1e-5


def test_a_language_model_with_windows_is_not_shared_by_attention(tmp_path):
    """InternVL takes language models of several kinds; a window of Qwen2 is one that our attention would not see."""
    windows = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 0}
    policy = load_policy(ModelConfig(path=str(family("internvl").write(tmp_path, seed=1, **windows))))
    with pytest.raises(ValueError, match="shared_prefix: off"):
        branch_logprobs(policy, batch(policy))


def test_a_model_that_takes_no_ready_features_is_refused(tmp_path, monkeypatch):
    """As under transformers 5.17, whose models take any argument and go on without the images."""
    policy = load_policy(ModelConfig(path=str(family("internvl").write(tmp_path, seed=1))))
    packed = batch(policy)
    monkeypatch.setattr(policy.model.model, "forward", lambda **inputs: inputs)
    with pytest.raises(ValueError, match=r"InternVLForConditionalGeneration does not accept precomputed image"):
        branch_logprobs(policy, packed)


def test_more_tiles_than_the_vocabulary_has_marks_for_are_refused(tmp_path):
    adapter = load_policy(ModelConfig(path=str(family("smolvlm").write(tmp_path, seed=1)))).adapter
    adapter.image_processor.size = {"longest_edge": 7 * 64}
    with pytest.raises(ValueError, match=r"\[3, 7\] rows and columns of tiles, expected at most 6"):
        adapter.encode("<image>what?", [noise_image(200, 60, 1)])


# Sharing by masks

MASKED = {"gemma3": {}, "gemma4 small": {}, "gemma4 large": {"kind": gemma4.LARGE}}


@pytest.fixture(scope="module", params=MASKED)
def masked(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("masked")
    family(request.param.split()[0]).write(directory, seed=2, **MASKED[request.param])
    return load_policy(ModelConfig(path=str(directory), train=EVERYTHING))


def test_masks_equal_the_plain_path_for_every_kind_of_layer(masked):
    packed = batch(masked)
    window = masked.model.config.text_config.sliding_window
    assert all(window < len(prompt) for prompt in packed.prompts)
    ours, grad = gradients(masked, packed, "packed")
    plain, reference = gradients(masked, packed, "plain")
    assert (ours - plain).abs().max() < 1e-5
    assert (flat(grad) - flat(reference)).norm() / flat(reference).norm() < 1e-5


@pytest.mark.parametrize("fault", ["window one wider", "other images in full layers", "other images in sliding layers"])
def test_wrong_mask_rules_would_be_noticed(masked, fault, monkeypatch):
    packed = batch(masked)
    right, _ = branch_logprobs(masked, packed)
    rules = masked.adapter.mask_rules(masked.model)
    if fault == "window one wider":
        windows = {kind: window and window + 1 for kind, window in rules.windows.items()}
        wrong_rules = MaskRules(windows, rules.image_blocks)
    else:
        kind = "full_attention" if "full" in fault else "sliding_attention"
        wrong_rules = MaskRules(rules.windows, rules.image_blocks ^ {kind})
    monkeypatch.setattr(masked.adapter, "mask_rules", lambda model: wrong_rules)
    wrong, _ = branch_logprobs(masked, packed)
    assert (wrong - right).abs().max() > 1e-4


def test_a_window_shorter_than_an_image_cuts_it_as_the_family_does(tmp_path):
    policy = load_policy(ModelConfig(path=str(family("gemma3").write(tmp_path, seed=2))))
    policy.model.config.text_config.sliding_window = 3
    packed = batch(policy)
    ours, _ = branch_logprobs(policy, packed)
    plain, _ = branch_logprobs(policy, packed, path="plain")
    assert (ours - plain).abs().max() < 1e-5
