"""The fused step against the ops that it fuses, in float64, and against what it must leave alone."""

import math

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.mamba2_step import Weights, composed, mamba2_step, native

# heads, channels, groups, state, taps
SHAPES = {"one group": (3, 5, 1, 7, 4), "groups": (6, 16, 3, 12, 4), "wide": (4, 64, 2, 128, 4), "two taps": (2, 9, 2, 33, 2)}
SLOTS, USED, FRESH = 7, [5, 0, 3, 6], [False, True, False, False]


def weights(shape: str, limit: tuple[float, float] = (0.0, math.inf)) -> Weights:
    heads, channels, groups, state, taps = SHAPES[shape]
    rows = heads * channels + 2 * groups * state
    torch.manual_seed(1)
    conv = torch.randn(rows, 1, taps).bfloat16().float(), torch.randn(rows).bfloat16().float()
    A_log = torch.empty(heads).uniform_(-2, 2)
    return Weights(*conv, torch.randn(heads), A_log, torch.randn(heads), torch.randn(heads * channels), groups, 1e-5, limit)


def arguments(shape: str, dtype: torch.dtype, ssm_dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """projected, conv, ssm, slots, fresh; what no sequence owns, and the state of a fresh one, is not a number."""
    heads, channels, groups, state, taps = SHAPES[shape]
    rows = heads * channels + 2 * groups * state
    torch.manual_seed(0)
    projected, conv = torch.randn(len(USED), heads * channels + rows + heads), torch.randn(SLOTS, rows, taps - 1)
    ssm, slots, fresh = torch.randn(SLOTS, heads, channels, state), torch.tensor(USED), torch.tensor(FRESH)
    for held in (conv, ssm):
        held[[1, 2, 4, 0]] = torch.nan
    return [projected.to(dtype), conv.to(dtype), ssm.to(ssm_dtype), slots, fresh]


def in_double(given: list[Tensor], held: Weights) -> tuple[Tensor, Tensor, Tensor]:
    projected, conv, ssm = (tensor.double() for tensor in given[:3])
    wide = Weights(*(each.double() if isinstance(each, Tensor) else each for each in held))
    return composed.mamba2_step(projected, conv, ssm, *given[3:], wide), conv[USED], ssm[USED]


@pytest.mark.parametrize("limit", [(0.0, math.inf), (0.1, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_native_is_what_it_fuses(shape, dtype, limit):
    given, held = arguments(shape, dtype), weights(shape, limit)
    expected = in_double(given, held)
    y = native.mamba2_step(*given, held)
    assert y.dtype == dtype
    assert_close([y, given[1][USED], given[2][USED]], expected, [BF16 if dtype == torch.bfloat16 else FP32, 1e-12, FP32])


@pytest.mark.parametrize("shape", SHAPES)
def test_native_rounds_bfloat16_states_once(shape):
    given, held = arguments(shape, torch.bfloat16, torch.bfloat16), weights(shape)
    y, _, h = in_double(given, held)
    found = native.mamba2_step(*given, held)
    assert_close([found, given[2][USED]], [y, h], BF16)


@pytest.mark.parametrize("run", [native.mamba2_step, composed.mamba2_step], ids=["native", "composed"])
def test_slots_of_others_stay_as_they_are(run):
    given, held = arguments("groups", torch.float32), weights("groups")
    for pool in given[1:3]:
        pool[[1, 2, 4]] = 3.25
    y = run(*given, held)
    assert y.isfinite().all() and all(pool.isfinite().all() for pool in given[1:3])
    assert all(torch.equal(pool[[1, 2, 4]], torch.full_like(pool[[1, 2, 4]], 3.25)) for pool in given[1:3])


def test_native_sequences_and_threads_change_no_bit():
    """Each sequence alone, in any slot, is what it is among others."""
    held, given = weights("wide"), arguments("wide", torch.bfloat16)
    together = native.mamba2_step(*given, held)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for i, slot in enumerate(USED):
            projected, conv, ssm, _, fresh = arguments("wide", torch.bfloat16)
            conv[2], ssm[2] = conv[slot].clone(), ssm[slot].clone()
            y = native.mamba2_step(projected[i : i + 1], conv, ssm, torch.tensor([2]), fresh[i : i + 1], held)
            assert torch.equal(y, together[i : i + 1])
            assert torch.equal(conv[2], given[1][slot]) and torch.equal(ssm[2], given[2][slot])
    torch.set_num_threads(1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ssm_dtype", [torch.float32, torch.bfloat16])
def test_native_tokens_together_are_to_the_bit_what_they_are_one_by_one(dtype, ssm_dtype, threads):
    torch.set_num_threads(threads)
    held, lengths = weights("groups"), [1, 17, 40, 2]
    _, *pools, slots, fresh = arguments("groups", dtype, ssm_dtype)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    projected = torch.randn(int(bounds[-1]), in_rows("groups")).to(dtype)
    conv, ssm = (pool.clone() for pool in pools)
    together = native.mamba2_step(projected, conv, ssm, slots, fresh, held, bounds)
    for sequence, (first, length) in enumerate(zip(bounds.tolist(), lengths, strict=False)):
        for place in range(first, first + length):
            new = fresh[sequence : sequence + 1] & (place == first)
            y = native.mamba2_step(projected[place : place + 1], *pools, slots[sequence : sequence + 1], new, held)
            assert torch.equal(y, together[place : place + 1])
    assert torch.equal(conv[USED], pools[0][USED]) and torch.equal(ssm[USED], pools[1][USED])
    torch.set_num_threads(1)


@pytest.mark.parametrize("run", [native.mamba2_step, composed.mamba2_step], ids=["native", "composed"])
def test_several_tokens_are_what_the_ops_of_longer_sequences_make_of_them(run):
    given, held, bounds = arguments("groups", torch.float32), weights("groups"), torch.tensor([0, 3, 3 + 18, 22, 30])
    given[0] = torch.randn(30, in_rows("groups"))
    projected, conv, ssm = (tensor.double() for tensor in given[:3])
    wide = Weights(*(each.double() if isinstance(each, Tensor) else each for each in held))
    y = composed.mamba2_step(projected, conv, ssm, *given[3:], wide, bounds)
    found = run(*given, held, bounds)
    assert_close([found, given[1][USED], given[2][USED]], [y, conv[USED], ssm[USED]], [FP32, 1e-12, FP32])


def in_rows(shape: str) -> int:
    heads, channels, groups, state, _ = SHAPES[shape]
    return 2 * heads * channels + 2 * groups * state + heads


def test_native_takes_bfloat16_parameters_and_slices_of_wider_rows():
    given, held = arguments("groups", torch.bfloat16), weights("groups")
    y = native.mamba2_step(*given, held)
    projected, *rest = arguments("groups", torch.bfloat16)
    wide = torch.full((len(projected), projected.shape[1] + 9), torch.nan, dtype=projected.dtype)
    wide[:, 4:-5] = projected
    narrow = held._replace(conv_weight=held.conv_weight.bfloat16(), conv_bias=held.conv_bias.bfloat16())
    assert torch.equal(native.mamba2_step(wide[:, 4:-5], *rest, narrow), y)


def test_what_does_not_fit_is_said():
    given, held = arguments("groups", torch.float32), weights("groups")
    with pytest.raises(ConfigError, match="of the projection; got 168 and 269"):
        mamba2_step(given[0][:, 1:], *given[1:], held)
    with torch.no_grad(), pytest.raises(ConfigError, match="Sequence 1 of the batch has slot 7; the pool has slots 0 to 6"):
        native.mamba2_step(*given[:3], torch.tensor([5, 7, 3, 6]), given[4], held)
    with pytest.raises(ConfigError, match="int64"):
        mamba2_step(*given[:3], given[3].int(), given[4], held)
    with pytest.raises(ConfigError, match="rise from 0 to the 4 tokens"):
        mamba2_step(*given, held, torch.tensor([0, 1, 2, 3, 5]))
