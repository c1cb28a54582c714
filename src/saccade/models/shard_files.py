"""The files of a checkpoint of shards, read as data: torch.distributed.checkpoint unpickles its table, which runs what
that names, and opens the files that it names."""

from __future__ import annotations

import pickle
import re
from enum import EnumType
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata

from saccade.faults import no_file

TABLE = ".metadata"
LARGEST_TABLE = 256 << 20
"""Bytes; a row for each part of a tensor takes about 300."""
_FILE = re.compile(r"__\d{1,9}_\d{1,9}\.distcp")
_METADATA = "torch.distributed.checkpoint.metadata"
_PARTS = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    *((_METADATA, name) for name in ("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *(("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
}
"""(module, name) of all that a table is made of, besides kinds of numbers."""


class ShardReader(FileSystemReader):
    """Reads a folder of shards. ValueError when its table is none, or names a file elsewhere."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of the tensors and of their places."""
        folder = Path(self.path)
        table = _regular(folder / TABLE)
        try:
            with table.open("rb") as file:
                found = _Table(file).load()
            tensors, places = dict(found.state_dict_metadata), dict(found.storage_data)
            if not all(isinstance(one, TensorStorageMetadata) for one in tensors.values()):
                raise TypeError("not all of its entries are tensors")
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a pickle may fail in any way
            why = f"({type(error).__name__}: {error}); copy the checkpoint again"
            raise ValueError(f"{table}: is no table of tensors {why}") from None
        for name in {str(one.relative_path) if _is_place(key, one) else "" for key, one in places.items()}:
            if not _FILE.fullmatch(name):
                raise ValueError(f"{table}: names no files such as __0_0.distcp beside it")
            _regular(folder / name)
        if not isinstance(found.storage_meta, StorageMeta):
            found.storage_meta = StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Table(pickle.Unpickler):
    """Unpickles a table, and refuses the name of anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):  # as Python 3.11.2 pickles members of an enum
            return _member
        is_number = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_number and (module, name) not in _PARTS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a table of tensors")
        return super().find_class(module, name)


def _member(kind: Any, name: str) -> Any:
    if not isinstance(kind, EnumType):
        raise pickle.UnpicklingError(f"it asks for an attribute of {kind!r:.80}, which is no enum")
    return kind[name]


def _is_place(key: Any, place: Any) -> bool:
    if not isinstance(key, MetadataIndex) or not isinstance(place, _StorageInfo) or place.transform_descriptors:
        return False
    return all(type(number) is int and number >= 0 for number in (place.offset, place.length))


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: {no_file(path)}; copy the checkpoint again")
    if path.name == TABLE and path.stat().st_size > LARGEST_TABLE:
        raise ValueError(f"{path}: has {path.stat().st_size:,} bytes, expected {LARGEST_TABLE:,} at most")
    return path
