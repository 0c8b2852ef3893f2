"""Attention over pages against attention over the same keys in a row."""

from itertools import pairwise

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.attention import attention, reference
from amaru.ops.exactness import exact
from amaru.ops.paged_attention import NARROW, narrowed, native, paged_attention, prompt
from amaru.ops.paged_attention.narrow import widened

PAGE, KV_HEADS, HEADS, QK, V = 4, 2, 6, 5, 7
ENDS, NEW = [1, 9, 4, 23], [1, 3, 4, 1]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scattered(sequences: list[Tensor], pages: Tensor) -> Tensor:
    """A pool that holds each sequence in its pages, and poison everywhere else."""
    pool = torch.full((int(pages.max()) + 1, PAGE, *sequences[0].shape[1:]), torch.nan, dtype=torch.float64)
    for table, rows in zip(pages, sequences, strict=True):
        for place, row in enumerate(rows):
            pool[table[place // PAGE], place % PAGE] = row
    return pool


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (5, 0), (3, 2)])
def test_pages_in_any_order_are_the_sequence(window: int | None, sinks: int) -> None:
    pages = torch.randperm(len(ENDS) * 6, generator=torch.Generator().manual_seed(0)).view(len(ENDS), 6)
    keys = [drawn(end, KV_HEADS, QK, seed=end) for end in ENDS]
    values = [drawn(end, KV_HEADS, V, seed=100 + end) for end in ENDS]
    q, bounds = drawn(sum(NEW), HEADS, QK, seed=1), torch.tensor([0, *NEW]).cumsum(0)
    asked = {"cu_seqlens": bounds, "scale": 0.3, "window": window, "sinks": sinks}
    pools = (scattered(keys, pages), scattered(values, pages))
    found = paged_attention(q, *pools, pages, lengths=torch.tensor(ENDS), **asked)
    torch.testing.assert_close(found, attention(q, keys, values, **asked))


def test_pages_behind_a_window_may_be_given_away() -> None:
    pages = torch.arange(6).view(1, 6)
    keys, values = [drawn(23, KV_HEADS, QK, seed=0)], [drawn(23, KV_HEADS, V, seed=1)]
    q, asked = drawn(1, HEADS, QK, seed=2), {"cu_seqlens": torch.tensor([0, 1]), "scale": 1.0, "window": 5, "sinks": 2}
    pools = (scattered(keys, pages), scattered(values, pages))
    gone = pages.clone()
    gone[0, 1:4] = -1  # places 4 to 15; the query at 22 sees 0, 1 and 17 to 22
    found = paged_attention(q, *pools, gone, lengths=torch.tensor([23]), **asked)
    torch.testing.assert_close(found, attention(q, keys, values, **asked))


def test_what_does_not_fit_is_said() -> None:
    q, pool = drawn(1, HEADS, QK, seed=0), drawn(2, PAGE, KV_HEADS, QK, seed=1)
    asked = {"cu_seqlens": torch.tensor([0, 1]), "scale": 1.0}
    with pytest.raises(ConfigError, match="pages of 4"):
        paged_attention(q, pool, pool, torch.tensor([[0, 1]]), lengths=torch.tensor([9]), **asked)
    with pytest.raises(ConfigError, match="kv_heads"):
        paged_attention(q, pool[..., 1:], pool, torch.tensor([[0]]), lengths=torch.tensor([1]), **asked)


WIDE = {"narrow": (6, 2, 5, 7), "wide": (8, 2, 128, 128), "alone": (3, 3, 33, 70), "shared": (10, 1, 64, 16)}  # heads, kv heads, qk, v


def arguments(name: str, ends: list[int], new: list[int], dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Tensor], list[list[Tensor]]]:
    """q, pools and pages for the op, and keys and values of each sequence for the oracle."""
    heads, kv_heads, qk, v = WIDE[name]
    pages = torch.randperm(len(ends) * 200, generator=torch.Generator().manual_seed(0)).view(len(ends), 200)
    rows = [[drawn(end, kv_heads, width, seed=end + width).to(dtype) for end in ends] for width in (qk, v)]
    pools = [scattered(each, pages).to(dtype) for each in rows]
    q, bounds = drawn(sum(new), heads, qk, seed=1).to(dtype), torch.tensor([0, *new]).cumsum(0)
    return [q, *pools, pages], {"cu_seqlens": bounds, "lengths": torch.tensor(ends)}, rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (300, 0), (37, 3), (0, 1)])
