"""Which packaged recipe fits which card, as `saccade plan` predicts it from published shapes; nothing is downloaded.

    python -m benchmarks.hardware    # the table of docs/recipes.md and of the README

Seconds are those of an H100 at 40% of its bfloat16 peak and 3.35 TB/s, with every reply at its cap.
"""

from __future__ import annotations

from functools import lru_cache

from transformers import Qwen3VLConfig

from benchmarks.gpu_model import config_of
from saccade.cli.options import load_recipe
from saccade.planning.flops import ModelShape
from saccade.planning.plan import Plan, plan
from saccade.planning.stages import Setting
from saccade.training.config import RLRecipe, SFTRecipe

IMAGES = {"refer": 400, "detect": 400, "gui_defect": 1296}
"""Task -> visual tokens of one image: photographs of 640 x 480 pixels, screenshots of a megapixel; 1,024 else."""
CARDS = {
    "vlm_r1_rec_3b_lora": ("3b", 24, "refer"),
    "vlm_r1_ovd_3b_lora": ("3b", 24, "detect"),
    "vlm_r1_gui_3b_lora": ("3b", 24, "gui_defect"),
    "qwen3_vl_8b_qlora": ("qwen3 8b", 24, "count"),
    "vision_r1_7b_sft_lora": ("7b", 80, "count"),
    "vision_r1_7b_lora": ("7b", 80, "count"),
}
"""Recipe -> model, GB of the card that it names, and a task like its own."""
TOO_LARGE = {"vision_r1_7b_zero": ("7b", 80, "count"), "vision_r1_7b_long": ("7b", 80, "count")}
"""Recipes that say that they do not fit."""
ALL = CARDS | TOO_LARGE
MODELS = {"3b": "Qwen2.5-VL-3B", "7b": "Qwen2.5-VL-7B", "qwen3 8b": "Qwen3-VL-8B"}


@lru_cache
def shape(model: str) -> ModelShape:
    """The shape of a published checkpoint."""
    if model != "qwen3 8b":
        return ModelShape.from_config(config_of(model))
    text = {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
    text |= {"head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936}
    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096}
    return ModelShape.from_config(Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False))


def recipe_of(name: str, *overrides: str) -> RLRecipe | SFTRecipe:
    recipe = load_recipe(name, list(overrides))
    assert isinstance(recipe, RLRecipe | SFTRecipe)
    return recipe


def planned(name: str, *overrides: str) -> Plan:
    """The plan of a recipe on the card that it names."""
    model, memory_gb, task = ALL[name]
    images = (IMAGES.get(task, 1024),) * (2 if task == "gui_defect" else 1)
    return plan(recipe_of(name, *overrides), shape(model), Setting(images, memory_gb=memory_gb))


def table() -> str:
    """A row per recipe, in Markdown. A recipe that does not fit has no seconds."""
    lines = ["| recipe | model | trains | card | peak GB | fits | seconds a step |", "|---|---|---|---|---|---|---|"]
    for name, (model, card, _) in ALL.items():
        recipe, found = recipe_of(name), planned(name)
        lora = recipe.model.lora
        what = f"LoRA rank {lora.rank}" if lora else ", ".join(recipe.model.train)
        weights = " in 4 bits" if recipe.model.quantize else ""
        seconds = ", ".join(f"{stage.step_seconds:.0f}" for stage in found.stages) if found.fits else ""
        cells: tuple[str, ...] = (
            f"`{name}`",
            MODELS[model] + weights,
            f"{what}, {found.trainable / 1e6:,.0f} M",
            f"{card} GB",
        )
        lines.append(
            f"| {' | '.join(cells)} | {found.worst.peak / 1e9:.1f} | {'yes' if found.fits else 'no'} | {seconds} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
