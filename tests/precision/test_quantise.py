"""Weights in fewer bits: how far codes may be from numbers, and that a quantised decoder is the decoder of those weights."""

import pytest
import torch
from tests.models.random_models import FAMILIES, random_ids, random_model

from amaru.errors import ConfigError
from amaru.nn import Batch
from amaru.nn.linear import Linear, QuantisedLinear
from amaru.precision import encode, quantise


def decoded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    return QuantisedLinear(*encode(weight, bits), weight.shape[1]).weight()


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (5, 600)])
def test_eight_bits_are_off_by_half_a_step_at_most(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((decoded(weight, 8) - weight).abs() <= step * 0.5001).all()


def test_four_bits_are_off_by_what_their_step_says():
    """The largest of 32 normal numbers is about 2.1 deviations, and eight steps; an error within a step is uniform."""
    torch.manual_seed(0)
    weight = torch.randn(64, 1024)
    found = decoded(weight, 4)
    assert float((found - weight).norm() / weight.norm()) < 2.1 / 8 / 12**0.5 * 1.15


def test_numbers_that_codes_can_say_are_kept():
    torch.manual_seed(0)
    numbers = torch.randint(-8, 8, (5, 64)).float()
    numbers[:, ::32] = -8
    assert torch.equal(decoded(numbers * 0.25, 4), numbers * 0.25)


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros_and_scales_stay_finite(bits):
    weight = torch.zeros(3, 70)
    weight[1, 5] = 1e-30
    found = decoded(weight, bits)
    assert found.isfinite().all() and (found[[0, 2]] == 0).all()


def test_what_cannot_be_quantised_is_said():
    with pytest.raises(ConfigError, match="4 or 8 bits; got 3"):
        encode(torch.zeros(2, 2), 3)
    with pytest.raises(ConfigError, match="not finite"):
        encode(torch.full((2, 2), torch.nan), 8)


@pytest.mark.parametrize("family", ["nemotron_h", "llama", "hymba"])
@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_a_quantised_decoder_is_the_decoder_of_those_weights(family, bits):
    config = FAMILIES[family](0)
    quantised, plain = (random_model(config, 0, torch.float32) for _ in range(2))
    rows = quantise(quantised, bits)
    assert {row.name for row in rows} == {
        name for name, module in plain.named_modules() if type(module) is Linear and not (config.tied and name == "head")
    }
    assert all(0 < row.error < (0.02 if row.bits == 8 else 0.15) for row in rows)
    for row in rows:
        held = quantised.get_submodule(row.name)
        assert isinstance(held, QuantisedLinear) and held.bits == row.bits
        plain.get_submodule(row.name).get_parameter("weight").copy_(held.weight())
    batch = Batch.of([random_ids(config.vocab, 20)[0]])
    torch.testing.assert_close(quantised(batch), plain(batch), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="quantised already"):
        quantise(quantised, bits)
