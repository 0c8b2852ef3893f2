"""Shapes asked for by name: what they become, and the sentences for those that cannot be."""

import pytest
from tests.compress.families import FAMILIES
from tests.compress.oracles import small_config

from amaru.compress import shaped
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.families import presets


def test_the_8b_asked_for_in_the_widths_of_the_4b_is_the_4b():
    found = shaped(presets()["nemotron-h-8b"], {"hidden": 3072, "ffn": 12288, "head": 14})
    assert found.config == presets()["nemotron-h-4b"]
    assert found.parameters == cost.parameters(found.config)


def test_a_width_of_one_layer_goes_before_that_of_all():
    found = shaped(small_config(), {"ffn": 8}, layers=(0, 1, 4), at={4: {"ffn": 3}})
    assert [layer.axes()["ffn"].size for layer in found.config.layers if layer.kind == "mlp"] == [8, 3]


@pytest.mark.parametrize(
    ("family", "asked", "sentence"),
    [
        ("nemotron_h", {"heads": 2}, "no axis 'heads' to narrow in the layers that stay; there is: vocab, hidden, group, head"),
        ("nemotron_h", {"head": 0}, r"Layer 0 \(mamba2\): the axis 'head' can be cut to 1 to 3 for each group; 0 was asked for"),
        ("nemotron_h", {"head": 4}, "can be cut to 1 to 3 for each group; 4 was asked for"),
        ("nemotron_h", {"hidden": 14}, "The network: the axis 'hidden' can be cut to 1 to 13; 14"),
        ("nemotron_h", {"tap": 3}, r"Layer 0 \(mamba2\): the axis 'tap' is fixed at 4"),
        ("nemotron_h", {"v_channel": 3}, r"Layer 2 \(attention\): Attention keeps one width for qk_channel and v_channel"),
        ("llama", {"qk_channel": 4}, r"Layer 0 \(attention\): the axis 'qk_channel' is fixed at 6"),
        ("moe", {"expert": 1}, r"Layer 1 \(moe\): the axis 'expert' can be cut to 2 to 3 for each expert_group; 1 was asked for"),
        ("moe", {"expert_group": 1}, r"Layer 1 \(moe\): the axis 'expert_group' can be cut to 2 to 3; 1"),
    ],
)
def test_impossible_widths_name_the_axis_the_layer_and_what_is_possible(family, asked, sentence):
    with pytest.raises(ConfigError, match=sentence):
        shaped(FAMILIES[family], asked)


def test_impossible_layers():
    config = FAMILIES["hymba"]
    with pytest.raises(ConfigError, match=r"layers from 0 to 5, ascending and each once; got \[0, 6\]"):
        shaped(config, layers=(0, 6))
    with pytest.raises(ConfigError, match="Widths are asked for in layer 1, which the shape does not keep"):
        shaped(config, layers=(0, 2), at={1: {"ffn": 3}})
    with pytest.raises(ConfigError, match=r"Layer 1 \(mlp\) has no axis 'state' to narrow; it has: ffn"):
        shaped(config, at={1: {"state": 2}})
    with pytest.raises(ConfigError, match="Layer 2 shares keys and values, but those of layer 0 have other heads or channels"):
        shaped(config, at={2: {"v_channel": 3}})
    with pytest.raises(ConfigError, match="Layer 0 shares keys and values, but no layer before it owns any"):
        shaped(config, layers=(2, 3))
