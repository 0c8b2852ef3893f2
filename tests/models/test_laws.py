"""The laws of the axes: permutations that a declaration allows leave outputs alone, and those that it forbids do not.

For every axis of every layer of every family. Rows are enumerated here one by one, independently of `amaru.axes.surviving`, so
that neither a wrong layout nor a wrong evaluation of it can hide.
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from tests.models.random_models import FAMILIES, random_ids, random_model
from torch import Tensor

from amaru.axes import Axes
from amaru.axes.expression import Concat, Expression, Leaf, Product
from amaru.models import Decoder, DecoderConfig
from amaru.nn import Batch

CASES = [("nemotron_h", 0), ("nemotron_h with experts", 1), ("nemotron", 0), ("llama", 2), ("qwen2", 0), ("hymba", 7), ("amaru", 0)]
SAME, CHANGED = 1e-9, 1e-6

Row = tuple[tuple[str, ...], frozenset[tuple[str, int]]]
"""One row of a dimension: the named parts it lies in, and its index on each axis."""
Coordinates = Mapping[str, int]
Move = Callable[[Coordinates], Coordinates]
"""Which old index a new row takes its numbers from."""


def rows(expression: Expression, axes: Axes) -> list[Row]:
    match expression:
        case Leaf(name):
            return [((), frozenset({(name, index)})) for index in range(axes[name].size)]
        case Concat(names, parts):
            return [((name, *path), at) for name, part in zip(names, parts, strict=True) for path, at in rows(part, axes)]
        case Product(factors):
            combinations = itertools.product(*(rows(factor, axes) for factor in factors))
            return [(sum((path for path, _ in each), ()), frozenset().union(*(at for _, at in each))) for each in combinations]


def moved(tensor: Tensor, dimensions: tuple[Expression, ...], axes: Axes, move: Move) -> Tensor:
    for dimension, expression in enumerate(dimensions):
        found = rows(expression, axes)
        place = {row: index for index, row in enumerate(found)}
        sources = [place[path, frozenset(move(dict(at)).items())] for path, at in found]
        tensor = tensor.index_select(dimension, torch.tensor(sources))
    return tensor


Moves = Mapping[int | None, Move]
"""By layer; None is the network, whose axes all layers share."""


def permuted(decoder: Decoder, moves: Moves, *, but: str | None = None) -> Decoder:
    """The same model with its rows moved; the tensor `but` is left behind."""
    twin = Decoder(decoder.config).to(decoder.embedding.weight.dtype)
    weights, target = dict(decoder.named_parameters()), dict(twin.named_parameters())
    with torch.no_grad():
        for name, (spec, axes) in decoder.config.tensors().items():
            tensor = weights[name]
            for layer, move in moves.items():
                if name != but and (layer is None or name.startswith(f"layers.{layer}.")):
                    tensor = moved(tensor, spec.layout.dimensions, axes, move)
            target[name].copy_(tensor)
    return twin


@functools.cache
def parent(case: tuple[str, int]) -> Decoder:
    """Tied heads are untied, so that each tensor can be moved or left behind by itself."""
    family, seed = case
    return random_model(replace(FAMILIES[family](seed), tied=False), seed, torch.float64)


@torch.no_grad()
def outputs(decoder: Decoder) -> Tensor:
    return decoder(Batch.of(random_ids(decoder.config.vocab, 21, 1, 9)))


def difference(decoder: Decoder, moves: Moves, *, but: str | None = None) -> float:
    return float((outputs(permuted(decoder, moves, but=but)) - outputs(decoder)).abs().max())


def within(axes: Axes, name: str, seed: int) -> Move:
    """A permutation of one axis, another one under each index of its parents; never the identity."""
    axis, draw = axes[name], random.Random(seed)
    orders: dict[tuple[int, ...], list[int]] = {}
    for at in itertools.product(*(range(axes[each].size) for each in axis.parents)):
        order = list(range(axis.size))
        draw.shuffle(order)
        orders[at] = order if order != sorted(order) else [*order[1:], order[0]]

    def move(at: Coordinates) -> Coordinates:
        return {**at, name: orders[tuple(at[each] for each in axis.parents)][at[name]]} if name in at else at

    return move


def across(name: str, parent_axis: str) -> Move:
    """Exchange index 0 of an axis between the first two indices of a parent."""

    def move(at: Coordinates) -> Coordinates:
        swapped = {0: 1, 1: 0}
        if at.get(name) == 0 and at.get(parent_axis) in swapped:
            return {**at, parent_axis: swapped[at[parent_axis]]}
        return at

    return move


def bound(config: DecoderConfig, index: int, name: str) -> list[int]:
    """The layers that must be permuted together: alone, or all that read one cache, which has one order."""
    if name not in ("kv_group", "qk_channel", "v_channel"):
        return [index]
    sources = config.kv_sources()
    return [layer for layer in range(len(config.layers)) if sources.get(layer, layer) == sources.get(index, index)]


def layer_axes(config: DecoderConfig, *, fixed: bool) -> Iterator[tuple[int, str]]:
    for index, layer in enumerate(config.layers):
        used = {name for spec in layer.tensors().values() for row in all_rows(spec.layout.dimensions, layer.axes(), config) for name in row}
        for name, axis in layer.axes().items():
            if axis.size > 1 and axis.fixed is fixed and name in used:
                yield index, name


def first_of_each(config: DecoderConfig) -> Iterator[tuple[int, str]]:
    """Free axes, of layers that declare the same only the first."""
    for index, name in layer_axes(config, fixed=False):
        if config.layers.index(config.layers[index]) == index:
            yield index, name


def all_rows(dimensions: tuple[Expression, ...], axes: Axes, config: DecoderConfig) -> Iterator[Coordinates]:
    for dimension in dimensions:
        for _, at in rows(dimension, config.axes() | axes):
            yield dict(at)


@pytest.fixture(params=CASES, ids=lambda case: case[0])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return parent(request.param)


def test_permuting_a_free_axis_under_its_parents_changes_nothing(decoder: Decoder) -> None:
    config = decoder.config
    together: dict[str, dict[int | None, Move]] = {}
    for index, name in layer_axes(config, fixed=False):
        first = bound(config, index, name)[0]
        together.setdefault(name, {})[index] = within(config.layer_axes(index), name, seed=first)
    together["hidden"] = {None: within(config.axes(), "hidden", seed=0)}
    for name, moves in together.items():
        assert difference(decoder, moves) < SAME, name
    twin = decoder
    for moves in together.values():
        twin = permuted(twin, moves)
    assert float((outputs(twin) - outputs(decoder)).abs().max()) < SAME


def test_renaming_the_words_renames_the_logits(decoder: Decoder) -> None:
    move = within(decoder.config.axes(), "vocab", seed=1)
    old = torch.tensor([move({"vocab": word})["vocab"] for word in range(decoder.config.vocab)])
    twin, ids = permuted(decoder, {None: move}), random_ids(decoder.config.vocab, 17)[0]
    with torch.no_grad():
        assert float((twin(Batch.of([ids])) - decoder(Batch.of([old[ids]]))[:, old]).abs().max()) < SAME


def test_moving_an_index_to_another_parent_changes_the_outputs(decoder: Decoder) -> None:
    config = decoder.config
    for index, name in first_of_each(config):
        axes = config.layer_axes(index)
        for parent_axis in axes[name].parents:
            if axes[parent_axis].size > 1:
                moves = dict.fromkeys(bound(config, index, name), across(name, parent_axis))
                assert difference(decoder, moves) > CHANGED, f"layer {index}: {name} to another {parent_axis}"


def test_permuting_a_fixed_axis_changes_the_outputs(decoder: Decoder) -> None:
    config = decoder.config
    for index, name in layer_axes(config, fixed=True):
        assert difference(decoder, {index: within(config.layer_axes(index), name, seed=2)}) > CHANGED, f"layer {index}: {name}"
    for name, axis in config.axes().items():
        if axis.fixed and axis.size > 1:
            assert difference(decoder, {None: within(config.axes(), name, seed=2)}) > CHANGED, name


def test_a_tensor_that_is_left_behind_changes_the_outputs(decoder: Decoder) -> None:
    config = decoder.config
    tensors = config.tensors()
    for index, name in first_of_each(config):
        moves = {each: within(config.layer_axes(index), name, seed=index) for each in bound(config, index, name)}
        having = [full for full in tensors if full.startswith(f"layers.{index}.") and has(tensors[full], name)]
        assert len(having) > 1, f"layer {index}: {name} is in {having}"
        for full in having:
            assert difference(decoder, moves, but=full) > CHANGED, f"{full} without {name}"


def has(entry: tuple[object, Axes], name: str) -> bool:
    spec, axes = entry
    return any(each == name for dimension in spec.layout.dimensions for _, at in rows(dimension, axes) for each, _ in at)  # type: ignore[attr-defined]


def test_layers_that_read_one_cache_are_permuted_together_or_not_at_all() -> None:
    decoder = parent(("hymba", 7))
    config = decoder.config
    shared = [(index, name) for index, name in layer_axes(config, fixed=False) if len(bound(config, index, name)) > 1]
    assert {name for _, name in shared} == {"kv_group", "v_channel"}
    for index, name in shared:
        assert difference(decoder, {index: within(config.layer_axes(index), name, seed=3)}) > CHANGED, f"layer {index}: {name}"


def test_every_axis_of_every_kind_is_under_the_law() -> None:
    free, fixed = (
        {(parent(case).config.layers[index].kind, name) for case in CASES for index, name in layer_axes(parent(case).config, fixed=each)}
        for each in (False, True)
    )
    declared = {
        (layer.kind, name)
        for family, draw in FAMILIES.items()
        for seed in range(4)
        for layer in draw(seed).layers
        for name in layer.axes()
        if name not in ("unit", "lag")  # one index, and an axis of states that no parameter has
    }
    assert free | fixed == declared
    assert {("attention", "qk_channel"), ("mlp", "ffn"), ("mamba2", "state"), ("hybrid_head", "state"), ("moe", "expert")} <= free
    assert {("attention", "qk_channel"), ("mamba2", "tap"), ("hybrid_head", "tap"), ("hybrid_head", "qk_channel")} <= fixed
