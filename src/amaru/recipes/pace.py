"""How fast this machine trains, measured before a run whose length must fit people's patience."""

import functools
import statistics
import time

import torch

from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.batch import Batch
from amaru.ops.head_loss import TokenCrossEntropy, head_loss
from amaru.recipes.learning import Learning
from amaru.train.optim import adamw
from amaru.train.step import passes

STEPS = 5
PRODUCT = 2048  # rows and columns of the matrices; large enough for the full rate, and a few tenths of a second


@functools.cache
def matmul_rate(dtype: str, device: torch.device) -> float:
    """`matmul_rate("bf16", torch.device("cpu"))`: FLOP/s of a large square product, measured once: what MFU is a share of."""
    a, b = (torch.randn(PRODUCT, PRODUCT, device=device).to(torch.bfloat16 if dtype == "bf16" else torch.float32) for _ in range(2))

    def product() -> float:
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        return time.perf_counter() - start

    product()
    return 2 * PRODUCT**3 / min(product() for _ in range(3))


def training_pace(config: DecoderConfig, learning: Learning, row_length: int) -> float:
    """`training_pace(shape.resolve(2048), Learning(batch_rows=2), 256)`: tokens per second of a training step, on random text.

    The median of a few steps after one that is not counted, in which kernels are compiled where they never were before.
    """
    decoder = Decoder(config).initialise(0)
    decoder.compute_dtype = torch.bfloat16 if learning.dtype == "bf16" else None
    generator = torch.Generator().manual_seed(0)
    at_once = learning.rows(row_length) // passes(learning.rows(row_length), row_length, learning.micro_tokens)
    rows = [torch.randint(config.vocab, (row_length,), generator=generator) for _ in range(at_once)]
    batch, targets = Batch.of(rows), torch.cat(rows).roll(-1)
    optimizer = adamw(decoder, lr=learning.lr, betas=(0.9, 0.95), weight_decay=learning.weight_decay)

    def step() -> float:
        start = time.perf_counter()
        hidden = decoder.hidden_states(batch)
        loss = head_loss(hidden, decoder.head.weight, TokenCrossEntropy(targets))
        (loss / len(targets)).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    step()
    return len(targets) / statistics.median(step() for _ in range(STEPS))
