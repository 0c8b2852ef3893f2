"""What a comparison of two models found: tensor by tensor and layer by layer, to print and to keep as JSON."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.config import Config, atomic_file, to_dict
from amaru.models.trace import Trace

FP32_TOLERANCE = 1e-4  # of the largest magnitude at that place, or of 1 where that is smaller

# In bf16 rounding grows with depth (to 10 % over 52 narrow layers), so the allowance is measured, not assumed: two right
# implementations that round in another order are as far apart as each is from fp32, within a small factor.
ROUNDINGS = 4

ROWS = 16  # tokens that are compared at a time: a vocabulary in fp64 is a megabyte for each


class TensorMatch(Config):
    """One tensor that both have. `equal` allows the rounding of the coarser dtype where the stored ones differ, else nothing."""

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    max_abs: float | None
    equal: bool


class Place(Config):
    """The residual stream after one layer, or the logits: largest difference, what is allowed, largest magnitude, cosine."""

    name: str
    max_abs: float
    allowed: float
    scale: float
    cosine: float

    @property
    def equal(self) -> bool:
        return self.max_abs <= self.allowed

    @classmethod
    def of(cls, name: str, one: Tensor, other: Tensor, exact: Tensor) -> "Place":
        """`exact` is the first model's fp32 run: its distance from `one` is what rounding costs at this place."""
        largest, products = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for a, b, c in zip(*(_some_rows(tensor) for tensor in (one, other, exact)), strict=True):
            largest = torch.maximum(largest, torch.stack([distance(a, b).max(), distance(a, c).max(), c.abs().max()]))
            products += torch.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()])
        (difference, rounding, scale), (dot, first, second) = largest.tolist(), products.tolist()
        return cls(
            name=name,
            max_abs=difference,
            allowed=max(FP32_TOLERANCE * max(1.0, scale), ROUNDINGS * rounding),
            scale=scale,
            cosine=dot / max((first * second) ** 0.5, 1e-300),
        )


class Comparison(Config):
    """Both models in one dtype. `kl` is KL(A || B) in nats per token; agreement the share of tokens with the same argmax.

    In fp32 and above 1e-4 of the scale is allowed at each place; below, `ROUNDINGS` times A's own distance from its fp32 run.
    """

    dtype: str
    places: tuple[Place, ...]
    argmax_agreement: float
    kl: float

    @property
    def first_difference(self) -> Place | None:
        return next((place for place in self.places if not place.equal), None)

    @classmethod
    def of(cls, one: Trace, other: Trace, exact: Trace, dtype: str) -> "Comparison":
        """At every place that both have; a stock model has those between its own layers."""
        common = [name for name in one if name in other and one[name].shape == other[name].shape]
        agreed, divergence, tokens = 0, 0.0, len(one["logits"])
        for a, b in zip(_some_rows(one["logits"]), _some_rows(other["logits"]), strict=True):
            p, q = a.log_softmax(-1), b.log_softmax(-1)
            agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
            divergence += float(F.kl_div(q, p, log_target=True, reduction="sum"))
        places = tuple(Place.of(name, one[name], other[name], exact[name]) for name in common)
        return cls(dtype=dtype, places=places, argmax_agreement=agreed / tokens, kl=divergence / tokens)


class Certificate(Config):
    """Whether A and B are the same function, and where not.

    >>> verify("student", "transformers:student").verdict
    'equal: 311 tensors, and every layer in float32'

    `fingerprints` are of names, dtypes, shapes and values: the same in whatever format the tensors are stored.
    """

    a: str
    b: str
    fingerprints: tuple[str, str]
    seed: int
    lengths: tuple[int, ...]
    tensors: tuple[TensorMatch, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    equal: bool
    verdict: str

    def save(self, path: str | Path) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(_without_nan(to_dict(self)), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN or infinity: they become null."""
    match value:
        case dict():
            return {name: _without_nan(item) for name, item in value.items()}
        case list():
            return [_without_nan(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value


def beside(path: Path) -> Path:
    """Where the certificate of a checkpoint lies: inside a directory, next to a file."""
    return path / "certificate.json" if path.is_dir() else path.with_name(f"{path.name}.certificate.json")


def distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|; what overflowed to the same infinity or to no number in both does not differ."""
    return (a - b).abs().masked_fill((a == b) | (a.isnan() & b.isnan()), 0)


def _some_rows(tensor: Tensor) -> Iterator[Tensor]:
    return (rows.double() for rows in tensor.split(ROWS))
