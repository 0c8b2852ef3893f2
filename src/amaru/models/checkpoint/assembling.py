"""A decoder made from tensors that come one by one, out of a checkpoint or from elsewhere."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from amaru.axes import TensorSpec
from amaru.models.checkpoint.reading import Checkpoint, Codes
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.quantised import place_codes

Read = Callable[[str], Tensor]


def load(path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Decoder:
    """`load("runs/demo/parent")`: a decoder with the checkpoint's weights, which go to `device` one by one.

    `dtype` None keeps the stored one; A_log, D and dt_bias stay in at least fp32 whatever it is.
    """
    checkpoint = Checkpoint(path)
    return assemble(checkpoint.config, checkpoint.read, dtype, dict.fromkeys(checkpoint.encodings, checkpoint.codes), device)


def assemble(
    config: DecoderConfig,
    read: Read,
    dtype: torch.dtype | None = None,
    codes: Mapping[str, Callable[[str], Codes]] = MappingProxyType({}),
    device: torch.device | str = "cpu",
) -> Decoder:
    """A decoder whose tensors come one by one from `read(name)`, or as codes from `codes[name](name)`; nothing is held twice."""
    with torch.device("meta"):
        decoder = Decoder(config)
    for name, (spec, axes) in config.tensors().items():
        shape = spec.layout.shape(axes)
        if name in codes:
            held, scales = codes[name](name)
            place_codes(decoder, name, held.to(device), scales.to(device), shape[-1])
            continue
        tensor = in_dtype(read(name), spec, dtype)
        assert tensor.shape == shape, f"{name}: {tensor.shape}"
        place(decoder, name, tensor.to(device))
    if config.tied:
        decoder.tie()
    return decoder


def in_dtype(tensor: Tensor, spec: TensorSpec, dtype: torch.dtype | None) -> Tensor:
    """As a model computes with it: None keeps the stored dtype, but what `keep_fp32` says is always in at least fp32."""
    return tensor.to(kept(spec, dtype or tensor.dtype))


def kept(spec: TensorSpec, dtype: torch.dtype) -> torch.dtype:
    """The dtype of one tensor of a model in `dtype`."""
    return torch.promote_types(dtype, torch.float32) if spec.keep_fp32 else dtype


def place(decoder: Decoder, name: str, tensor: Tensor) -> None:
    """Make a tensor the parameter of this name."""
    *path, leaf = name.split(".")
    setattr(decoder.get_submodule(".".join(path)), leaf, torch.nn.Parameter(tensor))
