"""Recorded steps against the modules' `forward`: the same bits, for every shape of a batch, and never of a decoder that has changed."""

import pytest
import torch
from tests.models.random_models import random_config, random_hymba, random_model
from torch import Tensor

from amaru.models import Decoder, DecoderConfig
from amaru.models.checkpoint import kept
from amaru.models.state import DecoderState
from amaru.nn import MLP, Attention
from amaru.nn.rope import Rope
from amaru.ops.native import lacks
from amaru.serve.forward import advance, hidden_after
from amaru.serve.recorded import MOST_SHAPES, RECORDED
from amaru.serve.work import Work, batch_of

pytestmark = pytest.mark.skipif(lacks() is not None, reason="recordings hold native kernels")
SEQUENCES = [[3, 5, 8, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3, 2, 3]]


@torch.inference_mode()
def forward(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
    return decoder.hidden_states(batch_of(work), state)


def run(step, decoder: Decoder, sizes: list[int]) -> list[Tensor]:
    """Three sequences begin in slots 2, 0 and 1 and go on, `sizes` tokens each at a time."""
    state, found = decoder.new_state(3, 80), []
    work = [Work(ids, 0, slot) for ids, slot in zip(SEQUENCES, (2, 0, 1), strict=True)]
    for _ in range(6):
        found.append(step(decoder, state, work))
        work = [Work([7 + item.slot] * size, item.start + len(item.ids), item.slot) for item, size in zip(work, sizes, strict=True)]
    return found


def in_dtype(decoder: Decoder, dtype: torch.dtype) -> Decoder:
    """As a checkpoint is loaded: what is always in float32 stays so."""
    for name, (spec, _) in decoder.config.tensors().items():
        parameter = decoder.get_parameter(name)
        parameter.data = parameter.data.to(kept(spec, dtype))
    return decoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [[1, 1, 1], [3, 1, 2]])
@pytest.mark.parametrize("config", [random_config(2, "MM-*-M"), random_config(2, "-M**M*-"), random_hymba(1), random_hymba(4)])
def test_a_recorded_step_has_the_bits_of_forward(config, sizes, dtype):
    decoder = in_dtype(random_model(config, 2), dtype)
    state_count = len(RECORDED)
    for ours, expected in zip(run(hidden_after, decoder, sizes), run(forward, decoder, sizes), strict=True):
        assert torch.equal(ours, expected)
    assert len(RECORDED) == state_count  # a pool takes its recordings with it
    state = decoder.new_state(1, 80)
    for start in range(2):
        hidden_after(decoder, state, [Work([5], start, 0)])
    assert [step.refusal for step in RECORDED[state].values()] == [None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rope", [Rope(base=500.0), Rope(fraction=0.5)])
def test_a_transformer_with_rotary_positions_and_a_gate_is_recorded(rope, dtype):
    attention = Attention(query_heads=6, kv_heads=2, channels=12, rope=rope, bias=True)
    layers = (attention, MLP(ffn=33, gated=True, activation="silu")) * 2
    decoder = random_model(DecoderConfig(vocab=61, hidden=26, layers=layers), 5).to(dtype)
    for ours, expected in zip(run(hidden_after, decoder, [1, 1, 1]), run(forward, decoder, [1, 1, 1]), strict=True):
        assert torch.equal(ours, expected)
    hidden_after(decoder, state := decoder.new_state(1, 80), [Work([5], 0, 0)])
    assert [step.refusal for step in RECORDED[state].values()] == [None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [[1, 1, 1], [3, 1, 2]])
def test_logits_have_the_bits_of_forward_and_stay_as_they_are(sizes, dtype):
    decoder = random_model(random_config(2, "M-*M"), 2).to(dtype)

    @torch.inference_mode()
    def logits(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
        ends = torch.tensor([len(item.ids) for item in work]).cumsum(0) - 1
        return decoder.logits(forward(decoder, state, work)[ends])

    for ours, expected in zip(run(advance, decoder, sizes), run(logits, decoder, sizes), strict=True):
        assert ours.dtype is torch.float32
        assert torch.equal(ours, expected)


def test_steps_of_one_shape_are_recorded_once_and_shapes_apart():
    decoder = random_model(random_config(1, "M-*"), 1)
    state = decoder.new_state(4, 80)
    for start in range(4):
        hidden_after(decoder, state, [Work([5], start, 0), Work([6], start, 3)])
        hidden_after(decoder, state, [Work([5], start, 1)])
    assert [step.refusal for step in RECORDED[state].values()] == [None, None]


def test_what_may_never_come_again_is_recorded_when_it_does_and_stays_while_it_is_used():
    decoder = random_model(random_config(1, "M-*"), 1)
    state = decoder.new_state(2, 80)

    def step(*sizes: int) -> None:
        hidden_after(decoder, state, [Work([5] * size, 9, slot) for slot, size in enumerate(sizes)])

    for sizes in ((1, 1), (2, 1), (2, 1), (3, 1)):
        step(*sizes)
    assert [(shape[0], step is not None) for shape, step in RECORDED[state].items()] == [((1, 1), True), ((2, 1), True), ((3, 1), False)]
    for number in range(MOST_SHAPES):
        step(2 + number % 8, 2 + number // 8)
        step(1, 1)
    kept = {shape[0]: step for shape, step in RECORDED[state].items()}
    assert len(kept) == MOST_SHAPES and kept[1, 1] is not None and (2, 1) not in kept


def test_a_decoder_that_changed_is_recorded_anew():
    decoder = random_model(random_config(1, "M-*"), 1)
    state = decoder.new_state(1, 80)

    def step(start: int) -> Tensor:
        kept = [{name: held.clone() for name, held in layer.items()} for layer in state.layers]
        ours = hidden_after(decoder, state, [Work([5], start, 0)])
        for layer, copies in zip(state.layers, kept, strict=True):
            for name, held in copies.items():
                layer[name].copy_(held)
        assert torch.equal(ours, forward(decoder, state, [Work([5], start, 0)]))
        return ours

    first = step(0)
    decoder.layers[1].mixer.up_proj.weight.data = torch.randn_like(decoder.layers[1].mixer.up_proj.weight)  # type: ignore[union-attr]
    assert not torch.equal(step(1), first)
    decoder.layers[1].mixer.up_proj = torch.nn.Linear(*decoder.layers[1].mixer.up_proj.weight.shape[::-1], bias=False)  # type: ignore[union-attr]
    step(2)
    step(3)
    assert next(iter(RECORDED[state].values())).refusal  # torch's module, torch's op


def test_experts_are_served_by_forward():
    decoder = random_model(random_config(3, "ME*E"), 3)
    for ours, expected in zip(run(hidden_after, decoder, [1, 1, 1]), run(forward, decoder, [1, 1, 1]), strict=True):
        assert torch.equal(ours, expected)
    state = decoder.new_state(1, 80)
    hidden_after(decoder, state, [Work([5], 0, 0)])
    assert [bool(step.refusal) for step in RECORDED[state].values()] == [True]
