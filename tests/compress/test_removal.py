"""Layer importance against students that are really cut and run whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compress.oracles import small_batch, small_decoder

from amaru.compress import Cut, cut_decoder, iterative_layer_scores, layer_scores, removals
from amaru.errors import CheckpointError, ConfigError, DataError
from amaru.models import Decoder, DecoderConfig
from amaru.nn import MLP
from amaru.nn.hybrid_head import HybridHead


def distance(parent, student, batch, metric):
    with torch.no_grad():
        if metric == "mse":
            return float(np.mean((parent.hidden_states(batch).numpy() - student.hidden_states(batch).numpy()) ** 2))
        p, q = (torch.softmax(model(batch), -1).numpy() for model in (parent, student))
        return float(np.mean([sum(a * np.log(a / b) for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)]))


def brute_force(parent, samples, metric, kept, whole=None):
    """`kept` layers, each cut out of the `whole` (None: of just these)."""
    scores = {}
    for layer in kept:
        student = cut_decoder(parent, Cut(tuple(other for other in whole or kept if other != layer)))
        scores[layer] = np.mean([distance(parent, student, batch, metric) for batch in samples])
    return scores


@pytest.mark.parametrize("metric", ["mse", "kl"])
def test_scores_equal_cutting_each_layer_out(metric):
    parent, samples = small_decoder("M-*M-M"), [small_batch(seed) for seed in (0, 1)]
    expected = brute_force(parent, samples, metric, range(6))
    np.testing.assert_allclose(layer_scores(parent, samples, metric), [expected[layer] for layer in range(6)], rtol=1e-8)


def test_both_metrics_come_from_one_pass():
    parent, samples = small_decoder("M-*M-M"), [small_batch(seed) for seed in (0, 1)]
    both = removals(parent, samples)
    for metric in ("mse", "kl"):
        np.testing.assert_array_equal(both[metric], layer_scores(parent, samples, metric))


def test_a_layer_whose_cache_others_read_cannot_go_alone():
    """Hymba: the second and third of these layers read keys and values of the first."""
    own = HybridHead(query_heads=4, kv_heads=2, qk_channels=4, v_channels=6, state=3, rank=5)
    layers = (own, replace(own, shares_kv=True), replace(own, shares_kv=True), own, MLP(ffn=7))
    parent = Decoder(DecoderConfig(vocab=31, hidden=20, layers=layers, meta_tokens=3)).initialise(0).double()
    scores = layer_scores(parent, [small_batch()])
    assert np.isinf(scores[0])
    expected = brute_force(parent, [small_batch()], "mse", range(1, 5), whole=range(5))
    np.testing.assert_allclose(scores[1:], list(expected.values()), rtol=1e-8)
    ranks = iterative_layer_scores(parent, [small_batch()], floors={"hybrid_head": 1})
    assert ranks[0] > min(ranks[1:3])  # whoever reads the cache goes first, if anybody goes


def test_kl_is_the_same_in_pieces(monkeypatch):
    """More tokens than one chunk of logits holds."""
    parent, batch = small_decoder("M-"), small_batch()
    long = type(batch).of([torch.randint(31, (1500,), generator=torch.Generator().manual_seed(3))])
    monkeypatch.setattr("amaru.compress.removal.LOGITS", 31 * 400)
    expected = [distance(parent, cut_decoder(parent, Cut((other,))), long, "kl") for other in (1, 0)]
    np.testing.assert_allclose(layer_scores(parent, [long], "kl"), expected, rtol=1e-8)


def test_iterative_removal_equals_greedy_cutting():
    parent, samples = small_decoder("M-*M-M", seed=4), [small_batch(5)]
    kinds, floors = [layer.kind for layer in parent.config.layers], {"mamba2": 1, "attention": 1, "mlp": 1}
    kept, order = list(range(6)), []
    while free := [layer for layer in kept if sum(kinds[other] == kinds[layer] for other in kept) > floors[kinds[layer]]]:
        scores = brute_force(parent, samples, "mse", kept)
        order.append(min(free, key=scores.__getitem__))
        kept.remove(order[-1])
    scores = brute_force(parent, samples, "mse", kept)
    order += sorted(kept, key=scores.__getitem__)
    ranks = iterative_layer_scores(parent, samples, floors=floors)
    assert [int(layer) for layer in np.argsort(ranks)] == order
    assert sorted(kinds[layer] for layer in kept) == ["attention", "mamba2", "mlp"]


def test_a_floor_of_all_layers_leaves_plain_scores_in_order():
    parent, samples = small_decoder(), [small_batch()]
    ranks = iterative_layer_scores(parent, samples, floors={"mamba2": 2, "attention": 1, "mlp": 2})
    assert np.argsort(ranks).tolist() == np.argsort(layer_scores(parent, samples)).tolist()


def test_what_cannot_be_scored():
    parent = small_decoder()
    with pytest.raises(ConfigError, match="mse or kl; got 'cosine'"):
        layer_scores(parent, [small_batch()], "cosine")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one sample"):
        layer_scores(parent, [])
    with pytest.raises(ConfigError, match="floor of 3 mamba2 layers cannot be kept: the model has 2"):
        iterative_layer_scores(parent, [small_batch()], floors={"mamba2": 3})
    with torch.no_grad():
        parent.layers[4].mixer.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite in layer 4 on calibration sample 1"):
        layer_scores(parent, [small_batch()])
