"""What is kept of an update whose loss or gradient was not finite: enough to reproduce it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from saccade.disk import partial_of
from saccade.runs.lock import keep_lock
from saccade.training.policy_batch import PolicyBatch

log = logging.getLogger(__name__)

KEEP = 5
"""Dumps of one run; a run that diverges writes no more."""


def dump_batches(directory: Path, version: int, batches: Sequence[PolicyBatch]) -> None:
    """Writes `directory/version-<weights version>-<number>.pt`: a list with a dictionary per micro-batch."""
    number = len(list(directory.glob("version-*.pt"))) + 1
    if number > KEEP:
        return
    keep_lock(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"version-{version:06d}-{number}.pt"
    torch.save([_plain(batch) for batch in batches], partial := partial_of(path))
    partial.rename(path)
    log.warning("an update was not finite and was skipped; its batch is saved in %s", path)


def _plain(batch: PolicyBatch) -> dict[str, Any]:
    return {
        "group_ids": list(batch.group_ids),
        "image_shas": [list(prompt.image_shas) for prompt in batch.packed.prompts],
        "prompts": [prompt.ids_P.tolist() for prompt in batch.packed.prompts],
        "replies": [[list(branch.ids) for branch in branches] for branches in batch.packed.branches],
        "advantages_R": batch.advantages_R.cpu(),
        "sampler_logprobs_R": batch.sampler_logprobs_R.cpu(),
        "old_logprobs_R": batch.old_logprobs_R.cpu(),
        "ref_logprobs_R": None if batch.ref_logprobs_R is None else batch.ref_logprobs_R.cpu(),
    }
