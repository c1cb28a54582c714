"""Gemma 4: as its small models are (embeddings per layer, shared keys and values) and as its large ones (images seen
both ways, keys that are values, experts)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Gemma4Config, Gemma4ForConditionalGeneration
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from families._checkpoint import without_video, write_model
from families.gemma3 import gemma_tokenizer

PATCH, POOL, BUDGET, WINDOW = 4, 2, 70, 16
"""Pixels of a patch's side, patches pooled along each axis, visual tokens at most, positions of a window."""
NAMED = {"boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>"}
NAMED |= {"boa_token": "<|audio>", "eoa_token": "<audio|>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|turn>' + m['role'] + '\n' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<|image|>' }}"
    "{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}{{ '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)
TWO_KINDS = ["sliding_attention", "full_attention"]
SMALL = {
    "num_hidden_layers": 6,
    "layer_types": TWO_KINDS * 3,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 32,  # fewer gates could all be shut for a token, and the norm after them blow up
    "intermediate_size": 64,
}
LARGE = {
    "num_hidden_layers": 4,
    "layer_types": TWO_KINDS * 2,
    "hidden_size_per_layer_input": 0,
    "use_bidirectional_attention": "vision",
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 16,
}


def write(directory: str | Path, seed: int = 0, kind: dict[str, Any] = SMALL) -> Path:
    tokens = gemma_tokenizer(NAMED, ("<|image|>", "<|video|>", "<|turn>", "<turn|>"), CHAT_TEMPLATE)
    ids = {name: tokens.convert_tokens_to_ids(f"<|{name}|>") for name in ("image", "video", "audio")}
    config = Gemma4Config(
        text_config={
            "vocab_size": len(tokens),
            "vocab_size_per_layer_input": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 16,
            "max_position_embeddings": 4096,
            "sliding_window": WINDOW,
            "final_logit_softcapping": 3.0,
            "pad_token_id": tokens.pad_token_id,
            **kind,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": PATCH,
            "pooling_kernel_size": POOL,
            "position_embedding_size": 128,
        },
        boi_token_id=tokens.convert_tokens_to_ids("<|image>"),
        eoi_token_id=tokens.convert_tokens_to_ids("<image|>"),
        **{f"{name}_token_id": id for name, id in ids.items()},
    )
    images = Gemma4ImageProcessorPil(patch_size=PATCH, pooling_kernel_size=POOL, max_soft_tokens=BUDGET)
    return write_model(directory, seed, Gemma4ForConditionalGeneration, config, tokens, images)


def processor(directory: str | Path) -> Any:
    """ImportError where this transformers' processor itself needs torchvision."""
    from transformers import Gemma4Processor

    return without_video(Gemma4Processor, directory, "<|image|>", "<|video|>", feature_extractor=None, **NAMED)
