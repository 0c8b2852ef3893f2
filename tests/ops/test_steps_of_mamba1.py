"""The steps of Mamba-1, convolution and scan, against the ops that they fuse, in float64, and against what they must leave alone."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.conv_step import composed as conv_composed
from amaru.ops.conv_step import conv_step
from amaru.ops.conv_step import native as conv_native
from amaru.ops.selective_step import Inputs, selective_step
from amaru.ops.selective_step import composed as scan_composed
from amaru.ops.selective_step import native as scan_native

SHAPES = {"small": (5, 7, 4), "Hymba": (320, 16, 4), "two taps": (131, 33, 2)}  # channels, state, taps
SLOTS, USED, FRESH = 7, [5, 0, 3, 6], [False, True, False, False]
OTHERS = [1, 2, 4]
LENGTHS = [1, 3, 17, 1]


def convolution(shape: str, dtype: torch.dtype) -> list[Any]:
    """x, conv, slots, fresh, weight, bias, bounds; what no sequence owns, and the state of a fresh one, is not a number."""
    rows, _, taps = SHAPES[shape]
    torch.manual_seed(0)
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0)
    x, conv = torch.randn(int(bounds[-1]), rows + 3)[:, 1 : rows + 1], torch.randn(SLOTS, rows, taps - 1)
    conv[[*OTHERS, 0]] = torch.nan
    weight, bias = torch.randn(rows, 1, taps).bfloat16().float(), torch.randn(rows).bfloat16().float()
    return [x.to(dtype), conv.to(dtype), torch.tensor(USED), torch.tensor(FRESH), weight, bias, bounds]


def scan(shape: str, dtype: torch.dtype, ssm_dtype: torch.dtype = torch.float32) -> list[Any]:
    """inputs, ssm, slots, fresh, dt_bias, A_log, D, bounds."""
    inner, state, _ = SHAPES[shape]
    torch.manual_seed(0)
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0)
    wide = [torch.randn(int(bounds[-1]), inner + 2)[:, 1 : inner + 1].to(dtype) for _ in range(3)]
    narrow = torch.randn(int(bounds[-1]), 2 * state).to(dtype).split(state, dim=1)
    ssm = torch.randn(SLOTS, inner, state)
    ssm[[*OTHERS, 0]] = torch.nan
    weights = [torch.randn(inner), torch.empty(inner, state).uniform_(-2, 2), torch.randn(inner)]
    inputs = Inputs(wide[0], wide[1], *narrow, wide[2])
    return [inputs, ssm.to(ssm_dtype), torch.tensor(USED), torch.tensor(FRESH), *weights, bounds]


def doubled(given: list[Any]) -> list[Any]:
    def wide(each: Any) -> Any:
        return Inputs(*map(Tensor.double, each)) if isinstance(each, Inputs) else each.double() if each.is_floating_point() else each

    return [wide(each) for each in given]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_native_is_what_it_fuses(shape: str, dtype: torch.dtype) -> None:
    bound = BF16 if dtype == torch.bfloat16 else FP32
    given = convolution(shape, dtype)
    expected, exact = doubled(given), doubled(given)[1]
    y = conv_composed.conv_step(*expected)
    assert_close([conv_native.conv_step(*given), given[1][USED]], [y, expected[1][USED]], [bound, 1e-12])
    assert torch.equal(given[1][OTHERS].isnan(), exact[OTHERS].isnan())
    given = scan(shape, dtype)
    expected = doubled(given)
    y = scan_composed.selective_step(*expected)
    assert_close([scan_native.selective_step(*given), given[1][USED]], [y, expected[1][USED]], [bound, FP32])
    assert given[1][OTHERS].isnan().all(), "states of others stay as they are"


def test_the_scan_is_the_recurrence_written_out() -> None:
    inputs, ssm, slots, fresh, dt_bias, A_log, D, bounds = doubled(scan("small", torch.float32))
    expected, states = torch.empty_like(inputs.x), ssm.clone()
    for sequence, slot in enumerate(slots.tolist()):
        h = torch.zeros_like(ssm[slot]) if fresh[sequence] else ssm[slot].clone()
        for t in range(int(bounds[sequence]), int(bounds[sequence + 1])):
            dt = (1 + (inputs.dt[t] + dt_bias).exp()).log()
            h = (-dt[:, None] * A_log.exp()).exp() * h + (dt * inputs.x[t])[:, None] * inputs.B[t]
            gate = inputs.gate[t]
            expected[t] = (h @ inputs.C[t] + D * inputs.x[t]) * gate / (1 + (-gate).exp())
        states[slot] = h
    y = selective_step(inputs, ssm, slots, fresh, dt_bias, A_log, D, bounds)
    assert_close([y, ssm[USED]], [expected, states[USED]], 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_native_rounds_bfloat16_states_once_each_token(shape: str) -> None:
    given = scan(shape, torch.bfloat16, torch.bfloat16)
    given[-1] = torch.arange(len(USED) + 1)
    given[0] = Inputs(*(each[: len(USED)] for each in given[0]))
    expected = doubled(given)
    y = scan_composed.selective_step(*expected)
    assert_close([scan_native.selective_step(*given), given[1][USED]], [y, expected[1][USED]], BF16)


@pytest.mark.parametrize("threads", [1, 2])
def test_sequences_tokens_and_threads_change_no_bit(threads: int) -> None:
    """Each token alone is what it is among others."""
    torch.set_num_threads(threads)
    conv, selective = convolution("Hymba", torch.bfloat16), scan("Hymba", torch.bfloat16)
    alone_conv, alone_scan = convolution("Hymba", torch.bfloat16), scan("Hymba", torch.bfloat16)
    convolved, scanned = conv_native.conv_step(*conv), scan_native.selective_step(*selective)
    torch.set_num_threads(1)
    one, bounds = torch.tensor([0, 1]), conv[-1].tolist()
    for sequence, (first, stop) in enumerate(pairwise(bounds)):
        slots = torch.tensor([USED[sequence]])
        for t in range(first, stop):
            fresh = torch.tensor([FRESH[sequence] and t == first])
            x, pool, _, _, weight, bias, _ = alone_conv
            assert torch.equal(conv_native.conv_step(x[t : t + 1], pool, slots, fresh, weight, bias, one), convolved[t : t + 1])
            inputs, ssm, _, _, *weights, _ = alone_scan
            inputs = Inputs(*(each[t : t + 1] for each in inputs))
            assert torch.equal(scan_native.selective_step(inputs, ssm, slots, fresh, *weights, one), scanned[t : t + 1])
    assert torch.equal(alone_conv[1][USED], conv[1][USED]) and torch.equal(alone_scan[1][USED], selective[1][USED])


def test_a_slot_that_is_not_there_changes_nothing() -> None:
    for run, given in ((conv_step, convolution("small", torch.float32)), (selective_step, scan("small", torch.float32))):
        before = given[1].clone()
        given[2] = torch.tensor([5, 0, 7, 6])
        with pytest.raises(ConfigError, match="Sequence 2 of the batch has slot 7; the pool has slots 0 to 6"):
            run(*given)
        assert torch.equal(given[1].nan_to_num(1.5), before.nan_to_num(1.5))


def test_shapes_that_do_not_fit_are_refused() -> None:
    given = convolution("small", torch.float32)
    with pytest.raises(ConfigError, match="A step takes x"):
        conv_step(given[0][:, :4], *given[1:])
    selective = scan("small", torch.float32)
    with pytest.raises(ConfigError, match="A step takes x, dt and gate"):
        selective_step(selective[0]._replace(B=selective[0].B[:, :3]), *selective[1:])
