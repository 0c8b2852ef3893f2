"""Which widths a machine can use: rules that a searched shape keeps to, each of them an option."""

from collections.abc import Iterator

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.cost import is_matrix
from amaru.models.decoder import DecoderConfig
from amaru.models.tensor_parallel import layer_axes
from amaru.nn.layer import LayerConfig

FP8_MULTIPLE = 16  # of both widths of a weight


class Divisors(Config):
    """`Divisors(tensor_parallel=8, fp8=True, tile=64)`: every rule that is not 1 or false must hold.

    tensor_parallel   so many devices share every layer: groups, KV heads, ffn, experts, as `amaru plan --device 8x...` has it
    fp8               both widths of every matrix are multiples of 16, which the matrix units of GPUs ask for in FP8
    tile              what a product sums over (hidden, ffn, heads x channels) is a multiple of a kernel's tile
    states            the state sizes that kernels exist for, such as (128, 256); empty: any

    Heads are counted per group, so that each group keeps equally many without a rule.
    """

    tensor_parallel: int = Field(default=1, gt=0)
    fp8: bool = False
    tile: int = Field(default=1, gt=0)
    states: tuple[int, ...] = ()

    def broken(self, config: DecoderConfig) -> str | None:
        """The first rule that a stack breaks, by its name here."""
        return next(self._broken(config), None)

    def _broken(self, config: DecoderConfig) -> Iterator[str]:
        for layer in dict.fromkeys(config.layers):
            if not _shared(layer, self.tensor_parallel):
                yield "tensor_parallel"
            shapes = _matrices(config, layer)
            if self.fp8 and any(width % FP8_MULTIPLE for shape in shapes for width in shape[-2:]):
                yield "fp8"
            if any(shape[-1] % self.tile for shape in shapes):
                yield "tile"
            if self.states and "state" in layer.axes() and layer.axes()["state"].size not in self.states:
                yield "states"

    def describe(self) -> str:
        said = [
            f"shared by {self.tensor_parallel} devices" if self.tensor_parallel > 1 else "",
            f"widths of matrices multiples of {FP8_MULTIPLE} (FP8)" if self.fp8 else "",
            f"sums over multiples of {self.tile}" if self.tile > 1 else "",
            f"states of {' or '.join(map(str, self.states))}" if self.states else "",
        ]
        return ", ".join(part for part in said if part) or "no rule"


def _shared(layer: LayerConfig, devices: int) -> bool:
    try:
        layer_axes(layer, devices)  # type: ignore[arg-type]
    except ConfigError:
        return False
    return True


def _matrices(config: DecoderConfig, layer: LayerConfig) -> list[tuple[int, ...]]:
    axes = config.axes() | layer.axes()
    return [spec.layout.shape(axes) for spec in layer.tensors().values() if is_matrix(spec)]
