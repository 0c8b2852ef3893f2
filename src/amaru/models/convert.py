"""From any format that is read to any that is written: one tensor at a time, bit for bit, and proven before it appears."""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amaru.config import Config
from amaru.config.atomic import atomic_directory, storage_errors, sync
from amaru.errors import CheckpointError, ConfigError, StorageError
from amaru.models.carried import Carried
from amaru.models.certificate import Certificate, beside
from amaru.models.families import family_for, nemotron_h, own
from amaru.models.formats import FORMATS, format_of, open_checkpoint
from amaru.models.source import Source, shapes
from amaru.models.targets import TARGETS, Request, bytes_of
from amaru.models.uniform import Uniform
from amaru.models.verify import EXPLAINED, OwnModel, Report, certify

SPARE = 64 * 2**20  # bytes left free on the disk


class Conversion(Config):
    """What was written, and what proves it. `equal` and `verdict` are the certificate's; None when none was asked for.

    `differences` are those of the largest logit by dtype; `padding` is the one in fp32 where padded norms leave more of it
    than rounding would.
    """

    source: str
    source_format: str
    out: str
    to: str
    tensors: int
    parameters: int
    parameters_before: int
    bytes: int
    seconds: float
    carried: tuple[str, ...]
    notes: tuple[str, ...]
    equal: bool | None
    verdict: str | None
    differences: dict[str, float]
    padding: float | None
    certificate: str | None


