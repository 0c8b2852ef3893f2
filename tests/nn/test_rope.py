"""Rotary embedding against complex multiplication, the papers' frequency formulas, and transformers at long distance."""

import cmath
import math

import pytest
import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.nn.rope import Llama3Scaling, NTKScaling, Rope

LLAMA3 = Llama3Scaling(factor=8.0, low=1.0, high=4.0, original=8192)
HYMBA = NTKScaling(factor=2.0, original=2048, extended=8192)
ROPES = [Rope(), Rope(base=500.0, fraction=0.5), Rope(fraction=0.75), Rope(base=500000.0, scaling=LLAMA3), Rope(scaling=HYMBA)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def paper_frequency(rope: Rope, pair: int, width: int) -> float:
    """Radians per token of one pair, in Python's own floats."""
    base, scaling = rope.base, rope.scaling
    if isinstance(scaling, NTKScaling):
        base *= (scaling.factor * scaling.extended / scaling.original - (scaling.factor - 1)) ** (width / (width - 2))
    frequency = base ** (-2 * pair / width)
    if not isinstance(scaling, Llama3Scaling):
        return frequency
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original / scaling.high:
        return frequency
    if wavelength > scaling.original / scaling.low:
        return frequency / scaling.factor
    smooth = (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


@pytest.mark.parametrize("rope", ROPES, ids=str)
@pytest.mark.parametrize("channels", [8, 64, 128])
def test_frequencies_are_those_of_the_papers(rope: Rope, channels: int) -> None:
    width = int(channels * rope.fraction)
    expected = [paper_frequency(rope, pair, width) for pair in range(width // 2)]
    assert rope.rotated(channels) == width
    assert rope.frequencies(channels).tolist() == pytest.approx(expected, rel=1e-6)  # float32 after a power and a division


def test_llama3_has_fast_blended_and_slow_pairs() -> None:
    plain, scaled = Rope(base=500000.0).frequencies(128), Rope(base=500000.0, scaling=LLAMA3).frequencies(128)
    ratio = (plain / scaled).tolist()
    assert ratio[0] == 1 and ratio[-1] == 8 and any(1 < value < 8 for value in ratio)
    assert ratio == sorted(ratio)


def test_the_published_base_of_hymba() -> None:
    """10000 (2 * 8192 / 2048 - 1)^(64/62) = 74,535."""
    slowest = float(Rope(scaling=HYMBA).frequencies(64)[-1])
    assert slowest ** (-64 / 62) == pytest.approx(74535, abs=1)


@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_a_pair_turns_as_a_complex_number_and_the_rest_passes(rope: Rope) -> None:
    x, positions = drawn(5, 3, 16), torch.tensor([0, 1, 7, 300, 5000])
    half = rope.rotated(16) // 2
    turned, frequencies = rope(x, positions), rope.frequencies(16).tolist()
    assert torch.equal(turned[..., 2 * half :], x[..., 2 * half :])
    assert torch.equal(turned[0], x[0])
    for token, position in enumerate(positions.tolist()):
        for head in range(3):
            for pair in range(half):
                number = complex(x[token, head, pair], x[token, head, pair + half]) * cmath.exp(1j * position * frequencies[pair])
                found = complex(turned[token, head, pair], turned[token, head, pair + half])
                assert abs(found - number) < 1e-11


@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_scores_depend_on_the_distance_alone(rope: Rope) -> None:
    q, k, positions = drawn(9, 2, 24), drawn(9, 2, 24, seed=1), torch.arange(9)
    near = torch.einsum("qhc,khc->hqk", rope(q, positions), rope(k, positions))
    far = torch.einsum("qhc,khc->hqk", rope(q, positions + 1234), rope(k, positions + 1234))
    assert float((near - far).abs().max()) < 1e-11
    assert float((near - torch.einsum("qhc,khc->hqk", q, k)).abs().max()) > 0.1


def test_half_precision_is_rounded_once_at_the_end() -> None:
    x, positions = drawn(6, 2, 8).bfloat16(), torch.arange(6) * 37
    assert torch.equal(Rope()(x, positions), Rope()(x.float(), positions).bfloat16())


@pytest.mark.parametrize("rope", [ROPES[0], ROPES[3]], ids=str)
def test_far_places_turn_as_in_transformers(rope: Rope) -> None:
    """Where float32 angles are off by hundredths, a model still finds what it was trained with."""
    transformers = pytest.importorskip("transformers")
    parameters = {"rope_theta": rope.base, "rope_type": "default"}
    if rope.scaling:
        parameters |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        parameters |= {"original_max_position_embeddings": 8192}
    config = transformers.LlamaConfig(
        hidden_size=256, num_attention_heads=2, rope_parameters=parameters, max_position_embeddings=131072
    )
    theirs = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    assert torch.equal(rope.frequencies(128), theirs.inv_freq)
    positions = torch.tensor([0, 1, 999, 8191, 65537, 131071])
    cos, sin = theirs(torch.zeros(1), positions[None])
    x = drawn(len(positions), 2, 128).float()
    first, second = x[..., :64], x[..., 64:]
    expected = x * cos[0][:, None] + torch.cat([-second, first], dim=-1) * sin[0][:, None]
    assert float((rope(x, positions) - expected).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("rope", "channels"), [(Rope(), 5), (Rope(fraction=0.25), 4), (Rope(fraction=0.5), 6), (Rope(scaling=HYMBA), 2)], ids=str
)
def test_channels_that_do_not_pair_up_are_refused(rope: Rope, channels: int) -> None:
    with pytest.raises(ConfigError, match=f"of {channels} leaves"):
        rope.rotated(channels)


def test_llama3_needs_an_interval() -> None:
    with pytest.raises(ConfigError, match=r"low must be below high; got 4\.0 and 4\.0"):
        Llama3Scaling(factor=8.0, low=4.0, high=4.0, original=8192)
