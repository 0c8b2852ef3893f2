"""What a stack of layers may not be, and how a new model begins."""

import math

import pytest
import torch
from tests.models.random_models import FAMILIES, random_ids
from torch import nn

from amaru.errors import ConfigError
from amaru.models import Decoder, DecoderConfig
from amaru.nn import Batch
from amaru.nn.hybrid_head import HybridHead

OWNER = {"query_heads": 4, "kv_heads": 2, "qk_channels": 4, "v_channels": 3, "rank": 2}
WRONG = {
    "Layer 0 shares keys and values, but no layer before it owns any": [{"shares_kv": True}],
    "Layer 1 shares keys and values, but those of layer 0 have other heads": [{}, {"shares_kv": True, "v_channels": 6}],
    "Layer 2 sees further back than layer 0 keeps": [{"window": 8}, {"shares_kv": True, "window": 8}, {"shares_kv": True}],
    "Layer 1 sees further back than layer 0 keeps": [{"window": 8}, {"shares_kv": True, "window": 9}],
    "Layer 1 sees further back than layer 0 keeps the": [{"window": 8, "sinks": 2}, {"shares_kv": True, "window": 8, "sinks": 3}],
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_cache_that_does_not_hold_what_a_layer_reads_is_refused(sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DecoderConfig(vocab=7, hidden=6, layers=tuple(HybridHead(**OWNER | change) for change in WRONG[sentence]))


@pytest.mark.parametrize("change", [{"window": 8}, {"window": 3, "query_heads": 6}, {"window": 8, "state": 3}])
def test_a_cache_that_holds_enough_is_not(change: dict[str, int]) -> None:
    for owner in ({}, {"window": 8}):
        layers = (HybridHead(**OWNER | owner), HybridHead(**OWNER | {"shares_kv": True} | change))
        assert DecoderConfig(vocab=7, hidden=6, layers=layers).kv_sources() == {1: 0}


def begun(config: DecoderConfig, filled: float) -> Decoder:
    decoder = Decoder(config)
    for parameter in decoder.parameters():
        nn.init.constant_(parameter, filled)
    return decoder.initialise(seed=5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_a_new_model_is_drawn_whole_whatever_memory_held(family: str, seed: int) -> None:
    config = FAMILIES[family](seed)
    one, other = (dict(begun(config, filled).named_parameters()) for filled in (math.nan, 7.0))
    for name, parameter in one.items():
        assert parameter.isfinite().all() and torch.equal(parameter, other[name]), name


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_model_gives_every_word_about_the_same_chance(family: str) -> None:
    decoder = begun(FAMILIES[family](1), math.nan)
    entropy = torch.distributions.Categorical(logits=decoder(Batch.of(random_ids(decoder.config.vocab, 40)))).entropy()
    assert 0.6 * math.log(decoder.config.vocab) < float(entropy.mean()) <= math.log(decoder.config.vocab)


@torch.no_grad()
@pytest.mark.parametrize("family", ["nemotron", "llama"])
def test_a_new_norm_has_gain_one(family: str) -> None:
    """transformers begins Nemotron's stored gain - 1 at one, which doubles it."""
    decoder = begun(FAMILIES[family](1), math.nan)
    x = 3 * torch.randn(50, decoder.config.hidden, generator=torch.Generator().manual_seed(0))
    for norm in (decoder.norm, decoder.layers[0].norm):
        assert norm(x).square().mean().sqrt().item() == pytest.approx(1, abs=0.01)
