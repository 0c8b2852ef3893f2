"""Megatron's names and layouts: which of its tensors hold which of ours, by kind of layer."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from amaru.axes import Axes, Expression, TensorSpec, parse, repack
from amaru.axes.expression import Concat, Leaf, Product
from amaru.models.decoder import DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE


class Packing(NamedTuple):
    """The same rows in both formats: one tensor of ours or several by part, in one of theirs or several by part.

    `rows` is what the first dimension of theirs is made of; None where that is what ours is made of.
    """

    ours: str | dict[str, str]
    theirs: str | dict[str, str]
    rows: str | None = None


def _split(name: str, parts: str) -> Packing:
    """Megatron keeps the parts of a projection as tensors of their own, so that any number of ranks can read them."""
    return Packing(name, {part: f"{name}.{part}" for part in parts.split()})


NETWORK = (
    Packing("embedding.weight", "embedding.word_embeddings.weight"),
    Packing("head.weight", "output_layer.weight"),
)
MAMBA = (
    Packing("norm.weight", "mixer.in_proj.layer_norm_weight"),
    _split("mixer.in_proj.weight", "z x B C dt"),
    _split("mixer.conv1d.weight", "x B C"),
    _split("mixer.conv1d.bias", "x B C"),
    *(Packing(f"mixer.{name}", f"mixer.{name}") for name in ("A_log", "D", "dt_bias", "norm.weight", "out_proj.weight")),
)
ATTENTION = (
    Packing("norm.weight", "self_attention.linear_qkv.layer_norm_weight"),
    Packing("norm.bias", "self_attention.linear_qkv.layer_norm_bias"),
    Packing(
        {"q": "mixer.q_proj.weight", "k": "mixer.k_proj.weight", "v": "mixer.v_proj.weight"},
        "self_attention.linear_qkv.weight",
        rows="kv_group (q: query qk_channel | k: qk_channel | v: v_channel)",
    ),
    Packing("mixer.o_proj.weight", "self_attention.linear_proj.weight"),
)
FEED_FORWARD = (
    Packing("norm.weight", "mlp.linear_fc1.layer_norm_weight"),
    Packing("norm.bias", "mlp.linear_fc1.layer_norm_bias"),
    Packing("mixer.up_proj.weight", "mlp.linear_fc1.weight"),
    Packing("mixer.down_proj.weight", "mlp.linear_fc2.weight"),
)
EXPERTS = (
    Packing("norm.weight", "pre_mlp_layernorm.weight"),
    Packing("mixer.gate.weight", "mlp.router.weight"),
    Packing("mixer.gate.e_score_correction_bias", "mlp.router.expert_bias"),
    Packing("mixer.fc1_latent_proj.weight", "mlp.fc1_latent_proj.weight"),
    Packing("mixer.fc2_latent_proj.weight", "mlp.fc2_latent_proj.weight"),
    Packing("mixer.experts.up_proj", "mlp.experts.experts.linear_fc1.weight"),
    Packing("mixer.experts.down_proj", "mlp.experts.experts.linear_fc2.weight"),
    Packing("mixer.shared_experts.up_proj.weight", "mlp.shared_experts.linear_fc1.weight"),
    Packing("mixer.shared_experts.down_proj.weight", "mlp.shared_experts.linear_fc2.weight"),
)
KINDS: dict[type[LayerConfig], tuple[Packing, ...]] = {Mamba2: MAMBA, Attention: ATTENTION, MLP: FEED_FORWARD, MoE: EXPERTS}

# Modules of Transformer Engine, which stores an object beside the tensors of each, empty unless it computes in FP8.
ENGINE: dict[type[LayerConfig], tuple[str, ...]] = {
    Mamba2: ("mixer.in_proj", "mixer.out_proj"),
    Attention: ("self_attention.linear_qkv", "self_attention.core_attention", "self_attention.linear_proj"),
    MLP: ("mlp.linear_fc1", "mlp.linear_fc2"),
    MoE: ("pre_mlp_layernorm", "mlp.shared_experts.linear_fc1", "mlp.shared_experts.linear_fc2"),
}
ENGINE_LATENT = ("mlp.fc1_latent_proj", "mlp.fc2_latent_proj")
ENGINE_EXPERTS = ("mlp.experts.experts.linear_fc1", "mlp.experts.experts.linear_fc2")


class Scheme(NamedTuple):
    """How a model's layers are numbered and named.

    hybrid    every layer of ours is one of theirs, and the final norm is called final_norm; else two of ours are one of theirs
    stacked   equal tensors of all layers are one, with the layers as its first dimension
    split     parts of a projection are tensors of their own; else they lie in one as they do in ours (one rank's own file)
    """

    hybrid: bool
    stacked: bool
    split: bool = True

    def place(self, config: DecoderConfig, index: int, name: str) -> "Place":
        per_block = 1 if self.hybrid else 2
        layer, count = index // per_block, len(config.layers) // per_block
        return Place(f"decoder.layers.{name}", layer, count) if self.stacked else Place(f"decoder.layers.{layer}.{name}")

    @property
    def final_norm(self) -> str:
        return "decoder.final_norm" if self.hybrid else "decoder.final_layernorm"


class Place(NamedTuple):
    """A tensor of theirs, or entry `layer` of the `layers` in its first dimension."""

    name: str
    layer: int | None = None
    layers: int = 1

    @property
    def lead(self) -> tuple[int, ...]:
        return () if self.layer is None else (self.layers,)


class Packed(NamedTuple):
    """One packing of one layer: full names by part ("" where there are none), and what their rows are made of.

    `source` speaks of our tensors one after the other, `target` of theirs. Tensor parallelism divides the axis `sharded`.
    """

    ours: dict[str, str]
    theirs: dict[str, Place]
    source: Expression
    target: Expression
    columns: tuple[Expression, ...]
    axes: Axes
    sharded: str

    def for_theirs(self, part: str) -> np.ndarray:
        """The rows of our tensors, one after the other, that make up one of theirs."""
        return repack(self.source, self.theirs_dimensions(part)[0], self.axes)

    def for_ours(self, part: str) -> np.ndarray:
        """The rows of their tensors, one after the other, that make up one of ours."""
        return repack(self.target, _alone(self.source, part), self.axes)

    def theirs_dimensions(self, part: str) -> tuple[Expression, ...]:
        return (_alone(self.target, part), *self.columns)

    def sharded_dimension(self, part: str) -> int | None:
        """The dimension of their tensor that tensor parallelism divides, if any."""
        leading = [_leading(dimension) for dimension in self.theirs_dimensions(part)]
        return leading.index(self.sharded) if self.sharded in leading else None


def packed_tensors(config: DecoderConfig, scheme: Scheme) -> list[Packed]:
    """Every tensor of a checkpoint, in the order of the model."""
    network = config.network_tensors()
    norms = tuple(Packing(name, f"{scheme.final_norm}.{name.removeprefix('norm.')}") for name in config.norm_tensors())
    embedding, head = NETWORK
    first = [_packed(embedding, network, "", Place, config.axes(), "vocab")]
    last = [_packed(packing, network, "", Place, config.axes(), "vocab") for packing in (*norms, *([] if config.tied else [head]))]
    return first + [packed for index in range(len(config.layers)) for packed in _layer(config, scheme, index)] + last


def engine_objects(config: DecoderConfig, scheme: Scheme) -> Iterator[str]:
    """The names of the objects that a reader built on Transformer Engine looks for."""
    for index, layer in enumerate(config.layers):
        for module in ENGINE[type(layer)] + (ENGINE_LATENT if isinstance(layer, MoE) and layer.latent else ()):
            place = scheme.place(config, index, f"{module}._extra_state")
            yield f"{place.name}/shard_{place.layer or 0}_{place.layers}"
        if isinstance(layer, MoE):
            places = [scheme.place(config, index, f"{module}._extra_state") for module in ENGINE_EXPERTS]
            yield from (f"{place.name}/shard_{expert}_{layer.experts}" for place in places for expert in range(layer.experts))
    yield f"{scheme.final_norm}._extra_state/shard_0_1"
    if scheme.hybrid:
        yield "output_layer._extra_state/shard_0_1"


def _layer(config: DecoderConfig, scheme: Scheme, index: int) -> Iterator[Packed]:
    layer, specs, axes = config.layers[index], config.layer_tensors(index), config.layer_axes(index)
    packings = [packing for packing in KINDS[type(layer)] if not isinstance(packing.ours, str) or packing.ours in specs]
    sharded = "shared_ffn" if isinstance(layer, MoE) else layer.sharded  # ranks of tensor parallelism hold every expert
    for packing in packings:
        if isinstance(packing.ours, str) and isinstance(packing.theirs, dict) and not scheme.split:
            packing = Packing(packing.ours, packing.ours)
        yield _packed(packing, specs, f"layers.{index}.", lambda name: scheme.place(config, index, name), axes, sharded)


def _packed(
    packing: Packing, specs: Mapping[str, TensorSpec], prefix: str, place: Callable[[str], Place], axes: Axes, sharded: str
) -> Packed:
    ours = {"": packing.ours} if isinstance(packing.ours, str) else packing.ours
    theirs = {"": packing.theirs} if isinstance(packing.theirs, str) else packing.theirs
    layouts = {part: specs[name].layout for part, name in ours.items()}
    first = next(iter(layouts.values()))
    source = first.dimensions[0] if "" in ours else Concat(tuple(ours), tuple(layout.dimensions[0] for layout in layouts.values()))
    return Packed(
        ours={part: prefix + name for part, name in ours.items()},
        theirs={part: place(name) for part, name in theirs.items()},
        source=source,
        target=parse(packing.rows) if packing.rows else source,
        columns=first.dimensions[1:],
        axes=axes,
        sharded=sharded,
    )


def _alone(expression: Expression, part: str) -> Expression:
    """One named part of a concatenation, still under its name; the whole where there are no names."""
    if not part:
        return expression
    assert isinstance(expression, Concat), f"{expression} has no parts"
    return Concat((part,), (expression.parts[expression.names.index(part)],))


def _leading(expression: Expression) -> str | None:
    """The outermost axis, if all rows share it."""
    match expression:
        case Leaf(axis):
            return axis
        case Product((first, *_)):
            return _leading(first)
        case Concat(_, (only,)):
            return _leading(only)
    return None
