"""GLM-4.1V: RMSNorm tower with a strided convolution before the merger, M-RoPE in sections, partial rotary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Glm4vConfig, Glm4vForConditionalGeneration, Glm4vProcessor
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

from families._checkpoint import without_video, write_model
from families._tokenizer import tokenizer

TURNS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]", "<sop>")
SIDES = ("begin", "end")
TOKENS = (*TURNS, "<|image|>", "<|video|>", *(f"<|{s}_of_{kind}|>" for kind in ("image", "video") for s in SIDES))
CHAT_TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SIZE = {"shortest_edge": 2 * 56 * 56, "longest_edge": 2 * 224 * 224}
"""Pixels of both copies of an image, which the tower takes as two moments."""


def glm_tokenizer(chat_template: str = CHAT_TEMPLATE) -> Any:
    """A turn ends where the next begins; the end-of-text token is the tokenizer's own end."""
    made = tokenizer(TOKENS, chat_template=chat_template)
    made.eos_token = "<|endoftext|>"
    return made


def glm_config(kind: Any, tokens: Any) -> Any:
    ids = {"image_token_id": "image", "video_token_id": "video"}
    ids |= {f"{k}_start_token_id": f"begin_of_{k}" for k in ("image", "video")}
    ids |= {f"{k}_end_token_id": f"end_of_{k}" for k in ("image", "video")}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
    return kind(
        text_config={
            "model_type": "glm4v_text",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": rope,
            "pad_token_id": tokens.pad_token_id,
        },
        vision_config={
            "model_type": "glm4v_vision",
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "image_size": 112,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        tie_word_embeddings=True,
        **{name: tokens.convert_tokens_to_ids(f"<|{token}|>") for name, token in ids.items()},
    )


def video_marks() -> dict[str, int]:
    """The ids between which GLM's processor takes an image token for a frame."""
    find = glm_tokenizer().convert_tokens_to_ids
    return {"video_start_id": find("<|begin_of_video|>"), "video_end_id": find("<|end_of_video|>")}


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = glm_tokenizer()
    config, images = glm_config(Glm4vConfig, tokens), Glm4vImageProcessorPil(size=SIZE)
    return write_model(directory, seed, Glm4vForConditionalGeneration, config, tokens, images)


def processor(directory: str | Path) -> Any:
    return without_video(Glm4vProcessor, directory, "<|image|>", "<|video|>", **video_marks())
