"""Writing a checkpoint as an ordinary directory, and checking it against the policy that was trained."""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from saccade.data.hub import HUB_NAME, of_the_hub, use_hub
from saccade.disk import AGAIN, PARTIAL, require_space, writing
from saccade.export.model_card import model_card
from saccade.export.source import ExportSource
from saccade.models.checkpoint_files import reading
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, load_policy
from saccade.models.quantize import elements
from saccade.verify.fixtures import questions

Dtype = Literal["float32", "bfloat16"]
BOUNDS = {"float32": 1e-4, "bfloat16": 5e-2, "float64": 1e-4}
"""Largest relative difference (root mean square) of the centered logits of the exported model, by the less exact of the
two dtypes."""
POSITIONS = 32
"""Last positions of each prompt whose logits are compared."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to the policy that was trained."""

    directory: Path
    dtype: str
    difference: float
    bound: float
    to_quantized: float | None
    """Difference from the policy on 4-bit weights, which rounding to 4 bits explains; None without."""


def export(source: ExportSource, out: Path, dtype: Dtype | None = None) -> Exported:
    """Write the checkpoint to `out`, which appears by one rename once it has passed the check.

    ValueError: `out` exists, there is too little space, or the exported model's logits are not those of the policy.
    """
    if out.exists():
        raise ValueError(f"--out {out} exists; choose another directory, or remove it")
    trained = source.model.model_copy(update={"train": (), "lora": None, "path": str(source.checkpoint)})
    kind: Any = dtype or ("float32" if trained.dtype == "float64" else trained.dtype)
    partial = out.with_name(f".{out.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    with _whole_or_absent(out, partial):
        return _export(source, trained, kind, out, partial)


@contextmanager
def _whole_or_absent(out: Path, partial: Path) -> Iterator[None]:
    """Removes what is half-written however the block ends."""
    try:
        with writing(out.absolute().parent, f"{out} was not written; {AGAIN}"):
            yield
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _export(source: ExportSource, trained: ModelConfig, kind: Any, out: Path, partial: Path) -> Exported:
    coarsest = max((kind, trained.dtype), key=lambda name: BOUNDS[name])
    quantized = logits_of(trained) if trained.quantize else None
    expected = _write(source, trained.model_copy(update={"quantize": None}), kind, partial)
    found = logits_of(ModelConfig(path=str(partial), dtype=kind, device=trained.device, train=()))
    result = Exported(
        directory=out,
        dtype=kind,
        difference=distance(found, expected),
        bound=BOUNDS[coarsest],
        to_quantized=None if quantized is None else distance(found, quantized),
    )
    if not result.difference <= result.bound:
        raise ValueError(
            f"{source.checkpoint}: the exported model's logits differ from the trained policy's by "
            f"{result.difference:.1e} (relative), more than {result.bound:g} for {coarsest}; nothing was written. "
            "Try --dtype float32; if that differs too, please report it"
        )
    (partial / "README.md").write_text(model_card(source, result), encoding="utf-8", errors="replace")
    partial.rename(out)
    return result


def _write(source: ExportSource, trained: ModelConfig, dtype: str, partial: Path) -> list[Tensor]:
    """Saves the merged model and returns the logits of the policy that it must reproduce: the adapters beside the
    weights of the base where there are some."""
    if source.has_adapters:
        policy = load_policy(trained.model_copy(update={"path": str(source.base)}), adapters=source.checkpoint)
        expected = _logits(policy)
        del policy
    else:
        expected = logits_of(trained)
    gc.collect()
    merged = load_policy(trained.model_copy(update={"dtype": dtype, "fused_layers": False}))
    size = sum(elements(p) * p.element_size() for p in merged.model.parameters())
    require_space(partial, size, "the exported weights")
    merged.save(partial)
    return expected


def logits_of(config: ModelConfig) -> list[Tensor]:
    return _logits(load_policy(config))


@torch.no_grad()
def _logits(policy: Policy) -> list[Tensor]:
    """Centered logits (positions, V) of the last positions of fixed questions about images and about none."""
    found = []
    for question in questions().values():
        prompt = question.encode(policy.adapter)
        ids_1P = prompt.ids_P[None]
        inputs = {"input_ids": ids_1P, "attention_mask": torch.ones_like(ids_1P)}
        inputs |= policy.adapter.plain_inputs(prompt, ids_1P)
        moved = {name: value.to(policy.device) for name, value in inputs.items()}
        with reading(policy.model.name_or_path, "config.json"):  # a wrong one may show only now
            logits_PV = policy.model(**moved, use_cache=False).logits[0, -POSITIONS:].float().cpu()
        found.append(logits_PV - logits_PV.mean(-1, keepdim=True))
    return found


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Root mean square of the difference / of the expected."""
    ours, theirs = (torch.cat([one.flatten() for one in some]).double() for some in (found, expected))
    return float((ours - theirs).norm() / theirs.norm())


def check_push(name: str) -> None:
    """ValueError, before any work, when the hub could not be written to."""
    from huggingface_hub import HfApi, get_token

    if not re.fullmatch(HUB_NAME, name):
        raise ValueError(f"--push: got {name!r}, expected owner/name")
    if get_token() is None:
        raise ValueError("--push needs a token of the Hugging Face hub; run 'hf auth login' or set HF_TOKEN")
    use_hub()
    way_out = "nothing was exported. Without --push the export works offline"
    with _asking("the hub cannot be reached or refuses the token", way_out):
        HfApi().whoami()


def push(directory: Path, name: str) -> str:
    """Uploads the directory to the hub, into a private repository where it is new; returns its address."""
    from huggingface_hub import HfApi

    with _asking("the upload failed", f"{directory} is whole: upload it with 'hf upload {name} {directory}'"):
        hub = HfApi()
        hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=directory)
    return f"https://huggingface.co/{name}"


@contextmanager
def _asking(failed: str, way_out: str) -> Iterator[None]:
    """For requests to the hub, whose library raises anything where an answer is none of the hub's."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"--push: {failed} ({of_the_hub(error)}); {way_out}") from error
