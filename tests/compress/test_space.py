"""Enumeration against plain nested loops, and the sentences when a budget cannot be met."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from amaru.compress import Budget, Scores, SearchSpace, enumerate_candidates
from amaru.compress.divisors import Divisors
from amaru.compress.enumeration import spread
from amaru.compress.shapes import shapes
from amaru.errors import BudgetError, ConfigError
from amaru.models import DecoderConfig, cost
from amaru.models.cost import Workload
from amaru.models.families import presets
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.rope import Rope

MAMBA, ATTENTION = Mamba2(heads=8, channels=16, groups=2, state=16), Attention(query_heads=4, kv_heads=2, channels=16)
PARENT = DecoderConfig(vocab=97, hidden=64, layers=layers_from_pattern("M-M*-M-", {"M": MAMBA, "*": ATTENTION, "-": MLP(ffn=96)}))
IMPORTANCE = [7.0, 1.0, 5.0, 2.0, 6.0, 3.0, 4.0]
WORKLOAD = Workload(context=50, batch=3)
SPACE = SearchSpace(
    widths={"hidden": (48,), "ffn": (64, 32), "head": (3, 2), "channel": ()}, kept={"mamba2": (3, 2), "mlp": (3, 1)}, use=0.8, limit=10_000
)


def scores_for(config, layers=None):
    """Scores of the right shapes, drawn at random."""
    rng = np.random.default_rng(0)
    within = []
    for layer in config.layers:
        expression = " x ".join(layer.axes()) if isinstance(layer, MLP) else "group x head x channel" if isinstance(layer, Mamba2) else None
        within.append({expression: rng.random([layer.axes()[name].size for name in expression.split(" x ")])} if expression else {})
    importance = None if layers is None else np.array(layers)
    return Scores(hidden=rng.random(config.hidden), within=tuple(within), layers=importance, samples=1, tokens=1, ffn_read="", made_from={})


def nested_loops():
    """Every shape of SPACE with its cost, by building each config."""
    for hidden, ffn, head, mambas, mlps in itertools.product((64, 48), (96, 64, 32), (4, 3, 2), (3, 2), (3, 1)):
        keep_mamba = {3: {0, 2, 5}, 2: {0, 2}}[mambas]  # importances 7, 5, 3
        keep_mlp = {3: {1, 4, 6}, 1: {4}}[mlps]  # importances 1, 6, 4
        kept = sorted(keep_mamba | keep_mlp | {3})
        mamba = Mamba2(heads=2 * head, channels=16, groups=2, state=16)
        layers = tuple({"mamba2": mamba, "attention": ATTENTION, "mlp": MLP(ffn=ffn)}[PARENT.layers[index].kind] for index in kept)
        config = DecoderConfig(vocab=97, hidden=hidden, layers=layers)
        yield tuple(kept), config, cost.parameters(config), cost.memory(config, WORKLOAD).total


@pytest.mark.parametrize("limits", [{"parameters": 90_000}, {"memory": 240_000}, {"parameters": 90_000, "memory": 240_000}])
def test_enumeration_equals_nested_loops(limits):
    budget = Budget(**limits, workload=WORKLOAD)
    found = enumerate_candidates(PARENT, scores_for(PARENT, IMPORTANCE), budget, SPACE)
    everything = list(nested_loops())
    costs = {"parameters": 2, "memory": 3}
    fits = [shape for shape in everything if 0.8 <= max(shape[costs[name]] / limit for name, limit in limits.items()) <= 1]
    assert found.shapes == len(everything) == 72
    assert found.fitting == len(found.candidates) == len(fits) > 3
    assert {(c.layers, c.config, c.parameters, c.memory) for c in found.candidates} == set(fits)
    assert len({candidate.key for candidate in found.candidates}) == len(fits)
    assert found.describe() == f"72 shapes, {len(fits)} use 80% to 100% of the budget; all of them are ranked"


OWNER = HybridHead(query_heads=6, kv_heads=2, qk_channels=8, v_channels=8, state=4, rank=4, rope=Rope())
NARROW = replace(OWNER, window=5, sinks=2)
SHARING = replace(NARROW, shares_kv=True)
HYMBA = DecoderConfig(
    vocab=97, hidden=32, tied=True, meta_tokens=2, layers=(OWNER, MLP(ffn=64), NARROW, SHARING, MLP(ffn=64), NARROW, SHARING)
)
HYMBA_SPACE = SearchSpace(
    widths={"v_channel": (4,), "ffn": (32,), "hidden": ()}, kept={"mlp": (2, 1)}, floors={"hybrid_head": 0.1}, use=0, limit=10_000
)


def test_hymba_has_kinds_by_window_and_sharing_and_keeps_what_others_read():
    """By building each config: a layer that reads others' keys and values costs nothing for them, and its owner always stays."""
    scores = replace(scores_for(HYMBA), layers=np.array([3.0, 1.0, np.inf, 2.0, 4.0, np.inf, 5.0]))
    budget = Budget(memory=cost.memory(HYMBA, WORKLOAD).total - 1, workload=WORKLOAD)
    found = enumerate_candidates(HYMBA, scores, budget, HYMBA_SPACE)
    expected = set()
    for channels, ffn, mlps, shared in itertools.product((8, 4), (64, 32), (2, 1), (2, 1)):
        kept = sorted({0, 2, 5} | {2: {1, 4}, 1: {4}}[mlps] | {2: {3, 6}, 1: {6}}[shared])
        layers = tuple(
            replace(layer, ffn=ffn) if isinstance(layer, MLP) else replace(layer, v_channels=channels)
            for layer in (HYMBA.layers[index] for index in kept)
        )
        expected.add((tuple(kept), replace(HYMBA, layers=layers)))
    expected.remove((tuple(range(7)), HYMBA))
    assert {(c.layers, c.config) for c in found.candidates} == expected
    for each in found.candidates:
        assert each.parameters == cost.parameters(each.config) and each.memory == cost.memory(each.config, WORKLOAD).total
    with pytest.raises(ConfigError, match="asks for 1 hybrid_head@2 layers; the parent has 2, and others read what 2 of them keep"):
        enumerate_candidates(HYMBA, scores, budget, replace(HYMBA_SPACE, kept={"hybrid_head@2": (1,)}))
    with pytest.raises(ConfigError, match=r"'hybrid_head', which the parent .* has: hybrid_head@0, hybrid_head@2, hybrid_head@3"):
        enumerate_candidates(HYMBA, scores, budget, replace(HYMBA_SPACE, kept={"hybrid_head": (1,)}))


