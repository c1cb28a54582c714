"""Loading a policy: an ordinary Hugging Face directory becomes a model, its adapter, and named groups of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from saccade.data.hub import HUB_NAME, use_hub
from saccade.models import attention, lora, quantize, tower_attention
from saccade.models.adapter import PARTS, Adapter, EncodedPrompt, ImageLimits
from saccade.models.chat_template import processor_template
from saccade.models.checkpoint_files import (
    IMAGE_SETTINGS,
    PROCESSOR_SETTINGS,
    generation_ends,
    read_family,
    read_files,
    read_processors,
    read_weights,
    readable,
    reading,
    with_image_settings,
    write_files,
)
from saccade.models.config import ModelConfig, ShardConfig
from saccade.models.families import ADAPTERS
from saccade.models.fused import fuse
from saccade.models.logprobs import head_of

if TYPE_CHECKING:
    from saccade.models.sharding import Sharded

T = TypeVar("T")


@dataclass(eq=False)
class Policy:
    """A model with its adapter. `version` counts optimizer steps; vision features belong to one version."""

    model: Any
    adapter: Adapter
    processors: tuple[Any, ...]
    """Tokenizer and image processor, saved beside the weights so that a checkpoint is an ordinary directory."""
    version: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The source's own files of configuration, tokenizer and processors, saved in place of `processors` if any."""
    adapters: lora.Adapters | None = None
    """LoRA adapters inside the model; they alone train and are saved."""
    adapters_off: bool = False
    """Compute as the base model does; see `base_view`."""
    shards: Sharded | None = None
    """Set when several processes share the weights."""

    def run(self, fn: Callable[[], T]) -> T:
        """`fn()`, which computes with the model and returns tensors. Every computation of a policy goes through here:
        only inside are the weights of a sharded model there."""
        return fn() if self.shards is None else self.shards.run(fn)

    def whole(self) -> AbstractContextManager[None]:
        """Within the context this process computes without the others, which takes the memory of all weights: for
        rollouts and evaluation."""
        return nullcontext() if self.shards is None else self.shards.whole()

    @property
    def device(self) -> torch.device:
        return self.model.device if self.shards is None else self.shards.device

    def parameters_by_part(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        return self.adapter.parts(self.model)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def vision_is_frozen(self) -> bool:
        """True when neither tower nor projector can receive a gradient, so features may be shared and cached."""
        parts = self.parameters_by_part()
        return not any(p.requires_grad for part in ("vision", "projector") for _, p in parts[part])

    def base_view(self) -> Policy:
        """The same model computing with its adapters off: what it was before training, without a second copy."""
        return replace(self, version=0, adapters_off=True)

    @contextmanager
    def adapted(self) -> Iterator[None]:
        """Within the context the model's adapters are off if they are off in this view of it."""
        with self.adapters.off() if self.adapters is not None and self.adapters_off else nullcontext():
            yield

    @property
    def context_length(self) -> int:
        """Maximum number of positions of the language model."""
        return self.adapter.context_length

    @property
    def head_size(self) -> int:
        """Width of an attention head of the language model."""
        text = self.model.config.get_text_config()
        return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)

    def vision_cost(self, prompt: EncodedPrompt) -> int:
        """Cost of the prompt's images in a training pass, in equivalent language-model tokens; 0 when the tower is
        frozen, because it then runs once for the whole step."""
        if not prompt.pixels or self.vision_is_frozen():
            return 0
        parts = self.parameters_by_part()
        tower, language = (sum(quantize.elements(p) for _, p in parts[part]) for part in ("vision", "language"))
        return round(self.adapter.patches(prompt) * tower / language)

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Enables gradient checkpointing within the context, if the model was loaded with it and gradients are enabled.

        transformers checkpoints a layer only in training mode, in which it also silently drops the layer's cache. The
        layers are therefore in training mode only here, and their submodules never are: dropout stays off.
        """
        blocks = (m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer))
        layers = [m for m in blocks if m.gradient_checkpointing] if torch.is_grad_enabled() else []
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def save(self, directory: str | Path) -> None:
        """Write a standard Hugging Face directory: safetensors in shards, and the files of tokenizer, processors and
        templates as the source has them, so that transformers and servers read both alike. Of a policy with adapters
        only these, in a directory that peft reads. All processes of a sharded policy must call it; the first one
        writes."""
        with self.whole():
            if self.shards is not None and not self.shards.is_first:
                return
            if self.adapters is not None:
                self.adapters.save(directory)
                write_files({name: self.files[name] for name in SETTINGS if name in self.files}, Path(directory))
                readable(Path(directory))
                return
            self.model.save_pretrained(directory, max_shard_size=SHARD_SIZE)
            self.save_files(directory)

    def save_files(self, directory: str | Path) -> None:
        """Write what belongs to a checkpoint besides configuration and weights."""
        if not self.files:
            for processor in self.processors:
                processor.save_pretrained(directory)
        write_files(self.files, Path(directory))
        readable(Path(directory))


SHARD_SIZE = "4GB"
"""Largest file of weights."""
SETTINGS = (IMAGE_SETTINGS, PROCESSOR_SETTINGS)
"""Files with the image processor's settings, which are saved beside adapters too: a recipe may limit images."""


