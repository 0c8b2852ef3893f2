"""Which weights of a checkpoint are codes of 8 or 4 bits: what its `config.json` says of them, and the layers that take their place."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from amaru.config import Config, from_dict, to_dict
from amaru.errors import CheckpointError, ConfigError
from amaru.models.cost import is_matrix
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.families import FIELD
from amaru.models.families.stored import Stored
from amaru.models.tensor_file import NAMES, listed
from amaru.nn.linear import QuantisedLinear
from amaru.nn.moe import Experts
from amaru.nn.quantised_experts import Codes, QuantisedExperts
from amaru.ops.quantised_linear import GROUPS, Encoding, Kind

Encodings = Mapping[str, Encoding]
"""By the name of a weight what it is stored as; what is not named is stored as numbers."""


class Group(Config):
    kind: Literal["int4", "int8", "fp8"]
    group: Literal[32, 64, 128] | None = None
    tensors: tuple[str, ...] = Field(min_length=1)

    def check(self) -> None:
        if (self.group is None) == (self.kind == "int4"):
            raise ConfigError(f"quantization_config.group is one of {', '.join(map(str, GROUPS))} for int4 and for nothing else.")


class Quantization(Config):
    """The field of `config.json`, as `say` writes it."""

    quant_method: Literal["amaru"]
    version: Literal[1]
    source: str | None = None
    encodings: tuple[Group, ...]


def projections(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The weights that can be codes, with their shapes [rows, cols] or [experts, rows, cols]: matrices of layers that are no parameters
    of a scan, a convolution or a router, and a head of its own."""
    found = {}
    for name, (spec, axes) in config.tensors().items():
        if name == "head.weight" or (".mixer." in name and is_matrix(spec) and not spec.keep_fp32):
            found[name] = spec.layout.shape(axes)
    return found


def encodings_of(values: Mapping[str, Any], config: DecoderConfig) -> dict[str, Encoding]:
    """What a `config.json` says of this model's weights.

    Raises `CheckpointError` for what `amaru quantize` does not write.
    """
    if (said := values.get(FIELD)) is None:
        return {}
    try:
        groups = from_dict(Quantization, said).encodings
    except ConfigError as error:
        raise CheckpointError(f"config.json says a {FIELD} that `amaru quantize` does not write: {error}") from None
    found = {name: Encoding(Kind[each.kind.upper()], each.group or GROUPS[0]) for each in groups for name in each.tensors}
    if len(found) != sum(len(each.tensors) for each in groups):
        raise CheckpointError(f"config.json names a tensor twice in its {FIELD}.")
    if strange := sorted(found.keys() - projections(config)):
        raise CheckpointError(f"config.json says that {listed(strange)} are codes; of this model only projections can be.")
    return found


def say(encodings: Encodings, source: str | None = None) -> dict[str, Any]:
    """The field of `config.json`; `source` is the fingerprint of the checkpoint that was quantised."""
    tensors: dict[Encoding, list[str]] = {}
    for name, encoding in encodings.items():
        tensors.setdefault(encoding, []).append(name)
    groups = tuple(
        Group(kind=each.kind.name.lower(), group=each.group if each.kind is Kind.INT4 else None, tensors=tuple(names))  # type: ignore[arg-type]
        for each, names in tensors.items()
    )
    return to_dict(Quantization(quant_method="amaru", version=1, source=source, encodings=groups))


class Part(NamedTuple):
    """One tensor of a file: all of ours or entry `index` of its first dimension; `number` 1 for the scales beside codes.

    `dtype` in the words of safetensors; None: whatever holds numbers.
    """

    name: str
    ours: str
    index: int | None
    number: int
    shape: tuple[int, ...]
    dtype: str | None


def parts(stored: Iterable[Stored], shapes: Mapping[str, tuple[int, ...]], encodings: Encodings) -> Iterator[Part]:
    """What a file holds: for each tensor itself, or `.codes` and `.scales` instead of `.weight`."""
    for each in stored:
        shape = shapes[each.ours] if each.index is None else shapes[each.ours][1:]
        if each.ours not in encodings:
            yield Part(each.name, each.ours, each.index, 0, shape, None)
            continue
        stem = each.name.removesuffix(".weight")
        for number, tensor in enumerate(encodings[each.ours].stored(*shape[-2:])):
            name = f"{stem}.{('codes', 'scales')[number]}"
            yield Part(name, each.ours, each.index, number, (*shape[:-2], *tensor.shape), NAMES[tensor.dtype])


def place_codes(decoder: Decoder, name: str, codes: Tensor, scales: Tensor, cols: int) -> None:
    """Make codes and scales the weight of this name, whose rows have `cols` numbers."""
    path, _, leaf = name.rpartition(".")
    module = decoder.get_submodule(path)
    parent, _, last = path.rpartition(".")
    owner = decoder.get_submodule(parent)
    if isinstance(module, Experts | QuantisedExperts):
        both = {"up_proj": module.up_proj, "down_proj": module.down_proj, leaf: Codes(codes, scales, cols)}
        setattr(owner, last, QuantisedExperts(**both))
    else:
        bias: nn.Parameter | None = module.bias  # type: ignore[assignment]
        setattr(owner, last, QuantisedLinear(codes, scales, cols, bias))


def quantised(decoder: Decoder) -> dict[str, QuantisedLinear | Codes]:
    """By the name of its weight every layer of a decoder that holds codes."""
    found: dict[str, QuantisedLinear | Codes] = {}
    for name, module in decoder.named_modules():
        if isinstance(module, QuantisedLinear | Codes):
            found[f"{name}.weight" if isinstance(module, QuantisedLinear) else name] = module
    return found


def numbers(decoder: Decoder) -> Decoder:
    """The decoder itself; raises `ConfigError` if it holds codes, which can be neither trained nor cut."""
    if quantised(decoder):
        raise ConfigError("The model holds codes, which are not trained and not cut; take the checkpoint that it was made from.")
    return decoder
