"""Checkpoints of shards that strangers wrote: torch's own reader runs what the pickle of their table names."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import family
from torch.distributed.checkpoint import save
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING
from training_runs import rl_recipe, write_world

from saccade.models.policy import load_policy
from saccade.models.shard_files import ShardReader, _Table
from saccade.models.sharding import SHARDS, weights
from saccade.training import checkpoint
from saccade.training.rl import train


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family("qwen2_5_vl").write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def sharded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as several processes write it."""
    folder = tmp_path_factory.mktemp("sharded") / "m"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    held = {name: one.detach() for name, one in weights(load_policy(str(tiny)).model).items()}
    save(held, checkpoint_id=str(folder / SHARDS), no_dist=True)
    return folder


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Asks:
    """Unpickled, it is an attribute of a class."""

    def __init__(self, kind: Any, name: str) -> None:
        self.asked = (kind, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, self.asked


def places(key: str, value: Any) -> Callable[[Path], None]:
    """Writes the table anew, with another value in its places."""

    def change(folder: Path) -> None:
        found = pickle.loads((folder / ".metadata").read_bytes())
        for place in found.storage_data.values():
            setattr(place, key, value)
        (folder / ".metadata").write_bytes(pickle.dumps(found))

    return change


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (lambda f: (f / ".metadata").write_bytes(pickle.dumps(Runs(f / "ran"))), r"\.metadata.* names posix.mkdir"),
    "an attribute": (lambda f: (f / ".metadata").write_bytes(pickle.dumps(Asks(Path, "home"))), "an attribute of"),
    "another object": (lambda f: (f / ".metadata").write_bytes(pickle.dumps([1])), r"\.metadata: is no table"),
    "an empty table": (lambda f: (f / ".metadata").write_bytes(b""), r"\.metadata: is no table"),
    "a cut table": (lambda f: os.truncate(f / ".metadata", 300), r"\.metadata: is no table"),
    "a table of holes": (lambda f: os.truncate(f / ".metadata", 1 << 40), r"\.metadata: has 1,099,511,627,776 bytes"),
    "no table": (lambda f: (f / ".metadata").unlink(), r"\.metadata: there is no such file"),
    "a pipe": (lambda f: _pipe(f / ".metadata"), r"\.metadata: is no regular file"),
    "a file elsewhere": (places("relative_path", "../x.distcp"), "names no files"),
    "no name": (places("relative_path", []), "names no files"),
    "an odd place": (places("offset", -5), "names no files"),
    "a transform": (places("transform_descriptors", ["zstd"]), "names no files"),
    "no shard": (lambda f: (f / "__0_0.distcp").unlink(), r"__0_0\.distcp: there is no such file"),
    "a pipe as a shard": (lambda f: _pipe(f / "__0_0.distcp"), r"__0_0\.distcp: is no regular file"),
    "a cut shard": (lambda f: os.truncate(f / "__0_0.distcp", 9000), "the shards cannot be used"),
    "an empty shard": (lambda f: os.truncate(f / "__0_0.distcp", 0), "the shards cannot be used"),
}


@pytest.mark.parametrize("name", HARMS)
def test_whatever_shards_hold_is_one_line_and_none_runs_code(sharded: Path, tmp_path: Path, name: str) -> None:
    (harm, words), folder = HARMS[name], tmp_path / "m"
    shutil.copytree(sharded, folder)
    harm(folder / SHARDS)
    with pytest.raises(ValueError, match=words) as caught:
        load_policy(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not (folder / SHARDS / "ran").exists()


def test_whole_shards_are_the_weights(tiny: Path, sharded: Path) -> None:
    plain, read = (weights(load_policy(str(path)).model) for path in (tiny, sharded))
    assert plain.keys() == read.keys() and all(torch.equal(plain[name], read[name]) for name in plain)
    assert ShardReader(str(sharded / SHARDS)).read_metadata().state_dict_metadata.keys() == read.keys()


def test_members_of_an_enum_are_read_as_python_3_11_2_pickles_them() -> None:
    for member in _MEM_FORMAT_ENCODING:
        for pickled in (pickle.dumps(member), pickle.dumps(Asks(_MEM_FORMAT_ENCODING, member.name))):
            assert _Table(io.BytesIO(pickled)).load() is member


@pytest.mark.parametrize("added", ["shards", "adapter_config.json"])
def test_what_was_put_into_a_checkpoint_is_not_read_in_place_of_its_weights(
    tmp_path: Path, sharded: Path, added: str
) -> None:
    recipe, out = rl_recipe(write_world(tmp_path / "world"), num_steps=2), tmp_path / "run"
    train(recipe, out)
    newest = checkpoint.steps(out)[-1]
    if added == "shards":
        shutil.copytree(sharded / SHARDS, newest / added)
    else:
        (newest / added).write_text("{}")
    assert checkpoint.load(newest) == f"{added} was not there when it was saved"
