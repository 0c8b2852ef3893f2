"""Training for codes: projections compute with what the codes of their weights mean, and learn as if nothing were rounded.

The codes are those of `encode`, so `quantise` of the trained model gives the very weights that were trained for.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.nn.linear import Linear
from amaru.nn.mlp import activate
from amaru.nn.moe import Experts
from amaru.ops.linear import linear
from amaru.ops.quantised_linear import Encoding, dequantise
from amaru.precision.encode import encode
from amaru.precision.scheme import Scheme


def train_for(decoder: Decoder, scheme: Scheme) -> dict[str, Encoding]:
    """`train_for(decoder, Scheme(to="int4"))`: in place; the projections that `quantise` would give codes see them in training.

    Master weights, their names and so optimizers and checkpoints are untouched; gradients pass straight through the rounding (Bengio et
    al. 2013). Returns what each weight is trained for. Raises `ConfigError` for a projection that already computes in another way.
    """
    found = scheme.encodings(decoder.config)
    for name, encoding in found.items():
        owner, _, leaf = name.rpartition(".")
        parent, _, last = owner.rpartition(".")
        module = decoder.get_submodule(owner)
        if type(module) is Linear:
            coded: nn.Module = CodedLinear(module, encoding)
        elif isinstance(module, Experts):
            coded = CodedExperts(module, {leaf: encoding})
        else:
            kind = type(module).__name__
            raise ConfigError(f"{name} belongs to a {kind}, which is not trained for codes; take the model as it is loaded.")
        setattr(decoder.get_submodule(parent), last, coded)
    return found


def through_codes(weight: Tensor, encoding: Encoding) -> Tensor:
    """What the codes of a weight [..., cols] mean, in at least float32, with the gradient of the weight itself."""
    return _Through.apply(weight, encoding)  # type: ignore[no-any-return]


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, encoding: Encoding) -> Tensor:
        codes, scales = encode(weight, encoding)
        each = [(codes, scales)] if weight.dim() == 2 else zip(codes, scales, strict=True)
        return torch.stack([dequantise(*one, weight.shape[-1], torch.float32) for one in each]).view_as(weight).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class CodedLinear(Linear):
    """`CodedLinear(linear, encoding)`: `linear` with its very parameters, seen through their codes."""

    def __init__(self, plain: Linear, encoding: Encoding) -> None:
        nn.Module.__init__(self)
        self.weight, self.encoding = plain.weight, encoding
        self.register_parameter("bias", plain.bias)

    def used(self) -> Tensor:
        return through_codes(self.weight, self.encoding)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.used().to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class CodedExperts(Experts):
    """`Experts` with one projection or both seen through their codes."""

    def __init__(self, plain: Experts, encodings: Mapping[str, Encoding]) -> None:
        nn.Module.__init__(self)
        self.up_proj, self.down_proj = plain.up_proj, plain.down_proj
        self.encodings = {**getattr(plain, "encodings", {}), **encodings}

    def used(self, name: str) -> Tensor:
        weight: Tensor = getattr(self, name)
        return through_codes(weight, self.encodings[name]) if name in self.encodings else weight

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        weights = zip(self.used("up_proj").to(x.dtype), self.used("down_proj").to(x.dtype), strict=True)
        hit = ((rows, *pair) for rows, pair in zip(x.split(counts), weights, strict=True) if len(rows))
        return torch.cat([linear(activate(linear(rows, up), "relu2"), down) for rows, up, down in hit])
