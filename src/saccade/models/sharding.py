"""A policy over several processes: its weights are sharded by FSDP2 (torch.distributed.fsdp.fully_shard).

Every layer of the language model and of a trained vision tower is a unit; all else belongs to one root module, through
which every computation of the policy goes (`Policy.run`). Within it the root's own weights (embeddings, norms, head)
are plain tensors, and the tie of head and embeddings stays. Gradients are summed over processes, not averaged, since
losses are divided by counts of the whole step.

A frozen vision side is kept whole in every process: encoding images then needs no other process, so that a process
without images never keeps the others waiting.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForImageTextToText
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer

from saccade.models.checkpoint_files import read_weights
from saccade.models.config import ShardConfig

T = TypeVar("T")


class Root(nn.Module):
    """The outermost unit. It holds the model and runs any function of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, fn: Callable[[], Any]) -> Any:
        return fn()


class Sharded:
    """The shards of a policy, and the two ways to compute with them."""

    def __init__(self, root: Root, device: torch.device) -> None:
        self.root: Any = root  # an FSDPModule too
        self.device = device
        self.is_first = dist.get_rank() == 0
        self.units: list[Any] = [module for module in root.modules() if isinstance(module, FSDPModule)]
        self._open = False
        self.run(lambda: None)  # the root must run before any of its units is used on its own
        self.root.reshard()  # the optimizer must see shards

    def run(self, fn: Callable[[], T]) -> T:
        """`fn()` inside the root module. It returns tensors, in tuples or lists. All processes must make the same
        calls; backward passes too."""
        if self._open:
            return fn()
        self._open = True
        try:
            out = self.root(fn)
        finally:
            self._open = False
        if not torch.is_grad_enabled():
            self.root.reshard()  # otherwise it keeps these weights until the next backward pass
        return out

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the context this process has all weights, as plain tensors, and computes independently of the others:
        for rollouts and evaluation, whose number of passes differs between processes."""
        if self._open:
            yield
            return
        for unit in self.units:
            unit.unshard()
        hooks = self._take_hooks()
        self._open = True
        try:
            yield
        finally:
            self._open = False
            for module, name, taken in hooks:
                setattr(module, name, taken)
            for unit in self.units:
                unit.reshard()

    def _take_hooks(self) -> list[tuple[nn.Module, str, Any]]:
        """Removes what FSDP does around forward passes, and before a state dict is read (it would shard again)."""
        found = [(unit, name) for unit in self.units for name in ("_forward_pre_hooks", "_forward_hooks")]
        found += [(module, "_state_dict_pre_hooks") for module in self.root.modules()]
        taken = [(module, name, getattr(module, name)) for module, name in found]
        for module, name in found:
            setattr(module, name, OrderedDict())
        return taken


SHARDS = "shards"
"""The folder of a checkpoint that holds weights and optimizer state as torch.distributed.checkpoint writes them."""


def holds_shards(path: str | Path) -> bool:
    """Whether a checkpoint was written by several processes."""
    return (Path(path) / SHARDS / ".metadata").is_file()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint keeps of the model: parameters, tied ones once, and its persistent buffers."""
    kept = model.state_dict().keys()
    buffers = {name: one for name, one in model.named_buffers() if name in kept}
    return {f"model.{name}": one for name, one in (*model.named_parameters(), *buffers.items())}


_RECORDS = {
    **dict.fromkeys(("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"), Metadata.__module__),
    **dict.fromkeys(("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"), Metadata.__module__),
    **{"_StorageInfo": FileSystemReader.__module__, "Size": "torch", "_get_layout": "torch.serialization"},
    **dict.fromkeys(("PosixPath", "WindowsPath"), "pathlib"),
}
"""Name -> module of all that torch.distributed.checkpoint pickles about tensors, besides their types."""


class _Records(pickle.Unpickler):
    """Makes these only, so that a checkpoint of others runs no code."""

    def find_class(self, module: str, name: str, /) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_type and _RECORDS.get(name) != module.removesuffix("._local"):  # Python 3.13 has pathlib._local
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