class Job:
    """`Job(Request(source="student", out="student.gguf", to="gguf")).run()`.

    Making one opens the source and checks everything that can be known before a byte is written. Raises `CheckpointError` for a
    source that cannot be read, a target that cannot hold it, or a place that is taken; `ConfigError` for settings that
    contradict the model; `StorageError` when the disk has no room.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.target, self.out = request, TARGETS[request.to], Path(request.out)
        self.source = open_checkpoint(request.source)
        self.written: Source = Uniform(self.source) if request.uniform else self.source
        given = request.tokenizer
        self.carried = Carried.given(Path(given), self.source.config.vocab) if given else Carried.of(Path(self.source.path))
        self.bytes = bytes_of(self.written, request.dtype)
        self.target.check(self.written, request)
        check_place(Path(self.source.path), self.out, request.to)
        check_space(self.out, self.bytes)

    def describe(self) -> dict[str, Any]:
        """What `run` would do."""
        return {
            "source": self.request.source,
            "source_format": FORMATS[format_of(self.source.path) or ""].title,
            "out": self.request.out,
            "to": self.request.to,
            "tensors": len(self.written.names),
            "parameters": _parameters(self.written),
            "parameters_before": _parameters(self.source),
            "bytes": self.bytes,
            "carried": sorted(self.carried.files) or (["tokenizer"] if self.carried.tokenizer else []),
        }

    def run(self, *, verify: bool = True, report: Report = lambda text: None) -> Conversion:
        """Write, then compare what was written with the source; it appears under its name only when both succeeded.

        Raises `CheckpointError` with the certificate's verdict for a copy that is not the source.
        """
        with _appearing(self.out, self.target.is_file) as place:
            start = time.monotonic()
            self.target.write(_watched(self.written, report), place, self.request, self.carried)
            seconds = time.monotonic() - start
            carried = [] if self.target.is_file else self.carried.unpack(place)
            certificate = self._certificate(place, report) if verify else None
            if certificate and not self.target.is_file:
                certificate.save(place / "certificate.json")
            size = sum(file.stat().st_size for file in [place, *place.rglob("*")] if file.is_file())
        if certificate and self.target.is_file:
            certificate.save(beside(self.out))
        return Conversion(
            **{name: value for name, value in self.describe().items() if name not in ("bytes", "carried")},
            bytes=size,
            seconds=seconds,
            carried=tuple(carried) if not self.target.is_file else ("tokenizer",) * (self.carried.loaded() is not None),
            notes=(*self._notes(), *(certificate.notes if certificate else getattr(self.source, "notes", ()))),
            equal=certificate.equal if certificate else None,
            verdict=certificate.verdict if certificate else None,
            differences=_differences(certificate),
            padding=self._padding(certificate),
            certificate=str(beside(self.out)) if certificate else None,
        )

    def _notes(self) -> Iterator[str]:
        """What a user of the copy should know."""
        if self.request.to == "hf" and family_for(self.written.config) is own:
            why = nemotron_h.refuses(self.written.config)
            yield f"its config.json is amaru's own, which transformers reads after `import amaru.models.hf`: {why}"
        yield from self.target.remarks(self.written, self.request, self.carried)

    def _certificate(self, place: Path, report: Report) -> Certificate:
        """Padding is compared in fp32 before its factors are rounded, and as it is in the dtype that is stored.

        What eps leaves in padded norms is no reason to refuse the copy, but is part of the certificate.
        """
        found = open_checkpoint(place)
        rounded = found.dtype("embedding.weight") != torch.float32 or self.request.dtype == "q8_0"
        exact = Uniform(self.source, torch.float32) if self.request.uniform and rounded else None
        padded = self.written if isinstance(self.written, Uniform) and not self.written.exact else None
        certificate = certify(
            OwnModel(self.source, self.request.source),
            OwnModel(found, str(self.out), in_fp32=exact),
            tensors=self.written,
            explained=OwnModel(self.source, self.request.source, prepare=padded.with_its_eps) if padded else None,
            judged=(EXPLAINED,) if padded else self._judged(found, exact is not None),
            report=report,
        )
        if not certificate.equal:
            raise CheckpointError(f"The copy of {self.request.source} is not the same model, so it was not kept: {certificate.verdict}.")
        return certificate

    def _padding(self, certificate: Certificate | None) -> float | None:
        beyond = certificate and self.request.uniform and certificate.comparisons[0].first_difference
        return _differences(certificate)["float32"] if beyond else None

    def _judged(self, found: Source, exact_in_fp32: bool) -> tuple[str, ...] | None:
        """The dtypes in which both must be one function: all, unless weights were rounded; then that in which they are stored."""
        exact = ("float32",) if exact_in_fp32 else ()
        if self.request.dtype == "q8_0":
            return exact
        if any(torch.promote_types(self.written.dtype(name), found.dtype(name)) != found.dtype(name) for name in found.names):
            return (*exact, str(found.dtype("embedding.weight")).removeprefix("torch."))
        return None


class _Watched:
    """A source whose reading is reported."""

    def __init__(self, source: Source, report: Report) -> None:
        self.path, self.config, self.names, self.dtype = source.path, source.config, source.names, source.dtype
        self._source, self._report = source, report
        self._seen: set[str] = set()

    def read(self, name: str) -> Tensor:
        self._tell(name)
        return self._source.read(name)

    def _tell(self, name: str) -> None:
        self._seen.add(name)
        self._report(f"writing tensors: {len(self._seen)}/{len(self.names)}")


class _WatchedRows(_Watched):
    def rows(self, name: str, start: int, stop: int) -> Tensor:
        self._tell(name)
        return self._source.rows(name, start, stop)  # type: ignore[attr-defined]


def _watched(source: Source, report: Report) -> Source:
    return (_WatchedRows if hasattr(source, "rows") else _Watched)(source, report)


@contextmanager
def _appearing(out: Path, is_file: bool) -> Iterator[Path]:
    """A place to write to, which takes the place of `out` when the block succeeds."""
    if not is_file:
        with atomic_directory(out) as directory:
            yield directory
        return
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            yield Path(folder) / out.name  # the same name: some formats keep it
            os.replace(Path(folder) / out.name, out)
            sync(out.parent)


def check_place(source: Path, out: Path, to: str) -> None:
    """Only a checkpoint is replaced, and never the source itself."""
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise ConfigError(f"The copy would take the place of its source {source}; give another place.")
    empty = not TARGETS[to].is_file and out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and format_of(out) != to:
        raise CheckpointError(f"{out} exists and is no checkpoint of the format {to}, so it is not replaced; choose another place.")


def check_space(out: Path, needed: int) -> None:
    there = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(there).free
    if needed + SPARE > free:
        killed = sorted(str(path) for path in there.glob(f".{out.name}*.partial"))
        advice = f"what killed conversions left may be deleted ({', '.join(killed)})" if killed else "choose another place"
        raise StorageError(f"{out} needs {(needed + SPARE) / 1e9:.2f} GB, some of it to spare, and {free / 1e9:.2f} GB are free; {advice}.")


def _parameters(source: Source) -> int:
    return sum(math.prod(shape) for shape in shapes(source).values())


def _differences(certificate: Certificate | None) -> dict[str, float]:
    """By dtype the largest difference of a logit, relative to the largest logit."""
    comparisons = certificate.comparisons if certificate else ()
    return {each.dtype: each.places[-1].max_abs / max(each.places[-1].scale, 1e-300) for each in comparisons}
