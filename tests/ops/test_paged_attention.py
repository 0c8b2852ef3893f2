"""Attention over pages against attention over the same keys in a row."""

import pytest
import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.attention import attention
from amaru.ops.paged_attention import paged_attention

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
