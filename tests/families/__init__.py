"""Tiny random checkpoints of every model family, one module each: `write(directory, seed) -> Path` makes an ordinary
Hugging Face directory (model, tokenizer, image processor), `processor(directory)` the family's own processor as far as
it goes without torchvision.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
"""Names of the modules, which are values of `config.model_type`."""


def family(name: str):
    return import_module(f"families.{name}")
