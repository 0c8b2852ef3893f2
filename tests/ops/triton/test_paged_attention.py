"""Attention over scattered, poisoned pages against attention over keys in a row, in float64; and writing into pages."""

import pytest
import torch
from tests.ops.oracle import assert_close
from tests.ops.test_page_write import drawn as rows_and_pages
from tests.ops.test_paged_attention import WIDE, arguments
from tests.ops.triton.on_device import DEVICE, assert_near, every, there

from amaru.ops.attention import reference
from amaru.ops.page_write import eager
from amaru.ops.page_write import triton as write
from amaru.ops.paged_attention import narrowed, triton
from amaru.ops.paged_attention.narrow import widened


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter runs them one after the other."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(triton, "PROGRAMS", 16)
        monkeypatch.setattr(triton, "QUERIES", 16)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIGHTS = [(37, 3), *(pytest.param(*sight, marks=pytest.mark.soak) for sight in [(None, 0), (300, 0), (0, 1)])]


@pytest.mark.parametrize("dtype", every(DTYPES, "float32"))
@pytest.mark.parametrize(("window", "sinks"), SIGHTS)
@pytest.mark.parametrize("name", every(WIDE, "narrow"))
@pytest.mark.parametrize("new", [[1, 1, 1, 1], [1, 3, 1, 7]])
def test_pages_are_read_in_place(name, window, sinks, dtype, new):
    dtype = DTYPES[dtype]
    given, asked, (keys, values) = arguments(name, [1, 9, 18, 41], new, dtype)
    seen = {"scale": 0.3, "window": window, "sinks": sinks}
    where = {"cu_seqlens": asked["cu_seqlens"], "lengths": there(asked["lengths"])}
    found = triton.paged_attention(*there(given), **where, **seen)
    rows = [[tensor.double() for tensor in each] for each in (keys, values)]
    assert_near([found], [reference.attention(given[0].double(), *rows, cu_seqlens=asked["cu_seqlens"], **seen)], dtype)


@pytest.mark.soak
@pytest.mark.parametrize("new", [[1, 1], [140, 1]])
def test_long_prompts_and_pages_that_were_given_away(new):
    (q, keys, values, pages), asked, rows = arguments("narrow", [150, 90], new, torch.float32)
    first = 150 - new[0]  # behind the window of 20 lie whole pages of 4
    if first > 30:
        pages[0, 1 : (first - 20) // 4] = -1
    seen = {"scale": 0.3, "window": 20, "sinks": 2}
    where = {"cu_seqlens": asked["cu_seqlens"], "lengths": there(asked["lengths"])}
    found = triton.paged_attention(*there([q, keys, values, pages]), **where, **seen)
    wide = [[tensor.double() for tensor in each] for each in rows]
    assert_near([found], [reference.attention(q.double(), *wide, cu_seqlens=asked["cu_seqlens"], **seen)], torch.float32)


@pytest.mark.soak
@pytest.mark.parametrize("new", [[1, 1], [5, 1]])
def test_keys_and_values_of_8_bits(new):
    (q, keys, values, pages), asked, _ = arguments("shared", [9, 47], new, torch.float32)
    codes = [narrowed(pool.nan_to_num()) for pool in (keys, values)]
    scales = tuple(there(scale) for _, scale in codes)
    where = {"cu_seqlens": asked["cu_seqlens"], "lengths": there(asked["lengths"]), "scale": 0.3}
    found = triton.paged_attention(*there([q, *(code for code, _ in codes), pages]), scales=scales, **where)
    wide = [widened(*each, torch.float32) for each in codes]
    assert_near([found], [triton.paged_attention(*there([q, *wide, pages]), **where).cpu()], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_go_where_the_table_says(dtype):
    given = rows_and_pages(dtype)
    (_, pool, *_) = found = there(given)
    write.page_write(*found)
    eager.page_write(*given)
    assert_close([pool.cpu()], [given[1]], 0.0)
    assert pool.device.type == DEVICE.type
