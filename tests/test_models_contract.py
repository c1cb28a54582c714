"""The tiny model is an ordinary family member: its adapter equals the family's processor, packed equals plain."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from pictures import noise_image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from saccade.base.tiny import write_checkpoint
from saccade.models import logprobs
from saccade.models.config import ModelConfig
from saccade.models.forward import branch_logprobs, vision_features
from saccade.models.logprobs import Head, token_logprobs
from saccade.models.packing import Branch, Layout, pack
from saccade.models.policy import load_policy
from saccade.verify.difference import reference


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), "S", seed=1)


@pytest.fixture(scope="module")
def policy(directory):
    return load_policy(ModelConfig(path=str(directory), train=("vision", "projector", "language")))


def some_groups(policy):
    encode = policy.adapter.encode
    one = encode("<image>How many red shapes are there?", [noise_image(112, 112, 1)])
    two = encode("<image> and <image> what changed?", [noise_image(90, 150, 2), noise_image(224, 112, 3)])
    text = encode("2 + 2 = ?", [])
    tokens = random.Random(0)

    def branch(n, start=0):
        return Branch([tokens.randrange(300, 1200) for _ in range(n)], ((start, n),))

    return [
        (one, [branch(17), branch(1), branch(5), branch(9, 4)]),
        (two, [branch(12), branch(3)]),
        (text, [branch(6)]),
    ]


def test_checkpoint_is_an_ordinary_directory_that_transformers_loads(directory):
    model = AutoModelForImageTextToText.from_pretrained(directory)
    assert model.config.model_type == "qwen2_5_vl"
    assert AutoTokenizer.from_pretrained(directory).chat_template


def test_same_seed_gives_the_same_weights_and_another_seed_does_not(directory, tmp_path):
    def weights(path):
        return torch.cat([p.flatten() for p in AutoModelForImageTextToText.from_pretrained(path).parameters()])

    again, other = write_checkpoint(tmp_path / "a", "S", seed=1), write_checkpoint(tmp_path / "b", "S", seed=2)
    assert torch.equal(weights(directory), weights(again))
    assert not torch.equal(weights(directory), weights(other))


def test_every_digit_is_one_token_and_every_tag_is_one_token(policy):
    tokenizer = policy.adapter.tokenizer
    for text, count in (("2026", 4), (" 7", 1), ("<think>", 1), ("</answer>", 1), ('{"bbox_2d": [', 1)):
        assert len(tokenizer(text, add_special_tokens=False).input_ids) == count, text


@pytest.mark.parametrize(
    "text",
    [
        "caf\u00e9 \\sqrt{3} \u4e2d\u6587 \t x",
        '[{"bbox_2d": [1, 22, 333, 4], "label": "red star"}]',
        "<think>a b1 2</think>",
    ],
)
def test_any_text_survives_the_tokenizer(policy, text):
    assert policy.adapter.decode(policy.adapter.encode_reply(text)) == text


@pytest.mark.parametrize("size", [(112, 112), (30, 400), (333, 97), (900, 700), (56, 57)])
def test_pixels_and_grid_equal_those_of_the_family_image_processor(policy, directory, size):
    image = noise_image(*size, seed=5)
    theirs = AutoImageProcessor.from_pretrained(directory)(images=[image], return_tensors="pt")
    ours = policy.adapter.encode("<image>what?", [image])
    assert torch.equal(ours.pixels["pixel_values"], theirs["pixel_values"])
    assert torch.equal(ours.pixels["image_grid_thw"], theirs["image_grid_thw"])
    _, height, width = theirs["image_grid_thw"][0].tolist()
    assert ours.frames[0].size_input == (width * 14, height * 14)
    assert ours.frames[0].size_original == size


def test_positions_equal_those_of_the_family_model(policy):
    for prompt, _ in some_groups(policy):
        if not prompt.pixels:
            continue
        theirs, _ = policy.model.model.get_rope_index(
            prompt.ids_P[None],
            mm_token_type_ids=(prompt.ids_P == policy.model.config.image_token_id).int()[None],
            image_grid_thw=prompt.pixels["image_grid_thw"],
        )
        assert torch.equal(prompt.positions_3P, theirs[:, 0])
        assert prompt.next_position == int(theirs.max()) + 1
        assert prompt.next_position != len(prompt), "positions fell back to one dimension"


def gradient(policy, packed, path, weights_R):
    policy.model.zero_grad()
    with reference(policy, path):
        logprobs_R, _ = branch_logprobs(policy, packed, path=path)
        (logprobs_R * weights_R).sum().backward()
    flat = torch.cat([p.grad.flatten() for _, p in policy.trainable() if p.grad is not None])
    return logprobs_R.detach(), flat


def test_packed_rows_equal_plain_rows_in_log_probs_and_gradients(policy):
    packed = pack(some_groups(policy))
    weights_R = torch.randn(packed.num_tokens, generator=torch.Generator().manual_seed(3))
    ours, grad = gradient(policy, packed, "packed", weights_R)
    plain, reference = gradient(policy, packed, "plain", weights_R)
    assert (ours - plain).abs().max() < 1e-5
    assert (grad - reference).norm() / reference.norm() < 1e-5


@pytest.mark.parametrize("fault", ["positions off by one", "siblings visible", "image changed"])
def test_the_packed_test_would_notice(policy, fault, monkeypatch):
    """Negative controls: each fault must show in the log-probs, or the equality above proves nothing."""
    groups = some_groups(policy)
    packed = pack(groups)
    right, _ = branch_logprobs(policy, packed)
    features = None
    if fault == "positions off by one":
        packed.positions_3T[:, packed.layout.prompt_tokens :] += 1
    elif fault == "siblings visible":
        joined = Layout(packed.layout.prompts, tuple((sum(row),) for row in packed.layout.branches))
        packed = replace(packed, layout=joined)
    else:
        features = vision_features(policy, packed.prompts)
        features = [replace(f, values=f.values * 1.05) for f in features]
    wrong, _ = branch_logprobs(policy, packed, features=features)
    assert (wrong - right).abs().max() > 1e-4


def test_entropy_and_temperature_equal_the_full_softmax(policy):
    packed = pack(some_groups(policy))
    logprobs_R, entropy_R = branch_logprobs(policy, packed, temperature=0.7, entropy=True)
    hidden = torch.randn(7, 64)
    assert entropy_R is not None and (entropy_R > 0).all()
    weight, targets = policy.model.lm_head.weight.detach(), torch.arange(7)
    ours, entropy = token_logprobs(hidden, Head(weight), targets, 0.7, entropy=True)
    full = torch.log_softmax(hidden @ weight.T / 0.7, -1)
    assert torch.allclose(ours, full[torch.arange(7), targets], atol=1e-5)
    assert torch.allclose(entropy, -(full.exp() * full).sum(-1), atol=1e-4)
    assert logprobs_R.shape == (packed.num_tokens,)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_head_s_gradient_in_bfloat16_is_as_near_to_float32_as_that_of_autograd(softcap, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    hidden_RD, weight_VD = (torch.randn(n, 64, generator=generator) for n in (700, 1500))
    targets_R, share_R = torch.randint(0, 1500, (700,), generator=generator), torch.randn(700, generator=generator)
    monkeypatch.setattr(logprobs, "PIECE", 400)

    def gradient(dtype, ours):
        leaf, hidden = (0.2 * weight_VD).to(dtype).requires_grad_(), hidden_RD.to(dtype)
        if ours:
            found, _ = token_logprobs(hidden, Head(leaf, softcap=softcap), targets_R)
        else:
            found = torch.log_softmax(Head(leaf, softcap=softcap).logits(hidden).float(), -1)[range(700), targets_R]
        (found * share_R).sum().backward()
        return leaf.grad.float()

    truth = gradient(torch.float32, True)
    ours, theirs = ((gradient(torch.bfloat16, one) - truth).norm() / truth.norm() for one in (True, False))
    assert ours < 1.25 * theirs < 0.02


def test_features_of_older_weights_are_refused(policy):
    packed = pack(some_groups(policy))
    features = vision_features(policy, packed.prompts)
    policy.version += 1
    try:
        with pytest.raises(ValueError, match="weights version"):
            branch_logprobs(policy, packed, features=features)
    finally:
        policy.version -= 1


def test_marker_and_image_counts_must_agree(policy):
    with pytest.raises(ValueError, match="1 '<image>' markers but 0 images"):
        policy.adapter.encode("<image>what?", [])
    with pytest.raises(ValueError, match="reserved token"):
        policy.adapter.encode("what is <|image_pad|>?", [])


def test_missing_checkpoint_and_unseen_gpu_are_clear_errors(tmp_path, directory):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_policy(ModelConfig(path=str(tmp_path / "nothing")))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU is visible"):
            load_policy(ModelConfig(path=str(directory), device="cuda"))
