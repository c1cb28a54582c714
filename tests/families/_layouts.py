"""The tiny checkpoints as the hub has them: `old` is how checkpoints were published for years, `new` is what
transformers 5 writes. Both have the vision-language template in a file of the processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer

Layout = Literal["old", "new"]
LAYOUTS: tuple[Layout, ...] = ("old", "new")
TEXT_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The template of a language model, which knows no images and no parts; the tokenizer of the VLM often keeps it."""
LEFT_BEHIND = {
    "model.safetensors.index.json": '{"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}',
    "pytorch_model.bin.index.json": '{"weight_map": {}}',
    "modeling_tiny.py": "raise RuntimeError\n",
    "README.md": "# A model\n",
}
"""Files of a hub repository that do not belong to a trained checkpoint."""


def write_layout(source: Path, target: Path, layout: Layout, tokenizer_template: str | None = TEXT_ONLY) -> Path:
    """A copy of a checkpoint in that layout; `tokenizer_template` is what the old layout's tokenizer has."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    template = str(AutoTokenizer.from_pretrained(source).chat_template)
    settings = _read(target / "tokenizer_config.json")
    (target / "chat_template.jinja").unlink(missing_ok=True)
    if layout == "old":
        (target / "chat_template.json").write_text(json.dumps({"chat_template": template}))
        settings |= {"chat_template": tokenizer_template} if tokenizer_template else {}
        (target / "special_tokens_map.json").write_text(json.dumps({"eos_token": settings["eos_token"]}))
        for name, content in LEFT_BEHIND.items():
            if name != "model.safetensors.index.json":  # with it, transformers would look for shards
                (target / name).write_text(content)
        images = _read(target / "preprocessor_config.json") | _nested(target)
        (target / "preprocessor_config.json").write_text(json.dumps(images))
        held = _read(target / "processor_config.json")
        held.pop("image_processor", None)
        if held:
            (target / "processor_config.json").write_text(json.dumps(held))
    else:
        (target / "chat_template.jinja").write_text(template)
        images = _read(target / "preprocessor_config.json") or _nested(target)
        held = _read(target / "processor_config.json") | {"image_processor": images}
        (target / "processor_config.json").write_text(json.dumps(held))
        (target / "preprocessor_config.json").unlink(missing_ok=True)
    (target / "video_preprocessor_config.json").write_text(json.dumps({"size": {"longest_edge": 1}}))
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    return target


def _nested(target: Path) -> dict[str, Any]:
    return _read(target / "processor_config.json").get("image_processor") or {}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