class ShardReader(FileSystemReader):
    """Reads the shards of a checkpoint. ValueError, with the way out, where their index is damaged or holds anything
    but tensors, which torch would unpickle."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        try:
            if not path.is_file():
                raise OSError("it is missing, or no file")
            with path.open("rb") as file:
                found = _Records(file).load()
            if any(type(one) is not TensorStorageMetadata for one in found.state_dict_metadata.values()):
                raise TypeError("it has entries that are no tensors")
            found.storage_meta.load_id = self.load_id
        except (EOFError, OSError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise ValueError(f"{path}: the index of the shards is damaged ({reason}); use another checkpoint") from None
        return found


@torch.no_grad()
def read_shards(path: str | Path, state: dict[str, Tensor], together: bool) -> None:
    """Fills the tensors from a checkpoint, whatever number of processes wrote it; `together` when all processes of the
    run call this, each for its own part."""
    held, reader = {name: one.detach() for name, one in state.items()}, ShardReader(Path(path) / SHARDS)
    reader.read_metadata()  # torch makes a damaged one an assertion of many lines
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process reads on its own
        try:
            load(held, storage_reader=reader, no_dist=not together)
        except CheckpointException as error:
            reason = " ".join(str(next(iter(error.failures.values()))[0]).split())[:200]
            raise ValueError(f"{reader.path}: the shards are damaged ({reason}); use another checkpoint") from None


def read_on_first(path: str, family: Any, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """The model on the CPU, with its weights in the first process only; the others allocate memory that they never
    touch, and `shard` sends them their part. No process reads a checkpoint of shards yet."""
    if dist.get_rank() == 0 and not holds_shards(path):
        return read_weights(path, config=family, dtype=dtype, **options)
    return empty_model(family, dtype, options)


def empty_model(family: Any, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """The model on the CPU, without values; buffers that no file holds are as they should be. `options` are those of
    transformers' loading, such as `attn_implementation`."""
    with no_init_weights():
        model: Any = AutoModelForImageTextToText.from_config(family, dtype=dtype, **options)
    model.tie_weights()
    return model


def shard(
    model: Any, whole: set[nn.Parameter], device: torch.device, dtype: torch.dtype, config: ShardConfig
) -> Sharded:
    """Shards the model, whose values are those of the first process, over all processes, on `device`.

    `whole` are the frozen parameters that every process keeps. Shards are float32 (or float64); passes compute in
    `dtype`, gradients are reduced in float32. ValueError for options that these processes do not allow.
    """
    options: dict[str, Any] = {"mesh": _mesh(device, config)}
    if dtype == torch.bfloat16:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    if config.cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy()
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
    for layer in _layers(model):
        if not whole.issuperset(layer.parameters()):
            _from_first(layer.parameters())
            fully_shard(layer, **options)
    rest = [p for p in model.parameters() if not isinstance(p, DTensor)]
    _from_first(rest)
    for parameter in whole:
        parameter.data = parameter.data.to(device, dtype)
    root = Root(model)
    fully_shard(root, ignored_params=whole, **options)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    sharded = Sharded(root, device)
    for unit in sharded.units:  # not recursive: set on the root alone, layers would still average
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    return sharded


def _mesh(device: torch.device, config: ShardConfig) -> DeviceMesh:
    size = dist.get_world_size()
    if config.cpu_offload and device.type == "cpu":
        raise ValueError("shard.cpu_offload: the model is on a CPU already; set it to false, or train on GPUs")
    if config.replicate == 1:
        return init_device_mesh(device.type, (size,))
    if size % config.replicate or config.replicate >= size:
        raise ValueError(
            f"shard.replicate: got {config.replicate} copies for {size} processes; expected a divisor of {size} below "
            "it, such as the number of nodes"
        )
    names = ("replicate", "shard")
    return init_device_mesh(device.type, (config.replicate, size // config.replicate), mesh_dim_names=names)


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of all towers; those inside another layer belong to it."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inside:
            found.append(module)
            inside.update(module.modules())
    return found


@torch.no_grad()
def _from_first(parameters: Any) -> None:
    for parameter in parameters:
        dist.broadcast(parameter.data, src=0)


def full(tensor: Tensor) -> Tensor:
    """The whole tensor of a shard, in every process; other tensors as they are. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