@pytest.mark.parametrize("name", WIDE)
def test_native_reads_pages_in_place(name: str, window: int | None, sinks: int, dtype: torch.dtype) -> None:
    given, asked, (keys, values) = arguments(name, [1, 9, 260, 777], [1, 3, 1, 7], dtype)
    seen = {"scale": 0.3, "window": window, "sinks": sinks}
    found = native.paged_attention(*given, **asked, **seen)
    rows = [[tensor.double() for tensor in each] for each in (keys, values)]
    expected = reference.attention(given[0].double(), *rows, cu_seqlens=asked["cu_seqlens"], **seen)
    assert found.dtype == dtype
    assert_close([found], [expected], FP32 if dtype == torch.float32 else BF16)


@pytest.mark.parametrize("window", [None, 300])
def test_native_bits_depend_on_neither_threads_nor_company(window: int | None) -> None:
    given, asked, _ = arguments("wide", [600, 9, 777], [5, 1, 1], torch.bfloat16)
    together = native.paged_attention(*given, **asked, scale=0.3, window=window, sinks=2)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for i in range(5):  # the queries of the first sequence, one at a time
            lengths, bounds = torch.tensor([596 + i]), torch.tensor([0, 1])
            alone = native.paged_attention(
                given[0][i : i + 1], *given[1:3], given[3][:1], cu_seqlens=bounds, lengths=lengths, scale=0.3, window=window, sinks=2
            )
            assert torch.equal(alone[0], together[i])
    torch.set_num_threads(1)


def test_short_sequences_in_front_of_a_long_one() -> None:
    given, asked, (keys, values) = arguments("narrow", [30, 9, 90, 12], [1, 3, 40, 2], torch.float32)
    found = paged_attention(*given, **asked, scale=0.3)
    assert_close([found], [attention(given[0], keys, values, cu_seqlens=asked["cu_seqlens"], scale=0.3)], FP32)


@pytest.mark.skipif(prompt.lacks_instructions() is not None, reason="needs AVX-512 BF16")
@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (300, 0), (37, 3), (0, 1), (200, 150)])
@pytest.mark.parametrize("name", ["wide", "shared"])
def test_prompts_over_pages(name: str, window: int | None, sinks: int) -> None:
    given, asked, (keys, values) = arguments(name, [170, 400, 131, 1], [170, 133, 17, 1], torch.bfloat16)
    seen = {"scale": 0.3 if name == "wide" else 30.0, "window": window, "sinks": sinks}
    assert prompt.refuses(*given, **asked, **seen) is None
    found = prompt.paged_attention(*given, **asked, **seen)
    rows = [[tensor.double() for tensor in each] for each in (keys, values)]
    expected = reference.attention(given[0].double(), *rows, cu_seqlens=asked["cu_seqlens"], **seen)
    assert_close([found], [expected], BF16)


@pytest.mark.skipif(prompt.lacks_instructions() is not None, reason="needs AVX-512 BF16")
def test_bits_of_a_prompt_do_not_depend_on_threads() -> None:
    given, asked, _ = arguments("wide", [300, 400], [300, 200], torch.bfloat16)
    one, two = (at_threads(count, given, asked) for count in (1, 2))
    assert torch.equal(one, two)
    with exact():
        assert "exact()" in (prompt.refuses(*given, **asked, scale=0.1) or "")


def at_threads(count: int, given: list[Tensor], asked: dict[str, Tensor]) -> Tensor:
    torch.set_num_threads(count)
    found = prompt.paged_attention(*given, **asked, scale=0.1)
    torch.set_num_threads(1)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["wide", "alone"])