def enable_checkpointing(model: Any) -> None:
    """Enable non-reentrant gradient checkpointing; the method's name depends on the transformers version."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.disable_input_require_grads()  # which would record the passes of frozen towers, and only re-entrant needs


def disable_checkpointing(model: Any) -> None:
    """Undo `enable_checkpointing`; the method's name depends on the transformers version."""
    (getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable)()


def freeze(policy: Policy, train: tuple[str, ...]) -> None:
    """Make exactly the named parts trainable."""
    for part, named in policy.parameters_by_part().items():
        for _, parameter in named:
            parameter.requires_grad_(part in train)


def resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"model.device is {name!r} but no GPU is visible; use device: cpu, or check the driver")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f"model.device: got {name!r}, expected auto, cpu or cuda") from None


def resolve_path(path: str) -> str:
    """Resolve 'base' (the packaged tiny base), a directory or a hub name; ValueError for anything else."""
    local = Path(__file__).parent.parent / "assets" / "base" if path == "base" else Path(path).expanduser()
    if (local / "config.json").is_file() or lora.holds_adapters(local):
        return str(local)
    if path.startswith((".", "/", "~")) or local.exists() or not HUB_NAME.fullmatch(path):
        raise ValueError(
            f"model.path {path!r}: no config.json there; expected a Hugging Face checkpoint directory "
            "(a run saves them under checkpoints/best and checkpoints/last), a hub name, or 'base'"
        )
    use_hub()
    return path


def base_path(path: str) -> str:
    """The model to read: `path` itself, or the base of a directory of adapters. ValueError when the base is gone."""
    if not lora.holds_adapters(path):
        return path
    base = lora.recorded_base(path)
    try:
        return resolve_path(base)
    except ValueError:
        raise ValueError(
            f"{path}: the base model of these adapters, {base}, is not there; restore it, or correct "
            f"base_model_name_or_path in {Path(path) / lora.ADAPTER_CONFIG}"
        ) from None


def known_family(path: str) -> Any:
    """The configuration of a model whose family has an adapter; ValueError for other families."""
    family = read_family(path)
    if family.model_type not in ADAPTERS:
        raise ValueError(
            f"model family {family.model_type!r} at {path} has no adapter; known: {', '.join(ADAPTERS)}. "
            "docs/models.md says how to add one (one file and one line)"
        )
    return family


def processors_of(path: str) -> tuple[Any, Any]:
    """Tokenizer and image processor; beside adapters there are only the latter's settings."""
    base = base_path(path)
    images = path if any((Path(path) / name).is_file() for name in SETTINGS) else base
    return read_processors(base, images)


def open_adapter(path: str, family: Any, config: ModelConfig) -> tuple[Adapter, dict[str, bytes]]:
    """The adapter of a model with the configuration `family`, as the recipe wants it, and the checkpoint's files beside
    the weights. ValueError for limits or options that the family or its template does not have."""
    base, what = base_path(path), "tokenizer, chat template or image settings"
    files = read_files(base)
    if lora.holds_adapters(path):
        what += f" for the base model {base}"
        files |= {name: content for name, content in read_files(path).items() if name in SETTINGS}
    tokenizer, images = processors_of(path)
    with reading(path, what):
        template = processor_template(files)
        if template is not None:
            tokenizer.chat_template = template
        adapter = ADAPTERS[family.model_type](tokenizer, images, family)
        adapter.configure(config.template_kwargs, generation_ends(files))
        limits = ImageLimits(config.min_pixels, config.max_pixels, config.max_visual_tokens)
        files = with_image_settings(files, adapter.limit_images(limits))
        pixels = adapter.encode("<image>", [Image.new("RGB", (PROBE_PX, PROBE_PX))]).pixels  # what is wrong shows now
        if not all(torch.isfinite(values).all() for values in pixels.values()):
            raise ValueError(f"{path}: the settings of the image processor give pixels that are not finite")
    return adapter, files


PROBE_PX = 56


def load_adapter(config: ModelConfig | str) -> Adapter:
    """Only the adapter, for counting tokens and planning: reads no weights. ValueError as `load_policy`."""
    config = ModelConfig(path=config) if isinstance(config, str) else config
    path = resolve_path(config.path)
    return open_adapter(path, known_family(base_path(path)), config)[0]


