"""Every kernel started through its op's wrapper, at the widths of Nemotron-H 8B (Hymba 1.5B for its own); on any device, meta too."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from amaru.ops.causal_conv1d import triton as conv_on_gpu
from amaru.ops.gated_rmsnorm import triton as gated_norm_on_gpu
from amaru.ops.gated_silu import triton as gate_on_gpu
from amaru.ops.head_loss import triton as loss_on_gpu
from amaru.ops.mamba2_step import Weights
from amaru.ops.mamba2_step import triton as step_on_gpu
from amaru.ops.page_write import triton as write_on_gpu
from amaru.ops.paged_attention import triton as attention_on_gpu
from amaru.ops.quantised_linear import Encoding, Kind
from amaru.ops.quantised_linear import triton as codes_on_gpu
from amaru.ops.rms_norm import triton as norm_on_gpu
from amaru.ops.rotary import triton as rotary_on_gpu
from amaru.ops.selective_scan import triton as selective_on_gpu
from amaru.ops.squared_relu import triton as relu_on_gpu
from amaru.ops.ssd import triton as ssd_on_gpu

HEADS, CHANNELS, GROUPS, STATE, TAPS = 128, 64, 8, 128, 4
INNER, HIDDEN, FFN, QUERY_HEADS, KV_HEADS, WIDTH = HEADS * CHANNELS, 4096, 21504, 32, 8, 128
ROWS = INNER + 2 * GROUPS * STATE
TOKENS, SEQUENCES, PAGE = 512, 4, 64
BF16 = torch.bfloat16


def learning(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.ones(*shape, dtype=dtype, requires_grad=True)


def both_ways(y: Tensor) -> None:
    y.backward(torch.ones_like(y))


def bounds(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths], device="cpu").cumsum(0)


def step() -> None:
    pool = torch.zeros(SEQUENCES, ROWS, TAPS - 1, dtype=BF16), torch.zeros(SEQUENCES, HEADS, CHANNELS, STATE)
    conv, one = (torch.zeros(ROWS, 1, TAPS, dtype=BF16), torch.zeros(ROWS, dtype=BF16)), torch.ones(HEADS)
    weights = Weights(*conv, one, one, one, torch.ones(INNER, dtype=BF16), GROUPS, 1e-5, (0.0, math.inf))
    slots, fresh = torch.arange(SEQUENCES), torch.zeros(SEQUENCES, dtype=torch.bool)
    step_on_gpu.mamba2_step(torch.zeros(SEQUENCES, INNER + ROWS + HEADS, dtype=BF16), *pool, slots, fresh, weights)


def scan() -> None:
    x, B, C = learning(TOKENS, HEADS, CHANNELS), learning(TOKENS, GROUPS, STATE), learning(TOKENS, GROUPS, STATE)
    dt, A, D = learning(TOKENS, HEADS, dtype=torch.float32), learning(HEADS, dtype=torch.float32), learning(HEADS, dtype=torch.float32)
    both_ways(ssd_on_gpu.ssd(x, dt, A, B, C, D, cu_seqlens=bounds(TOKENS))[0])


def convolution() -> None:
    x, weight, bias = learning(TOKENS, ROWS), learning(ROWS, TAPS, dtype=torch.float32), learning(ROWS, dtype=torch.float32)
    both_ways(conv_on_gpu.causal_conv1d(x, weight, bias, cu_seqlens=bounds(TOKENS))[0])
    states = torch.zeros(1, ROWS, TAPS - 1, dtype=BF16)
    with torch.no_grad():
        conv_on_gpu.causal_conv1d(x, weight, bias, cu_seqlens=bounds(TOKENS), initial_states=states, return_states=True)


def norms() -> None:
    both_ways(norm_on_gpu.rms_norm(learning(TOKENS, HIDDEN), learning(HIDDEN), eps=1e-5))
    both_ways(gated_norm_on_gpu.gated_rmsnorm(learning(TOKENS, INNER), learning(TOKENS, INNER), learning(INNER), groups=GROUPS, eps=1e-5))


def activations() -> None:
    both_ways(relu_on_gpu.squared_relu(learning(TOKENS, FFN)))
    both_ways(gate_on_gpu.gated_silu(learning(TOKENS, FFN), learning(TOKENS, FFN)))
    turns = torch.ones(TOKENS, WIDTH // 2)
    both_ways(rotary_on_gpu.rotary(learning(TOKENS, QUERY_HEADS, WIDTH), turns, turns))


def pages() -> None:
    pool = torch.zeros(64, PAGE, KV_HEADS, WIDTH, dtype=BF16)
    table, positions = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(TOKENS, dtype=torch.int64)
    write_on_gpu.page_write(torch.zeros(TOKENS, KV_HEADS, WIDTH, dtype=BF16), pool, table, positions, positions)
    for queries in (1, TOKENS):
        q, lengths = torch.zeros(queries, QUERY_HEADS, WIDTH, dtype=BF16), torch.full([1], TOKENS)
        attention_on_gpu.paged_attention(q, pool, pool, table, cu_seqlens=bounds(queries), lengths=lengths, scale=0.1)


def losses() -> None:
    loss_on_gpu.cross_entropy(torch.zeros(TOKENS, 131072, dtype=BF16), torch.zeros(TOKENS, dtype=torch.int64), -100)


def weights_in_codes() -> None:
    for kind in (Kind.FP8, Kind.INT4):
        codes, scales = (torch.zeros(held.shape, dtype=held.dtype) for held in Encoding(kind).stored(FFN, HIDDEN))
        for rows in (1, 64, TOKENS):
            codes_on_gpu.quantised_linear(torch.zeros(rows, HIDDEN, dtype=BF16), codes, scales)


def selective() -> None:
    inner, state = 3200, 16
    x, B, C = learning(TOKENS, inner), learning(TOKENS, state), learning(TOKENS, state)
    dt, A, D = (learning(*shape, dtype=torch.float32) for shape in ((TOKENS, inner), (inner, state), (inner,)))
    both_ways(selective_on_gpu.selective_scan(x, dt, A, B, C, D, cu_seqlens=bounds(TOKENS))[0])


LAUNCHES: dict[str, Callable[[], None]] = {
    "mamba2_step": step,
    "ssd": scan,
    "causal_conv1d": convolution,
    "norms": norms,
    "activations": activations,
    "pages": pages,
    "cross_entropy": losses,
    "quantised_linear": weights_in_codes,
    "selective_scan": selective,
}
