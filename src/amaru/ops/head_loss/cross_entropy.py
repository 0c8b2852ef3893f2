"""The loss of language models at the head; its gradient is written over the logits where kernels serve (native/cross_entropy.cpp)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.head_loss import triton
from amaru.ops.native import call, lacks, refusal


@dataclass(frozen=True, eq=False)
class TokenCrossEntropy:
    """`head_loss(hidden, weight, TokenCrossEntropy(targets))`: the sum of -log p(target) in nats, where the target is not `ignored`.

    targets int64 [T], below the size of the vocabulary.
    """

    targets: Tensor
    ignored: int = -100

    def __call__(self, logits: Tensor, rows: slice) -> Tensor:
        return F.cross_entropy(logits, self.targets[rows], ignore_index=self.ignored, reduction="sum")

    def serves(self, logits: Tensor) -> bool:
        """Whether `replace` does: in float32 and bfloat16, on a CPU that has a compiler or a GPU with triton."""
        return triton.serves(logits, self.targets) or (self.targets.is_cpu and refusal(logits) is None and lacks() is None)

    def replace(self, logits: Tensor, rows: slice) -> Tensor:
        """The loss, as a call gives it; the logits [n, vocab] become their gradient."""
        targets = self.targets[rows].contiguous()
        if logits.is_cuda:
            return triton.cross_entropy(logits, targets, self.ignored).sum()
        real = targets[targets != self.ignored]
        if len(real) and not 0 <= int(real.min()) <= int(real.max()) < logits.shape[1]:
            raise ConfigError(f"Targets lie in 0 to {logits.shape[1] - 1}; got {int(real.min())} to {int(real.max())}.")
        losses = torch.empty(len(logits))
        description = int(logits.dtype == torch.bfloat16), *logits.shape
        call("cross_entropy", *description, logits, targets, self.ignored, losses, torch.get_num_threads())
        return losses.sum()
