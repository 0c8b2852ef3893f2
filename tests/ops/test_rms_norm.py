"""The norm and the activation in front of and inside feed-forward layers, against float64."""

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close, with_gradients

from amaru.errors import ConfigError
from amaru.ops.rms_norm import eager, native, rms_norm
from amaru.ops.squared_relu import eager as eager_relu
from amaru.ops.squared_relu import native as native_relu
from amaru.ops.squared_relu import squared_relu

ROUNDED = {torch.float32: FP32, torch.bfloat16: BF16}
SHAPES = [(1, 1), (3, 17), (70, 513)]  # the last is worth two threads


@pytest.mark.parametrize("weight_dtype", ROUNDED)
@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("shape", SHAPES)
def test_native_norm_equals_float64(shape, dtype, weight_dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[1]).to(weight_dtype)
    expected = eager.rms_norm(x.double(), weight.double(), eps=1e-3)
    assert_close([native.rms_norm(x, weight, eps=1e-3)], [expected], ROUNDED[dtype])
    assert_close([native.rms_norm(x[None, :, :], weight, eps=1e-3)], [expected[None]], ROUNDED[dtype])


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("shape", [(1, 5), (3, 17), (131, 300)])  # of one element alone the norm removes all but a rounding
def test_native_gradients_of_the_norm_equal_float64_for_any_number_of_threads(shape, dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(shape).to(dtype), torch.randn(shape[1])]
    expected = with_gradients(lambda *t: eager.rms_norm(*t, eps=1e-3), [tensor.double() for tensor in tensors])
    found = with_gradients(lambda *t: native.rms_norm(*t, eps=1e-3), tensors)
    assert_close(found, expected, ROUNDED[dtype])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = with_gradients(lambda *t: native.rms_norm(*t, eps=1e-3), tensors)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_native_gradients_reach_rows_inside_wider_ones_and_bfloat16_weights():
    torch.manual_seed(0)
    wide, weight = torch.randn(5, 40), torch.randn(17).bfloat16()
    expected = with_gradients(lambda x, w: eager.rms_norm(x[None, :, 9:26], w, eps=1e-3), [wide.double(), weight.double()])
    found = with_gradients(lambda x, w: native.rms_norm(x[None, :, 9:26], w, eps=1e-3), [wide, weight])
    assert found[2].dtype is torch.bfloat16
    assert_close(found, expected, [FP32, FP32, BF16])


def test_a_native_row_does_not_depend_on_others_or_on_what_lies_beside_it():
    torch.manual_seed(0)
    wide, weight = torch.full((70, 600), torch.nan), torch.randn(513)
    wide[:, 40:553] = torch.randn(70, 513)
    together = native.rms_norm(wide[:, 40:553], weight, eps=1e-5)
    assert together.isfinite().all()
    assert all(torch.equal(native.rms_norm(wide[t : t + 1, 40:553], weight, eps=1e-5)[0], together[t]) for t in range(70))


def test_the_norm_is_that_of_its_definition_and_has_gradients():
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64, requires_grad=True)
    rms = [sum(value**2 for value in row) / 5 for row in x.detach().tolist()]
    expected = x.detach() / (torch.tensor(rms, dtype=torch.float64)[:, None] + 1e-5).sqrt() * weight.detach()
    assert_close([rms_norm(x, weight, eps=1e-5).detach()], [expected], 1e-14)
    assert torch.autograd.gradcheck(lambda *t: rms_norm(*t, eps=1e-5), (x, weight))
    with pytest.raises(ConfigError, match=r"weight must have shape \[5\]"):
        rms_norm(x, weight[:4], eps=1e-5)


@pytest.mark.parametrize("dtype", ROUNDED)
def test_native_activation_is_torchs_to_the_bit(dtype):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(70_001), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e30])]).to(dtype)
    assert torch.equal(native_relu.squared_relu(x), eager_relu.squared_relu(x))
    assert torch.equal(native_relu.squared_relu(x[::2]), eager_relu.squared_relu(x[::2]))
    assert native_relu.squared_relu(torch.tensor([torch.nan], dtype=dtype)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, *ROUNDED])
def test_the_activation_has_gradients(dtype):
    x = torch.tensor([-2.0, 3.0], dtype=dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(squared_relu(x).sum(), x)
    assert grad.tolist() == [0.0, 6.0]


@pytest.mark.parametrize("dtype", ROUNDED)
def test_native_gradients_of_the_activation_are_torchs_to_the_bit(dtype):
    torch.manual_seed(0)
    x = torch.randn(70, 1001).to(dtype)
    for view in (lambda x: x, lambda x: x[:, ::2], lambda x: x.T):
        expected = with_gradients(lambda x, view=view: eager_relu.squared_relu(view(x)), [x])
        found = with_gradients(lambda x, view=view: native_relu.squared_relu(view(x)), [x])
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
