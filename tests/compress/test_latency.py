"""The table's predictions against closed forms, its files, and bounds against the roofline of the whole model."""

from dataclasses import replace

import numpy as np
import pytest

from amaru.compress import Budget, SearchSpace
from amaru.compress.bounds import Bounds
from amaru.compress.costs import Costs
from amaru.compress.latency import Circumstances, LatencyTable, Point, alike, grid
from amaru.compress.space import pairs
from amaru.errors import ArtifactError, ConfigError
from amaru.models import DecoderConfig, roofline
from amaru.models.cost import Workload
from amaru.models.devices import machine
from amaru.models.families import presets
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.hybrid_head import HybridHead

MAMBA, ATTENTION = Mamba2(heads=8, channels=16, groups=2, state=16), Attention(query_heads=4, kv_heads=2, channels=16)
PARENT = DecoderConfig(vocab=97, hidden=64, layers=layers_from_pattern("M-M*-M-", {"M": MAMBA, "*": ATTENTION, "-": MLP(ffn=96)}))
SPACE = SearchSpace(widths={"hidden": (56, 48, 32), "ffn": (80, 64, 32), "head": (3, 2), "channel": (8,)})
HERE = Circumstances(
    device="a clock", threads=2, versions={"amaru": "0"}, dtype="bfloat16", context=64, batches=(1, 4), prompt=32, rest={"vocab": 97}
)


def by_hand(hidden, layer):
    """[prefill, a step of 1, of 4]: products of widths, each to the first power, as bytes and FLOPs are."""
    if isinstance(layer, Mamba2):
        inner = layer.heads * layer.channels
        rows = 3 * inner + 2 * layer.groups * layer.state
        return np.array([1e-6 * hidden * inner + 1e-5, 1e-8 * hidden * rows, 1e-7 * inner * layer.state])
    if isinstance(layer, MLP):
        return np.array([2e-6 * hidden * layer.ffn, 2e-8 * hidden * layer.ffn, 5e-8 * hidden * layer.ffn + 1e-6])
    return np.array([1e-4, 1e-6 * hidden, 2e-6 * hidden])


def fixed_by_hand(hidden):
    return np.array([1e-3, 1e-4, 2e-4]) * (1 + hidden)


def measured(chosen):
    points = []
    for number, (hidden, layer) in enumerate(chosen):
        prefill, *decode = by_hand(hidden, layer).tolist()
        noise = (number % 3 - 1) * 1e-5  # cancels in the median
        fixed_prefill, *fixed = (fixed_by_hand(hidden) + noise).tolist()
        times = {"prefill": prefill, "decode": tuple(decode), "fixed_prefill": fixed_prefill, "fixed_decode": tuple(fixed)}
        points.append(Point(hidden=hidden, layer=layer, blocks=3, spread=0.01, **times))
    return LatencyTable(HERE, tuple(points))


def test_a_stack_that_was_never_measured_is_the_sum_of_its_layers():
    """Every shape between the grid's points, exactly: multilinear is what the closed form is."""
    everything = pairs(PARENT, SPACE)
    chosen = grid(everything)
    table = measured(chosen)
    assert len(chosen) == 3 * 3 * 2 + 3 * 3 + 3 < len(everything)
    assert {hidden for hidden, _ in chosen} == {64, 48, 32}
    for hidden, layer in everything:
        assert table.layer(hidden, layer) == pytest.approx(by_hand(hidden, layer), rel=1e-9)
    shape = replace(PARENT, hidden=56, layers=(replace(MAMBA, heads=6, channels=16), MLP(ffn=80), ATTENTION, MLP(ffn=80)))
    told = fixed_by_hand(56) + sum(by_hand(56, layer) for layer in shape.layers)
    assert table.prefill(shape) == pytest.approx((told[0],), rel=2e-3)
    assert table.decode(shape, 4) == pytest.approx((told[2],), rel=2e-3)
    assert not table.measured(56, MLP(ffn=80)) and table.measured(64, MLP(ffn=96))


