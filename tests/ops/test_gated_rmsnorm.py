"""The gated norm against its formula, one group of one token at a time."""

import math

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close, with_gradients

from amaru.errors import ConfigError
from amaru.ops.gated_rmsnorm import gated_rmsnorm, native, reference

BACKENDS = {"reference": reference.gated_rmsnorm, "native": native.gated_rmsnorm}
SHAPES = [(1, 8, 1), (63, 30, 2), (130, 51, 3)]  # tokens, inner, groups


def arguments(tokens, inner, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(tokens, inner).to(dtype), torch.randn(tokens, inner).to(dtype), torch.randn(inner)]


def run(function, groups):
    return lambda y, z, weight: function(y, z, weight, groups=groups, eps=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_group_at_a_time(backend):
    y, z, weight = arguments(3, 12)
    found = run(BACKENDS[backend], 3)(y, z, weight)
    for t in range(3):
        for start in (0, 4, 8):
            u = [y[t, i].item() * z[t, i].item() / (1 + math.exp(-z[t, i].item())) for i in range(start, start + 4)]
            rms = math.sqrt(sum(value**2 for value in u) / 4 + 1e-5)
            expected = torch.tensor([value / rms * weight[start + i].item() for i, value in enumerate(u)])
            assert_close([found[t, start : start + 4]], [expected], FP32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_and_gradients_equal_float64(backend, shape):
    tokens, inner, groups = shape
    tensors = arguments(tokens, inner)
    expected = with_gradients(run(reference.gated_rmsnorm, groups), [tensor.double() for tensor in tensors])
    assert_close(with_gradients(run(BACKENDS[backend], groups), tensors), expected, FP32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_rounds_only_its_results(backend, shape):
    tokens, inner, groups = shape
    tensors = arguments(tokens, inner, torch.bfloat16)
    expected = with_gradients(run(reference.gated_rmsnorm, groups), [tensor.double() for tensor in tensors])
    assert_close(with_gradients(run(BACKENDS[backend], groups), tensors), expected, BF16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_gates_stay_finite(backend):
    y, weight = torch.ones(1, 6), torch.ones(6)
    z = torch.tensor([[-1e4, -100.0, -50.0, 50.0, 100.0, 1e4]])
    found = with_gradients(run(BACKENDS[backend], 1), [y, z, weight])
    assert all(tensor.isfinite().all() for tensor in found)
    assert_close(found[:1], [run(reference.gated_rmsnorm, 1)(y.double(), z.double(), weight.double())], FP32)


def test_reference_passes_gradcheck():
    tensors = [tensor.double().requires_grad_() for tensor in arguments(3, 8)]
    assert torch.autograd.gradcheck(run(reference.gated_rmsnorm, 2), tensors)


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(ConfigError, match="groups must divide inner; got 3 and 8"):
        gated_rmsnorm(*arguments(2, 8), groups=3, eps=1e-5)