def load_policy(
    config: ModelConfig | str,
    seed: int = 0,
    adapters: str | Path | None = None,
    shard: ShardConfig | None = None,
) -> Policy:
    """Load model, tokenizer and image processor; a text is the path of a model with all else at its default.

        policy = load_policy("base")  # or a Hugging Face directory, or a hub name
        policy = load_policy(ModelConfig(path="Qwen/Qwen2.5-VL-3B-Instruct", dtype="bfloat16"))

    A path of adapters is read as their base with the adapters merged (apart from it where it is quantized). `adapters`
    puts those of a directory beside the weights of `path`: to continue them with `lora`, frozen without. `seed` draws
    new ones. With `shard` the processes of the run share the weights, and all of them must call this.

    ValueError: a missing directory, an unknown family, no GPU, adapters of another base, a missing package, options
    that these processes do not allow.
    """
    config = ModelConfig(path=config) if isinstance(config, str) else config
    path, device = resolve_path(config.path), resolve_device(config.device)
    unknown = set(config.train) - set(PARTS)
    if unknown:
        raise ValueError(f"model.train names {sorted(unknown)}; expected some of {', '.join(PARTS)}")
    base = base_path(path)
    given = path if path != base else adapters
    _check_adapters(config, path, given, base)
    family = known_family(base)
    if shard is not None and config.quantize:
        raise ValueError("model.quantize: 4-bit weights are not sharded; use one process, or remove quantize")
    adapter, files = open_adapter(path, family, config)  # may change the configuration of the model's images
    dtype = getattr(torch, config.dtype)
    tower_attention.check(config, adapter.sharing, device)
    options = quantize.loading_options(family, adapter, dtype, device) if config.quantize else loading_options(device)
    if config.attn_implementation != "auto":
        options["attn_implementation"] = config.attn_implementation
    model = _read(base, family, dtype, options, sharded=shard is not None)
    if not config.quantize and shard is None:  # a quantized one is there already
        model = model.to(device)
    adapter.config = model.config  # transformers copies the one that it is given
    quantize.keep_differentiable(model)
    if path != base and not config.quantize:
        lora.merge(model, path, base)
        given = None
    head_of(model)  # refuses unsupported heads
    policy = Policy(model, adapter, adapter.processors, files=files)
    if policy.adapter.sharing == "attention":
        attention.install(model)
    if config.attn_implementation == "auto":
        tower_attention.install(model)
    freeze(policy, config.train)
    model.eval()
    if config.fused_layers:
        fuse(model)  # before adapters replace the linear layers that it recognizes
    if given is not None:
        policy.adapters = lora.read(model, given, base, trainable=config.lora is not None)
    elif config.lora is not None:
        policy.adapters = lora.attach(model, policy.parameters_by_part(), config.lora, base, seed)
    if config.gradient_checkpointing:  # after peft, which would let all inputs of the model require gradients
        enable_checkpointing(model)
    if shard is not None:  # last: the layers' final form is sharded
        _shard(policy, base, device, dtype, shard)
    return policy


def loading_options(device: torch.device) -> dict[str, Any]:
    """Read weights straight into the memory of a GPU, so that the host never holds the model."""
    return {} if device.type == "cpu" else {"device_map": {"": device}}


def _read(path: str, family: Any, dtype: torch.dtype, options: dict[str, Any], sharded: bool) -> Any:
    """The model with its weights; when it will be sharded, with the weights in one process only."""
    if not sharded and not (Path(path) / "shards").is_dir():
        return read_weights(path, config=family, dtype=dtype, **options)
    if "quantization_config" in options:
        raise ValueError(
            f"{path}: several processes wrote this checkpoint, and its weights are not read in 4 bits; make an "
            "ordinary directory of it with: saccade export RUN --out DIR"
        )
    from saccade.models.sharding import empty_model, read_on_first, read_shards, weights

    on_cpu = {name: value for name, value in options.items() if name == "attn_implementation"}
    if sharded:  # float32 at least: the shards are the master weights of a model that computes in bfloat16
        return read_on_first(path, family, torch.promote_types(dtype, torch.float32), on_cpu)
    model = empty_model(family, dtype, on_cpu)
    read_shards(path, weights(model), together=False)
    return model


def _shard(policy: Policy, path: str, device: torch.device, dtype: torch.dtype, config: ShardConfig) -> None:
    from saccade.models.sharding import holds_shards, read_shards, shard, weights

    parts = policy.parameters_by_part()
    whole = [p for part in ("vision", "projector") for _, p in parts[part]] if policy.vision_is_frozen() else []
    policy.shards = shard(policy.model, set(whole), device, dtype, config)
    if holds_shards(path):
        read_shards(path, weights(policy.model), together=True)


def _check_adapters(config: ModelConfig, path: str, given: str | Path | None, base: str) -> None:
    """ValueError for a missing package, or adapters that cannot be loaded or continued, before weights are read."""
    if config.quantize:
        quantize.check_quantizer()
    if config.lora is not None or given is not None:
        lora.check_installed()
    if config.lora is not None and path != base:
        raise ValueError(
            f"model.path {path!r} holds adapters, and model.lora would train others on top; merge them first with "
            f"'saccade export {path} --out DIR' and set model.path to DIR, or continue that run with 'saccade resume'"
        )
    if given is not None:
        lora.check_base(given, base)
