"""Cross-entropy on a CUDA GPU, its gradient over the logits (triton/cross_entropy.py)."""

import torch
from torch import Tensor

from amaru.ops.triton import kernels, lacks, launch, power_of_two, refusal

BLOCK = 4096  # logits of a row that a program takes at once


def serves(logits: Tensor, targets: Tensor) -> bool:
    return targets.is_cuda and refusal(logits) is None and lacks() is None


def cross_entropy(logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """Losses [n] of logits [n, vocab], which become their gradient. A target outside the vocabulary gives a loss that is not a number:
    to say more, the GPU would have to be waited for.
    """
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    sizes = {"VOCAB": logits.shape[1], "BLOCK": min(BLOCK, power_of_two(logits.shape[1])), "num_warps": 8}
    launch(kernels("cross_entropy").replace, (len(logits),), logits, targets, losses, logits.stride(0), ignored, **sizes)
    return losses
