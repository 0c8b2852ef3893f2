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
        raise ConfigError(f"Nothing of this decoder would run in FP8 while {recipe.ends} {recipe.counted} stay at either end; lower ends.")
    for row in rows:
        if row.fp8:
            owner, _, last = row.name.rpartition(".")
            setattr(decoder.get_submodule(owner), last, _converted(decoder.get_submodule(row.name)))
    return rows


def coverage(decoder: Decoder, recipe: Fp8Recipe) -> list[Projection]:
    """Every linear layer of a decoder and what the recipe makes of it; the decoder is left alone."""
    linears = {name: module for name, module in decoder.named_modules() if type(module) is Linear}  # a router is more than a Linear
    kept = _at_an_end([name for name in linears if _never(name) is None], recipe, len(decoder.config.layers))
    flops = cost.forward_flops(decoder.config, 0)
    rows = []
    for name, module in linears.items():
        at_an_end = f"among {recipe.ends} {recipe.counted} at either end" if name in kept else None
        reason = _never(name) or at_an_end or _misfit(name, module, recipe)
        rows.append(Projection(name, reason is None, reason or "", 2 * module.weight.numel() / flops))
    return rows


def describe(rows: Sequence[Projection]) -> str:
    """What runs how and why, and the share of FLOPs, a line each.

        FP8 in 6 of 9 linear layers, 61% of a token's FLOPs (attention's scores aside)
            fp8: layers.1.mixer up_proj down_proj, layers.2.mixer in_proj out_proj, ...
            bf16, the head: head
    """
    fp8 = [row for row in rows if row.fp8]
    share = sum(row.share for row in fp8)
    lines = [f"FP8 in {len(fp8)} of {len(rows)} linear layers, {share:.0%} of a token's FLOPs (attention's scores aside)"]
    for how in dict.fromkeys((not row.fp8, row.reason) for row in sorted(rows, key=lambda row: not row.fp8)):
        names = [row.name for row in rows if (not row.fp8, row.reason) == how]
        lines.append(f"    {f'bf16, {how[1]}' if how[0] else 'fp8'}: {_listed(names)}")
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    """`layers.1.mixer up_proj down_proj, head`"""
    owners: dict[str, list[str]] = {}
    for name in names:
        owner, _, last = name.rpartition(".")
        owners.setdefault(owner, []).append(last)
    return ", ".join(" ".join(filter(None, [owner, *lasts])) for owner, lasts in owners.items())


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


def _at_an_end(names: Sequence[str], recipe: Fp8Recipe, depth: int) -> set[str]:
    """The names that lie in the first and the last `ends` of what is counted."""
    if recipe.counted == "layers":
        return {name for name in names if not recipe.ends <= int(name.split(".")[1]) < depth - recipe.ends}
    gemms = list(_gemms(names))
    return {name for place, gemm in enumerate(gemms) if not recipe.ends <= place < len(gemms) - recipe.ends for name in gemm}


def _gemms(names: Sequence[str]) -> Iterator[list[str]]:
    """Names in the order of the stack, those together that are one product elsewhere."""
    gemm: list[str] = []
    for name in names:
        if gemm and not _one_product(gemm[-1], name):
            yield gemm
            gemm = []
        gemm.append(name)
    if gemm:
        yield gemm


def _one_product(before: str, name: str) -> bool:
    (owner, _, last), (other, _, after) = before.rpartition("."), name.rpartition(".")
    return owner == other and any({last, after} <= same for same in SAME_INPUT)
