"""How many processes share each layer, and how many each batch."""

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError


class Layout(Config):
    """`Layout(data=2, tensor=4)`: 8 processes; four neighbours share every layer, and each four take half of every batch.

    data      processes that share a batch; each keeps a part of weights, gradients and optimizer state (FSDP2)
    tensor    processes that share a layer: neighbours, so that what they tell each other in every layer stays in one machine
    sequence  those also share the tokens between the layers, and with them the norms (sequence parallelism)

    The result does not depend on it but for rounding, so a run may go on in another layout.
    """

    data: int = Field(default=1, gt=0)
    tensor: int = Field(default=1, gt=0)
    sequence: bool = False

    def check(self) -> None:
        if self.sequence and self.tensor == 1:
            raise ConfigError("Layout.sequence shares tokens in a tensor group, and here that is one process. Set tensor, or leave it.")

    @property
    def processes(self) -> int:
        return self.data * self.tensor

    @classmethod
    def of(cls, processes: int, tensor: int = 1, sequence: bool = False) -> "Layout":
        """So many processes; raises `ConfigError` when groups of `tensor` do not fill them."""
        if processes % tensor:
            raise ConfigError(f"{processes} processes do not make groups of {tensor} for tensor parallelism; start a multiple of {tensor}.")
        return cls(data=processes // tensor, tensor=tensor, sequence=sequence)
