"""Importance of layers by removal: how far the model's output moves when one layer is left out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from amaru.compress.halfway import Halfway
from amaru.compress.texts import HELD, Progress, Stream, Text, groups, itemsize, read_stream
from amaru.errors import CheckpointError, ConfigError
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.batch import Batch

Metric = Literal["mse", "kl"]
STAGE = "layers"
LOGITS = 2**25  # in one chunk: 128 MiB in fp32, of which a few are held


def layer_scores(decoder: Decoder, samples: Sequence[Batch], metric: Metric = "mse", **options: Any) -> np.ndarray:
    """`layer_scores(parent, samples)`: [layers], larger is more important; `removals` for one metric."""
    return removals(decoder, samples, (metric,), **options)[metric]


def removals(
    decoder: Decoder,
    samples: Sequence[Batch],
    metrics: Sequence[Metric] = ("mse", "kl"),
    *,
    progress: Progress | None = None,
    halfway: Halfway | None = None,
    held: int = HELD,
) -> dict[Metric, np.ndarray]:
    """`removals(parent, samples)["mse"]`: [layers], larger is more important; all metrics from one pass.

    mse   mean squared change of the tensor before the head, over tokens and channels (MiniPuzzle)
    kl    KL(full || without) of the next-token distribution, mean over tokens, in nats (Minitron-SSM)

    Averaged over samples. All variants go through a layer before any goes through the next: a variant begins where its layer would
    have been, from the full model's stream there, so n layers cost n/2 forward passes and not n, and a decoder that is `streamed`
    reads each weight once for every `held` bytes of hidden states. A layer whose keys and values others read cannot be left out
    alone: its importance is infinite. With `halfway` a run that was stopped goes on where it was last saved.

    Raises `DataError` without samples, `ConfigError` for another metric, `CheckpointError` naming layer and sample when an activation
    is not finite.
    """
    every = tuple(range(len(decoder.layers)))
    return _Round(decoder, list(samples), metrics, every, progress, halfway, held).scores()[0]


def iterative_layer_scores(
    decoder: Decoder,
    samples: Sequence[Batch],
    metric: Metric = "mse",
    *,
    floors: Mapping[str, int],
    progress: Progress | None = None,
    halfway: Halfway | None = None,
    held: int = HELD,
) -> np.ndarray:
    """[layers], larger is more important: drop the least important layer, score the rest again, and so on (Nemotron Nano 2).

    `floors` says for each kind how many layers stay in any case (kinds not named: 1). What is dropped first is
    numbered 0; layers that stay to the end come last, in the order of their final scores. Output is always compared
    with the full model's. Costs about n^2/6 forward passes per sample.
    """
    kinds, samples = [layer.kind for layer in decoder.config.layers], list(samples)
    _check_floors(kinds, floors)
    kept = tuple(range(len(kinds)))
    found = None if halfway is None else halfway.found(STAGE)
    dropped: list[int] = [] if found is None else found[0]["dropped"]
    full = None if not dropped else _Round(decoder, samples, (), kept, None, None, held).scores()[1]
    while True:
        kept = tuple(layer for layer in range(len(kinds)) if layer not in dropped)
        scores, ends = _Round(decoder, samples, (metric,), kept, progress, halfway, held, full, dropped).scores()
        full = full or ends
        moved = scores[metric]
        free = [layer for layer in kept if sum(kinds[other] == kinds[layer] for other in kept) > floors.get(kinds[layer], 1)]
        free = [layer for layer in free if math.isfinite(moved[layer])]
        if not free:
            break
        dropped.append(min(free, key=lambda layer: moved[layer]))
    order = dropped + sorted(kept, key=lambda layer: moved[layer])
    return np.argsort(order).astype(np.float64)


@dataclass
class _Variants:
    """One text on its way through the kept layers, and through all of them but one."""

    text: Text
    base: Stream
    without: dict[int, Stream] = field(default_factory=dict)

    def through(self, decoder: Decoder, index: int, layer: Any, removable: bool) -> None:
        batch = self.text.batch
        self.without = {other: stream.through(layer, batch) for other, stream in self.without.items()}
        if removable:
            self.without[index] = self.base
        self.base = self.base.through(layer, batch)
        if not self.base.x.isfinite().all():
            raise CheckpointError(
                f"Activations are not finite in layer {index} on calibration sample {self.text.number}; check the checkpoint's weights, "
                f"or compute in fp32 or bf16."
            )


@dataclass
class _Round:
    """Scores of the kept layers of a model whose other layers (`dropped`, in this order) are gone already.

    `full` are the ends of all samples in the full model; where no layer is gone, they come of this round.
    """

    decoder: Decoder
    samples: list[Batch]
    metrics: Sequence[Metric]
    kept: tuple[int, ...]
    progress: Progress | None
    halfway: Halfway | None
    held: int
    full: list[Tensor] | None = None
    dropped: list[int] = field(default_factory=list)

    @torch.no_grad()
    def scores(self) -> tuple[dict[Metric, np.ndarray], list[Tensor]]:
        if unknown := [metric for metric in self.metrics if metric not in ("mse", "kl")]:
            raise ConfigError(f"Layers are scored by mse or kl; got '{unknown[0]}'.")
        removable = _removable(self.decoder.config, self.kept) if self.metrics else set[int]()
        totals: dict[Metric, np.ndarray] = {metric: np.full(len(self.decoder.layers), math.inf) for metric in self.metrics}
        for total in totals.values():
            total[list(removable)] = 0
        found = self._found()
        place: dict[str, Any] = {"group": 0} if found is None else found[0]
        totals |= {metric: np.array(values) for metric, values in place.get("totals", {}).items()}
        ends: list[Tensor] = [] if found is None else [found[1][f"end.{number}"] for number in range(place["ends"])]
        grouped = groups(self.decoder.config, self.samples, len(removable) + 1, itemsize(self.decoder), self.held)
        for number, group in enumerate(grouped):
            if number < place["group"]:
                continue
            texts, first = self._begun(group, found if number == place["group"] else None)
            self._through(texts, first, removable, {"group": number, "ends": len(ends)}, totals, ends)
            ends += [self._end(each.text, each.base) for each in texts]
            self._compare(texts, self.full or ends, totals)
        return totals, ends

    def _found(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        found = None if self.halfway is None else self.halfway.found(STAGE)
        return found if found is not None and found[0]["dropped"] == self.dropped else None

    def _begun(self, group: list[tuple[int, Batch]], found: Any) -> tuple[list[_Variants], int]:
        """The texts of a group before the first layer, or where they were saved, and at which of the kept layers that is."""
        texts = [Text.of(self.decoder, *sample) for sample in group]
        if found is None:
            return [_Variants(text, text.start) for text in texts], 0
        place, tensors = found
        variants = []
        for text in texts:
            without = {layer: read_stream(tensors, f"{text.number}.without.{layer}") for layer in place["without"]}
            variants.append(_Variants(text, read_stream(tensors, f"{text.number}.base"), without))
        return variants, place["passed"]

    def _through(
        self,
        texts: list[_Variants],
        first: int,
        removable: set[int],
        place: dict[str, Any],
        totals: dict[Metric, np.ndarray],
        ends: list[Tensor],
    ) -> None:
        for passed, layer in enumerate(self.decoder.in_order(self.kept[first:]), first + 1):
            index = self.kept[passed - 1]
            for each in texts:
                each.through(self.decoder, index, layer, index in removable)
            if self.progress and self.metrics:
                self.progress(self._said(passed, texts))
            if self.halfway is not None and self.metrics:
                place |= {"dropped": self.dropped, "passed": passed, "without": list(texts[0].without)}
                place["totals"] = {metric: total.tolist() for metric, total in totals.items()}
                self.halfway.reached(STAGE, place, lambda: _tensors(texts, ends))

    def _said(self, passed: int, texts: list[_Variants]) -> str:
        without = f" of {len(self.kept)} left" if self.dropped else f"/{len(self.kept)}"
        return f"layers: {passed}{without}, samples {texts[0].text.number} to {texts[-1].text.number} of {len(self.samples)}"

    def _end(self, text: Text, stream: Stream) -> Tensor:
        return self.decoder.end(stream.x, text.real)

    def _compare(self, texts: list[_Variants], full: list[Tensor], totals: dict[Metric, np.ndarray]) -> None:
        with self.decoder.hold_head():
            for metric, total in totals.items():
                for each in texts:
                    expected, number = full[each.text.number - 1], each.text.number
                    ends = ((layer, self._end(each.text, stream)) for layer, stream in each.without.items())
                    for layer, moved in _mse(expected, ends) if metric == "mse" else _kl(self.decoder, expected, dict(ends)):
                        if not math.isfinite(moved):
                            raise CheckpointError(
                                f"Without layer {layer} the output is not finite on calibration sample {number}; compute in fp32 or bf16."
                            )
                        total[layer] += moved / len(self.samples)


def _tensors(texts: list[_Variants], ends: list[Tensor]) -> dict[str, Tensor]:
    kept = {f"end.{number}": end for number, end in enumerate(ends)}
    for each in texts:
        number = each.text.number
        kept |= each.base.tensors(f"{number}.base")
        for layer, stream in each.without.items():
            kept |= stream.tensors(f"{number}.without.{layer}")
    return kept


def _removable(config: DecoderConfig, kept: Sequence[int]) -> set[int]:
    """Kept layers but those whose keys and values another kept one reads."""
    read = {source for index, source in config.kv_sources().items() if index in kept}
    return {layer for layer in kept if layer not in read}


Ends = Iterator[tuple[int, Tensor]]


def _mse(full: Tensor, ends: Ends) -> Iterator[tuple[int, float]]:
    wide = torch.promote_types(full.dtype, torch.float32)
    for layer, without in ends:
        yield layer, (full.to(wide) - without.to(wide)).square().mean().item()


def _kl(decoder: Decoder, full: Tensor, ends: Mapping[int, Tensor]) -> Iterator[tuple[int, float]]:
    """KL(full || without) in nats, mean over tokens, of tensors before the head; logits exist a chunk at a time."""
    totals = dict.fromkeys(ends, 0.0)
    chunk = max(1, LOGITS // decoder.config.vocab)
    for start in range(0, len(full), chunk):
        log_p, p = _distribution(decoder, full[start : start + chunk])
        for layer, without in ends.items():
            log_q = torch.log_softmax(decoder.logits(without[start : start + chunk]), dim=-1)
            totals[layer] += (log_p - log_q).mul_(p).sum().item()
    return ((layer, total / len(full)) for layer, total in totals.items())


def _distribution(decoder: Decoder, hidden: Tensor) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(decoder.logits(hidden), dim=-1)
    return log_p, log_p.exp()


def _check_floors(kinds: list[str], floors: Mapping[str, int]) -> None:
    for kind, floor in floors.items():
        if not 0 <= floor <= kinds.count(kind):
            raise ConfigError(f"A floor of {floor} {kind} layers cannot be kept: the model has {kinds.count(kind)}.")
