"""New weights against what Nemotron-H's training code draws, tensor by tensor."""

import math

import pytest
import torch

from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP

HIDDEN, COUNT = 200, 4
LAYERS = (Mamba2(heads=64, channels=16, groups=2, state=16), MLP(ffn=900), Attention(query_heads=8, kv_heads=2, channels=32), MLP(ffn=900))


@pytest.fixture(scope="module")
def drawn() -> dict[str, torch.Tensor]:
    return dict(Decoder(DecoderConfig(vocab=1500, hidden=HIDDEN, layers=LAYERS)).initialise(3).named_parameters())


def is_normal(weight: torch.Tensor, std: float) -> None:
    assert weight.mean().item() == pytest.approx(0, abs=5 * std / math.sqrt(weight.numel()))
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))


@pytest.mark.parametrize(
    "name", ["embedding.weight", "head.weight", "layers.0.mixer.in_proj.weight", "layers.1.mixer.up_proj.weight"]
    + [f"layers.2.mixer.{part}_proj.weight" for part in "qkv"]
)  # fmt: skip
def test_matrices_that_read_the_stream(drawn, name: str) -> None:
    is_normal(drawn[name], math.sqrt(0.8 / HIDDEN))


@pytest.mark.parametrize("name", ["layers.0.mixer.out_proj.weight", "layers.1.mixer.down_proj.weight", "layers.2.mixer.o_proj.weight"])
def test_matrices_that_write_to_it_are_smaller_by_the_root_of_the_layers(drawn, name: str) -> None:
    is_normal(drawn[name], math.sqrt(0.8 / HIDDEN) / math.sqrt(COUNT))


def test_the_mamba_vectors(drawn) -> None:
    part = {name.removeprefix("layers.0.mixer."): tensor.detach() for name, tensor in drawn.items() if name.startswith("layers.0.mixer.")}
    A = part["A_log"].exp()
    assert A.min() >= 1 and A.max() <= 16 and A.mean().item() == pytest.approx(8.5, abs=2)
    dt = torch.nn.functional.softplus(part["dt_bias"])
    assert dt.min() >= 1e-3 * 0.999 and dt.max() <= 1e-1 * 1.001
    assert dt.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.6), "uniform in the logarithm"
    assert (part["D"] == 1).all() and (part["norm.weight"] == 1).all()
    for name in ("conv1d.weight", "conv1d.bias"):  # four taps: within a half
        assert 0.45 < part[name].abs().max() <= 0.5 and part[name].std().item() == pytest.approx(1 / math.sqrt(12), rel=0.1)


def test_another_spread_scales_matrices_alone(drawn) -> None:
    config = DecoderConfig(vocab=1500, hidden=HIDDEN, layers=LAYERS)
    wider = dict(Decoder(config).initialise(3, std=2 * math.sqrt(0.8 / HIDDEN)).named_parameters())
    for name, tensor in drawn.items():
        matrix = tensor.dim() == 2
        torch.testing.assert_close(wider[name], 2 * tensor if matrix else tensor)
