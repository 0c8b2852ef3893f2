"""Captured steps against the engine without them, on a GPU; which steps are left alone, anywhere."""

import pytest
import torch

from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE
from amaru.nn.rope import Rope
from amaru.serve import captured, recorded
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY
from amaru.serve.work import Work

LAYERS = (
    Mamba2(heads=4, channels=8, groups=2, state=16),
    MLP(ffn=96),
    Attention(query_heads=4, kv_heads=2, channels=16, rope=Rope()),
    MLP(ffn=64, gated=True, activation="silu"),
)
MIXTURE = MoE(ffn=16, experts=4, top_k=2, shared_ffn=16)


def decoder(*layers) -> Decoder:
    return Decoder(DecoderConfig(vocab=97, hidden=32, layers=layers)).initialise(seed=0)


@pytest.mark.parametrize(
    ("work", "layers", "said"),
    [
        ([Work([1], 4, 0), Work([2], 1, 1)], LAYERS, None),
        ([Work([1], 4, 0), Work([2, 3], 1, 1)], LAYERS, "several tokens"),
        ([Work([1], 4, slot) for slot in range(257)], LAYERS, "up to 256 sequences"),
        ([Work([1], 4, 0)], (MIXTURE,), "experts"),
    ],
)
def test_what_is_not_captured_has_a_reason(work, layers, said):
    reason = captured.refuses(decoder(*layers), work)
    assert reason is None if said is None else said in reason


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_generated_with_graphs_is_what_is_generated_without(monkeypatch, dtype):
    model = decoder(*LAYERS).to("cuda")
    model.compute_dtype = dtype
    prompts = [[1, 2, 3], [5] * 70, [7], list(range(40))]
    settings = [Settings(max_tokens=length, sampling=GREEDY) for length in (20, 9, 33, 14)]  # company changes on the way
    found = [each.tokens for each in generate(model, prompts, settings)]
    assert any(isinstance(step, captured.CapturedStep) for shapes in recorded.RECORDED.values() for step in shapes.values())
    monkeypatch.setattr(captured, "MOST_SEQUENCES", 0)
    assert found == [each.tokens for each in generate(model, prompts, settings)]
