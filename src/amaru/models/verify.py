"""Are two models one? Every tensor is compared, and the residual stream after every layer on seeded inputs."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from amaru.models.certificate import Certificate, Comparison, TensorMatch, distance
from amaru.models.decoder import Decoder
from amaru.models.formats import open_checkpoint
from amaru.models.source import Source, pieces, shapes
from amaru.models.stock import PREFIX, StockModel
from amaru.models.streamed import streamed
from amaru.models.trace import Trace, traced
from amaru.nn.batch import Batch

LENGTHS = (1, 7, 61, 150)  # one token; less than a chunk of the scan; across chunks
BEYOND = 37  # tokens past a window, for a model that has one
LONGEST = 4096  # tokens of a window that is crossed; longer ones would take minutes, and a note says that they were not

EXPLAINED = "float32 with the eps of padded norms"

Report = Callable[[str], None]


class Subject(Source, Protocol):
    """A model that can be examined: a source of tensors that can also be run."""

    notes: list[str]

    @property
    def title(self) -> str: ...
    def run(self, sequences: list[Tensor], dtype: torch.dtype, report: Report) -> Trace: ...


class OwnModel:
    """A checkpoint of any format as amaru runs it: all sequences in one batch, one layer's weights in memory.

    `in_fp32` runs in its place in fp32: the same model before its weights were rounded to what is stored. `prepare` may
    change the decoder before it runs.
    """

    def __init__(
        self, source: Source, title: str, in_fp32: Source | None = None, prepare: Callable[[Decoder], None] = lambda decoder: None
    ) -> None:
        self.source, self.title, self.in_fp32, self.prepare = source, title, in_fp32, prepare
        self.path, self.config, self.names = source.path, source.config, source.names
        self.read, self.dtype = source.read, source.dtype
        for offered in ("rows", "rounding"):
            if hasattr(source, offered):
                setattr(self, offered, getattr(source, offered))
        self.notes: list[str] = [*getattr(source, "notes", ())]
        if in_fp32:
            self.notes.append(f"in float32 {title} runs as it was before its weights were rounded to {self.dtype('embedding.weight')}")

    def run(self, sequences: list[Tensor], dtype: torch.dtype, report: Report) -> Trace:
        decoder = streamed(self.in_fp32 if self.in_fp32 and dtype == torch.float32 else self.source, dtype)
        self.prepare(decoder)
        count, name = len(decoder.layers), str(dtype).removeprefix("torch.")
        for index, layer in enumerate(decoder.layers, 1):
            layer.register_forward_hook(lambda *_, index=index: report(f"{self.title} in {name}: layer {index}/{count}"))
        return traced(dict(enumerate(decoder.layers)), [lambda: decoder(Batch.of(sequences))])


def verify(
    a: str | Path, b: str | Path, *, seed: int = 0, lengths: tuple[int, ...] | None = None, report: Report = lambda text: None
) -> Certificate:
    """Compare checkpoint `a` with `b`, of any formats, or "transformers:PATH", in fp32 and in the stored dtype.

    One layer of one model is in memory at a time, but a model that transformers runs is there whole. `lengths` are those of
    the seeded sequences; left out, they also cross a window that the models have. `report` is told how far it is.
    Raises `CheckpointError` for one that cannot be read, `BackendError` when transformers is asked for and not installed.
    """
    return certify(subject(str(a)), subject(str(b)), seed=seed, lengths=lengths, report=report)


def subject(model: str) -> Subject:
    return StockModel(Path(model.removeprefix(PREFIX))) if model.startswith(PREFIX) else OwnModel(open_checkpoint(model), model)


def certify(
    first: Subject,
    second: Subject,
    *,
    tensors: Source | None = None,
    explained: Subject | None = None,
    judged: Collection[str] | None = None,
    seed: int = 0,
    lengths: tuple[int, ...] | None = None,
    report: Report = lambda text: None,
) -> Certificate:
    """`verify` of models that are open.

    `tensors` are what the second one's must be, where that is not what the first one has (a padded model), and `explained` is
    the first with what padding leaves: both are compared in fp32 as well. `judged` are the comparisons whose differences
    count, all unless given.
    """
    lengths = lengths or _lengths(first, second)
    expected = tensors or first
    matches, fingerprints = match(expected, second, report)
    runs = first.config.vocab == second.config.vocab
    comparisons = _comparisons(first, second, explained, seeded_sequences(first.config.vocab, lengths, seed), report) if runs else ()
    only_in_a, only_in_b = _without(expected.names, second.names), _without(second.names, expected.names)
    counting = tuple(each for each in comparisons if judged is None or each.dtype in judged)
    differences = [*_tensor_differences(matches, only_in_a, only_in_b), *_place_differences(counting)]
    if not runs:
        differences.append(f"vocabularies of {first.config.vocab} and {second.config.vocab} tokens cannot be compared")
    rounded = sum(bool(each.max_abs) for each in matches)
    held = f"{len(matches)} tensors" + (f", {rounded} of them but for rounding" if rounded else "")
    held += f", and every layer in {' and '.join(each.dtype for each in counting)}" if counting else ""
    return Certificate(
        a=first.title,
        b=second.title,
        fingerprints=fingerprints,
        seed=seed,
        lengths=lengths,
        tensors=matches,
        only_in_a=only_in_a,
        only_in_b=only_in_b,
        comparisons=comparisons,
        notes=(*first.notes, *second.notes, *_not_crossed(lengths, first, second)),
        equal=not differences,
        verdict="different: " + "; ".join(differences) if differences else f"equal: {held}",
    )


def match(first: Source, second: Source, report: Report) -> tuple[tuple[TensorMatch, ...], tuple[str, str]]:
    """Every tensor that both have, compared, and a hash of each side's names, dtypes, shapes and values."""
    a, b = _Side(first), _Side(second)
    matches: list[TensorMatch] = []
    names = sorted(a.shapes.keys() | b.shapes.keys())
    for number, name in enumerate(names, 1):
        report(f"comparing tensors: {number}/{len(names)}")
        if a.shapes.get(name) == b.shapes.get(name):
            matches.append(_match(name, a, b))
            continue
        found = [side.skimmed(name) for side in (a, b) if name in side.shapes]
        if len(found) == 2:
            matches.append(TensorMatch(name=name, shapes=(found[0], found[1]), max_abs=None, equal=False))
    return tuple(matches), (a.fingerprint, b.fingerprint)


