"""The selective scan: every backend against the recurrence, itself against the closed sum; forward and all gradients."""

from itertools import pairwise

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close, bounds, with_gradients
from torch import Tensor

from amaru.errors import BackendError, ConfigError
from amaru.ops.exactness import exact
from amaru.ops.selective_scan import chunked, native, reference, selective_scan

# inner, state, lengths of the sequences
CASES = {
    "one token": (19, 16, [1]),
    "63 tokens": (16, 16, [63]),
    "130 tokens, odd channels and state": (37, 5, [130]),
    "more channels than a task": (150, 3, [9, 70]),
    "tiny and empty documents": (21, 7, [2, 1, 0, 1, 70, 2]),
    "few channels and an empty document": (5, 2, [2, 0, 9]),
    "decoding": (35, 24, [1, 1, 1]),
}
BACKENDS = {"chunked": chunked.selective_scan, "native": native.selective_scan}
LONG = "130 tokens, odd channels and state"


def arguments(case: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """x, dt, A, B, C, D, initial_states, and the boundaries."""
    inner, state, lengths = CASES[case]
    tokens = sum(lengths)
    torch.manual_seed(seed)
    tensors = [
        torch.randn(tokens, inner).to(dtype),
        torch.rand(tokens, inner) * 0.5,
        -torch.rand(inner, state) * 2 - 0.05,
        torch.randn(tokens, state).to(dtype),
        torch.randn(tokens, state).to(dtype),
        torch.randn(inner),
        torch.randn(len(lengths), inner, state),
    ]
    return tensors, bounds(*lengths)


def run(function, cu_seqlens):
    """The scan of x, dt, A, B, C, D, initial_states with its final states."""
    return lambda *t: function(*t[:6], cu_seqlens=cu_seqlens, initial_states=t[6], return_states=True)


def double(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def test_reference_is_the_sum_over_the_past():
    tensors, cu_seqlens = arguments(LONG)
    x, dt, A, B, C, D, initial = double(tensors)
    y, states = run(reference.selective_scan, cu_seqlens)(x, dt, A, B, C, D, initial)
    for t in (0, 17, 129):
        since = torch.stack([dt[j + 1 : t + 1].sum(0) for j in range(t + 1)])  # [past, inner]: time from token j to t
        decay = torch.exp(since[:, :, None] * A)
        past = torch.einsum("n,jn,jdn,jd->d", C[t], B[: t + 1], decay, dt[: t + 1] * x[: t + 1])
        start = torch.exp(dt[: t + 1].sum(0)[:, None] * A) * initial[0]
        assert_close([y[t]], [past + start @ C[t] + D * x[t]], 1e-13)
    assert states.shape == initial.shape


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_and_gradients_equal_the_recurrence(backend, case):
    tensors, cu_seqlens = arguments(case)
    expected = with_gradients(run(reference.selective_scan, cu_seqlens), double(tensors))
    assert_close(with_gradients(run(BACKENDS[backend], cu_seqlens), tensors), expected, FP32)


@pytest.mark.parametrize("case", CASES)
def test_chunked_is_exact_in_float64(case):
    tensors, cu_seqlens = arguments(case)
    found = with_gradients(run(chunked.selective_scan, cu_seqlens), double(tensors))
    assert_close(found, with_gradients(run(reference.selective_scan, cu_seqlens), double(tensors)), 1e-13)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_rounds_only_its_results(backend, case):
    tensors, cu_seqlens = arguments(case, torch.bfloat16)
    found = with_gradients(run(BACKENDS[backend], cu_seqlens), tensors)
    expected = with_gradients(run(reference.selective_scan, cu_seqlens), double(tensors))
    assert [t.dtype for t in found[:2]] == [torch.bfloat16, torch.float32]
    assert_close(found, expected, [BF16 if t.dtype == torch.bfloat16 else FP32 for t in found])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_states_nor_their_gradients(backend):
    tensors, cu_seqlens = arguments("tiny and empty documents")

    def outputs(function):
        return lambda *t: function(*t, cu_seqlens=cu_seqlens)

    found = with_gradients(outputs(BACKENDS[backend]), tensors[:6])
    assert_close(found, with_gradients(outputs(reference.selective_scan), double(tensors[:6])), FP32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_states", [True, False])
def test_native_without_gradients_equals_the_recurrence(case, with_states):
    *tensors, initial = arguments(case)[0]
    known = {"cu_seqlens": arguments(case)[1], "initial_states": initial if with_states else None, "return_states": with_states}
    found = [out for out in native.selective_scan(*tensors, **known) if out is not None]
    known["initial_states"] = initial.double() if with_states else None
    expected = [out for out in reference.selective_scan(*double(tensors), **known) if out is not None]
    assert_close(found, expected, FP32)


def test_chunked_and_reference_pass_gradcheck():
    torch.manual_seed(0)
    shapes = (5, 3), (5, 3), (3, 2), (5, 2), (5, 2), (3,), (2, 3, 2)
    tensors = [torch.rand(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    for function in (chunked.selective_scan, reference.selective_scan):
        assert torch.autograd.gradcheck(run(function, bounds(4, 1)), tensors)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_documents_equal_documents_alone(backend):
    (x, dt, A, B, C, D, initial), cu_seqlens = arguments("tiny and empty documents")
    packed, states = run(BACKENDS[backend], cu_seqlens)(x, dt, A, B, C, D, initial)
    for sequence, (start, stop) in enumerate(pairwise(cu_seqlens.tolist())):
        alone = x[start:stop], dt[start:stop], A, B[start:stop], C[start:stop], D, initial[sequence, None]
        y, state = run(BACKENDS[backend], bounds(stop - start))(*alone)
        assert_close([packed[start:stop], states[sequence]], [y, state[0]], FP32)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_stands_in_one_document_never_reaches_another(backend, poison):
    tensors, cu_seqlens = arguments("tiny and empty documents")
    clean = with_gradients(run(BACKENDS[backend], cu_seqlens), tensors)
    for tensor in (tensors[index] for index in (0, 1, 3, 4)):
        tensor[3:4] = poison  # the document of one token before that of seventy
    tensors[6][3] = poison
    poisoned = with_gradients(run(BACKENDS[backend], cu_seqlens), tensors)
    others = [token for token in range(76) if token != 3]
    for index in (0, 2, 3, 5, 6):  # y, and the gradients of x, dt, B and C
        assert torch.equal(poisoned[index][others], clean[index][others])
    assert torch.equal(poisoned[1][4:], clean[1][4:]) and not poisoned[0][3].isfinite().any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cuts", [[0, 100, 130], [0, 1, 7, 64, 129, 130]])
def test_continued_scan_equals_the_whole(backend, cuts):
    (x, dt, A, B, C, D, initial), cu_seqlens = arguments(LONG)
    whole, final = run(BACKENDS[backend], cu_seqlens)(x, dt, A, B, C, D, initial)
    parts, state = [], initial
    for start, stop in pairwise(cuts):
        y, state = run(BACKENDS[backend], bounds(stop - start))(x[start:stop], dt[start:stop], A, B[start:stop], C[start:stop], D, state)
        parts.append(y)
    assert_close([torch.cat(parts), state], [whole, final], FP32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strong_decay_stays_finite_and_exact(backend):
    (x, dt, A, B, C, D, initial), cu_seqlens = arguments(LONG)
    dt[1::3] *= 1e4  # dt A down to -1e4, next to tokens that hardly decay
    A[0] = -16.0
    expected = with_gradients(run(reference.selective_scan, cu_seqlens), double([x, dt, A, B, C, D, initial]))
    assert_close(with_gradients(run(BACKENDS[backend], cu_seqlens), [x, dt, A, B, C, D, initial]), expected, FP32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_in_the_decay_is_not_lost(backend):
    (x, dt, A, B, C, D, initial), cu_seqlens = arguments(LONG)
    A[3, 1] = torch.nan
    y, _ = run(BACKENDS[backend], cu_seqlens)(x, dt, A, B, C, D, initial)
    assert y.isnan().any(0).nonzero().flatten().tolist() == [3] and y[:, 3].isnan().all()


def test_native_gradients_are_bit_equal_from_run_to_run_and_for_any_number_of_threads():
    threads = torch.get_num_threads()
    for case in ("tiny and empty documents", "more channels than a task"):
        tensors, cu_seqlens = arguments(case)
        try:
            results = []
            for number in (threads, threads, 1, 3):
                torch.set_num_threads(number)
                results.append(with_gradients(run(native.selective_scan, cu_seqlens), tensors))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_native_reads_slices_of_wider_rows():
    tensors, cu_seqlens = arguments(LONG)
    x, B, C, _ = torch.randn(130, 37 + 5 + 5 + 4).split([37, 5, 5, 4], dim=1)
    sliced = [x, *tensors[1:3], B, C, *tensors[5:]]
    copied = [tensor.contiguous() for tensor in sliced]
    for one, other in zip(run(native.selective_scan, cu_seqlens)(*sliced), run(native.selective_scan, cu_seqlens)(*copied), strict=True):
        assert torch.equal(one, other)


def test_a_forced_backend_that_refuses_is_an_error(monkeypatch):
    tensors, cu_seqlens = arguments("one token")
    monkeypatch.setenv("AMARU_SELECTIVE_SCAN", "native")
    with pytest.raises(BackendError, match="native computes in float32 or bfloat16 only, got float64"):
        selective_scan(*double(tensors)[:6], cu_seqlens=cu_seqlens)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cu_seqlens": torch.tensor([0, 1, 62])}, "63 tokens"),
        ({"cu_seqlens": torch.tensor([0, 40, 20, 63])}, "rise"),
        ({"initial_states": torch.zeros(2, 16, 16)}, r"must have shape \[1, 16, 16\]"),
        ({"A": torch.zeros(16)}, r"A is \[inner, state\]; got \[63, 16\] and \[16\]"),
        ({"dt": torch.zeros(63, 1)}, r"dt must have shape \[63, 16\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, said):
    tensors, cu_seqlens = arguments("63 tokens")
    named = dict(zip(("x", "dt", "A", "B", "C", "D"), tensors, strict=False)) | {"cu_seqlens": cu_seqlens}
    with pytest.raises(ConfigError, match=said):
        selective_scan(**(named | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_in_exact_mode_a_token_has_the_same_bits_however_a_sequence_is_cut(dtype):
    torch.manual_seed(0)
    inner, state, length = 33, 7, 75
    x, B, C = (torch.randn(length, width).to(dtype) for width in (inner, state, state))
    dt, A, D = torch.rand(length, inner), -4 * torch.rand(inner, state), torch.randn(inner)

    def scanned(*cuts: int) -> tuple[Tensor, Tensor]:
        h, parts = torch.zeros(1, inner, state), []
        for start, stop in pairwise(cuts):
            part = slice(start, stop)
            bounds = torch.tensor([0, stop - start])
            y, h = selective_scan(x[part], dt[part], A, B[part], C[part], D, cu_seqlens=bounds, initial_states=h, return_states=True)
            parts.append(y)
        return torch.cat(parts), h

    with exact():
        whole = scanned(0, length)
        for cuts in (range(length + 1), (0, 1, 6, 7, 40, length), (0, 33, 35, length)):
            assert all(map(torch.equal, scanned(*cuts), whole))
