"""Write a GGUF file tensor by tensor, with the `gguf` package."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amaru.config import atomic_file
from amaru.data.tokenizer import Tokenizer
from amaru.errors import BackendError, CheckpointError, ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.models.formats.gguf.header import is_gguf
from amaru.models.formats.gguf.metadata import architecture, write_metadata
from amaru.models.formats.gguf.tensors import BLOCK, TYPES, stored_name, stored_shape, stored_type, to_stored
from amaru.models.formats.gguf.vocabulary import remark, vocabulary
from amaru.models.source import PIECE

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def write(
    path: str | Path, config: DecoderConfig, read: Callable[[str], Tensor], kind: str = "bf16", tokenizer: Tokenizer | None = None
) -> dict[str, int]:
    """`write("student.gguf", source.config, source.read, "q8_0", tokenizer)`: how many tensors have which type.

    `kind` is the type of the matrices, one of `TYPES`; norms, convolutions, A, D and dt are fp32. Without a tokenizer the file
    takes and gives token ids only. One tensor is held at a time; the file appears whole or not at all, and replaces none but a GGUF
    file. Raises `CheckpointError` for a stack that `refuses` or a value beyond f16, `BackendError` without the package.
    """
    if kind not in TYPES:
        raise ConfigError(f"A GGUF file is written as {', '.join(TYPES)}; got '{kind}'.")
    gguf, path = _package(), Path(path)
    _check_place(path)
    words = {"tokenizer.ggml.model": "none"} if tokenizer is None else vocabulary(tokenizer, config.vocab)
    about = {"general.name": path.stem, "general.file_type": int(gguf.LlamaFileType[_file_type(kind)])}
    metadata = about | write_metadata(config) | words
    shapes, types = _stored(config, kind)
    with atomic_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture(config))
        try:
            _announce(gguf, writer, metadata, shapes, types)
            for name, shape in shapes.items():
                writer.write_tensor_data(_encoded(gguf, name, to_stored(name, read(name)).reshape(shape), types[name]))
        finally:
            writer.close()
    return dict(Counter(types.values()))


def remarks(config: DecoderConfig, kind: str, tokenizer: Tokenizer | None) -> Iterator[str]:
    """What a user of the file that `write` makes should know; nothing, as a rule."""
    finer = [name for name, stored in _stored(config, kind)[1].items() if kind == "q8_0" and stored == "bf16"]
    if finer:
        yield f"{len(finer)} matrices stay in bf16, since their rows are no multiple of {BLOCK} numbers: {finer[0]}, ..."
    if tokenizer is None:
        yield "no tokenizer is in it, so llama.cpp takes and gives token ids only"
    elif told := remark(tokenizer):
        yield told


def _stored(config: DecoderConfig, kind: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shape and type of every tensor in the file, by our name."""
    shapes = {name: stored_shape(name, config) for name in config.tensors()}
    return shapes, {name: stored_type(name, shape, kind) for name, shape in shapes.items()}


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise BackendError("Writing GGUF needs the gguf package; install it with: pip install 'amaru[gguf]'") from None
    return gguf


def _check_place(path: Path) -> None:
    if path.is_dir() or (path.exists() and not is_gguf(path)):
        raise CheckpointError(f"{path} exists and is no GGUF file, so it is not replaced; choose another place.")


def _file_type(kind: str) -> str:
    return "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"


def _announce(gguf: Any, writer: Any, metadata: dict[str, Any], shapes: dict[str, tuple[int, ...]], types: dict[str, str]) -> None:
    """Write everything that stands before the tensors."""
    for key, value in metadata.items():
        _add(writer, key, value)
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType[types[name].upper()]
        length = int(np.prod(gguf.quant_shape_to_byte_shape(shape, kind), dtype=object))
        writer.add_tensor_info(stored_name(name), shape, np.dtype(np.float32), length, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _add(writer: Any, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)


def _encoded(gguf: Any, name: str, tensor: Tensor, kind: str) -> np.ndarray:
    """The bytes of one tensor, as an array of any type."""
    if kind == "q8_0":
        parts = tensor.split(max(1, PIECE // tensor[0].numel()))  # a large matrix in fp32 would be twice what was read
        return np.concatenate([gguf.quantize(part.float().numpy(), gguf.GGMLQuantizationType.Q8_0) for part in parts])
    encoded = tensor.to(DTYPES[kind]).contiguous()
    if kind == "f16" and not bool(encoded.isfinite().all()) and bool(tensor.isfinite().all()):
        raise CheckpointError(f"{name} holds values beyond 65504, the largest of f16; write bf16 or f32 instead.")
    return encoded.view(torch.uint8).numpy()
