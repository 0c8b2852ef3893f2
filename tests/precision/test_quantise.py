"""Weights in fewer bits: how far codes may be from numbers, and that a quantised decoder is the decoder of those weights."""

import pytest
import torch
from tests.models.random_models import FAMILIES, random_config, random_ids, random_model

from amaru.errors import ConfigError
from amaru.models.quantised import quantised
from amaru.nn import Batch
from amaru.nn.linear import Linear, QuantisedLinear
from amaru.ops.quantised_linear import Encoding, Kind
from amaru.precision import Scheme, coverage, encode, quantise

FORMATS = ["int8", "fp8", "int4"]
MODELS = {**FAMILIES, "moe": lambda seed: random_config(seed, "ME*E")}


def decoded(weight: torch.Tensor, kind: Kind, group: int = 32) -> torch.Tensor:
    return QuantisedLinear(*encode(weight, Encoding(kind, group)), weight.shape[1]).weight


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (5, 600)])
def test_eight_bits_are_off_by_half_a_step_at_most(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((decoded(weight, Kind.INT8) - weight).abs() <= step * 0.5001).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (5, 600)])
def test_floating_point_is_off_by_half_of_its_last_bit(shape):
    """A sixteenth of the number, and where its exponent ends half of the least number: 2^-10 of what 448 stands for."""
    torch.manual_seed(0)
    weight = torch.randn(shape)
    unit = weight.abs().amax(1, keepdim=True) / 448
    assert ((decoded(weight, Kind.FP8) - weight).abs() <= torch.maximum(weight.abs() / 16, unit * 2**-10) * 1.0001).all()


@pytest.mark.parametrize(("group", "largest"), [(32, 2.1), (64, 2.4), (128, 2.6)])
def test_four_bits_are_off_by_what_their_step_says(group, largest):
    """The largest of so many normal numbers is so many deviations, and eight steps; an error within a step is uniform."""
    torch.manual_seed(0)
    weight = torch.randn(64, 1024)
    found = decoded(weight, Kind.INT4, group)
    assert float((found - weight).norm() / weight.norm()) < largest / 8 / 12**0.5 * 1.12


def test_the_best_scale_of_a_group_beats_the_one_at_which_nothing_is_cut():
    torch.manual_seed(0)
    weight = torch.randn(16, 32)
    largest = weight.gather(1, weight.abs().argmax(1, keepdim=True))
    plain = (weight / (-largest / 8)).round().clamp(-8, 7) * (-largest / 8)
    found, plain = (((each - weight) ** 2).sum(1) for each in (decoded(weight, Kind.INT4), plain))
    assert (found <= plain * 1.01).all() and found.sum() < 0.92 * plain.sum()


def test_numbers_that_codes_can_say_are_kept():
    torch.manual_seed(0)
    numbers = torch.randint(-8, 8, (5, 64)).float()
    numbers[:, ::32] = -8
    assert torch.equal(decoded(numbers * 0.25, Kind.INT4), numbers * 0.25)


@pytest.mark.parametrize("kind", Kind)
def test_zeros_stay_zeros_and_scales_stay_finite(kind):
    weight = torch.zeros(3, 70)
    weight[1, 5] = 1e-30
    found = decoded(weight, kind)
    assert found.isfinite().all() and (found[[0, 2]] == 0).all()


def test_experts_and_rows_of_a_large_weight_are_encoded_each_for_itself():
    torch.manual_seed(0)
    weight = torch.randn(3, 7, 40)
    wide = torch.randn(3, 3_000_000)  # more than is looked at together
    assert torch.equal(encode(wide, Encoding(Kind.INT8))[0][2:], encode(wide[2:], Encoding(Kind.INT8))[0])
    whole = encode(weight, Encoding(Kind.INT4))
    assert whole[0].shape == (3, 7, 256)
    for expert, codes, scales in zip(weight, *whole, strict=True):
        alone = encode(expert, Encoding(Kind.INT4))
        assert torch.equal(alone[0], codes) and torch.equal(alone[1], scales)


def test_what_cannot_be_quantised_is_said():
    with pytest.raises(ConfigError, match="32, 64, 128 columns; got 48"):
        encode(torch.zeros(2, 2), Encoding(Kind.INT4, 48))
    with pytest.raises(ConfigError, match="not finite"):
        encode(torch.full((2, 2), torch.nan), Encoding(Kind.INT8))


@pytest.mark.parametrize("family", ["nemotron_h", "llama", "hymba", "moe"])
@pytest.mark.parametrize("to", FORMATS)
@torch.no_grad()
def test_a_quantised_decoder_is_the_decoder_of_those_weights(family, to):
    config = MODELS[family](0)
    codes, plain = (random_model(config, 0, torch.float32) for _ in range(2))
    rows = quantise(codes, Scheme(to=to))
    linears = {f"{name}.weight" for name, module in plain.named_modules() if type(module) is Linear}
    experts = {name for name, _ in plain.named_parameters() if ".experts." in name and "shared" not in name}
    assert {row.name for row in rows} == linears - ({"head.weight"} if config.tied else set()) | experts
    limits = {Kind.INT8: 0.02, Kind.FP8: 0.04, Kind.INT4: 0.15}
    assert all(0 < row.error < limits[row.encoding.kind] for row in rows)
    for name, held in quantised(codes).items():
        plain.get_parameter(name).copy_(held.weight)
    batch = Batch.of([random_ids(config.vocab, 20)[0]])
    torch.testing.assert_close(codes(batch), plain(batch), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="quantised already"):
        quantise(codes, Scheme(to=to))


def test_what_is_kept_and_what_becomes_of_the_head():
    config = FAMILIES["nemotron_h"](0)
    everything = Scheme(to="int4").encodings(config)
    assert everything["head.weight"].kind is Kind.INT8
    assert Scheme(to="int4", head="int4").encodings(config)["head.weight"].kind is Kind.INT4
    fewer = Scheme(to="int4", keep=("mamba2", "head")).encodings(config)
    assert {name for name in everything if name not in fewer} == {
        name for name in everything if name == "head.weight" or config.layers[int(name.split(".")[1])].kind == "mamba2"
    }
    with pytest.raises(ConfigError, match="Nothing to keep is called 'mamba3'"):
        Scheme(to="int8", keep=("mamba3",)).encodings(config)
    with pytest.raises(ConfigError, match="neither a kind of layer nor a regular expression"):
        Scheme(to="int8", keep=("(",)).encodings(config)
    with pytest.raises(ConfigError, match="none is left to quantise"):
        Scheme(to="int8", keep=(".",)).encodings(config)


def test_coverage_counts_every_tensor_and_its_bytes():
    config = MODELS["moe"](0)
    decoder = random_model(config, 0, torch.bfloat16)
    before = sum(parameter.nbytes for parameter in decoder.parameters())
    rows = coverage(config, Scheme(to="int4").encodings(config), lambda name: decoder.get_parameter(name).dtype)
    assert sum(row.count for row in rows) == len(list(decoder.parameters())) and sum(row.before for row in rows) == before
    quantise(decoder, Scheme(to="int4"))
    assert sum(row.after for row in rows) == sum(tensor.nbytes for tensor in (*decoder.parameters(), *decoder.buffers()))
