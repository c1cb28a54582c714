"""Our prompts are those of the family's own processor: same ids, same pixels, for one image, several, and none."""

from __future__ import annotations

import pytest
import torch
from pictures import noise_image
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLProcessor
from transformers import Qwen2VLProcessor as Qwen2Processor

from saccade.base.tiny import write_checkpoint
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), "S", seed=1)


def without_video(kind, directory):
    """The family's processor as its constructor leaves it, less the video part, which needs torchvision."""
    processor = kind.__new__(kind)
    processor.tokenizer = tokenizer = AutoTokenizer.from_pretrained(directory)
    processor.image_processor = AutoImageProcessor.from_pretrained(directory)
    processor.chat_template = tokenizer.chat_template
    processor.video_processor = None
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    processor.image_token_id = tokenizer.convert_tokens_to_ids(processor.image_token)
    processor.video_token_id = tokenizer.convert_tokens_to_ids(processor.video_token)
    return processor


@pytest.mark.parametrize("kind", [Qwen2_5_VLProcessor, Qwen2Processor], ids=["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("sizes", [[(112, 112)], [(300, 90), (64, 200)], []], ids=["one image", "two", "none"])
def test_ids_and_pixels_equal_those_of_the_family_processor(directory, kind, sizes):
    images = [noise_image(*size, seed=i) for i, size in enumerate(sizes)]
    adapter = load_policy(ModelConfig(path=str(directory))).adapter
    ours = adapter.encode("<image>" * len(images) + "How many red circles are there?", images)
    processor = without_video(kind, directory)
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": "How many red circles are there?"}]
    chat = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    theirs = processor(text=[chat], images=images or None, return_tensors="pt")
    assert torch.equal(ours.ids_P, theirs["input_ids"][0])
    for name, value in ours.pixels.items():
        assert torch.equal(value, theirs[name])
    assert bool(ours.pixels) == bool(images)
