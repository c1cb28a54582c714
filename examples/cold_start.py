"""A cold-start set from two servers, one that sees and one that reasons: python examples/cold_start.py SEES REASONS

vllm serve Qwen/Qwen2.5-VL-7B-Instruct --port 8000
vllm serve Qwen/Qwen3-8B --port 8001
python examples/cold_start.py http://127.0.0.1:8000 http://127.0.0.1:8001

The set is runs/cold_start/train.jsonl; `saccade sft my_sft.yaml data.0.path=runs/cold_start/train.jsonl` learns it.
Interrupted, it continues where it was; several such processes share the rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.run import run


def main(sees: str, reasons: str, out: Path, names: tuple[str, str], rows: int = 100) -> Path:
    """The file of chains of thought whose answers were right and which every filter passed."""
    recipe = ColdStartRecipe.model_validate(
        {
            "kind": "coldstart",
            "out": str(out),
            "data": [{"source": "world", "task": "count", "limit": rows}],  # or your own rows, see docs/data.md
            "vision": {"teacher": "endpoint", "url": sees, "model": names[0], "concurrency": 16},
            "reasoner": {"teacher": "endpoint", "url": reasons, "model": names[1], "concurrency": 16},
            "sampling": {"reasoning": {"temperature": 0.6, "max_new_tokens": 2048}},
            "samples": 2,
        }
    )
    run(recipe)
    return out / "train.jsonl"


if __name__ == "__main__":
    chosen = ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-8B")
    print(main(sys.argv[1], sys.argv[2], Path("runs/cold_start"), chosen))
