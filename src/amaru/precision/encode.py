"""Numbers become codes: 8 bits with a scale for each row, 4 bits with one for each group of columns."""

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.quantised_linear import GROUPS, Encoding, Kind, pack, width_of

PIECE = 2**22  # numbers that are looked at together: what the search for scales needs is a dozen times as much
LARGEST = {Kind.INT8: 127.0, Kind.FP8: 448.0}
# Of the scale at which the largest number of a group is the largest code: what is lost there may be less than what the others gain.
TRIED = tuple(1 - 0.05 * step for step in range(8))
ROUNDS = 2  # of codes for a scale, and the best scale for those codes


def encode(weight: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight [..., cols], as `quantised_linear` takes them; the leading axes stay.

    >>> codes, scales = encode(linear.weight, Encoding(Kind.INT4, group=64))

    int8: codes -127 to 127, the largest of each row at its end; fp8 (E4M3): the same with 448. int4: codes -8 to 7; of several scales for
    each group the one that leaves the least squared error.
    Raises `ConfigError` for a group that is none of `GROUPS` and for weights that are not finite.
    """
    if encoding.group not in GROUPS:
        raise ConfigError(f"4-bit codes share a scale in groups of {', '.join(map(str, GROUPS))} columns; got {encoding.group}.")
    rows = weight.detach().flatten(0, -2)
    made = [_encoded(piece, encoding) for piece in rows.split(max(1, PIECE // max(1, rows.shape[1])))]
    codes, scales = (torch.cat(parts).unflatten(0, weight.shape[:-1]) for parts in zip(*made, strict=True))
    return codes, scales


def _encoded(rows: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
    rows = rows.float()
    if not rows.isfinite().all():
        raise ConfigError("A weight holds numbers that are not finite; it cannot be quantised.")
    return _four(rows, encoding.group) if encoding.kind is Kind.INT4 else _eight(rows, encoding.kind)


def _eight(weight: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    most = LARGEST[kind]
    scales = (weight.abs().amax(1) / most).clamp_min(torch.finfo(torch.float32).tiny)
    numbers = (weight / scales[:, None]).clamp(-most, most)
    return (numbers.round().to(torch.int8) if kind is Kind.INT8 else numbers.to(torch.float8_e4m3fn)), scales


def _four(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    rows, cols = weight.shape
    groups = F.pad(weight, (0, -cols % group)).view(rows, -1, group)
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    whole = -largest / 8  # of that sign at which the largest number is -8, the code that has no opposite
    best, codes, scales = torch.full_like(largest, torch.inf), torch.zeros_like(groups), torch.zeros_like(largest)
    for part in TRIED:
        scale = part * whole
        for _ in range(ROUNDS):
            scale = scale.bfloat16().float()
            tried = (groups / torch.where(scale == 0, 1, scale)).round().clamp(-8, 7)
            error = (tried * scale - groups).square().sum(2, keepdim=True)
            better = error < best
            best, codes, scales = torch.where(better, error, best), torch.where(better, tried, codes), torch.where(better, scale, scales)
            scale = (tried * groups).sum(2, keepdim=True) / tried.square().sum(2, keepdim=True).clamp_min(1)
    numbers = (codes + 8).to(torch.uint8).view(rows, -1)[:, :cols]
    behind = width_of(cols) // group - groups.shape[1]  # groups of nothing, up to whole blocks
    return pack(numbers), F.pad(scales.squeeze(2).bfloat16(), (0, behind), value=-0.0)
