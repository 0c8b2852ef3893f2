"""The residual streams of teacher and student: what they are behind some layers, how far apart, and how a narrow one is compared with a
wide one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amaru.distill.terms import Matching
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch
from amaru.nn.linear import Linear


def states(decoder: Decoder, batch: Batch, layers: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
    """[T, hidden] after the final norm, as `hidden_states` gives it, and [T, hidden] behind each of some layers."""
    x, longer, real = decoder.begin(batch)
    with _kept(decoder, layers) as kept:
        last = decoder.through(x, longer, None, real)
    return last, {layer: state if real is None else state[real] for layer, state in kept.items()}


@contextmanager
def _kept(decoder: Decoder, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: tuple[Tensor, Any]) -> None:
            kept[layer] = output[0]

        return hook

    hooks = [decoder.layers[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


class Projection(Linear):
    """A matrix that is no part of the model: neither FP8 nor adapters, which take what is a `Linear`, take it."""


class Projections(nn.ModuleList):
    """A trained matrix [teacher's hidden, student's hidden] for each pair of layers."""

    def __init__(self, pairs: int, rows: int, cols: int, seed: int) -> None:
        super().__init__(Projection(rows, cols) for _ in range(pairs))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(0, cols**-0.5, generator=generator)


def project(student: Decoder, hidden: int, pairs: int, seed: int) -> Decoder:
    """`project(student, teacher.hidden, pairs=8, seed=0)`: the student, with matrices to learn beside its own where widths differ.

    They are trained and kept in training checkpoints like its weights; a model that is saved goes without them.
    """
    if student.config.hidden != hidden:
        student.projections = Projections(pairs, hidden, student.config.hidden, seed)
    return student


def distance(
    matching: Matching, pairs: Sequence[tuple[int, int]], student: Decoder, mine: Mapping[int, Tensor], theirs: Mapping[int, Tensor]
) -> Tensor:
    """A mean over pairs of layers and tokens, in at least fp32, with a gradient; 0 where the streams are alike.

    Raises `ConfigError` for streams of different width and a student without projections.
    """
    matrices = getattr(student, "projections", None) or [None] * len(pairs)
    found = []
    for (layer, other), matrix in zip(pairs, matrices, strict=True):
        s, t = mine[layer] if matrix is None else matrix(mine[layer]), theirs[other].to(mine[layer].device)
        if s.shape != t.shape:
            raise ConfigError(
                f"Hidden states of {s.shape[-1]} and {t.shape[-1]} numbers are compared only through projections: project(student, ...)."
            )
        wide = torch.promote_types(s.dtype, torch.float32)
        found.append(_apart(matching, s.to(wide), t.to(wide)).mean())
    return torch.stack(found).mean()


def _apart(matching: Matching, s: Tensor, t: Tensor) -> Tensor:
    """[n]"""
    if matching.by == "cosine":
        return 1 - F.cosine_similarity(s, t, dim=-1)
    return (t - s).square().sum(-1) / t.square().sum(-1)
