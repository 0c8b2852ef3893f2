"""One function, five ways to run it: whole, in chunks, token by token, packed with others, and left-padded in a batch."""

import functools
from dataclasses import replace

import pytest
import torch
from tests.models.random_models import FAMILIES, random_config, random_ids, random_model
from torch import Tensor

from amaru.models import Decoder, DecoderConfig, DecoderState
from amaru.nn import Batch
from amaru.nn.hybrid_head import HybridHead

SEEDS = {"nemotron_h": (0, 1, 3), "hymba": (2, 7, 10), "amaru": (0, 1)}
CASES = [(family, seed) for family in FAMILIES for seed in SEEDS.get(family, (0, 1))]
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
LENGTH = 75  # more than a page of the cache


@functools.cache
def built(family: str, seed: int, dtype: torch.dtype) -> Decoder:
    return random_model(FAMILIES[family](seed), seed, dtype)


Shape = tuple[str, int, torch.dtype]
SHAPES: list[Shape] = [(*case, dtype) for case in CASES for dtype in TOLERANCES]


def title(shape: Shape) -> str:
    return f"{shape[0]} {shape[1]} {str(shape[2]).removeprefix('torch.')}"


@pytest.fixture(params=SHAPES, ids=title)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return built(*request.param)


@pytest.fixture
def ids(decoder: Decoder) -> Tensor:
    return random_ids(decoder.config.vocab, LENGTH)[0]


def same(decoder: Decoder, found: Tensor, expected: Tensor) -> bool:
    dtype = decoder.embedding.weight.dtype
    assert found.dtype == dtype and found.shape == expected.shape
    return float((found - expected).abs().max()) < TOLERANCES[dtype]


@torch.no_grad()
def whole(decoder: Decoder, ids: Tensor) -> Tensor:
    return decoder(Batch.of([ids]))


def poisoned(decoder: Decoder, slots: int, capacity: int = LENGTH) -> DecoderState:
    """A pool in which nothing may be read before it is written, and whose pages lie in any order.

    What earlier owners left is not a number.
    """
    state = decoder.new_state(slots, capacity)
    for layer in state.layers:
        for tensor in layer.values():
            tensor.fill_(torch.nan)
    for table in state.tables.values():
        table.copy_(torch.randperm(table.numel(), generator=torch.Generator().manual_seed(2))[table])
    return state


def in_pieces(decoder: Decoder, ids: Tensor, sizes: list[int], slot: int = 0) -> Tensor:
    state = poisoned(decoder, slot + 1)
    logits, start = [], 0
    for piece in ids.split(sizes):
        logits.append(decoder(Batch.of([piece], starts=[start], slots=[slot]), state))
        start += len(piece)
    return torch.cat(logits)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[75], [16, 16, 43], [1, 2, 3, 69], [31, 33, 11], [74, 1]], ids=str)
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


