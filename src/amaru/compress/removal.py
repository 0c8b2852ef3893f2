"""Importance of layers by removal: how far the model's output moves when one layer is left out."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from amaru.errors import CheckpointError, ConfigError, DataError
from amaru.models.decoder import Decoder
from amaru.nn.attention import KV
from amaru.nn.batch import Batch

Metric = Literal["mse", "kl"]
Progress = Callable[[str], None]
Stream = tuple[Tensor, KV | None]
"""The residual stream, and the keys and values that later layers may share."""


def layer_scores(decoder: Decoder, samples: Sequence[Batch], metric: Metric = "mse", *, progress: Progress | None = None) -> np.ndarray:
    """`layer_scores(parent, samples)`: [layers], larger is more important.

    mse   mean squared change of the tensor before the head, over tokens and channels (MiniPuzzle)
    kl    KL(full || without) of the next-token distribution, mean over tokens, in nats (Minitron-SSM)

    Averaged over samples. A layer's removal reuses the residual stream that the full model had where that layer begins, so
    n layers cost n/2 forward passes and not n. Raises `DataError` without samples, `ConfigError` for another metric.
    """
    return _scores(decoder, samples, metric, tuple(range(len(decoder.layers))), progress)


def iterative_layer_scores(
    decoder: Decoder,
    samples: Sequence[Batch],
    metric: Metric = "mse",
    *,
    floors: Mapping[str, int],
    progress: Progress | None = None,
) -> np.ndarray:
    """[layers], larger is more important: drop the least important layer, score the rest again, and so on (Nemotron Nano 2).

    `floors` says for each kind how many layers stay in any case (kinds not named: 1). What is dropped first is
    numbered 0; layers that stay to the end come last, in the order of their final scores. Output is always compared
    with the full model's. Costs about n^2/6 forward passes per sample.
    """
    kinds = [layer.kind for layer in decoder.config.layers]
    _check_floors(kinds, floors)
    kept = tuple(range(len(kinds)))
    dropped: list[int] = []
    while True:
        scores = _scores(decoder, samples, metric, kept, progress)
        free = [layer for layer in kept if sum(kinds[other] == kinds[layer] for other in kept) > floors.get(kinds[layer], 1)]
        if not free:
            break
        least = min(free, key=lambda layer: scores[layer])
        dropped.append(least)
        kept = tuple(layer for layer in kept if layer != least)
    order = dropped + sorted(kept, key=lambda layer: scores[layer])
    return np.argsort(order).astype(np.float64)


@torch.no_grad()
def _scores(decoder: Decoder, samples: Sequence[Batch], metric: Metric, kept: tuple[int, ...], progress: Progress | None) -> np.ndarray:
    """Scores of the kept layers of a model whose other layers are gone already; infinity for those."""
    if metric not in ("mse", "kl"):
        raise ConfigError(f"Layers are scored by mse or kl; got '{metric}'.")
    if not len(samples):
        raise DataError("Layer importance needs at least one sample of calibration text; there was none.")
    totals = np.full(len(decoder.layers), math.inf)
    totals[list(kept)] = 0
    for number, batch in enumerate(samples, 1):
        for layer, moved in _moved(decoder, batch, metric, kept):
            if not math.isfinite(moved):
                raise CheckpointError(
                    f"Without layer {layer} the output is not finite on calibration sample {number}; compute in fp32 or bf16."
                )
            totals[layer] += moved / len(samples)
        if progress:
            progress(f"layers: sample {number}/{len(samples)} with {len(kept)} of {len(totals)} layers")
    return totals


def _moved(decoder: Decoder, batch: Batch, metric: Metric, kept: tuple[int, ...]) -> list[tuple[int, float]]:
    """For each kept layer, how far one sample's output is from the full model's without it."""
    embedded, batch, real = decoder.begin(batch)
    full = decoder.end(_through(decoder, (embedded, None), batch, range(len(decoder.layers)))[-1][0], real)
    before = _through(decoder, (embedded, None), batch, kept)
    moved = []
    for place, layer in enumerate(kept):
        without = decoder.end(_through(decoder, before[place], batch, kept[place + 1 :])[-1][0], real)
        moved.append((layer, _mse(full, without) if metric == "mse" else _mean_kl(decoder, full, without)))
    return moved


def _through(decoder: Decoder, start: Stream, batch: Batch, layers: Sequence[int]) -> list[Stream]:
    """The residual stream before each of these layers, and after the last."""
    streams = [start]
    for layer in layers:
        x, kv = streams[-1]
        streams.append(decoder.layers[layer](x, batch, None, kv))
    return streams


def _mse(full: Tensor, without: Tensor) -> float:
    wide = torch.promote_types(full.dtype, torch.float32)
    return (full.to(wide) - without.to(wide)).square().mean().item()


def _mean_kl(decoder: Decoder, full: Tensor, without: Tensor, chunk_tokens: int = 1024) -> float:
    """KL(full || without) in nats, mean over tokens, of two tensors before the head; logits exist a chunk at a time."""
    total = 0.0
    for taught, found in zip(full.split(chunk_tokens), without.split(chunk_tokens), strict=True):
        log_p, log_q = (torch.log_softmax(decoder.logits(hidden), dim=-1) for hidden in (taught, found))
        total += (log_p.exp() * (log_p - log_q)).sum().item()
    return total / len(full)


def _check_floors(kinds: list[str], floors: Mapping[str, int]) -> None:
    for kind, floor in floors.items():
        if not 0 <= floor <= kinds.count(kind):
            raise ConfigError(f"A floor of {floor} {kind} layers cannot be kept: the model has {kinds.count(kind)}.")
