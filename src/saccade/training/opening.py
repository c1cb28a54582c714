"""What several processes check and begin when they open a run together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saccade.config import dump
from saccade.models.config import ShardConfig
from saccade.models.lora import fingerprint
from saccade.models.policy import base_path, resolve_path
from saccade.runs.environment import versions
from saccade.runs.safe_text import SafeFormatter
from saccade.training.config import RLRecipe, SFTRecipe
from saccade.training.ranks import Ranks

Recipe = RLRecipe | SFTRecipe


def check_agreement(recipe: Recipe, data: Mapping[str, Mapping[str, Any]], ranks: Ranks) -> None:
    """ValueError when processes differ in what they train."""
    if ranks.size > 1:
        weights = fingerprint(base_path(resolve_path(recipe.model.path)))
        hashes = {"data": dict(data["data_hash"]), "images": [one["hash"] for one in data["images"].values()]}
        facts = {"recipe": dump(recipe), **hashes, "weights": weights, "package versions": versions()}
        ranks.agree(facts)


def check_shard(recipe: Recipe, ranks: Ranks) -> None:
    """ValueError for options of sharding without several processes to share the model, and for an optimizer whose
    state several cannot share."""
    if ranks.size > 1 and recipe.optim.kind != "adamw":
        raise ValueError(
            f"optim.kind {recipe.optim.kind!r}: its state is not sharded, but there are {ranks.size} processes; use "
            "kind adamw, whose state they share, or one process"
        )
    if ranks.size == 1 and recipe.shard != ShardConfig():
        raise ValueError(
            "shard: got options for several processes, but there is one; start several with "
            "'torchrun --nproc-per-node N -m saccade ...' or 'saccade launch', or remove shard"
        )


@contextmanager
def log_file(run_dir: Path, ranks: Ranks) -> Iterator[None]:
    """The log lines of each of several processes in `RUN/logs/process-N.log`; those of the first also where they go
    anyway."""
    if ranks.size == 1:
        yield
        return
    path = run_dir / "logs" / f"process-{ranks.rank}.log"
    path.parent.mkdir(exist_ok=True)
    handler, logger = logging.FileHandler(path, encoding="utf-8"), logging.getLogger("saccade")
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