def test_native_widens_codes_as_torch_does(name: str, dtype: torch.dtype) -> None:
    given, asked, _ = arguments(name, [1, 9, 260, 777], [1, 3, 1, 7], dtype)
    (q, *pools, pages), seen = given, {**asked, "scale": 0.3, "window": 300, "sinks": 2}
    shrunk = torch.logspace(-9, 3, pools[0].shape[2])[:, None]  # heads of very different sizes; codes without leading digit
    coded = [narrowed(pool * shrunk * torch.randn(pool.shape).pow(5)) for pool in pools]
    assert native.refuses(q, *(codes for codes, _ in coded), pages, scales=tuple(scales for _, scales in coded), **seen) is None
    found = native.paged_attention(q, *(codes for codes, _ in coded), pages, scales=tuple(scales for _, scales in coded), **seen)
    assert torch.equal(found, native.paged_attention(q, *(widened(*each, dtype) for each in coded), pages, **seen))


def test_large_scores_do_not_overflow_in_native() -> None:
    given, asked, (keys, values) = arguments("narrow", [300], [2], torch.float32)
    found = native.paged_attention(*given, **asked, scale=1e4)
    assert_close([found], [reference.attention(given[0], keys, values, cu_seqlens=asked["cu_seqlens"], scale=1e4)], FP32)


def test_a_page_that_is_none_is_named_by_native() -> None:
    given, asked, _ = arguments("narrow", [9, 9], [1, 1], torch.float32)
    given[3][1, 2] = 4000
    with pytest.raises(ConfigError, match="Sequence 1 of the batch needs pages"):
        native.paged_attention(*given, **asked, scale=0.3)
    with pytest.raises(ConfigError, match="of which their queries are part"):
        paged_attention(*given, cu_seqlens=asked["cu_seqlens"], lengths=torch.tensor([9, 0]), scale=0.3)


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (8, 3), (20, 4), (50, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_in_exact_mode_a_query_has_the_same_bits_however_many_come_with_it(dtype, window, sinks):
    torch.manual_seed(0)
    length, page = 300, 16
    q, table = torch.randn(length, 6, 10).to(dtype), torch.randperm(20)[None]
    keys, values = torch.randn(20, page, 2, 10).to(dtype), torch.randn(20, page, 2, 12).to(dtype)

    def attended(*cuts: int) -> Tensor:
        asked = {"scale": 0.3, "window": window, "sinks": sinks}
        parts = []
        for start, stop in pairwise(cuts):
            where = {"cu_seqlens": torch.tensor([0, stop - start]), "lengths": torch.tensor([stop])}
            parts.append(paged_attention(q[start:stop], keys, values, table, **where, **asked))
        return torch.cat(parts)

    with exact():
        whole = attended(0, length)
        for cuts in (range(length + 1), (0, 5, 40, 100, length), (0, 257, 258, length)):
            assert torch.equal(attended(*cuts), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_eight_bits_are_off_by_a_sixteenth_of_a_number_at_most(dtype: torch.dtype) -> None:
    x = drawn(50, 3, 40, seed=0).to(dtype) * torch.logspace(-20, 20, 50)[:, None, None].to(dtype)
    x[3, 1], x[4, 2, 5] = 0, torch.nan
    codes, scales = narrowed(x)
    assert codes.dtype is NARROW and torch.equal(scales.log2(), scales.log2().round())
    found = widened(codes, scales, torch.float64)
    assert found[4, 2, 5].isnan() and (found[3, 1] == 0).all()
    least = x.double().abs().amax(-1, keepdim=True) * 2 / 448 * 2**-10  # half of the least code, at the largest scale
    error = (found - x.double()).abs()
    fine = (error <= torch.maximum(x.double().abs() / 16, least)).all(-1)
    assert fine.sum() == 50 * 3 - 1 and not fine[4, 2]  # the head with the NaN has no scale


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (37, 3)])
def test_pages_of_eight_bits_are_the_numbers_that_they_mean(window: int | None, sinks: int) -> None:
    (q, *pools, pages), asked, rows = arguments("narrow", [1, 9, 260, 77], [1, 3, 1, 40], torch.float32)
    coded = [narrowed(pool.nan_to_num()) for pool in pools]
    asked |= {"scale": 0.3, "window": window, "sinks": sinks}
    found = paged_attention(q, coded[0][0], coded[1][0], pages, scales=(coded[0][1], coded[1][1]), **asked)
    keys, values = ([widened(*narrowed(row), torch.float64) for row in each] for each in rows)
    asked.pop("lengths")
    assert_close([found], [reference.attention(q.double(), keys, values, **asked)], FP32)
