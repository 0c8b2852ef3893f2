"""The certificate that two models are one: tensor by tensor, and after every layer on seeded inputs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.config import Config, atomic_file, to_dict
from amaru.models.checkpoint import Checkpoint, assemble, fingerprint
from amaru.models.decoder import DecoderConfig
from amaru.models.stock import PREFIX, StockModel
from amaru.models.trace import Trace, traced
from amaru.nn.batch import Batch

LENGTHS = (1, 7, 61, 150)  # one token; less than a chunk of the scan; across chunks

FP32_TOLERANCE = 1e-4  # of the largest magnitude at that place, or of 1 where that is smaller

# In bf16 rounding grows with depth (to 10 % over 52 narrow layers), so the allowance is measured, not assumed: two right
# implementations that round in another order are as far apart as each is from fp32, within a small factor.
ROUNDINGS = 4


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


class Certificate(Config):
    """Whether A and B are the same function, and where not.

    >>> verify("student", "transformers:student").verdict
    'equal: 311 tensors, and every layer in float32'
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
            temporary.write_text(json.dumps(to_dict(self), indent=2) + "\n", encoding="utf-8")


class Subject(Protocol):
    """A model that can be examined: `names` and `read` under our own tensor names, `run` in any dtype."""

    path: Path
    config: DecoderConfig
    notes: list[str]

    @property
    def title(self) -> str: ...
    @property
    def names(self) -> list[str]: ...
    def read(self, name: str) -> Tensor: ...
    def run(self, sequences: list[Tensor], dtype: torch.dtype) -> Trace: ...


class OwnModel:
    """A checkpoint as amaru runs it: all sequences packed into one batch."""

    def __init__(self, path: Path) -> None:
        self.checkpoint = Checkpoint(path)
        self.path = self.checkpoint.path
        self.config = self.checkpoint.config
        self.names = self.checkpoint.names
        self.read = self.checkpoint.read
        self.title = str(path)
        self.notes: list[str] = []

    def run(self, sequences: list[Tensor], dtype: torch.dtype) -> Trace:
        decoder = assemble(self.config, self.checkpoint.read, dtype)
        return traced(decoder.layers, [lambda: decoder(Batch.of(sequences))])


def verify(a: str | Path, b: str | Path, *, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> Certificate:
    """Compare checkpoint `a` with `b`, another one or "transformers:PATH", in fp32 and in the stored dtype.

    One model is in memory at a time. Raises `CheckpointError` for one that cannot be read, `BackendError` when
    transformers is asked for and not installed.
    """
    subjects = (_subject(str(a)), _subject(str(b)))
    first, second = subjects
    tensors = tuple(_match(name, first, second) for name in first.names if name in second.names)
    comparisons = _comparisons(first, second, seed, lengths) if first.config.vocab == second.config.vocab else ()
    only_in_a, only_in_b = (tuple(name for name in one.names if name not in other.names) for one, other in (subjects, subjects[::-1]))
    differences = [*_tensor_differences(tensors, only_in_a, only_in_b), *_place_differences(first, second, comparisons)]
    held = f"{len(tensors)} tensors, and every layer in {' and '.join(comparison.dtype for comparison in comparisons)}"
    return Certificate(
        a=first.title,
        b=second.title,
        fingerprints=(fingerprint(first.path), fingerprint(second.path)),
        seed=seed,
        lengths=lengths,
        tensors=tensors,
        only_in_a=only_in_a,
        only_in_b=only_in_b,
        comparisons=comparisons,
        notes=(*first.notes, *second.notes),
        equal=not differences,
        verdict="different: " + "; ".join(differences) if differences else f"equal: {held}",
    )


def seeded_sequences(vocab: int, lengths: Iterable[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab, (length,), generator=generator) for length in lengths]


def _subject(model: str) -> Subject:
    return StockModel(Path(model.removeprefix(PREFIX))) if model.startswith(PREFIX) else OwnModel(Path(model))


def _match(name: str, first: Subject, second: Subject) -> TensorMatch:
    one, other = first.read(name), second.read(name)
    shapes = (tuple(one.shape), tuple(other.shape))
    if one.shape != other.shape:
        return TensorMatch(name=name, shapes=shapes, max_abs=None, equal=False)
    coarser = 0.0 if one.dtype == other.dtype else max(torch.finfo(tensor.dtype).eps for tensor in (one, other))
    one, other = one.double(), other.double()
    difference = (one - other).abs()
    return TensorMatch(name=name, shapes=shapes, max_abs=float(difference.max()), equal=bool((difference <= coarser * one.abs()).all()))


def _comparisons(first: Subject, second: Subject, seed: int, lengths: tuple[int, ...]) -> tuple[Comparison, ...]:
    sequences = seeded_sequences(first.config.vocab, lengths, seed)
    exact = first.run(sequences, torch.float32)
    comparisons = [_compare(exact, second.run(sequences, torch.float32), exact, "float32")]
    stored = first.read("embedding.weight").dtype
    if stored != torch.float32:
        name = str(stored).removeprefix("torch.")
        comparisons.append(_compare(first.run(sequences, stored), second.run(sequences, stored), exact, name))
    return tuple(comparisons)


def _compare(one: Trace, other: Trace, exact: Trace, dtype: str) -> Comparison:
    common = [name for name in one if name in other and one[name].shape == other[name].shape]
    p, q = (trace["logits"].double().log_softmax(-1) for trace in (one, other))
    return Comparison(
        dtype=dtype,
        places=tuple(_place(name, one[name], other[name], exact[name]) for name in common),
        argmax_agreement=float((p.argmax(-1) == q.argmax(-1)).double().mean()),
        kl=float(F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()),
    )


def _place(name: str, *tensors: Tensor) -> Place:
    one, other, exact = (tensor.double().flatten() for tensor in tensors)
    scale, rounding = float(exact.abs().max()), float((one - exact).abs().max())
    return Place(
        name=name,
        max_abs=float((one - other).abs().max()),
        allowed=max(FP32_TOLERANCE * max(1.0, scale), ROUNDINGS * rounding),
        scale=scale,
        cosine=float(F.cosine_similarity(one, other, dim=0)),
    )


def _tensor_differences(tensors: tuple[TensorMatch, ...], only_in_a: tuple[str, ...], only_in_b: tuple[str, ...]) -> Iterable[str]:
    unequal = [tensor.name for tensor in tensors if not tensor.equal]
    for names, what in ((only_in_a, "only A has"), (only_in_b, "only B has"), (unequal, "not the same in both are")):
        if names:
            yield f"{what} {len(names)} of {len(tensors) + len(only_in_a) + len(only_in_b)} tensors ({names[0]}, ...)"


def _place_differences(first: Subject, second: Subject, comparisons: tuple[Comparison, ...]) -> Iterable[str]:
    if not comparisons:
        yield f"vocabularies of {first.config.vocab} and {second.config.vocab} tokens cannot be compared"
    for comparison in comparisons:
        if place := comparison.first_difference:
            yield f"in {comparison.dtype} they part at {place.name} (by {place.max_abs:.1e}, allowed {place.allowed:.1e})"
