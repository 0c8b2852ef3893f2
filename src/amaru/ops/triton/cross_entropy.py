"""Cross-entropy of rows of logits, which become their gradient.

Bytes of a logit in bf16: read twice and written once, 6. torch's way widens the chunk, takes its log-softmax and its gradient and narrows
that: some 30. At 131,072 tokens of vocabulary that is 0.18 ms against 0.9 ms for a thousand tokens at 4.3 TB/s, beside 2 ms and more for
the three products of a head 2048 wide. FLOPs do not count.
"""

import triton
import triton.language as tl


@triton.jit
def replace(logits, targets, losses, stride, ignored, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (tokens). A target that is no token has a loss that is no number."""
    token = tl.program_id(0).to(tl.int64)
    target, row, i = tl.load(targets + token), logits + token * stride, tl.arange(0, BLOCK)
    real = (target >= 0) & (target < VOCAB)
    chosen = tl.load(row + target, real, 0.0).to(tl.float32)
    most, total = tl.full([BLOCK], -float("inf"), tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, VOCAB, BLOCK):
        z = tl.load(row + start + i, start + i < VOCAB, -float("inf")).to(tl.float32)
        larger = tl.maximum(most, z)
        base = tl.where(larger == -float("inf"), 0.0, larger)
        total = total * tl.exp(most - base) + tl.exp(z - base)
        most = larger
    largest = tl.max(most, 0)
    total = tl.sum(total * tl.exp(most - largest), 0)
    loss = tl.where(real, tl.log(total) + largest - chosen, float("nan"))
    tl.store(losses + token, tl.where(target == ignored, 0.0, loss))
    tl.debug_barrier()  # all threads have read what some now write
    for start in range(0, VOCAB, BLOCK):
        z = tl.load(row + start + i, start + i < VOCAB, -float("inf")).to(tl.float32)
        grad = tl.exp(z - largest) / total - tl.where(start + i == target, 1.0, 0.0)
        tl.store(row + start + i, tl.where(target == ignored, 0.0, grad).to(logits.dtype.element_ty), start + i < VOCAB)
