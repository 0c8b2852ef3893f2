"""Importance of widths: one streaming pass, forward only (Minitron-SSM, section 3; Minitron for ffn and hidden)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amaru.axes import Expression
from amaru.compress.scores import Scores
from amaru.errors import CheckpointError, DataError
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Reading

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Site:
    """Where activations are read: the output (or input) of a module, and the rows of it that are meant."""

    layer: int
    expression: str
    shape: tuple[int, ...]
    module: nn.Module
    rows: slice
    at_input: bool = False


@torch.no_grad()
def score(
    decoder: Decoder,
    samples: Iterable[Batch],
    *,
    ffn_after_activation: bool = False,
    made_from: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Scores:
    """`score(parent, samples)`: the importance of every index that a cut may drop.

    Each batch is one sample. For every site |activation| in at least fp32 is averaged over the tokens of a sample, and
    the score is the L2 norm of these averages over samples. Heads and channels are read from the x part of in_proj
    before the convolution, and kept apart, so that heads can later be judged on surviving channels alone; ffn neurons
    before the activation (with `ffn_after_activation` behind it, as MiniPuzzle does); channels of the residual stream
    from the output of every norm that reads it, summed over the norms.

    Raises `DataError` without samples or tokens, `CheckpointError` naming layer and sample when an activation is not finite.
    """
    sites = [*_stream_sites(decoder), *_width_sites(decoder, ffn_after_activation)]
    squares = [torch.zeros(int(np.prod(site.shape)), dtype=torch.float64, device=decoder.embedding.weight.device) for site in sites]
    count = tokens = 0
    for count, batch in enumerate(samples, 1):
        means = _means(decoder, batch, sites)
        _check_finite(means, sites, count)
        for total, mean in zip(squares, means, strict=True):
            total += mean.double().square()
        tokens += len(batch.ids)
        if progress:
            progress(f"importance: sample {count}, {tokens:,} tokens")
    if not count:
        raise DataError("Importance needs at least one sample of calibration text; there was none.")
    norms = [total.sqrt().cpu().numpy().reshape(site.shape) for total, site in zip(squares, sites, strict=True)]
    streams = len(decoder.layers) + 1
    within: tuple[dict[str, np.ndarray], ...] = tuple({} for _ in decoder.layers)
    for site, array in zip(sites[streams:], norms[streams:], strict=True):
        within[site.layer][site.expression] = within[site.layer].get(site.expression, 1) * array
    return Scores(
        hidden=np.sum(norms[:streams], axis=0),
        within=within,
        samples=count,
        tokens=tokens,
        ffn_read="after activation" if ffn_after_activation else "before activation",
        made_from=made_from or {},
    )


def _stream_sites(decoder: Decoder) -> Iterator[Site]:
    """The output of every norm that reads the residual stream, the one before the head included."""
    for index, norm in enumerate([*(layer.norm for layer in decoder.layers), decoder.norm]):
        yield Site(index, "hidden", (decoder.config.hidden,), norm, slice(None))  # type: ignore[arg-type]


def _width_sites(decoder: Decoder, ffn_after_activation: bool) -> Iterator[Site]:
    for index, (config, layer) in enumerate(zip(decoder.config.layers, decoder.layers, strict=True)):
        readings = {reading: axis for axis, probe in config.probes.items() for reading in probe.readings}
        for reading, axis in readings.items():
            rows, expression = config.read(reading)
            if axis == "ffn" and ffn_after_activation:
                reading, rows = Reading(_consumer(config, expression), at_input=True), slice(None)
            shape = tuple(config.axes()[name].size for name in str(expression).split(" x "))
            module = layer.mixer.get_submodule(reading.module)  # type: ignore[union-attr]
            yield Site(index, str(expression), shape, module, rows, reading.at_input)


def _consumer(config: LayerConfig, expression: Expression) -> str:
    """The linear layer whose columns are what `expression` says: the one that reads it."""
    return next(name.removesuffix(".weight") for name, spec in config.tensors().items() if expression in spec.layout.dimensions[1:])


def _means(decoder: Decoder, batch: Batch, sites: list[Site]) -> list[Tensor]:
    """For every site the mean over the sample's tokens of |activation| [rows]."""
    if not len(batch.ids):
        raise DataError("A calibration sample has no tokens.")
    means: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for number, site in enumerate(sites):
            hooks.enter_context(_reading(site, means, number))
        decoder.hidden_states(batch)
    return [means[number] for number in range(len(sites))]


@contextmanager
def _reading(site: Site, means: dict[int, Tensor], number: int) -> Iterator[None]:
    def read(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        values = (inputs[0] if site.at_input else output)[..., site.rows]
        means[number] = values.to(torch.promote_types(values.dtype, torch.float32)).abs().mean(0)

    handle = site.module.register_forward_hook(read)
    try:
        yield
    finally:
        handle.remove()


def _check_finite(means: list[Tensor], sites: list[Site], sample: int) -> None:
    finite = torch.stack([mean.isfinite().all() for mean in means]).tolist()  # one transfer per sample
    if all(finite):
        return
    # The norm of a layer is read before the layer itself, so the first site in layer order is where it began.
    bad = min((site for site, fine in zip(sites, finite, strict=True) if not fine), key=lambda site: site.layer)
    raise CheckpointError(
        f"Activations are not finite in layer {bad.layer} (its {bad.expression}) on calibration sample {sample}; "
        f"check the checkpoint's weights, or compute in fp32 or bf16 when it runs in fp16."
    )
