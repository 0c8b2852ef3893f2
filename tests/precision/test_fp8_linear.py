"""The emulated layer against its products written out with torch's own casts in fp64, and against torchao where it is installed."""

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from amaru.nn.linear import Linear
from amaru.precision.fp8_linear import Fp8Linear

SHAPES = [(1, 16, 16), (37, 48, 80), (130, 80, 32)]  # tokens, cols, rows


def layer(rows, cols, *, bias=False, dtype=torch.float32):
    torch.manual_seed(rows)
    linear = Linear(rows, cols, bias=bias)
    torch.nn.init.normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        torch.nn.init.normal_(linear.bias)
    return linear.to(dtype)


def tensors(tokens, cols, rows, dtype):
    torch.manual_seed(tokens)
    return torch.randn(tokens, cols).to(dtype), (torch.randn(tokens, rows) * 1e-4).to(dtype)


def run(module, x, dy):
    """The output, and the gradients of x, the weight and the bias."""
    x = x.detach().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(dy)
    bias = getattr(module, "bias", None)
    return y.detach(), x.grad, module.weight.grad.clone(), None if bias is None else bias.grad.clone()


def coded(x, kind, largest):
    """Scale by the largest number, cast with torch, and go back in fp64."""
    scale = (largest / x.double().abs().amax().clamp_min(1e-12)).float()
    return (x.float() * scale).to(kind).double() / scale.double()


def by_hand(module, x, dy):
    x8, w8 = coded(x, torch.float8_e4m3fn, 448), coded(module.weight.detach(), torch.float8_e4m3fn, 448)
    dy8 = coded(dy, torch.float8_e5m2, 57344)
    y = (x8 @ w8.t()).to(x.dtype)
    if module.bias is not None:
        y = y + module.bias.detach().to(x.dtype)
    return y, (dy8 @ w8).to(x.dtype), (dy8.t() @ x8).to(x.dtype).to(module.weight.dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_all_three_products_are_those_of_the_codes(dtype, tolerance, shape, bias):
    _, cols, rows = shape
    module = Fp8Linear(layer(rows, cols, bias=bias, dtype=torch.float64 if dtype is torch.float64 else torch.float32))
    x, dy = tensors(*shape, dtype)
    for found, wanted in zip(run(module, x, dy)[:3], by_hand(module, x, dy), strict=True):
        assert found.dtype == wanted.dtype
        assert float((found.double() - wanted.double()).abs().max()) <= tolerance * float(wanted.double().abs().max())


def test_bf16_results_are_rounded_once():
    """Sums rounded before the scale is divided out would differ in a quarter of the places."""
    module, (x, dy) = Fp8Linear(layer(128, 64)), tensors(256, 64, 128, torch.bfloat16)
    for found, wanted in zip(run(module, x, dy)[:3], by_hand(module, x, dy), strict=True):
        assert float((found != wanted).float().mean()) < 2e-3


def test_it_is_close_to_the_layer_it_stands_for_and_not_equal():
    linear, (x, dy) = layer(96, 64), tensors(200, 64, 96, torch.bfloat16)
    for found, exact in zip(run(Fp8Linear(linear), x, dy)[:3], run(linear, x, dy)[:3], strict=True):
        error = float((found.float() - exact.float()).norm() / exact.float().norm())
        assert 0.005 < error < 0.08  # 3 or 2 mantissa bits in either operand


def test_leading_axes_are_kept_and_the_bias_gets_its_gradient():
    module = Fp8Linear(layer(32, 16, bias=True))
    x = torch.randn(2, 3, 16)
    y = module(x)
    assert torch.equal(y, module(x.flatten(0, 1)).unflatten(0, (2, 3)))
    y.sum().backward()
    assert torch.equal(module.bias.grad, torch.full((32,), 6.0))


def test_the_parameters_are_the_very_same():
    linear = layer(32, 16, bias=True)
    module = Fp8Linear(linear)
    assert module.weight is linear.weight and module.bias is linear.bias
    assert list(module.state_dict()) == list(linear.state_dict())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_everywhere(bad):
    module, (x, dy) = Fp8Linear(layer(32, 16)), tensors(5, 16, 32, torch.bfloat16)
    spoilt = x.clone()
    spoilt[3, 7] = bad
    assert module(spoilt).isnan().all()
    gradient = dy.clone()
    gradient[0, 0] = bad
    _, dx, dw, _ = run(module, x, gradient)
    assert dx.isnan().all() and dw.isnan().all()


def test_zeros_give_zeros():
    module, (x, dy) = Fp8Linear(layer(32, 16)), tensors(5, 16, 32, torch.bfloat16)
    y, dx, dw, _ = run(module, torch.zeros_like(x), torch.zeros_like(dy))
    assert not y.any() and not dx.any() and not dw.any()


def test_the_same_twice():
    module, (x, dy) = Fp8Linear(layer(80, 48)), tensors(37, 48, 80, torch.bfloat16)
    for first, second in zip(run(module, x, dy)[:3], run(module, x, dy)[:3], strict=True):
        assert torch.equal(first, second)


def test_recomputed_activations_change_nothing():
    first, second = Fp8Linear(layer(64, 32)), Fp8Linear(layer(32, 64))
    x, dy = tensors(21, 32, 32, torch.bfloat16)

    def block(x):
        return second(torch.relu(first(x)))

    gradients = []
    for forward in (block, lambda x: checkpoint(block, x, use_reentrant=False)):
        one = x.clone().requires_grad_()
        first.zero_grad(), second.zero_grad()
        forward(one).backward(dy)
        gradients.append((one.grad, first.weight.grad.clone(), second.weight.grad.clone()))
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_only_what_is_asked_for_is_computed():
    module, (x, dy) = Fp8Linear(layer(32, 16)), tensors(5, 16, 32, torch.bfloat16)
    module.weight.requires_grad_(False)
    x.requires_grad_()
    module(x).backward(dy)
    assert x.grad is not None and module.weight.grad is None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float32, 2e-6)], ids=str)
def test_torchao_computes_the_same(dtype, tolerance, shape):
    pytest.importorskip("torchao.float8", reason="torchao is optional")
    from amaru.precision.fp8_torchao import torchao_linear

    _, cols, rows = shape
    linear = layer(rows, cols, bias=True)
    x, dy = tensors(*shape, dtype)
    theirs = run(torchao_linear(linear, emulate=True), x, dy)
    for found, wanted in zip(run(Fp8Linear(linear), x, dy), theirs, strict=True):
        assert found is not None and wanted is not None and found.dtype == wanted.dtype
        assert float((found.double() - wanted.double()).abs().max()) <= tolerance * float(wanted.double().abs().max())