def test_nothing_is_said_of_what_lies_outside():
    table = measured(grid(pairs(PARENT, SPACE)))
    for hidden, layer in ((72, MLP(ffn=64)), (64, MLP(ffn=16)), (64, MLP(ffn=64, gated=True)), (64, replace(MAMBA, state=8))):
        with pytest.raises(ConfigError, match="measure a wider grid"):
            table.layer(hidden, layer)
    with pytest.raises(ConfigError, match=r"steps of \[1, 4\] sequences, not of 2"):
        table.decode(PARENT, 2)


def test_a_layer_that_seems_to_take_less_than_nothing_is_told_and_summed():
    table = measured(grid(pairs(PARENT, SPACE)))
    assert table.negative() == []
    point = replace(table.points[0], prefill=-1e-5)
    other = replace(table, points=(point, *table.points[1:]), _known={})
    assert other.negative() == [point]
    assert other.layer(point.hidden, point.layer)[0] == -1e-5


def test_the_fixed_time_of_a_layer_that_needs_another_does_not_count():
    owner = HybridHead(query_heads=4, kv_heads=2, qk_channels=8, v_channels=8, state=4, rank=4)
    same = {"hidden": 64, "blocks": 1, "prefill": 1.0, "decode": (2.0, 3.0), "spread": 0.0}
    alone = Point(layer=owner, fixed_prefill=0.5, fixed_decode=(0.25, 0.25), **same)
    sharing = Point(layer=replace(owner, shares_kv=True), fixed_prefill=9.0, fixed_decode=(9.0, 9.0), **same)
    table = LatencyTable(HERE, (alone, sharing))
    assert table.prefill(replace(PARENT, layers=(owner, sharing.layer, sharing.layer))) == (0.5 + 3 * 1.0,)


def test_a_table_is_read_back_and_knows_where_it_was_measured(tmp_path):
    table = measured(grid(pairs(PARENT, SPACE)))
    table.save(tmp_path / "latency.safetensors")
    assert LatencyTable.load(tmp_path / "latency.safetensors", HERE) == table
    with pytest.raises(ArtifactError, match=r"other circumstances .* name another file"):
        LatencyTable.load(tmp_path / "latency.safetensors", replace(HERE, threads=4))
    assert replace(HERE, versions={"amaru": "1"}).key != HERE.key == replace(HERE).key


def test_layers_are_alike_that_differ_in_widths_only():
    assert alike(MLP(ffn=8), MLP(ffn=16)) and alike(MAMBA, replace(MAMBA, heads=4, state=8))
    assert not alike(MLP(ffn=8), MLP(ffn=8, gated=True)) and not alike(MLP(ffn=8), MAMBA)
    assert not alike(ATTENTION, replace(ATTENTION, bias=True))


@pytest.mark.parametrize("name", ["nemotron-h-8b", "nemotron-h-4b", "hymba-1.5b"])
def test_bounds_add_up_to_the_roofline_of_the_whole_model(name):
    config, device = presets()[name], machine("h100")
    workload = Workload(context=4096, batch=8, weights="fp8")
    times = Bounds(device, workload, prompt=512)
    budget = Budget(memory=10**11, prefill=1.0, decode=1.0, throughput=1.0, workload=workload, prompt=512, most_batch=24)
    costs = Costs(config, budget, times)
    assert costs.batches == (1, 2, 4, 8, 16, 24)
    found = costs.of(costs.total(config))
    assert found.prefill == pytest.approx(roofline.prefill(config, replace(workload, context=512, batch=1), device).seconds, rel=1e-6)
    assert found.decode == pytest.approx(roofline.decode(config, workload, device).seconds, rel=1e-6)
    step = roofline.decode(config, replace(workload, batch=24), device).seconds
    assert (found.batch, found.throughput) == (24, pytest.approx(24 / step, rel=1e-6))
    assert "not measured: lower bounds at the published peaks of H100" in times.describe()
    with pytest.raises(ConfigError, match="are not known; name another device"):
        Bounds(machine("cpu"), workload, prompt=512)
