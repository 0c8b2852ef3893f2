"""Which indices a cut keeps: nested, inside their group, in the parent's order; and what else may be asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compress.families import FAMILIES, family_batch, family_decoder
from tests.compress.oracles import small_batch, small_config, small_decoder

from amaru.compress import Candidate, Ranking, cut_decoder, cut_for, score, shaped, sorted_by_rank
from amaru.errors import ConfigError
from amaru.nn import MLP, Attention, Mamba2

SMALL = small_config()


@pytest.fixture(scope="module")
def scores():
    return score(small_decoder(), [small_batch()])


def with_heads(scores, array):
    return replace(scores, within=(scores.within[0] | {"group x head x channel": np.array(array, dtype=float)}, *scores.within[1:]))


def test_heads_are_judged_on_surviving_channels_within_their_group(scores):
    """Channel 3 is dropped; head 0 of group 0 is large there alone, so nesting drops it although in full it leads."""
    array = np.ones((2, 3, 4))
    array[:, :, :3] = 5.0
    array[0, 0] = [1, 1, 1, 9]
    array[0, 1] = [4, 4, 4, 0]
    array[1, 2] = [6, 6, 6, 0]
    cut = cut_for(shaped(SMALL, {"head": 2, "channel": 3}), SMALL, with_heads(scores, array))
    assert cut.within[0]["channel"].indices.tolist() == [0, 1, 2]
    assert cut.within[0]["head"].indices.tolist() == [[1, 2], [0, 2]]
    kept_in_full = np.sort(np.argsort(-np.linalg.norm(array, axis=-1), kind="stable")[:, :2], axis=-1)
    assert kept_in_full[0].tolist() == [0, 2]  # the un-nested rule disagrees
    only_heads = cut_for(shaped(SMALL, {"head": 2}), SMALL, with_heads(scores, array))
    assert only_heads.within[0]["head"].indices.tolist() == kept_in_full.tolist()  # nothing nested, both rules agree


def test_a_strong_group_does_not_take_heads_from_a_weak_one(scores):
    array = np.stack([np.full((3, 4), 100.0), np.full((3, 4), 0.01)])
    cut = cut_for(shaped(SMALL, {"head": 1}), SMALL, with_heads(scores, array))
    assert cut.within[0]["head"].indices.shape == (2, 1)


def test_the_best_of_every_axis_in_the_parents_order(scores):
    config = SMALL
    cut = cut_for(shaped(config, {"hidden": 7, "ffn": 5}, layers=(0, 1, 3, 4)), config, scores)
    assert cut.layers == (0, 1, 3, 4)
    assert cut.network["hidden"].indices.tolist() == sorted(sorted(range(20), key=lambda c: -scores.hidden[c])[:7])
    for layer in (1, 4):
        assert cut.within[layer]["ffn"].indices.tolist() == sorted(sorted(range(11), key=lambda c: -scores.within[layer]["ffn"][c])[:5])
    assert set(cut.within) == {1, 4}  # heads and channels stay whole and are not named


def test_equal_scores_keep_the_first(scores):
    flat = replace(scores, hidden=np.ones(20))
    assert cut_for(shaped(SMALL, {"hidden": 4}), SMALL, flat).network["hidden"].indices.tolist() == [0, 1, 2, 3]


def test_a_candidate_becomes_a_student_of_its_shape(scores):
    parent = small_decoder()
    wanted = shaped(parent.config, {"hidden": 12, "ffn": 6, "head": 2, "channel": 3}, layers=(0, 1, 2, 4))
    student = cut_decoder(parent, cut_for(wanted, parent.config, scores))
    assert student.config == wanted.config
    assert sum(weight.numel() for weight in student.parameters()) == wanted.parameters


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        (0, MLP(ffn=5)),
        (0, Mamba2(heads=6, channels=4, groups=2, state=6, chunk_size=8)),
        (1, MLP(ffn=12)),
        (2, Attention(query_heads=4, kv_heads=2, channels=5)),
    ],
)
def test_a_shape_that_no_score_leads_to_is_refused(scores, place, layer):
    config = SMALL
    layers = (*config.layers[:place], layer, *config.layers[place + 1 :])
    wanted = Candidate(layers=(0, 1, 2, 3, 4), config=replace(config, layers=layers), parameters=0, memory=0)
    with pytest.raises(ConfigError, match="no narrowing of this parent along the axes that are scored"):
        cut_for(wanted, config, scores)


def test_state_channels_by_the_product_of_b_and_c_within_their_group(scores):
    state = np.array([[1, 9, 2, 8, 3], [5, 1, 4, 2, 3]], dtype=float)
    given = replace(scores, within=(scores.within[0] | {"group x state": state}, *scores.within[1:]))
    assert cut_for(shaped(SMALL, {"state": 2}), SMALL, given).within[0]["state"].indices.tolist() == [[1, 3], [0, 2]]


def test_groups_are_judged_on_their_surviving_heads_and_these_on_their_surviving_channels(scores):
    whole = []
    for seed in range(12):
        array = np.random.default_rng(seed).random((2, 3, 4)) ** 3
        chosen = cut_for(shaped(SMALL, {"group": 1, "head": 1, "channel": 2}, layers=[0]), SMALL, with_heads(scores, array)).within[0]
        channels = sorted(range(4), key=lambda c: -sum(array[g, h, c] ** 2 for g in range(2) for h in range(3)))[:2]
        heads = [max(range(3), key=lambda h: sum(array[g, h, c] ** 2 for c in channels)) for g in range(2)]
        group = max(range(2), key=lambda g: sum(array[g, heads[g], c] ** 2 for c in channels))
        assert [chosen[name].indices.tolist() for name in ("channel", "head", "group")] == [sorted(channels), [[h] for h in heads], [group]]
        whole.append(group == int(np.square(array).sum((1, 2)).argmax()))
    assert any(whole) and not all(whole)  # judged in full, some groups would be others


def test_query_heads_within_their_kv_group_and_groups_on_surviving_queries(scores):
    read = np.ones((2, 2, 6)) * np.array([[3, 1], [2, 4]])[..., None]
    given = replace(scores, within=(*scores.within[:2], {"kv_group x query x v_channel": read}, *scores.within[3:]))
    queries = cut_for(shaped(SMALL, {"query": 1}), SMALL, given).within[2]
    assert queries["query"].indices.tolist() == [[0], [1]] and "kv_group" not in queries
    both = cut_for(shaped(SMALL, {"query": 1, "kv_group": 1}), SMALL, given)
    assert both.within[2]["kv_group"].indices.tolist() == [1]
    assert cut_decoder(small_decoder(), both).config.layers[2] == Attention(query_heads=1, kv_heads=1, channels=6)


def test_every_head_may_keep_channels_of_its_own(scores):
    array = np.random.default_rng(0).random((2, 3, 4))
    cut = cut_for(shaped(SMALL, {"channel": 2}), SMALL, with_heads(scores, array), Ranking(channels_per_head=True))
    assert cut.within[0]["channel"].indices.tolist() == np.sort(np.argsort(-array, axis=-1)[..., :2], axis=-1).tolist()


def test_heads_that_ignore_groups_are_cut_by_position_as_rows():
    """The control: the best heads of all groups in the order of their rows; B and C stay, whoever reads them."""
    parent = small_decoder("M")
    given = score(parent, [small_batch()])
    array = np.array([[9, 7, 8], [2, 6, 1]])[..., None] * np.ones(4)
    given = replace(given, within=({"group x head x channel": array},))
    wanted = shaped(parent.config, {"head": 2})
    cut = cut_for(wanted, parent.config, given, Ranking(heads_ignoring_groups=True))
    student = {name: weight.detach() for name, weight in cut_decoder(parent, cut).named_parameters()}
    weights = {name: weight.detach() for name, weight in parent.named_parameters()}
    heads = torch.tensor([0, 1, 2, 4])  # three of group 0: the third is put where B and C are those of group 1
    inner = (heads[:, None] * 4 + torch.arange(4)).ravel()
    rows = torch.cat([inner, 24 + inner, torch.arange(48, 68), 68 + heads])
    convolved = torch.cat([inner, torch.arange(24, 44)])
    for name, kept in (("in_proj.weight", rows), ("conv1d.bias", convolved), ("A_log", heads), ("D", heads), ("norm.weight", inner)):
        assert torch.equal(student[f"layers.0.mixer.{name}"], weights[f"layers.0.mixer.{name}"][kept]), name
    assert torch.equal(student["layers.0.mixer.out_proj.weight"], weights["layers.0.mixer.out_proj.weight"][:, inner])


def test_an_axis_without_scores_is_named():
    config = FAMILIES["moe"]
    given = score(family_decoder("moe"), [family_batch()])
    with pytest.raises(ConfigError, match=r"of layer 1 \(moe\) they leave 3 of the axis 'expert', and 2 are asked for"):
        cut_for(shaped(config, {"expert": 2}, layers=(0, 1)), config, given)


def test_what_cannot_be_asked_for_together(scores):
    with pytest.raises(ConfigError, match="do not follow a moved head"):
        Ranking(channels_per_head=True, heads_ignoring_groups=True)
    with pytest.raises(ConfigError, match="would not leave the model as it is"):
        sorted_by_rank(SMALL, scores, Ranking(heads_ignoring_groups=True))


def test_every_layer_may_have_widths_of_its_own(scores):
    wanted = shaped(SMALL, {"ffn": 6}, at={1: {"ffn": 3}, 3: {"head": 1}})
    student = cut_decoder(small_decoder(), cut_for(wanted, SMALL, scores))
    assert [layer.ffn for layer in student.config.layers if isinstance(layer, MLP)] == [3, 6]
    assert [layer.heads for layer in student.config.layers if isinstance(layer, Mamba2)] == [6, 2]


def test_layers_that_share_a_cache_choose_together_what_they_share():
    config = FAMILIES["hymba"]
    given = score(family_decoder("hymba"), [family_batch()])
    cut = cut_for(shaped(config, {"v_channel": 3, "kv_group": 1, "query": 2, "state": 2}), config, given)
    for owner, reader in ((0, 2), (4, 5)):
        energy = [np.square(given.within[index]["kv_group x query x v_channel"]) for index in (owner, reader)]
        channels = np.sort(np.argsort(-sum(each.sum((0, 1)) for each in energy), kind="stable")[:3])
        assert cut.within[owner]["v_channel"].indices.tolist() == cut.within[reader]["v_channel"].indices.tolist() == channels.tolist()
        kept = [each[:, :, channels] for each in energy]
        groups = sum(np.sort(each.sum(-1), axis=1)[:, 1:].sum(1) for each in kept)  # two of three queries each, on three channels
        assert cut.within[owner]["kv_group"].indices.tolist() == cut.within[reader]["kv_group"].indices.tolist() == [int(groups.argmax())]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parent_sorted_by_rank_is_the_parent_and_its_prefixes_are_the_cuts(family):
    parent, batch = family_decoder(family), family_batch()
    given = score(parent, [batch])
    ordered = cut_decoder(parent, sorted_by_rank(parent.config, given))
    with torch.no_grad():
        assert (ordered(batch) - parent(batch)).abs().max() < 1e-9
        sizes = {name: axis.size for layer in parent.config.layers for name, axis in layer.axes().items() if name in layer.probes}
        for axis, size in {"hidden": parent.config.hidden, **sizes}.items():
            wanted = shaped(parent.config, {axis: size // 2})
            prefix = cut_decoder(ordered, cut_for(wanted, parent.config, given, Ranking(order="original")))
            cuts = (cut_for(wanted, parent.config, given, Ranking(order=order)) for order in ("ranked", "reverse"))
            best, worst = (cut_decoder(parent, cut) for cut in cuts)
            assert (prefix(batch) - best(batch)).abs().max() < 1e-9, axis
            assert (worst(batch) - best(batch)).abs().max() > 1e-3, axis
