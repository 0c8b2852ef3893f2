"""What a stack of layers may not be."""

import pytest

from amaru.errors import ConfigError
from amaru.models import DecoderConfig
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