def test_default_grids():
    found = enumerate_candidates(
        PARENT, scores_for(PARENT, IMPORTANCE), Budget(parameters=cost.parameters(PARENT) - 1), SearchSpace(use=0, limit=100_000)
    )
    seen = {name: sorted({candidate.shape[name] for candidate in found.candidates}) for name in found.candidates[0].shape}
    assert seen == {
        "mamba2": [2, 3],
        "mlp": [2, 3],
        "attention": [1],
        "hidden": [32, 48, 64],
        "group": [2],
        "head": [3, 4],
        "channel": [16],
        "state": [16],
        "ffn": [48, 64, 80, 96],
        "kv_group": [2],
        "query": [2],
    }
    assert found.fitting == found.shapes - 1  # all but the parent


def test_the_8b_space_is_counted_quickly_and_holds_the_4b():
    parent = presets()["nemotron-h-8b"]
    space = SearchSpace(
        widths={"hidden": (3072,), "ffn": (12288,), "head": (14,), "channel": ()}, floors=dict.fromkeys(("mamba2", "attention", "mlp"), 1.0)
    )
    found = enumerate_candidates(parent, scores_for(parent), Budget(parameters=4_500_000_000), space)
    assert presets()["nemotron-h-4b"] in [candidate.config for candidate in found.candidates]
    assert next(c for c in found.candidates if c.config.hidden == 3072 and c.shape["head"] == 14).describe() == (
        "52 layers (24M 24- 4*), hidden 3072, 112 heads x 64, 8 groups, state 128, ffn 12288, 32 query heads, 8 KV heads x 128"
    )


class Clocks:
    """Times in closed form that add up over layers: by parameters, and by the bytes that sequences keep."""

    def prefill(self, config):
        return 1e-6 * cost.parameters(config), 2e-6 * config.hidden

    def decode(self, config, batch):
        return 1e-8 * cost.parameters(config), 1e-8 * cost.memory(config, replace(WORKLOAD, batch=batch)).sequences

    def describe(self):
        return "by hand"


def by_hand(config, budget):
    """Times of one shape; the batch of its throughput by trying every one."""
    use = budget.workload
    fitting = [b for b in range(1, budget.most_batch + 1) if cost.memory(config, replace(use, batch=b)).total <= budget.usable]
    batch = max(fitting, default=0)
    prefill, decode = max(Clocks().prefill(config)), max(Clocks().decode(config, use.batch))
    return prefill, decode, batch / max(Clocks().decode(config, max(1, batch))), batch


def test_every_limit_at_once_equals_nested_loops():
    budget = Budget(
        memory=400_000, reserve=50_000, prefill=0.1, decode=0.001, throughput=5_000.0, workload=WORKLOAD, prompt=9, most_batch=11
    )
    found = shapes(PARENT, budget, SPACE, Clocks())
    expected = []
    for _, config, _, memory in nested_loops():
        prefill, decode, throughput, batch = by_hand(config, budget)
        met = (memory <= 350_000, prefill <= 0.1, decode <= 0.001, throughput >= 5_000.0)
        expected.append((memory, prefill, decode, throughput, batch, all(met)))
    expected.sort()
    costs = zip(*(values.tolist() for values in found.cost[1:]), (found.used <= 1).tolist(), strict=True)
    for one, other in zip(sorted(costs), expected, strict=True):
        assert one == pytest.approx(other)
    met = np.array([each[-1] for each in expected])
    assert 0 < met.sum() < len(met), "the budget tells shapes apart"
    assert len({each[4] for each in expected}) > 2, "batches between those whose step is known"