def padded(sequences: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """[B, L] ids and mask; what stands in the padding is any token."""
    longest = max(len(ids) for ids in sequences)
    rows, mask = torch.full((len(sequences), longest), 3), torch.zeros(len(sequences), longest, dtype=torch.int64)
    for row, ids in enumerate(sequences):
        place = slice(longest - len(ids), None) if side == "left" else slice(len(ids))
        rows[row, place], mask[row, place] = ids, 1
    return rows, mask


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_in_a_batch_and_going_on_from_there_is_alone(decoder: Decoder, ids: Tensor, side: str) -> None:
    """Prompts of three lengths in one padded batch, then one more token of each at a time."""
    sequences = [ids[:68], *random_ids(decoder.config.vocab, 30, 12, seed=5)]
    prompts, slots, state = [58, 20, 2], [1, 3, 0], poisoned(decoder, 4)
    batch = Batch.padded(*padded([ids[:n] for ids, n in zip(sequences, prompts, strict=True)], side), slots=slots)
    logits = [list(part.split(1)) for part in decoder(batch, state).split(prompts)]
    for step in range(10):
        following = [ids[n + step : n + step + 1] for ids, n in zip(sequences, prompts, strict=True)]
        batch = Batch.of(following, starts=[n + step for n in prompts], slots=slots)
        for parts, new in zip(logits, decoder(batch, state).split(1), strict=True):
            parts.append(new)
    for sequence, parts in zip(sequences, logits, strict=True):
        assert same(decoder, torch.cat(parts), whole(decoder, sequence))


@torch.no_grad()
def test_prefills_and_decodes_in_one_batch_in_reused_slots_are_alone(decoder: Decoder, ids: Tensor) -> None:
    """The third sequence ends and a fourth begins in its slot, while the first two go on at other lengths."""
    sequences = [ids, *random_ids(decoder.config.vocab, 20, 7, 15, seed=5)]
    state, slots = poisoned(decoder, 5), [3, 0, 4, 4]
    done, collected = [0, 0, 0, 0], [[], [], [], []]
    steps = ([40, 7, 0, 0], [1, 1, 3, 0], [20, 0, 1, 0], [1, 1, 1, 0], [1, 11, 2, 0], [1, 0, 0, 12], [0, 0, 0, 1], [11, 0, 0, 2])
    for takes in steps:
        running = [index for index, take in enumerate(takes) if take]
        pieces = [sequences[index][done[index] :][: takes[index]] for index in running]
        batch = Batch.of(pieces, starts=[done[index] for index in running], slots=[slots[index] for index in running])
        for index, logits in zip(running, decoder(batch, state).split([len(piece) for piece in pieces]), strict=True):
            collected[index].append(logits)
            done[index] += len(logits)
    assert done == [75, 20, 7, 15]
    for sequence, parts in zip(sequences, collected, strict=True):
        assert same(decoder, torch.cat(parts), whole(decoder, sequence))


@torch.no_grad()
def test_a_state_moves_to_more_room_and_to_other_slots_and_goes_on(decoder: Decoder, ids: Tensor) -> None:
    """As beams do: slot 0 goes on from what slot 2 was, slots 1 and 2 both from what slot 0 was, each its own way."""
    other, another = random_ids(decoder.config.vocab, 30, 10, seed=5)
    small, state = poisoned(decoder, 3, capacity=40), poisoned(decoder, 3)
    begun = decoder(Batch.of([ids[:40], other[:20]], slots=[2, 0]), small)
    state.take_over(small)
    state.reorder(torch.tensor([2, 0, 0]))
    gone_on = decoder(Batch.of([another, ids[40:], other[20:]], starts=[20, 40, 20], slots=[2, 0, 1]), state)
    assert same(decoder, torch.cat([begun[:40], gone_on[10:45]]), whole(decoder, ids))
    assert same(decoder, torch.cat([begun[40:], gone_on[45:]]), whole(decoder, other))
    assert same(decoder, gone_on[:10], whole(decoder, torch.cat([other[:20], another]))[20:])


def windows(config: DecoderConfig) -> list[int]:
    """How far back the layers see that keep a cache of a window."""
    return [layer.window for layer in config.layers if isinstance(layer, HybridHead) and layer.window and not layer.shares_kv]


@torch.no_grad()
@pytest.mark.parametrize("decoder", [shape for shape in SHAPES if windows(FAMILIES[shape[0]](shape[1]))], ids=title, indirect=True)
def test_what_lies_behind_the_window_is_not_read(decoder: Decoder, ids: Tensor) -> None:
    """Its pages may belong to someone else by then; what the sinks and the window see stays."""
    meta, far, done = decoder.config.meta_tokens, max(windows(decoder.config)), 60
    state = poisoned(decoder, 2)
    logits = [decoder(Batch.of([ids[:done]], slots=[1]), state)]
    places = torch.arange(meta, meta + done - far)
    for layer, sight in zip(state.layers, state.sights, strict=True):
        for name in {"keys", "values"} & layer.keys() if sight == "window" else ():
            page = layer[name].shape[1]
            layer[name][state.tables[sight][1][places // page], places % page] = 1e3
    logits += [decoder(Batch.of([piece], starts=[start], slots=[1]), state) for piece, start in ((ids[60:61], 60), (ids[61:], 61))]
    assert same(decoder, torch.cat(logits), whole(decoder, ids))


@torch.no_grad()
def test_a_document_does_not_see_its_neighbour_at_all(decoder: Decoder, ids: Tensor) -> None:
    """Bit for bit: what stands before a document changes nothing in it. Experts multiply more or fewer rows, and round otherwise."""
    first, second = random_ids(decoder.config.vocab, 19, 19, seed=7)
    one, other = (decoder(Batch.of([before, ids]))[19:] for before in (first, second))
    experts = any(layer.kind == "moe" for layer in decoder.config.layers)
    assert same(decoder, one, other) if experts else torch.equal(one, other)


def gradients(decoder: Decoder, batches: list[Batch], pulls: list[Tensor]) -> dict[str, Tensor]:
    loss = sum(((decoder(batch) * pull).sum() for batch, pull in zip(batches, pulls, strict=True)), torch.zeros(()))
    parameters = dict(decoder.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: grad for name, grad in zip(parameters, found, strict=True) if grad is not None}


def test_gradients_of_packed_and_padded_documents_are_the_sum_of_each_alone(decoder: Decoder, ids: Tensor) -> None:
    dtype = decoder.embedding.weight.dtype
    sequences = [random_ids(decoder.config.vocab, 26, seed=5)[0], ids[:1], ids]
    generator = torch.Generator().manual_seed(1)
    pulls = [torch.randn(len(each), decoder.config.vocab, dtype=dtype, generator=generator) / LENGTH for each in sequences]
    alone = gradients(decoder, [Batch.of([each]) for each in sequences], pulls)
    assert alone.keys() >= {name for name, _ in decoder.named_parameters() if "correction" not in name}
    for batch in (Batch.of(sequences), Batch.padded(*padded(sequences, "left"))):
        together = gradients(decoder, [batch], [torch.cat(pulls)])
        assert together.keys() == alone.keys()
        for name, grad in alone.items():
            assert float((together[name] - grad).abs().max()) < TOLERANCES[dtype] * max(1.0, float(grad.abs().max())), name


def test_the_cases_hold_what_they_promise() -> None:
    configs = [FAMILIES[family](seed) for family, seed in CASES]
    kinds = {layer.kind for config in configs for layer in config.layers}
    assert kinds == {"mamba2", "attention", "mlp", "moe", "hybrid_head"}
    assert {config.meta_tokens > 0 for config in configs} == {True, False}
    assert {config.norm for config in configs} == {"rmsnorm", "layernorm1p"}
    assert {family for family, seed in CASES if windows(FAMILIES[family](seed))} == {"hymba", "amaru"}
    assert all(far < 13 for config in configs for far in windows(config))  # crossed within a prompt, and between it and what follows


def test_meta_tokens_are_computed_once_per_state() -> None:
    """A sequence that begins in a slot runs only its own tokens through the layers."""
    decoder = built("hymba", 7, torch.float64)
    state, seen = decoder.new_state(2, 8), []
    hook = decoder.layers[0].register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    with torch.no_grad():
        decoder(Batch.of(random_ids(decoder.config.vocab, 5, 3), slots=[0, 1]), state)
    hook.remove()
    assert seen == [8]


def test_compute_dtype_lowers_activations_and_keeps_states_and_logits_in_fp32() -> None:
    decoder = random_model(random_config(0, "M-*-M"), 0)
    batch = Batch.of(random_ids(decoder.config.vocab, 30))
    with torch.no_grad():
        exact = decoder(batch)
        decoder.compute_dtype = torch.bfloat16
        rough, hidden = decoder(batch), decoder.hidden_states(batch)
    assert hidden.dtype == torch.bfloat16 and rough.dtype == torch.float32
    dtypes = {name: tensor.dtype for name, tensor in decoder.new_state(1, 1).layers[0].items()}
    assert dtypes == {"conv": torch.bfloat16, "ssm": torch.float32}
    assert 0 < float((rough - exact).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_activations_stay_near_in_every_family(family: str) -> None:
    """Four layers deep: what bf16 rounds off grows with depth, and in random models faster than in trained ones."""
    config = FAMILIES[family](2)
    decoder = random_model(replace(config, layers=config.layers[:4]), 2)
    batch = Batch.of(random_ids(decoder.config.vocab, 30))
    with torch.no_grad():
        exact = decoder(batch)
        decoder.compute_dtype = torch.bfloat16
        rough = decoder(batch)
        cached = decoder(replace(batch, slots=torch.tensor([0])), decoder.new_state(1, 30))
    assert rough.dtype == cached.dtype == torch.float32
    for found in (rough, cached):
        assert 0 < float((found - exact).norm()) < 0.1 * float(exact.norm())
