"""Evaluate a model behind an OpenAI-compatible server, without torch: python examples/served_model.py URL NAME

vllm serve Qwen/Qwen2.5-VL-3B-Instruct --port 8000
python examples/served_model.py http://127.0.0.1:8000 Qwen/Qwen2.5-VL-3B-Instruct

The same as `saccade eval world model=URL server.name=NAME subset=test limit=20`. A key is read from OPENAI_API_KEY.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from saccade import evaluate
from saccade.evaluation.config import EvalRecipe


def main(url: str, name: str, out: Path, limit: int = 20) -> list[dict[str, Any]]:
    """The rows of results.json; run again after an interruption, it asks only what is missing."""
    recipe = EvalRecipe.model_validate(
        {
            "world": {"splits": ["test"], "tasks": ["count"], "n": limit},
            "model": {"path": url, "train": []},
            "server": {"name": name},
            "template": "vlm_r1",
            "decoding": {"max_new_tokens": 1024},
            "label": name,
            "out": str(out),
        }
    )
    return evaluate(recipe, api_key=os.environ.get("OPENAI_API_KEY"))["rows"]


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2], Path("runs/served")), sep="\n")