def test_divisor_rules_keep_shapes_out():
    budget = Budget(parameters=90_000)
    plain = shapes(PARENT, budget, SPACE)
    ruled = shapes(PARENT, budget, replace(SPACE, divisors=Divisors(tile=32)))
    assert ruled.refused == {"tile": 36} and len(plain.used) - len(ruled.used) == 36, "hidden 48, with everything"
    assert {ruled.shape(number).hidden for number in range(1, len(ruled.used))} == {64}
    for name in ("nemotron-h-8b", "nemotron-h-4b"):
        assert Divisors(tensor_parallel=8, fp8=True, tile=64).broken(presets()[name]) is None
    assert Divisors(fp8=True).broken(PARENT) == "fp8"  # 328 rows of in_proj
    rule = Divisors(tensor_parallel=3)
    assert rule.broken(PARENT) == "tensor_parallel" and Divisors(tensor_parallel=2).broken(PARENT) is None
    assert Divisors(states=(128,)).broken(PARENT) == "states"
    assert Divisors(tile=64).broken(PARENT) == "tile"  # 96 neurons
    assert rule.describe() == "shared by 3 devices" and Divisors().describe() == "no rule"


def test_the_cap_spreads_over_shapes():
    scores, budget = scores_for(PARENT, IMPORTANCE), Budget(parameters=90_000)
    space = replace(SPACE, use=0.5)
    everything = enumerate_candidates(PARENT, scores, budget, space)
    capped = enumerate_candidates(PARENT, scores, budget, replace(space, limit=8))
    assert len(capped.candidates) == 8 < everything.fitting == capped.fitting
    assert "8 of them, far apart in shape, are ranked" in capped.describe()
    assert set(capped.candidates) <= set(everything.candidates)
    for name, values in {"hidden": {48, 64}, "ffn": {32, 64, 96}, "head": {2, 3, 4}, "mamba2": {2, 3}}.items():
        assert {candidate.shape[name] for candidate in capped.candidates} == values
    largest = sorted(everything.candidates, key=lambda candidate: -candidate.parameters)[:8]
    assert set(largest) != set(capped.candidates)


def test_spread_takes_all_when_there_are_few():
    points = np.random.default_rng(0).random((20, 3))
    assert spread(points, 1000) == list(range(20))
    assert len(set(spread(points, 3))) == 3


def refused(error, sentence, *, budget=None, space=SPACE, parent=PARENT, layers=IMPORTANCE):
    with pytest.raises(error, match=sentence):
        enumerate_candidates(parent, scores_for(parent, layers), budget or Budget(parameters=90_000), space)


def test_budgets_that_cannot_be_met():
    smallest = min(shape[2] for shape in nested_loops())
    refused(BudgetError, f"Of parameters, the smallest in the search space has {smallest:,} parameters", budget=Budget(parameters=1000))
    refused(BudgetError, r"2 mamba2 layers, 1 mlp layers, 1 attention layers, hidden 48, 4 heads x 16", budget=Budget(parameters=1000))
    alone = r"cutting one axis alone comes down to: mamba2 \d+%, mlp \d+%, hidden \d+%, ffn \d+%, head \d+%"
    refused(BudgetError, alone, budget=Budget(parameters=1000))
    refused(BudgetError, "as it is .* nothing to cut", budget=Budget(parameters=10**9))
    narrow = replace(SPACE, widths={"hidden": (), "ffn": (), "head": (1,), "channel": ()}, kept={"mamba2": (3,), "mlp": (3,)}, use=0.99)
    refused(BudgetError, r"use at most \d\d\.\d% of it, less than SearchSpace.use = 99%", budget=Budget(parameters=100_000), space=narrow)


def test_spaces_that_do_not_fit_the_parent():
    refused(ConfigError, "asks for ffn 97; the parent has 96", space=SearchSpace(widths={"ffn": (97,)}))
    refused(ConfigError, "asks for hidden 0", space=SearchSpace(widths={"hidden": (0,)}))
    refused(
        ConfigError,
        "the axis 'heads', which the parent does not have; it has: hidden, group, head, channel, state, ffn, kv_group, query",
        space=SearchSpace(widths={"heads": (2,)}),
    )
    refused(ConfigError, "the kind of layer 'mamba'", space=SearchSpace(kept={"mamba": (1,)}))
    refused(ConfigError, "asks for 4 mamba2 layers; the parent has 3", space=SearchSpace(kept={"mamba2": (4,)}))
    refused(ConfigError, "these scores lack", layers=None)
    mixed = replace(PARENT, layers=(*PARENT.layers[:6], MLP(ffn=80)))
    refused(ConfigError, "all mlp layers one width, but layers 1 and 6", parent=mixed)
    with pytest.raises(ConfigError, match=r"from 0 to 1; got 1\.5 for ffn"):
        SearchSpace(shares={"ffn": (1.5,)})
