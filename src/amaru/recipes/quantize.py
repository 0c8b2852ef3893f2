"""A checkpoint whose weights are codes of 8 or 4 bits, written tensor by tensor, and how far it is from the original."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import Field
from torch import Tensor

from amaru.config import Config, to_dict
from amaru.config.atomic import atomic_directory
from amaru.data.loader import in_order
from amaru.data.packing import PackedRows, pack
from amaru.errors import ConfigError
from amaru.eval.perplexity import evaluate
from amaru.models.carried import Carried
from amaru.models.checkpoint import fingerprint, load, write
from amaru.models.convert import check_place, check_space
from amaru.models.decoder import Decoder
from amaru.models.formats import format_of, open_checkpoint
from amaru.models.source import Source
from amaru.models.streamed import streamed
from amaru.ops.quantised_linear import dequantise
from amaru.precision import Scheme, coverage, encode
from amaru.recipes import sources

RECORD = "quantization.json"
ROWS = 1024  # of a weight that are compared together
TOKEN_BYTES = 8  # that a token spells at most, on average
LOADED_SHARE = 0.5  # of the memory that is free: an original that needs more is streamed
Progress = Callable[[str], object]


class QuantizeRecipe(Config):
    """`QuantizeRecipe(checkpoint="parent", out="parent-int4", scheme=Scheme(to="int4"))`.

    data         text on which the result is compared with the original, as `amaru eval` takes it; none: not compared
    row_length   tokens of context in that comparison
    batch_rows   rows that run together; an original that is streamed is read once for each batch
    limit_rows   only the first so many rows
    """

    checkpoint: str
    out: str
    scheme: Scheme
    data: tuple[str, ...] = ()
    field: str = "text"
    row_length: int = Field(default=512, gt=1)
    batch_rows: int = Field(default=4, gt=0)
    limit_rows: int | None = Field(default=64, gt=0)


class Job:
    """`Job(recipe).run()`. Making one opens the source and checks all that can be known before a byte is written.

    Raises `ConfigError` for a scheme that does not fit the model and for one that is quantised already, `CheckpointError` for a place
    that is taken, `StorageError` when the disk has no room.
    """

    def __init__(self, recipe: QuantizeRecipe) -> None:
        self.recipe, self.out = recipe, Path(recipe.out)
        self.source: Source = open_checkpoint(recipe.checkpoint)
        if getattr(self.source, "encodings", None):
            raise ConfigError(f"{recipe.checkpoint} holds codes already; quantise the checkpoint that it was made from.")
        self.encodings = recipe.scheme.encodings(self.source.config)
        self.coverage = coverage(self.source.config, self.encodings, self.source.dtype)
        self.carried = Carried.of(Path(self.source.path))
        if recipe.data and self.carried.loaded() is None:
            raise ConfigError(f"There is no tokenizer beside {recipe.checkpoint}, so it cannot be compared on text; leave the data out.")
        check_place(Path(self.source.path), self.out, "hf")
        check_space(self.out, sum(row.after for row in self.coverage))
        self.errors: dict[str, tuple[float, float]] = {}

    def describe(self) -> dict[str, Any]:
        """What `run` would do."""
        return {
            "source": self.recipe.checkpoint,
            "out": self.recipe.out,
            "scheme": to_dict(self.recipe.scheme),
            "bytes_before": sum(row.before for row in self.coverage),
            "bytes": sum(row.after for row in self.coverage),
            "coverage": [to_dict(row) for row in self.coverage],
        }

    def run(self, progress: Progress = lambda text: None) -> dict[str, Any]:
        """Write, compare where there is text, and only then let the directory appear."""
        rows = self._rows()
        with atomic_directory(self.out) as place:
            start = time.monotonic()
            write(
                place,
                self.source.config,
                self._reader(progress),
                self.source.dtype,
                values=self.carried.ids,
                encodings=self.encodings,
                source=fingerprint(self.source.path) if format_of(self.source.path) == "hf" else None,
            )
            facts = self.describe() | {"seconds": time.monotonic() - start, "weight_error": self._weight_error()}
            self.carried.unpack(place)
            if rows is not None:
                facts["quality"] = self._quality(place, rows, progress)
            (place / RECORD).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return facts

    def _reader(self, progress: Progress) -> Callable[[str], Tensor | tuple[Tensor, Tensor]]:
        count = len(self.source.names)
        seen = 0

        def read(name: str) -> Tensor | tuple[Tensor, Tensor]:
            nonlocal seen
            seen += 1
            progress(f"writing tensors: {seen}/{count}")
            weight = self.source.read(name)
            if name not in self.encodings:
                return weight
            codes = encode(weight, self.encodings[name])
            self.errors[name] = _difference(weight, *codes)
            return codes

        return read

    def _weight_error(self) -> dict[str, float]:
        """By encoding the norm of all that changed over the norm of all weights."""
        sums: dict[str, list[float]] = {}
        for name, (changed, whole) in self.errors.items():
            total = sums.setdefault(str(self.encodings[name]), [0.0, 0.0])
            total[0], total[1] = total[0] + changed, total[1] + whole
        return {name: (changed / max(whole, 1e-300)) ** 0.5 for name, (changed, whole) in sums.items()}

    def _rows(self) -> PackedRows | None:
        tokenizer = self.carried.loaded()
        if not self.recipe.data or tokenizer is None:
            return None
        documents = sources.gather(sources.Source(data=self.recipe.data, field=self.recipe.field)).documents
        wanted = (self.recipe.limit_rows or math.inf) * self.recipe.row_length * TOKEN_BYTES
        # From all over the text, and no more than is looked at.
        every = max(1, int(sum(len(document.text) for document in documents) / wanted))
        return pack(documents[::every], tokenizer, self.recipe.row_length)

    def _quality(self, place: Path, rows: PackedRows, progress: Progress) -> dict[str, Any]:
        """Original and result on the same rows, with the same arithmetic: that in which the original is stored."""
        free = psutil.virtual_memory().available
        fits = 2 * sum(row.before for row in self.coverage) < LOADED_SHARE * free
        dtype = self.source.dtype("embedding.weight")
        progress(f"comparing with the original{'' if fits else ', which is streamed'}: {rows}")
        original: Decoder = load(self.source.path) if fits and format_of(self.source.path) == "hf" else streamed(self.source, dtype)
        found = evaluate(load(place), in_order(rows, self.recipe.batch_rows, self.recipe.limit_rows), teacher=original)
        assert found.teacher_loss is not None
        return {
            "data": list(self.recipe.data),
            "tokens": found.tokens,
            "row_length": self.recipe.row_length,
            "dtype": str(dtype).removeprefix("torch."),
            "loss_before": found.teacher_loss,
            "loss": found.loss,
            "perplexity_before": math.exp(found.teacher_loss),
            "perplexity": found.perplexity,
            "kl": found.teacher_kl,
            "same_choice": found.teacher_agreement,
        }


def _difference(weight: Tensor, codes: Tensor, scales: Tensor) -> tuple[float, float]:
    """Squares of what changed, and of the weight, summed."""
    changed = whole = 0.0
    rows, codes = weight.flatten(0, -2), codes.flatten(0, -2)
    scales = scales.reshape(len(rows), *([] if scales.dim() < weight.dim() else [-1]))
    for piece, few, their in zip(rows.split(ROWS), codes.split(ROWS), scales.split(ROWS), strict=True):
        found = dequantise(few, their, rows.shape[1], torch.float32)
        changed += float((found - piece).square().sum(dtype=torch.float64))
        whole += float(piece.float().square().sum(dtype=torch.float64))
    return changed, whole
