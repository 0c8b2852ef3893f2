"""The formats that are written: what each can hold, how it is asked for, and how large it becomes."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from amaru.config import Config
from amaru.errors import CheckpointError, ConfigError
from amaru.models import checkpoint
from amaru.models.carried import Carried
from amaru.models.checkpoint import kept
from amaru.models.formats import gguf, nemo
from amaru.models.formats.megatron.export import check_ranks, export, remarks
from amaru.models.source import Source
from amaru.nn.mamba2 import Mamba2

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
KINDS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "q8_0": "q8_0"}  # as GGUF calls them


class Request(Config):
    """What a conversion is asked for.

    to         the format: one of `TARGETS`
    dtype      of the weights, one of `Target.dtypes`; None keeps what each tensor is stored in
    uniform    pad all layers of a kind to one width
    ranks      tensor-parallel ranks that a Megatron checkpoint is cut for; any number reads it
    tokenizer  a directory, tokenizer.json or llama2.c tokenizer.bin, instead of what lies beside the source
    """

    source: str
    out: str
    to: str
    dtype: str | None = None
    uniform: bool = False
    ranks: int = 1
    tokenizer: str | None = None

    def check(self) -> None:
        if self.to not in TARGETS:
            raise ConfigError(f"There is no format '{self.to}' to write; there is: {', '.join(TARGETS)}.")
        if self.dtype is not None and self.dtype not in TARGETS[self.to].dtypes:
            raise ConfigError(f"{self.to} is written in {', '.join(TARGETS[self.to].dtypes)}; got '{self.dtype}'.")
        if self.ranks != 1 and not TARGETS[self.to].ranked:
            raise ConfigError(f"{self.to} is not cut for tensor-parallel ranks; leave ranks at 1, or convert to megatron or nemo.")


class Target(NamedTuple):
    """What writes a format, what it refuses beforehand, what a user of the copy should know, its dtypes, whether it is one file,
    whether it is cut for ranks."""

    write: Callable[[Source, Path, Request, Carried], object]
    check: Callable[[Source, Request], object] = lambda source, request: None
    remarks: Callable[[Source, Request, Carried], Iterable[str]] = lambda source, request, carried: ()
    dtypes: tuple[str, ...] = tuple(DTYPES)
    is_file: bool = False
    ranked: bool = False


def _write_hf(source: Source, path: Path, request: Request, carried: Carried) -> None:
    dtype = DTYPES[request.dtype] if request.dtype else source.dtype
    checkpoint.write(path, source.config, source.read, dtype, values=carried.ids)


def _hf_remarks(source: Source, request: Request, carried: Carried) -> Iterable[str]:
    highest = {layer.time_step_limit[1] for layer in source.config.layers if isinstance(layer, Mamba2)} - {math.inf}
    if highest:
        yield f"transformers up to 5.23 ignores the upper end of time_step_limit, {max(highest):g} here, and lets dt go beyond it"
    if getattr(source, "encodings", None):
        yield "its weights of 8 and 4 bits were written as the numbers that its codes mean"


def _write_megatron(source: Source, path: Path, request: Request, carried: Carried) -> None:
    export(source, path, ranks=request.ranks, dtype=DTYPES[request.dtype] if request.dtype else None)


def _write_nemo(source: Source, path: Path, request: Request, carried: Carried) -> None:
    nemo.export(source, path, ranks=request.ranks, dtype=DTYPES[request.dtype] if request.dtype else None)


def _write_gguf(source: Source, path: Path, request: Request, carried: Carried) -> None:
    gguf.write(path, source.config, source.read, KINDS[_gguf_dtype(source, request)], carried.loaded())


def _gguf_remarks(source: Source, request: Request, carried: Carried) -> Iterable[str]:
    return gguf.remarks(source.config, KINDS[_gguf_dtype(source, request)], carried.loaded())


def _gguf_dtype(source: Source, request: Request) -> str:
    stored = source.dtype("embedding.weight")
    dtype = request.dtype or next((name for name in KINDS if DTYPES.get(name) == stored), None)
    if dtype is None:
        raise ConfigError(f"GGUF has no {stored}, in which this model is stored; give a dtype: {', '.join(KINDS)}.")
    return dtype


def _check_megatron(source: Source, request: Request) -> None:
    check_ranks(source.config, request.ranks)


def _check_gguf(source: Source, request: Request) -> None:
    _gguf_dtype(source, request)
    if why := gguf.refuses(source.config):
        raise CheckpointError(f"{why[0].upper()}{why[1:]}.")


TARGETS = {
    "hf": Target(_write_hf, remarks=_hf_remarks),
    "megatron": Target(_write_megatron, _check_megatron, lambda source, *_: remarks(source.config), ranked=True),
    "nemo": Target(_write_nemo, _check_megatron, ranked=True),
    "gguf": Target(_write_gguf, _check_gguf, _gguf_remarks, dtypes=tuple(KINDS), is_file=True),
}


def bytes_of(source: Source, dtype: str | None) -> int:
    """Of all tensors as they will be stored."""
    total = 0.0
    for name, (spec, axes) in source.config.tensors().items():
        asked = DTYPES.get(dtype or "")
        width = 34 / 32 if dtype == "q8_0" else (kept(spec, asked) if asked else source.dtype(name)).itemsize
        total += spec.layout.numel(axes) * width
    return round(total)
