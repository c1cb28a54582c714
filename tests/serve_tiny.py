"""`transformers serve` on a checkpoint with images, also where torchvision is not installed.

    python tests/serve_tiny.py serve CHECKPOINT --host 127.0.0.1 --port 8000 [more options of transformers]

The combined processor of transformers demands a video processor, which needs torchvision. The server loads one here
that is made of the image processor and the tokenizer alone.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLProcessor
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.transformers import main


class ImageProcessorOnly(Qwen2_5_VLProcessor):
    """Images and text. transformers reads from the signature which parts a processor has: no video processor here."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


def _load_processor(manager: ModelManager, model_id_and_revision: str, gguf_file: str | None = None) -> Any:
    path, _, _ = model_id_and_revision.rpartition("@")
    tokenizer = AutoTokenizer.from_pretrained(path)
    return ImageProcessorOnly(AutoImageProcessor.from_pretrained(path), tokenizer, tokenizer.chat_template)


if __name__ == "__main__":
    ModelManager._load_processor = _load_processor
    main()
