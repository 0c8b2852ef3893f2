"""The scan: every backend against the recurrence step by step, and the invariances that packing and serving rest on."""

from itertools import pairwise

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close, bounds, with_gradients
from torch import Tensor

from amaru.errors import BackendError, ConfigError
from amaru.ops.ssd import chunked, native, reference, ssd

# heads, channels, groups, state, lengths of the sequences
CASES = {
    "one token": (4, 8, 2, 16, [1]),
    "63 tokens": (2, 16, 1, 16, [63]),
    "130 tokens, odd channels": (4, 5, 2, 24, [130]),
    "tiny and empty documents": (6, 20, 2, 16, [2, 1, 0, 1, 70, 2]),
    "two chunks and an empty document": (2, 5, 1, 8, [2, 0, 70]),
    "decoding": (4, 12, 1, 24, [1, 1, 1]),
}
BACKENDS = {"chunked": chunked.ssd, "native": native.ssd}
# y, states, then gradients of x, dt, A, B, C, D, initial_states. That of A sums terms of mixed sign over all tokens,
# of which the longest case leaves a sixth (its norm over that of the sum of magnitudes).
TOLERANCES = [FP32, FP32, FP32, FP32, 6 * FP32, FP32, FP32, FP32, FP32]


def arguments(case: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """x, dt, A, B, C, D, initial_states, and the boundaries."""
    heads, channels, groups, state, lengths = CASES[case]
    tokens = sum(lengths)
    torch.manual_seed(seed)
    tensors = [
        torch.randn(tokens, heads, channels).to(dtype),
        torch.rand(tokens, heads) * 0.5,
        -torch.rand(heads) * 2 - 0.05,
        torch.randn(tokens, groups, state).to(dtype),
        torch.randn(tokens, groups, state).to(dtype),
        torch.randn(heads),
        torch.randn(len(lengths), heads, channels, state),
    ]
    return tensors, bounds(*lengths)


def run(function, cu_seqlens, chunk_size=32):
    """The scan of x, dt, A, B, C, D, initial_states with its final states."""
    return lambda *t: function(*t[:6], cu_seqlens=cu_seqlens, initial_states=t[6], return_states=True, chunk_size=chunk_size)


def double(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def test_reference_is_the_sum_over_the_past():
    tensors, cu_seqlens = arguments("63 tokens")
    x, dt, A, B, C, D, initial = double(tensors)
    y, states = run(reference.ssd, cu_seqlens)(x, dt, A, B, C, D, initial)
    for t in (0, 17, 62):
        decay = torch.stack([torch.exp((dt[j + 1 : t + 1] * A).sum(0)) for j in range(t + 1)])  # [past, heads]
        past = torch.einsum("n,jn,jh,jhp->hp", C[t, 0], B[: t + 1, 0], decay * dt[: t + 1], x[: t + 1])
        start = torch.exp((dt[: t + 1] * A).sum(0))[:, None] * (initial[0] @ C[t, 0])
        assert_close([y[t]], [past + start + D[:, None] * x[t]], 1e-13)
    assert states.shape == initial.shape


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_and_gradients_equal_the_recurrence(backend, case):
    tensors, cu_seqlens = arguments(case)
    expected = with_gradients(run(reference.ssd, cu_seqlens), double(tensors))
    assert_close(with_gradients(run(BACKENDS[backend], cu_seqlens), tensors), expected, TOLERANCES)


@pytest.mark.parametrize("case", CASES)
def test_chunked_is_exact_in_float64(case):
    tensors, cu_seqlens = arguments(case)
    for chunk_size in (1, 16, 1000):
        found = with_gradients(run(chunked.ssd, cu_seqlens, chunk_size), double(tensors))
        assert_close(found, with_gradients(run(reference.ssd, cu_seqlens), double(tensors)), 1e-13)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_rounds_only_its_results(backend, case):
    tensors, cu_seqlens = arguments(case, torch.bfloat16)
    found = with_gradients(run(BACKENDS[backend], cu_seqlens), tensors)
    expected = with_gradients(run(reference.ssd, cu_seqlens), double(tensors))
    assert [t.dtype for t in found[:2]] == [torch.bfloat16, torch.float32]
    assert_close(found, expected, [BF16 if t.dtype == torch.bfloat16 else most for t, most in zip(found, TOLERANCES, strict=True)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_states_nor_their_gradients(backend):
    tensors, cu_seqlens = arguments("tiny and empty documents")

    def outputs(function):
        return lambda *t: function(*t, cu_seqlens=cu_seqlens)

    found = with_gradients(outputs(BACKENDS[backend]), tensors[:6])
    assert_close(found, with_gradients(outputs(reference.ssd), double(tensors[:6])), TOLERANCES[:1] + TOLERANCES[2:8])


def test_chunked_and_reference_pass_gradcheck():
    torch.manual_seed(0)
    shapes = (5, 2, 2), (5, 2), (2,), (5, 1, 3), (5, 1, 3), (2,), (2, 2, 2, 3)
    tensors = [torch.rand(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    for function in (chunked.ssd, reference.ssd):
        assert torch.autograd.gradcheck(run(function, bounds(4, 1), chunk_size=3), tensors)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_documents_equal_documents_alone(backend):
    (x, dt, A, B, C, D, initial), cu_seqlens = arguments("tiny and empty documents")
    packed, states = run(BACKENDS[backend], cu_seqlens)(x, dt, A, B, C, D, initial)
    for sequence, (start, stop) in enumerate(pairwise(cu_seqlens.tolist())):
        alone = x[start:stop], dt[start:stop], A, B[start:stop], C[start:stop], D, initial[sequence, None]
        y, state = run(BACKENDS[backend], bounds(stop - start))(*alone)
        assert_close([packed[start:stop], states[sequence]], [y, state[0]], FP32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cuts", [[0, 100, 130], [0, 1, 7, 64, 129, 130]])
def test_continued_scan_equals_the_whole(backend, cuts):
    (x, dt, A, B, C, D, initial), cu_seqlens = arguments("130 tokens, odd channels")
    whole, final = run(BACKENDS[backend], cu_seqlens)(x, dt, A, B, C, D, initial)
    parts, state = [], initial
    for start, stop in pairwise(cuts):
        y, state = run(BACKENDS[backend], bounds(stop - start))(x[start:stop], dt[start:stop], A, B[start:stop], C[start:stop], D, state)
        parts.append(y)
    assert_close([torch.cat(parts), state], [whole, final], FP32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strong_decay_stays_finite_and_exact(backend):
    (x, dt, A, B, C, D, initial), cu_seqlens = arguments("130 tokens, odd channels")
    dt[1::3] *= 1e4  # dt A down to -1e4, next to tokens that hardly decay
    A[0] = -16.0
    expected = with_gradients(run(reference.ssd, cu_seqlens), double([x, dt, A, B, C, D, initial]))
    assert_close(with_gradients(run(BACKENDS[backend], cu_seqlens), [x, dt, A, B, C, D, initial]), expected, FP32)


def test_native_gradients_are_bit_equal_from_run_to_run_and_for_any_number_of_threads():
    tensors, cu_seqlens = arguments("tiny and empty documents")
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (threads, threads, 1, 3):
            torch.set_num_threads(number)
            results.append(with_gradients(run(native.ssd, cu_seqlens), tensors))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_native_reads_slices_of_wider_rows():
    tensors, cu_seqlens = arguments("130 tokens, odd channels")
    wide = torch.randn(130, 4 * 5 + 2 * 2 * 24)
    x, B, C = wide.split([20, 48, 48], dim=1)
    sliced = [x.view(130, 4, 5), *tensors[1:3], B.view(130, 2, 24), C.view(130, 2, 24), *tensors[5:]]
    copied = [tensor.contiguous() for tensor in sliced]
    for one, other in zip(run(native.ssd, cu_seqlens)(*sliced), run(native.ssd, cu_seqlens)(*copied), strict=True):
        assert torch.equal(one, other)


def test_a_forced_backend_that_refuses_is_an_error(monkeypatch):
    tensors, cu_seqlens = arguments("one token")
    monkeypatch.setenv("AMARU_SSD", "native")
    with pytest.raises(BackendError, match="native computes in float32 or bfloat16 only, got float64"):
        ssd(*double(tensors)[:6], cu_seqlens=cu_seqlens)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cu_seqlens": torch.tensor([0, 1, 62])}, "63 tokens"),
        ({"cu_seqlens": torch.tensor([0, 40, 20, 63])}, "rise"),
        ({"initial_states": torch.zeros(2, 2, 16, 16)}, r"must have shape \[1, 2, 16, 16\]"),
        ({"chunk_size": 0}, "at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, said):
    tensors, cu_seqlens = arguments("63 tokens")
    with pytest.raises(ConfigError, match=said):
        ssd(*tensors[:6], **({"cu_seqlens": cu_seqlens} | change))
