"""Training in 8-bit floats as Nemotron-H did it: which projections take them, and a decoder prepared for it, the same on CPU and GPU."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import Field
from torch import nn

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.decoder import Decoder
from amaru.nn.linear import Linear
from amaru.precision.fp8_linear import Fp8Linear
from amaru.precision.fp8_torchao import torchao_linear

MULTIPLE = 16  # of both widths of a weight: what the matrix units of a GPU take
SAME_INPUT = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})  # projections that are one product elsewhere
NEVER = {"head": "the head", "x_proj": "makes dt, B and C of the scan", "dt_proj": "makes dt of the scan"}


class Fp8Recipe(Config):
    """`Fp8Recipe()`: E4M3 weights and activations, E5M2 gradients, one current scale per tensor (arXiv 2504.03624, 2.3).

    ends         how many stay in bf16 at either end of the stack
    counted      what `ends` counts. The paper says both: "gemms" are products (queries, keys and values are one; so are gate and
                 up), "layers" the letters of a pattern, each with all its products. 4 gemms are 2 layers of Mamba-2 and MLP
    indivisible  a projection whose widths are not multiples of 16 is refused, or stays in bf16
    """

    ends: int = Field(default=4, ge=0)
    counted: Literal["gemms", "layers"] = "gemms"
    indivisible: Literal["refuse", "bf16"] = "refuse"


class Projection(NamedTuple):
    """One linear layer: whether it runs in FP8, why not if it does not, and its share of the FLOPs of a token."""

    name: str
    fp8: bool
    reason: str
    share: float


def prepare(decoder: Decoder, recipe: Fp8Recipe) -> list[Projection]:
    """Make the projections of a decoder run in FP8, in place; the rest stays as it is, in the decoder's compute dtype.

    >>> print(describe(prepare(decoder, Fp8Recipe(ends=2, counted="layers"))))

    Master weights and their names are untouched. On a GPU the products are torchao's, on a CPU they are emulated. Embedding, head,
    norms, convolutions, scan, attention's core, routers and experts never run in FP8. Move the decoder to its device first.
    Raises `ConfigError` for a projection whose widths do not fit and when nothing would run in FP8, `BackendError` without torchao.
    """
    rows = coverage(decoder, recipe)
    if not any(row.fp8 for row in rows):
        raise ConfigError(f"Nothing of this decoder would run in FP8. {describe(rows)} Lower ends ({recipe.ends} {recipe.counted}).")
    for row in rows:
        if row.fp8:
            owner, _, last = row.name.rpartition(".")
            setattr(decoder.get_submodule(owner), last, _converted(decoder.get_submodule(row.name)))
    return rows


def coverage(decoder: Decoder, recipe: Fp8Recipe) -> list[Projection]:
    """Every linear layer of a decoder and what the recipe makes of it; the decoder is left alone."""
    linears = {name: module for name, module in decoder.named_modules() if type(module) is Linear}  # a router is more than a Linear
    kept = _ends([name for name in linears if _never(name) is None], recipe)
    flops = cost.forward_flops(decoder.config, 1)
    rows = []
    for name, module in linears.items():
        reason = _never(name) or (name in kept and f"one of {recipe.ends} {recipe.counted} at an end") or _misfit(name, module, recipe)
        rows.append(Projection(name, not reason, reason or "", 2 * module.weight.numel() / flops))
    return rows


def describe(rows: Sequence[Projection]) -> str:
    """`FP8: 14 of 23 linear layers, 61% of a token's FLOPs; bf16: head (the head), layers.0.mixer.in_proj (...).`"""
    fp8, wide = [row for row in rows if row.fp8], [row for row in rows if not row.fp8]
    reasons = dict.fromkeys(row.reason for row in wide)
    told = [f"{', '.join(row.name for row in wide if row.reason == reason)} ({reason})" for reason in reasons]
    share = sum(row.share for row in fp8)
    return f"FP8: {len(fp8)} of {len(rows)} linear layers, {share:.0%} of a token's FLOPs; bf16: {'; '.join(told) or 'none'}."


def _converted(module: nn.Module) -> nn.Module:
    assert isinstance(module, Linear)
    return Fp8Linear(module) if module.weight.device.type == "cpu" else torchao_linear(module)


def _never(name: str) -> str | None:
    return NEVER.get(name.rpartition(".")[2])


def _misfit(name: str, module: Linear, recipe: Fp8Recipe) -> str | None:
    rows, cols = module.weight.shape
    if not (rows % MULTIPLE or cols % MULTIPLE):
        return None
    if recipe.indivisible == "refuse":
        raise ConfigError(
            f"{name} is {rows} x {cols}, but FP8 takes multiples of {MULTIPLE} only; "
            "change the model's widths, or leave such layers in bf16 with indivisible=bf16."
        )
    return f"{rows} x {cols}: not multiples of {MULTIPLE}"


def _ends(names: Sequence[str], recipe: Fp8Recipe) -> set[str]:
    """The names that lie in the first and the last `ends` of what is counted."""
    groups = list(_groups(names, recipe.counted))
    first, last = groups[: recipe.ends], groups[max(0, len(groups) - recipe.ends) :]
    return {name for group in first + last for name in group}


def _groups(names: Sequence[str], counted: str) -> Iterator[list[str]]:
    """Names in the order of the stack, put together where they count as one."""
    group: list[str] = []
    for name in names:
        if group and not _together(group[-1], name, counted):
            yield group
            group = []
        group.append(name)
    if group:
        yield group


def _together(before: str, name: str, counted: str) -> bool:
    (owner, _, last), (other, _, after) = before.rpartition("."), name.rpartition(".")
    if owner != other or counted == "layers":
        return owner == other
    return any({last, after} <= same for same in SAME_INPUT)
