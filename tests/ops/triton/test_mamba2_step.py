"""The step's kernels against the ops that they fuse, in float64: in place, for one token and for several, and nothing else touched."""

import math

import pytest
import torch
from tests.ops.test_mamba2_step import FRESH, SHAPES, USED, arguments, in_double, in_rows, weights
from tests.ops.triton.on_device import assert_near, every, there

from amaru.ops.mamba2_step import triton


@pytest.mark.parametrize("limit", [(0.1, 0.5), pytest.param((0.0, math.inf), marks=pytest.mark.soak)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.soak)])
@pytest.mark.parametrize("shape", every(SHAPES, "one group"))
def test_it_is_what_it_fuses(shape, dtype, limit):
    given, held = arguments(shape, dtype), weights(shape, limit)
    found = there(given)
    y = triton.mamba2_step(*found, there(held))
    assert y.dtype == dtype
    assert_near([y, found[1][USED], found[2][USED]], in_double(given, held), dtype)


@pytest.mark.soak
def test_states_in_bfloat16_are_rounded_once():
    given, held = arguments("groups", torch.bfloat16, torch.bfloat16), weights("groups")
    found = there(given)
    y = triton.mamba2_step(*found, there(held))
    assert_near([y, found[1][USED], found[2][USED]], in_double(given, held), torch.bfloat16)


@pytest.mark.parametrize("lengths", [[2, 0, 1, 1], pytest.param([1, 2, 7, 5], marks=pytest.mark.soak)])
def test_tokens_together_are_to_the_bit_what_they_are_one_by_one(lengths):
    held = there(weights("two taps"))
    _, *pools, slots, fresh = there(arguments("two taps", torch.bfloat16))
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    projected = there(torch.randn(int(bounds[-1]), in_rows("two taps")).bfloat16())
    conv, ssm = (pool.clone() for pool in pools)
    together = triton.mamba2_step(projected, conv, ssm, slots, fresh, held, bounds)
    for sequence, (first, length) in enumerate(zip(bounds.tolist(), lengths, strict=False)):
        for place in range(first, first + length):
            new = fresh[sequence : sequence + 1] & (place == first)
            y = triton.mamba2_step(projected[place : place + 1], *pools, slots[sequence : sequence + 1], new, held)
            assert torch.equal(y, together[place : place + 1])
    met = [slot for slot, length, begins in zip(USED, lengths, FRESH, strict=True) if length or not begins]
    assert torch.equal(conv[met], pools[0][met]) and torch.equal(ssm[met], pools[1][met])


@pytest.mark.soak
def test_slots_of_others_stay_as_they_are():
    given, held = there(arguments("one group", torch.float32)), there(weights("one group"))
    for pool in given[1:3]:
        pool[[1, 2, 4]] = 3.25
    triton.mamba2_step(*given, held)
    assert all(torch.equal(pool[[1, 2, 4]], torch.full_like(pool[[1, 2, 4]], 3.25)) for pool in given[1:3])


@pytest.mark.soak
def test_it_reads_slices_of_wider_rows_and_bfloat16_weights():
    given, held = there(arguments("groups", torch.bfloat16)), there(weights("groups"))
    projected, *rest = there(arguments("groups", torch.bfloat16))
    wide = projected.new_full((len(projected), projected.shape[1] + 9), torch.nan)
    wide[:, 4:-5] = projected
    narrow = held._replace(conv_weight=held.conv_weight.bfloat16(), conv_bias=held.conv_bias.bfloat16())
    assert torch.equal(triton.mamba2_step(wide[:, 4:-5], *rest, narrow), triton.mamba2_step(*given, held))