class _Side:
    """One model's tensors, hashed as they pass by."""

    def __init__(self, source: Source) -> None:
        self.source, self.shapes = source, shapes(source)
        self._digest = hashlib.sha256()

    def pieces(self, name: str) -> Iterator[Tensor]:
        self._digest.update(f"{name} {self.source.dtype(name)} {self.shapes[name]}".encode())
        for piece in pieces(self.source, name, self.shapes[name]):
            self._digest.update(_bits(piece).numpy().data)
            yield piece

    def skimmed(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that is hashed and not compared."""
        for _ in self.pieces(name):
            pass
        return self.shapes[name]

    @property
    def fingerprint(self) -> str:
        return self._digest.hexdigest()[:16]


def _match(name: str, a: _Side, b: _Side) -> TensorMatch:
    dtypes = {side.source.dtype(name) for side in (a, b)}
    coarser = 0.0 if len(dtypes) == 1 else max(torch.finfo(dtype).eps for dtype in dtypes)
    smallest = max(torch.finfo(dtype).tiny for dtype in dtypes)  # below it steps no longer shrink with the value
    allowances = [side.source.rounding for side in (a, b) if hasattr(side.source, "rounding")]  # type: ignore[attr-defined]
    largest, equal = torch.zeros((), dtype=torch.float64), True
    for one, other in zip(a.pieces(name), b.pieces(name), strict=True):
        if one.dtype == other.dtype and torch.equal(_bits(one), _bits(other)):
            continue
        one, other = one.double(), other.double()
        found, allowed = distance(one, other), sum(allow(name, one) for allow in allowances)
        largest = torch.maximum(largest, found.max())
        equal = equal and bool((found <= coarser * one.abs().clamp(min=smallest) + allowed).all())
    return TensorMatch(name=name, shapes=(a.shapes[name], b.shapes[name]), max_abs=float(largest), equal=equal)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def seeded_sequences(vocab: int, lengths: Iterable[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab, (length,), generator=generator) for length in lengths]


def _without(names: list[str], others: list[str]) -> tuple[str, ...]:
    known = set(others)
    return tuple(name for name in names if name not in known)


def _lengths(*subjects: Subject) -> tuple[int, ...]:
    return (*LENGTHS, *(window + BEYOND for window in _windows(*subjects) if window <= LONGEST))


def _windows(*subjects: Subject) -> list[int]:
    windows = {getattr(layer, "window", None) for subject in subjects for layer in subject.config.layers}
    return sorted(window for window in windows if window is not None)


def _not_crossed(lengths: tuple[int, ...], *subjects: Subject) -> list[str]:
    wide = [window for window in _windows(*subjects) if window >= max(lengths)]
    return [f"no sequence was longer than the window of {window} tokens, so what lies behind it was not compared" for window in wide]


def _comparisons(
    first: Subject, second: Subject, explained: Subject | None, sequences: list[Tensor], report: Report
) -> tuple[Comparison, ...]:
    exact, other = (subject.run(sequences, torch.float32, report) for subject in (first, second))
    comparisons = [Comparison.of(exact, other, exact, "float32")]
    if explained:
        one = explained.run(sequences, torch.float32, report)
        comparisons.append(Comparison.of(one, other, one, EXPLAINED))
        del one
    del other
    stored = next((dtype for dtype in (each.dtype("embedding.weight") for each in (first, second)) if dtype != torch.float32), None)
    if stored is not None:
        one, other = (subject.run(sequences, stored, report) for subject in (first, second))
        comparisons.append(Comparison.of(one, other, exact, str(stored).removeprefix("torch.")))
    return tuple(comparisons)


def _tensor_differences(tensors: tuple[TensorMatch, ...], only_in_a: tuple[str, ...], only_in_b: tuple[str, ...]) -> Iterator[str]:
    """Names that only one side has are listed; of tensors that differ the first is named, and the certificate holds the others."""
    total = len(tensors) + len(only_in_a) + len(only_in_b)
    for names, what in ((only_in_a, "only A has"), (only_in_b, "only B has")):
        if names:
            yield f"{what} {len(names)} of {total} tensors ({', '.join(names)})"
    if unequal := [tensor.name for tensor in tensors if not tensor.equal]:
        yield f"not the same in both are {len(unequal)} of {total} tensors ({unequal[0]}{', ...' if len(unequal) > 1 else ''})"


def _place_differences(comparisons: tuple[Comparison, ...]) -> Iterator[str]:
    for comparison in comparisons:
        if place := comparison.first_difference:
            yield f"in {comparison.dtype} they part at {place.name} (by {place.max_abs:.1e}, allowed {place.allowed:.1e})"
