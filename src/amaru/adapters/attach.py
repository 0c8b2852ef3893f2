"""Adapters on a decoder: put on and taken off, switched on and off, merged and taken out again."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from amaru.adapters.adapted import Active, AdaptedLinear, Base, Change
from amaru.adapters.method import Adapter, Method
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.nn.linear import Linear, QuantisedLinear


class Merged(NamedTuple):
    """A linear layer whose weight became a sum: largest |stored - exact| over largest |exact|."""

    path: str
    difference: float


def adapt(decoder: Decoder, method: Method, name: str = "default") -> Adapter:
    """Put a new adapter on a decoder and switch it on; everything but its trained factors is frozen. The model computes what it did.

    >>> adapter = adapt(decoder, LoRA(rank=16, targets=("mamba", "attention")))
    >>> optimizer = AdamW(parameter for parameter in decoder.parameters() if parameter.requires_grad)

    Factors have at least float32. Raises `ConfigError` as `attach` does, and for what the method cannot reach.
    """
    dtype = torch.promote_types(decoder.embedding.weight.dtype, torch.float32)
    with torch.device(decoder.embedding.weight.device):
        adapter = Adapter(method, method.blocks(decoder.config), dtype)
    for block in adapter.blocks.values():
        magnitude = adapter.change(block.name).factor("magnitude")
        for site, part in block.parts() if magnitude is not None else ():
            weight = base_of(decoder, site.path).weight[site.start : site.stop].detach()
            magnitude.data[part] = weight.to(magnitude.dtype).norm(dim=1)  # type: ignore[union-attr]
    attach(decoder, adapter, name)
    return adapter


def attach(decoder: Decoder, adapter: Adapter, name: str = "default") -> None:
    """Put an adapter on a decoder of its shapes, beside those that are there, and switch on this one alone.

    Raises `ConfigError` for a name that is taken or is none, and while adapters are merged.
    """
    others = _held(decoder)
    if not re.fullmatch(r"\w[\w-]*", name) or hasattr(others, name):
        raise ConfigError(f"An adapter's name has letters, digits, _ and -, and is not taken; got '{name}'.")
    _refuse_merged(decoder)
    decoder.requires_grad_(False)
    for block in adapter.blocks.values():
        for site, part in block.parts():
            change = Change(adapter.change(block.name), slice(site.start, site.stop), part)
            _adapted(decoder, site.path).changes.setdefault(name, []).append(change)
    others[name] = adapter
    decoder.add_module("adapters", others)
    activate(decoder, name)


def detach(decoder: Decoder, name: str) -> Adapter:
    """Take an adapter off; layers that no other adapter reaches are plain again. Raises `ConfigError` if it is not there."""
    adapter, others = held(decoder, name), _held(decoder)
    del others[name]
    for path, linear in adapted(decoder).items():
        linear.changes.pop(name, None)
        linear.active = Active(*(each for each in linear.active.names if each != name))
        if not linear.changes:
            _place(decoder, path, linear.base)
    if not others:
        del decoder.adapters
    return adapter


def held(decoder: Decoder, name: str) -> Adapter:
    """The adapter of this name; raises `ConfigError` if it is not there, or merged, when the base is not what it was."""
    _check_names(decoder, name)
    _refuse_merged(decoder)
    return cast(Adapter, _held(decoder)[name])


def activate(decoder: Decoder, *names: str) -> None:
    """Add these adapters, and no others, in every pass from now on; several are added up. Only they are trained."""
    _check_names(decoder, *names)
    _refuse_merged(decoder)
    for linear in adapted(decoder).values():
        linear.active = Active(*(name for name in names if name in linear.changes))
    for name, adapter in _held(decoder).items():
        cast(Adapter, adapter).train_factors(name in names)


@contextmanager
def by_sequence(
    decoder: Decoder, names: Sequence[str | None], lengths: Sequence[int], asked: Sequence[int] | None = None
) -> Iterator[None]:
    """`with by_sequence(decoder, ["french", None, "sql"], [5, 1, 1]): decoder(batch, state)`: each sequence of a batch with its adapter.

    `lengths` are the tokens of each sequence in the batch, `asked` those of them whose logits are taken (None: all), which is what an
    adapted head sees. None stands for the model as it is. Afterwards the adapters are active that were before.
    Raises `ConfigError` for names that are not there, and while adapters are merged.
    """
    _check_names(decoder, *(name for name in names if name is not None))
    _refuse_merged(decoder)
    tokens, heads = (_rows(names, counts) for counts in (lengths, lengths if asked is None else asked))
    linears = adapted(decoder)
    before = {path: linear.active for path, linear in linears.items()}
    for path, linear in linears.items():
        rows = heads if path == "head" else tokens
        linear.active = Active(*(name for name in rows if name in linear.changes), rows=rows)
    try:
        yield
    finally:
        for path, linear in linears.items():
            linear.active = before[path]


def _rows(names: Sequence[str | None], counts: Sequence[int]) -> dict[str, Tensor]:
    """By adapter the places of its tokens."""
    owner = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    return {name: torch.tensor([place for place, each in enumerate(owner) if each == name]) for name in dict.fromkeys(owner) if name}


@contextmanager
def switched_off(decoder: Decoder) -> Iterator[Decoder]:
    """`with switched_off(decoder): ...`: the model as it was before any adapter."""
    _refuse_merged(decoder)
    linears = list(adapted(decoder).values())
    before = [linear.active for linear in linears]
    for linear in linears:
        linear.active = Active()
    try:
        yield decoder
    finally:
        for linear, active in zip(linears, before, strict=True):
            linear.active = active


def merge(decoder: Decoder) -> list[Merged]:
    """Make the active adapters part of the weights, which then cost nothing; `unmerge` takes them out to the bit.

    Raises `ConfigError` for a base of codes, and if they are merged already.
    """
    _refuse_merged(decoder)
    linears = {path: linear for path, linear in adapted(decoder).items() if linear.active.names}
    if codes := [path for path, linear in linears.items() if isinstance(linear.base, QuantisedLinear)]:
        raise ConfigError(f"{codes[0]} holds codes, into which nothing can be merged; merge into the checkpoint that was quantised.")
    return [Merged(path, linear.merge()) for path, linear in linears.items()]


def unmerge(decoder: Decoder) -> None:
    for linear in adapted(decoder).values():
        linear.unmerge()


def fold(decoder: Decoder) -> list[Merged]:
    """Merge the active adapters for good: what is left is a plain decoder, still frozen, to be saved like any other."""
    merged = merge(decoder)
    for path, linear in adapted(decoder).items():
        _place(decoder, path, linear.base)
    if _held(decoder):
        del decoder.adapters
    return merged


def adapted(decoder: Decoder) -> dict[str, AdaptedLinear]:
    """By path every linear layer that adapters reach."""
    return {path: module for path, module in decoder.named_modules() if isinstance(module, AdaptedLinear)}


def base_of(decoder: Decoder, path: str) -> Base:
    """The linear layer itself, whatever is added to it; raises `ConfigError` for one that adapters do not know."""
    module = decoder.get_submodule(path)
    base = module.base if isinstance(module, AdaptedLinear) else module
    if not isinstance(base, Linear | QuantisedLinear):
        raise ConfigError(f"{path} is a {type(base).__name__}, to which nothing can be added; adapters go onto plain or quantised layers.")
    return base


def _adapted(decoder: Decoder, path: str) -> AdaptedLinear:
    module = decoder.get_submodule(path)
    if not isinstance(module, AdaptedLinear):
        module = AdaptedLinear(base_of(decoder, path))
        _place(decoder, path, module)
    return module


def _place(decoder: Decoder, path: str, module: nn.Module) -> None:
    owner, _, last = path.rpartition(".")
    setattr(decoder.get_submodule(owner), last, module)


def _held(decoder: Decoder) -> nn.ModuleDict:
    return getattr(decoder, "adapters", None) or nn.ModuleDict()


def _check_names(decoder: Decoder, *names: str) -> None:
    there = _held(decoder)
    if missing := [name for name in names if name not in there]:
        raise ConfigError(f"There is no adapter '{missing[0]}' on this model; there is: {', '.join(there) or 'none'}.")


def _refuse_merged(decoder: Decoder) -> None:
    if any(linear.before is not None for linear in adapted(decoder).values()):
        raise ConfigError("Adapters are merged into this model's weights; unmerge them first.")
