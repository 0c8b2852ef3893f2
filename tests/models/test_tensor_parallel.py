"""What each of several devices holds, against the rows that its selection of the axis really leaves."""

import math

import pytest
from tests.models.random_models import FAMILIES

from amaru.errors import ConfigError
from amaru.models import DecoderConfig
from amaru.models.cost import Workload, memory
from amaru.models.families import config_of
from amaru.models.tensor_parallel import check, layer_axes, layer_of, possible, selections
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.layer import LayerConfig
from amaru.nn.moe import MoE

LAYERS = [
    Mamba2(heads=24, channels=3, groups=4, state=5),
    Attention(query_heads=12, kv_heads=4, channels=6, bias=True),
    MLP(ffn=28, gated=True),
    MoE(experts=6, top_k=2, ffn=20, shared_ffn=8, groups=2, latent=5),
    *dict.fromkeys(layer for layer in config_of("hymba-1.5b").layers if layer.kind == "hybrid_head"),
]


@pytest.mark.parametrize("devices", [2, 4, 5])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.describe())
def test_a_device_holds_the_rows_that_its_shard_of_the_axis_leaves(layer: LayerConfig, devices: int) -> None:
    axes = layer.axes() | DecoderConfig(vocab=11, hidden=10, layers=()).axes()
    if any(axes[name].size % devices for name in layer.sharded.split()):
        with pytest.raises(ConfigError):
            layer_axes(layer, devices)
        return
    held = axes | layer_axes(layer, devices)
    for name, spec in (layer.tensors() | layer.state_tensors() | layer.cache_tensors()).items():
        for rank in range(devices):
            rows = spec.layout.surviving(axes, selections(layer, rank, devices))  # type: ignore[arg-type]
            shape = tuple(size if kept is None else len(kept) for kept, size in zip(rows, spec.layout.shape(axes), strict=True))
            assert spec.layout.shape(held) == shape, name
    assert layer_of(layer, devices).axes() == layer_axes(layer, devices)  # type: ignore[arg-type]


@pytest.mark.parametrize(("devices", "kv_heads", "queries"), [(8, 1, 4), (16, 1, 2), (32, 1, 1)])
def test_more_devices_than_kv_heads_each_keep_one_and_share_its_queries(devices: int, kv_heads: int, queries: int) -> None:
    attention = Attention(query_heads=32, kv_heads=8, channels=128)
    axes = layer_axes(attention, devices)
    assert (axes["kv_group"].size, axes["query"].size) == (kv_heads, queries)
    config = DecoderConfig(vocab=devices, hidden=10, layers=(attention,))
    need = memory(config, Workload(context=7), devices)
    assert need.kv == 2 * 2 * 7 * 128
    assert need.weights == 2 * (2 * 10 + 10 + 10 + 10 * 128 * (2 * queries + 2))  # embedding, head, norms, projections


@pytest.mark.parametrize("family", FAMILIES)
def test_one_device_holds_everything(family: str) -> None:
    config = FAMILIES[family](1)
    check(config, 1)
    for layer in config.layers:
        assert layer_axes(layer, 1) == layer.axes()


@pytest.mark.parametrize(
    ("model", "would"),
    [
        ("nemotron-h-56b", [1, 2, 4, 8]),
        ("llama-3.1-8b", [1, 2, 4, 8, 16, 32]),
        ("nemotron-4-340b", [1, 2, 4, 8, 16, 24, 32, 48, 96]),
        ("hymba-1.5b", [1]),
    ],
)
def test_counts_that_divide_are_found_and_named(model: str, would: list[int]) -> None:
    config = config_of(model)
    assert possible(config.layers) == would
    with pytest.raises(ConfigError, match=f"{', '.join(map(str, would))} would do"):
        check(config, 7)


def test_devices_together_hold_the_model_and_copies_of_what_is_not_divided() -> None:
    config = config_of("nemotron-h-8b")
    whole, each = (memory(config, Workload(context=1000, batch=3, weights="fp32"), devices) for devices in (1, 8))
    copied = (len(config.layers) + 1) * config.hidden * 4  # norms of the stream
    assert 8 * each.weights == whole.weights + 7 * copied
    assert [8 * part for part in (each.kv, each.ssm_state, each.conv_state)] == [whole.kv, whole.ssm_state, whole.conv_state]


def test_the_vocabulary_is_rounded_up() -> None:
    config = DecoderConfig(vocab=13, hidden=5, layers=(MLP(ffn=12),))
    assert memory(config, Workload(weights="bf16"), 4).weights == 2 * (2 * math.ceil(13 / 4) * 5 + 2 * 3 * 5 + 2 * 5)
