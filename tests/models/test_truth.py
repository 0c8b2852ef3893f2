"""One function, five ways to run it: whole, in chunks, token by token, packed with others, several in one state pool."""

import pytest
import torch
from tests.models.random_models import random_config, random_ids, random_model
from torch import Tensor

from amaru.models import Decoder
from amaru.nn import Batch

CASES = [(0, "MM-*-M"), (1, "-M**M*-"), (2, "M*-MM--**"), (3, "M"), (4, "*")]
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
LENGTH = 45


@pytest.fixture(params=[(case, dtype) for case in CASES for dtype in TOLERANCES], ids=lambda p: f"{p[0][1]} {str(p[1])[6:]}")
def decoder(request: pytest.FixtureRequest) -> Decoder:
    (seed, pattern), dtype = request.param
    return random_model(random_config(seed, pattern), seed, dtype)


@pytest.fixture
def ids(decoder: Decoder) -> Tensor:
    return random_ids(decoder.config.vocab, LENGTH)[0]


def same(decoder: Decoder, found: Tensor, expected: Tensor) -> bool:
    dtype = decoder.embedding.weight.dtype
    assert found.dtype == dtype
    return float((found - expected).abs().max()) < TOLERANCES[dtype]


@torch.no_grad()
def whole(decoder: Decoder, ids: Tensor) -> Tensor:
    return decoder(Batch.of([ids]))


def in_pieces(decoder: Decoder, ids: Tensor, sizes: list[int], slot: int = 0) -> Tensor:
    state = decoder.new_state(slot + 1, len(ids))
    for layer in state.layers:
        for tensor in layer.values():
            tensor.normal_()  # what an earlier owner left in the slot must not matter
    logits, start = [], 0
    for piece in ids.split(sizes):
        logits.append(decoder(Batch.of([piece], starts=[start], slots=[slot]), state))
        start += len(piece)
    return torch.cat(logits)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[45], [16, 16, 13], [1, 2, 3, 39], [31, 14], [44, 1]], ids=str)
def test_chunked_prefill_is_the_whole(decoder: Decoder, ids: Tensor, sizes: list[int]) -> None:
    assert same(decoder, in_pieces(decoder, ids, sizes, slot=2), whole(decoder, ids))


@torch.no_grad()
def test_token_by_token_is_the_whole(decoder: Decoder, ids: Tensor) -> None:
    assert same(decoder, in_pieces(decoder, ids, [1] * LENGTH), whole(decoder, ids))


@torch.no_grad()
def test_packed_with_other_documents_is_alone(decoder: Decoder, ids: Tensor) -> None:
    before, between = random_ids(decoder.config.vocab, 33, 1, seed=5)
    logits = decoder(Batch.of([before, ids, between, ids]))
    expected = whole(decoder, ids)
    assert same(decoder, logits[33 : 33 + LENGTH], expected)
    assert same(decoder, logits[-LENGTH:], expected)


@torch.no_grad()
def test_several_sequences_in_one_pool_prefilling_and_decoding_together_are_alone(decoder: Decoder, ids: Tensor) -> None:
    others = random_ids(decoder.config.vocab, 20, 7, seed=5)
    sequences = [ids, *others]
    state, slots = decoder.new_state(5, LENGTH), [3, 0, 4]
    done, collected = [0, 0, 0], [[], [], []]
    for takes in ([10, 7, 0], [1, 1, 3], [20, 0, 1], [1, 1, 1], [1, 11, 2], [12, 0, 0]):  # prompts and single tokens in one batch
        running = [index for index, take in enumerate(takes) if take]
        pieces = [sequences[index][done[index] :][: takes[index]] for index in running]
        batch = Batch.of(pieces, starts=[done[index] for index in running], slots=[slots[index] for index in running])
        for index, logits in zip(running, decoder(batch, state).split([len(piece) for piece in pieces]), strict=True):
            collected[index].append(logits)
            done[index] += len(logits)
    assert done == [45, 20, 7]
    for sequence, parts in zip(sequences, collected, strict=True):
        assert same(decoder, torch.cat(parts), whole(decoder, sequence))


@torch.no_grad()
def test_a_document_does_not_see_its_neighbour_at_all(decoder: Decoder, ids: Tensor) -> None:
    """Bit for bit: what stands before a document changes nothing in it."""
    first, second = random_ids(decoder.config.vocab, 19, 19, seed=7)
    one, other = (decoder(Batch.of([before, ids]))[19:] for before in (first, second))
    assert torch.equal(one, other)


def test_compute_dtype_lowers_activations_and_keeps_states_and_logits_in_fp32() -> None:
    decoder = random_model(random_config(0, "M-*-M"), 0)
    batch = Batch.of(random_ids(decoder.config.vocab, 30))
    with torch.no_grad():
        exact = decoder(batch)
        decoder.compute_dtype = torch.bfloat16
        rough, hidden = decoder(batch), decoder.hidden_states(batch)
    assert hidden.dtype == torch.bfloat16 and rough.dtype == torch.float32
    assert {name: tensor.dtype for name, tensor in decoder.new_state(1, 1).layers[0].items()} == {"conv": torch.bfloat16, "ssm": torch.float32}
    assert 0 < float((rough - exact).abs().max()) < 0.1 * float(exact.abs().max())
