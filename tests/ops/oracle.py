"""What the tests of all ops share: outputs with gradients for given cotangents, and how far two results are apart."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FP32 = 16 * 2.0**-23  # sixteen roundings, for sums of some hundred products of mixed sign
BF16 = 2.0**-8  # inputs are the same numbers and sums are in float32, so only results are rounded: half of this, by norm


def with_gradients(function: Callable[..., Sequence[Tensor | None] | Tensor], tensors: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """Outputs of `function(*tensors)`, then the gradients of all tensors for cotangents drawn from `seed`."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    result = function(*leaves)
    outputs = [result] if isinstance(result, Tensor) else [output for output in result if output is not None]
    generator = torch.Generator().manual_seed(seed)
    # Drawn as bfloat16 numbers, so that every dtype sees the same cotangents.
    cotangents = [torch.randn(output.shape, generator=generator).bfloat16().to(output) for output in outputs]
    return [output.detach() for output in outputs] + list(
        torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, materialize_grads=True)
    )


def distance(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what was expected; infinite if `found` is not finite."""
    if not found.isfinite().all():
        return float("inf")
    difference = (found.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp_min(1e-300)) if difference > 0 else 0.0


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float | Sequence[float]) -> None:
    allowed = [tolerance] * len(found) if isinstance(tolerance, float) else list(tolerance)
    distances = [distance(one, other) for one, other in zip(found, expected, strict=True)]
    assert all(far <= most for far, most in zip(distances, allowed, strict=True)), distances


def bounds(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)
