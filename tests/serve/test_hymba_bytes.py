"""What one sequence of Hymba 1.5B holds at 8,192 tokens, counted in a real pool, against the 78.6 MB of the paper."""

from dataclasses import replace

import pytest
import torch

from amaru.models import Decoder
from amaru.models.cost import Workload, memory
from amaru.models.families import hymba
from amaru.models.state import CACHES
from amaru.nn import MLP
from amaru.serve.state_pool import StatePool, room_of

CONTEXT, CHUNK, MB = 8192, 2048, 1e6
RELEASED = hymba.presets()["hymba-1.5b"]


@pytest.fixture(scope="module")
def pool() -> StatePool:
    """States and caches as released; the residual stream, MLPs and the vocabulary, which have no part in them, are tiny."""
    narrow = tuple(replace(layer, ffn=1) if isinstance(layer, MLP) else layer for layer in RELEASED.layers)
    decoder = Decoder(replace(RELEASED, hidden=8, vocab=8, layers=narrow)).initialise(0).to(torch.bfloat16)
    return StatePool(decoder, room_of(decoder, 1, CONTEXT, CHUNK), CONTEXT)


def test_a_sequence_at_8k_holds_what_the_paper_counts_and_little_more(pool: StatePool) -> None:
    lease, held = pool.admit(pool.needed(CONTEXT, CHUNK)), []
    for done in [*range(CHUNK, CONTEXT, CHUNK), *range(CONTEXT - 100, CONTEXT + 1)]:  # a prompt, then an answer
        pool.extend(lease, done)
        pool.forget(lease, done)
        pages = {sight: sum(page is not None for page in each) for sight, each in lease.pages.items()}
        held.append(pool.fixed_bytes + sum(pool.page_bytes[sight] * count for sight, count in pages.items()))
    published = memory(RELEASED, Workload(context=CONTEXT, state="bf16"))  # which another test holds against the paper
    assert round(published.sequences / MB, 1) == 82.8, "78.6 and the rows of the meta tokens"
    in_fp32 = published.ssm_state  # as much again
    assert held[-1] == published.sequences + in_fp32 and round(held[-1] / MB, 1) == 86.1
    assert max(held) == held[-1] + pool.page_bytes["window"], "a window begins anywhere in its first page"
    pool.give_back(lease)


def test_the_pool_has_what_is_counted_and_meta_tokens_once(pool: StatePool) -> None:
    state = pool.state
    fixed = sum(held.nbytes for layer in state.layers for name, held in layer.items() if name not in CACHES)
    cached = sum(held.nbytes for layer in state.layers for name, held in layer.items() if name in CACHES)
    assert fixed == pool.fixed_bytes
    assert cached == sum(pool.page_bytes[sight] * pages.count for sight, pages in pool.pages.items())
    assert state.meta is not None and state.meta.layers[0]["ssm"].shape[0] == 1
    owners = sum("keys" in layer for layer in state.layers)
    assert owners == 17, "of 32 layers, 15 read the keys and values of another"
