"""Importance of widths: one streaming pass, forward only (Minitron-SSM, section 3; Minitron for ffn and hidden; FLAP)."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from amaru.compress.halfway import Halfway
from amaru.compress.scores import Scores
from amaru.compress.sites import Site, sites_of
from amaru.compress.texts import HELD, Progress, Text, groups, itemsize, read_stream
from amaru.errors import CheckpointError
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch

STAGE = "widths"


@torch.no_grad()
def score(
    decoder: Decoder,
    samples: Iterable[Batch],
    *,
    ffn_after_activation: bool = False,
    fluctuation: Collection[str] = (),
    made_from: dict[str, str] | None = None,
    progress: Progress | None = None,
    halfway: Halfway | None = None,
    held: int = HELD,
) -> Scores:
    """`score(parent, samples)`: the importance of every index that a cut may drop.

    Each batch is one sample. For every site |activation| in at least fp32 is averaged over the tokens of a sample, and
    the score is the L2 norm of these averages over samples. Heads and channels are read from the x part of in_proj
    before the convolution, and kept apart, so that heads can later be judged on surviving channels alone; ffn neurons
    before the activation (with `ffn_after_activation` behind it, as MiniPuzzle does); channels of the residual stream
    from the output of every norm that reads it, summed over the norms; the vocabulary by how often a token occurs.

    Layers of the kinds in `fluctuation` are scored as FLAP does: by the spread over all tokens of what the projection back to the
    stream reads, times the norm of the column that reads it. Their means are kept too.

    All samples go through one layer before any goes through the next, so a decoder that is `streamed` reads each weight once for every
    `held` bytes of hidden states. With `halfway` a run that was stopped goes on at the layer where it was last saved.

    Raises `DataError` without samples or tokens, `CheckpointError` naming layer and sample when an activation is not finite.
    """
    samples = list(samples)
    sites = sites_of(decoder, ffn_after_activation, fluctuation)
    found = None if halfway is None else halfway.found(STAGE)
    start = {"group": 0, "layer": 0} if found is None else found[0]
    if found is not None:
        _read_totals(sites, found[1])
    for number, group in enumerate(groups(decoder.config, samples, 1, itemsize(decoder), held)):
        if number < start["group"]:
            continue
        texts = [Text.of(decoder, *sample) for sample in group]
        first = start["layer"] if number == start["group"] else 0
        if first and found is not None:
            texts = [replace(text, start=read_stream(found[1], f"text.{text.number}")) for text in texts]
        for index, reached in _through_layers(decoder, texts, sites, first):
            if progress:
                progress(f"importance: layer {index + 1}/{len(decoder.layers)}, samples {group[0][0]} to {group[-1][0]} of {len(samples)}")
            if halfway is not None:
                halfway.reached(STAGE, {"group": number, "layer": index + 1}, _saved(sites, reached))
    return _scores(decoder, samples, sites, ffn_after_activation, fluctuation, made_from or {})


def _through_layers(decoder: Decoder, texts: list[Text], sites: list[list[Site]], first: int) -> Iterator[tuple[int, list[Text]]]:
    """After each layer, and at last the final norm, the texts as they are there."""
    last = len(decoder.layers)
    for index, layer in enumerate(decoder.in_order(range(first, last)), first):
        moved = []
        for text in texts:
            with _reading(sites[index], text):
                stream = text.start.through(layer, text.batch)
            _check_finite(stream.x, index, "output", text.number)
            moved.append(replace(text, start=stream))
        texts = moved
        yield index, texts
    for text in texts:
        with _reading(sites[last], text):
            decoder.end(text.start.x, None)


@contextmanager
def _reading(sites: list[Site], text: Text) -> Iterator[None]:
    """Every site looks at what its module is given, or gives, for this text."""
    values: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for number, site in enumerate(sites):
            hooks.enter_context(site.watched(values, number))
        yield
    for number, site in enumerate(sites):
        own = text.own(values.pop(number))
        site.total.add(own.to(torch.promote_types(own.dtype, torch.float32)))
        _check_finite(site.total.last, site.layer, site.expression, text.number)


def _check_finite(values: Tensor, layer: int, what: str, sample: int) -> None:
    if not values.isfinite().all():
        raise CheckpointError(
            f"Activations are not finite in layer {layer} (its {what}) on calibration sample {sample}; "
            f"check the checkpoint's weights, or compute in fp32 or bf16 when it runs in fp16."
        )


def _saved(sites: list[list[Site]], texts: list[Text]) -> Callable[[], dict[str, Tensor]]:
    def tensors() -> dict[str, Tensor]:
        kept = {f"site.{layer}.{place}.{name}": tensor for layer, place, name, tensor in _totals(sites)}
        for text in texts:
            kept |= text.start.tensors(f"text.{text.number}")
        return kept

    return tensors


def _totals(sites: list[list[Site]]) -> Iterator[tuple[int, int, str, Tensor]]:
    for layer, here in enumerate(sites):
        for place, site in enumerate(here):
            for name, tensor in site.total.tensors().items():
                yield layer, place, name, tensor


def _read_totals(sites: list[list[Site]], tensors: dict[str, Tensor]) -> None:
    for layer, place, name, tensor in _totals(sites):
        tensor.copy_(tensors[f"site.{layer}.{place}.{name}"])


def _scores(
    decoder: Decoder,
    samples: list[Batch],
    sites: list[list[Site]],
    ffn_after_activation: bool,
    fluctuation: Collection[str],
    made_from: dict[str, str],
) -> Scores:
    hidden = np.zeros(decoder.config.hidden)
    within: list[dict[str, np.ndarray]] = [{} for _ in decoder.layers]
    means: list[dict[str, np.ndarray]] = [{} for _ in decoder.layers]
    for site in (site for here in sites for site in here):
        array = site.total.score().cpu().numpy().reshape(site.shape)
        if site.expression == "hidden":
            hidden += array
            continue
        within[site.layer][site.expression] = within[site.layer].get(site.expression, 1) * array
        if (mean := site.total.mean()) is not None:
            means[site.layer][site.expression] = mean.cpu().numpy().reshape(site.shape)
    ids = torch.cat([sample.ids for sample in samples])
    return Scores(
        hidden=hidden,
        within=tuple(within),
        means=tuple(means),
        vocab=ids.bincount(minlength=decoder.config.vocab).cpu().numpy(),
        samples=len(samples),
        tokens=len(ids),
        ffn_read="after activation" if ffn_after_activation else "before activation",
        fluctuation=tuple(sorted(fluctuation)),
        made_from=made_from,
    )
