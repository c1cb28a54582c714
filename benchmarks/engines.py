"""vLLM against the trainer, family by family: does it read prompts alike, choose the same tokens, give the same
log-probs, and follow an update? Tiny random checkpoints, vLLM in process, one process for each family.

    PYTHONPATH=src:. DIR/bin/python -m benchmarks.engines      # DIR: an environment with vLLM and our dependencies
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = 32
"""Size of an attention head that vLLM's kernels take; the checkpoints of the tests have smaller ones."""
WIDTH = 4 * HEAD
DELTA_HEAD = 128
"""The same of gated delta nets."""
TESTS = Path(__file__).parent.parent / "tests"
ANYRES = "anyres_max_9"
"""Tiles of LLaVA-OneVision on the hub; vLLM counts with no other number."""
OF_TOKENIZER = {
    "gemma4": {"image_token": "<|image|>", "video_token": "<|video|>"},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "minicpmv4_6": {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    },
}
"""Attributes of a family's tokenizer on the hub that the tests' one lacks."""
OF_PROCESSOR = {
    "internvl": {"processor_class": "InternVLProcessor", "image_seq_length": 4},
    "smolvlm": {"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
    "llava_onevision": {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": ANYRES,
    },
}
"""processor_config.json of families whose processor in vLLM needs one."""
BF16 = ("qwen3_5", "minicpmv4_6")
"""Families with gated delta nets, which vLLM computes on a CPU in bfloat16 alone."""
LINES = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
"""Gemma's vocabulary has them as tokens, and its processor in vLLM looks them up."""
CHECKS = ("reads prompts and gets weights", "greedy tokens", "log-probs", "log-probs after an update")


def widen(config: Any) -> None:
    """Give a tiny configuration attention heads of size HEAD."""
    text, vision = config.text_config, config.vision_config
    text.allow_global_per_layer_attribute_access = True  # of Gemma 4
    old = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    before, text.hidden_size = text.hidden_size, WIDTH
    text.head_dim = HEAD
    for name in ("linear_key_head_dim", "linear_value_head_dim"):
        if getattr(text, name, None):
            setattr(text, name, DELTA_HEAD)
    if text.model_type == "gemma4_text":
        vision.default_output_length = 70  # visual tokens of an image, at most; vLLM reads it here
    if text.model_type == "glm4v_text":  # vLLM reads these where the hub's configurations have them
        text.tie_word_embeddings, text.attention_bias = config.tie_word_embeddings, True
    rope = getattr(text, "rope_parameters", None) or {}
    if "mrope_section" in rope:
        wide = [part * HEAD // old for part in rope["mrope_section"]]
        wide[-1] += sum(rope["mrope_section"]) * HEAD // old - sum(wide)
        text.rope_parameters = {**rope, "mrope_section": wide}
    if getattr(vision, "out_hidden_size", None) == before:
        vision.out_hidden_size = WIDTH
    if config.model_type == "qwen2_vl":
        vision.hidden_size = WIDTH  # the width after the merger


def write(name: str, directory: Path) -> Path:
    """The tests' checkpoint of a family, wide enough for vLLM, with what its processors there need."""
    sys.path.insert(0, str(TESTS))
    import families._checkpoint as checkpoint
    from families import family

    module = family(name)

    def wide(directory: Any, seed: int, kind: Any, config: Any, tokenizer: Any, images: Any) -> Path:
        widen(config)
        return checkpoint.write_model(directory, seed, kind, config, tokenizer, images)

    module.write_model = wide
    if name == "llava_onevision":
        module.ASPECT = ANYRES
    if name.startswith("gemma"):
        plain = module.gemma_tokenizer

        def with_lines(*given: Any) -> Any:
            tokens = plain(*given)
            tokens.add_tokens([*LINES])
            return tokens

        module.gemma_tokenizer = with_lines
    # Gemma 4 has heads of two sizes, which are fixed when its configuration is made
    own = {"kind": module.SMALL | {"head_dim": HEAD, "global_head_dim": HEAD}} if name == "gemma4" else {}
    path = Path(module.write(directory, seed=1, **own))
    if name in OF_TOKENIZER:
        file = path / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | OF_TOKENIZER[name]))
    if name in OF_PROCESSOR:
        (path / "processor_config.json").write_text(json.dumps(OF_PROCESSOR[name]))
    use_hub_names(path / "model.safetensors")
    return path


def use_hub_names(file: Path) -> None:
    """SigLIP's tensors as the files of Gemma 3 and LLaVA-OneVision name them: transformers writes them so for a model
    that it has read, but not for a new one."""
    from safetensors.torch import load_file, save_file

    old, new = "vision_tower.embeddings.", "vision_tower.vision_model."
    state = load_file(file)
    if any(name.startswith(old) for name in state):
        renamed = {name.replace("vision_tower.", new, 1): tensor for name, tensor in state.items()}
        save_file(renamed, file, metadata={"format": "pt"})


def one(name: str) -> dict[str, Any]:
    """The checks of one family, or why it does not run."""
    from saccade.models.config import ModelConfig
    from saccade.models.policy import load_policy
    from saccade.rollout.config import VllmColocatedConfig
    from saccade.verify.sampler import sampler
    from saccade.verify.subject import subject_of

    with tempfile.TemporaryDirectory() as folder:
        path = write(name, Path(folder) / name)
        dtype = "bfloat16" if name in BF16 else "float32"
        parts = ("vision", "projector", "language")
        policy = load_policy(ModelConfig(path=str(path), device="cpu", dtype=dtype, train=parts))
        checks = sampler(subject_of(policy), VllmColocatedConfig(context=1024, images=2))
        return {
            check.name: {"held": check.held, "measured": check.measured, "detail": check.detail} for check in checks
        }


def of_process(name: str) -> dict[str, Any]:
    """`one` in a process of its own: vLLM does not give its memory back."""
    command = [sys.executable, "-m", "benchmarks.engines", "--one", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    if line is None:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {CHECKS[0]: {"held": False, "measured": None, "detail": last[:200]}}
    return json.loads(line.removeprefix("FOUND "))


def cell(check: dict[str, Any] | None) -> str:
    if check is None:
        return "-"
    word = "yes" if check["held"] else "NO"
    return word if check["measured"] is None else f"{word}, {check['measured']:.1e}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--families", nargs="*", help="only these (default: all of the tests)")
    parser.add_argument("--json", type=Path, help="write the checks here")
    args = parser.parse_args(argv)
    if args.one:
        try:
            print("FOUND", json.dumps(one(args.one)))
        except Exception:  # noqa: BLE001 - the last line is shown in the table
            traceback.print_exc()
            return 1
        return 0
    sys.path.insert(0, str(TESTS))
    from families import FAMILIES

    found = {}
    print(f"| family | {' | '.join(CHECKS)} | why not |\n|---|{'---|' * len(CHECKS)}---|")
    for name in args.families or FAMILIES:
        found[name] = of_process(name)
        why = next((c["detail"] for c in found[name].values() if not c["held"]), "")
        cells = [cell(found[name].get(check)) for check in CHECKS]
        dtype = ", bfloat16" if name in BF16 else ""
        print(f"| {name}{dtype} | {' | '.join(cells)} | {why[:160]} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
