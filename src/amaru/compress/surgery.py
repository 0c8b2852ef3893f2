"""Surgery: what a cut leaves of a model. No tensor is known here by name; every row follows from the declared axes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amaru.axes import Axes, Selection, Selections, TensorSpec, recheck
from amaru.data.narrow import narrowed
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, assemble, write
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.layer import LayerConfig

Read = Callable[[str], Tensor]


@dataclass(frozen=True, eq=False)
class Cut:
    """Which part of a model stays.

        Cut(layers=(0, 1, 3), network={"hidden": keep(axes["hidden"], [0, 2], axes)}, within={1: {"ffn": ...}})

    layers    kept layers by their index in the parent, ascending
    network   selections of the axes that all tensors share (`hidden`, `vocab`)
    within    by the parent's layer index, selections of the axes of that layer

    An axis that is not named stays whole. A permutation is a cut that keeps everything in another order.
    """

    layers: tuple[int, ...]
    network: Selections = field(default_factory=dict)
    within: dict[int, Selections] = field(default_factory=dict)

    def of(self, layer: int) -> Selections:
        """Everything selected inside one kept layer of the parent."""
        return self.network | self.within.get(layer, {})


def cut_config(config: DecoderConfig, cut: Cut) -> DecoderConfig:
    """`cut_config(parent, cut)`: the student's shape, from sizes alone.

    Raises `ConfigError` for layers that are missing, twice or out of order, axes that the model does not have or no tensor is made
    of, selections that do not fit their axis, sizes that a layer cannot have, and layers that share a cache but are not cut alike.
    """
    _check_layers(config, cut)
    _check_selections("The network", config.axes(), config.network_tensors(), cut.network)
    for index, selections in cut.within.items():
        layer = config.layers[index]
        _check_selections(_named(config, index), layer.axes(), layer.tensors(), selections)
    _check_shared_caches(config, cut)
    sizes = _sizes(config.axes(), cut.network)
    layers = tuple(_resized(config, index, cut) for index in cut.layers)
    return replace(config, vocab=sizes["vocab"], hidden=sizes["hidden"], layers=layers)  # type: ignore[arg-type]


class Surgery:
    """`Surgery(parent.config, cut)`: what a cut does to each tensor by itself, wherever it comes from.

        surgery.config                                         the student's shape
        surgery.origin("layers.3.mixer.D")                     "layers.5.mixer.D": the parent's tensor that it is made of
        surgery.cut("layers.3.mixer.D", parent_tensor)         the rows of it that stay, a copy
        surgery.rows("layers.3.mixer.D")                       their numbers for each dimension, None where all stay in order

    Names are the student's. Nothing else of a model is needed, so a layer can be cut while no other is in memory. Every shape
    is held against `config`, which knows sizes but no rows. Raises as `cut_config` does.
    """

    def __init__(self, parent: DecoderConfig, selected: Cut) -> None:
        self.config = cut_config(parent, selected)
        self._selected = selected
        self._parent, self._student = parent.tensors(), self.config.tensors()

    @property
    def names(self) -> list[str]:
        return list(self._student)

    def origin(self, name: str) -> str:
        return self._place(name)[0]

    def rows(self, name: str) -> tuple[np.ndarray | None, ...]:
        origin, selections = self._place(name)
        spec, axes = self._parent[origin]
        return spec.layout.surviving(axes, selections)

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        kept = tensor
        for dimension, rows in enumerate(self.rows(name)):
            if rows is not None:
                kept = kept.index_select(dimension, torch.tensor(rows, device=tensor.device))
        spec, axes = self._student[name]
        expected = spec.layout.shape(axes)
        assert kept.shape == expected, f"{name} was cut to {tuple(kept.shape)}, not {expected}"
        return kept.clone() if kept is tensor else kept

    def reader(self, read: Read) -> Read:
        """A student's `read(name)` from its parent's; one tensor is held at a time."""
        return lambda name: self.cut(name, read(self.origin(name)))

    def _place(self, name: str) -> tuple[str, Selections]:
        """The parent's name of a student's tensor, and the selections that reach it."""
        if not name.startswith("layers."):
            return name, self._selected.network
        _, index, rest = name.split(".", 2)
        layer = self._selected.layers[int(index)]
        return f"layers.{layer}.{rest}", self._selected.of(layer)


def cut_decoder(decoder: Decoder, cut: Cut) -> Decoder:
    """`student = cut_decoder(parent, cut)`: a new decoder that shares no memory with its parent."""
    weights, surgery = dict(decoder.named_parameters()), Surgery(decoder.config, cut)
    student = assemble(surgery.config, surgery.reader(lambda name: weights[name].detach()))
    student.compute_dtype = decoder.compute_dtype
    held, predicted = sum(weight.numel() for weight in student.parameters()), cost.parameters(surgery.config)
    assert held == predicted, f"the cut left {held} parameters, not {predicted}"
    return student


def cut_checkpoint(path: str | Path, cut: Cut, out: str | Path, tokenizer: Tokenizer | None = None) -> DecoderConfig:
    """`cut_checkpoint("parent", cut, "student", tokenizer)`: from disk to disk, holding one tensor at a time.

    `tokenizer` is the parent's; where the cut drops tokens the student gets one without them. The student is opened again at the end,
    which checks every name and shape against its own config.json. Raises `CheckpointError` when the parent cannot be read or the format
    cannot say the student's shape, `DataError` when the tokenizer cannot do without the tokens that are dropped.
    """
    if Path(path).resolve() == Path(out).resolve():
        raise ConfigError(f"The student would take the place of its parent {path}; give another --out.")
    parent = Checkpoint(path)
    surgery = Surgery(parent.config, cut)
    if tokenizer is not None and "vocab" in cut.network:
        tokenizer = narrowed(tokenizer, cut.network["vocab"].indices.tolist())
    write(out, surgery.config, surgery.reader(parent.read), lambda name: parent.dtype(surgery.origin(name)), tokenizer)
    written = Checkpoint(out).config
    assert written == surgery.config, f"{out} reads as {written}, not {surgery.config}"
    return written


def _sizes(axes: Axes, selections: Selections) -> dict[str, int]:
    return {name: selections[name].kept if name in selections else axis.size for name, axis in axes.items()}


def _named(config: DecoderConfig, index: int) -> str:
    return f"Layer {index} ({config.layers[index].kind})"


def _resized(config: DecoderConfig, index: int, cut: Cut) -> LayerConfig:
    layer = config.layers[index]
    try:
        return layer.resized(_sizes(layer.axes(), cut.of(index)))
    except ConfigError as error:
        raise ConfigError(f"{_named(config, index)}: {error}") from None


def _check_layers(config: DecoderConfig, cut: Cut) -> None:
    last = len(config.layers) - 1
    if not cut.layers or list(cut.layers) != sorted(set(cut.layers)) or cut.layers[0] < 0 or cut.layers[-1] > last:
        raise ConfigError(f"Cut.layers names kept layers from 0 to {last}, ascending and each once; got {list(cut.layers)}.")
    if dropped := sorted(cut.within.keys() - set(cut.layers)):
        raise ConfigError(f"Cut.within selects inside the layers {dropped}, which the same cut drops.")


def _check_selections(owner: str, axes: Axes, tensors: dict[str, TensorSpec], selections: Selections) -> None:
    for name, selection in selections.items():
        if name not in axes or not any(name in spec.layout.axes for spec in tensors.values()):
            raise ConfigError(f"{owner} has no axis '{name}' to cut; it has: {', '.join(axes)}.")
        try:
            recheck(selection, axes[name], axes)
        except ConfigError as error:
            raise ConfigError(f"{owner}: {error}") from None


def _check_shared_caches(config: DecoderConfig, cut: Cut) -> None:
    """A cache that several layers read has one order of heads and channels, so they are cut alike, and never without its owner."""
    for index, source in config.kv_sources().items():
        if index not in cut.layers or source is None:
            continue
        if source not in cut.layers:
            raise ConfigError(f"The cut keeps layer {index}, which reads keys and values of layer {source}, but drops that one.")
        for name in sorted(bound_axes(config.layers[source])):
            if not _equal(cut.of(index).get(name), cut.of(source).get(name)):
                raise ConfigError(f"Layers {source} and {index} share keys and values, so their {name} must be cut alike.")


def bound_axes(owner: LayerConfig) -> set[str]:
    """The axes of a layer's keys and values, which all layers that read them have in common."""
    return set().union(*(spec.layout.axes for spec in owner.cache_tensors().values()))


def _equal(one: Selection | None, other: Selection | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one.indices, other.indices))
