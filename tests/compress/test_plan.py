"""Which indices a plan keeps: nested, inside their group, in the parent's order."""

from dataclasses import replace

import numpy as np
import pytest
from tests.compress.oracles import small_batch, small_config, small_decoder

from amaru.axes import Selection
from amaru.compress import Budget, Candidate, Cut, Plan, cut_config, cut_decoder, cut_for, score
from amaru.errors import ArtifactError, ConfigError
from amaru.models import cost
from amaru.nn import MLP, Attention, Mamba2


def candidate(config, cut):
    student = cut_config(config, cut)
    return Candidate(layers=cut.layers, config=student, parameters=cost.parameters(student), memory=0)


def sizes(config, *, layers=(0, 1, 2, 3, 4), hidden=20, ffn=11, head=3, channel=4):
    """A candidate of these widths; which indices stand for them does not matter."""
    counts = {"mamba2": {"head": head, "channel": channel}, "mlp": {"ffn": ffn}, "attention": {}}
    within = {i: {name: Selection(np.arange(n)) for name, n in counts[config.layers[i].kind].items()} for i in layers}
    return candidate(config, Cut(layers, {"hidden": Selection(np.arange(hidden))}, within))


@pytest.fixture(scope="module")
def scores():
    return score(small_decoder(), [small_batch()])


def with_heads(scores, array):
    return replace(scores, within=({"group x head x channel": np.array(array, dtype=float)}, *scores.within[1:]))


def test_heads_are_judged_on_surviving_channels_within_their_group(scores):
    """Channel 3 is dropped; head 0 of group 0 is large there alone, so nesting drops it although in full it leads."""
    array = np.ones((2, 3, 4))
    array[:, :, :3] = 5.0
    array[0, 0] = [1, 1, 1, 9]
    array[0, 1] = [4, 4, 4, 0]
    array[1, 2] = [6, 6, 6, 0]
    cut = cut_for(sizes(small_config(), head=2, channel=3), small_config(), with_heads(scores, array))
    assert cut.within[0]["channel"].indices.tolist() == [0, 1, 2]
    assert cut.within[0]["head"].indices.tolist() == [[1, 2], [0, 2]]
    kept_in_full = np.sort(np.argsort(-np.linalg.norm(array, axis=-1), kind="stable")[:, :2], axis=-1)
    assert kept_in_full[0].tolist() == [0, 2]  # the un-nested rule disagrees
    only_heads = cut_for(sizes(small_config(), head=2), small_config(), with_heads(scores, array))
    assert only_heads.within[0]["head"].indices.tolist() == kept_in_full.tolist()  # nothing nested, both rules agree


def test_a_strong_group_does_not_take_heads_from_a_weak_one(scores):
    array = np.stack([np.full((3, 4), 100.0), np.full((3, 4), 0.01)])
    cut = cut_for(sizes(small_config(), head=1), small_config(), with_heads(scores, array))
    assert cut.within[0]["head"].indices.shape == (2, 1)


def test_the_best_of_every_axis_in_the_parents_order(scores):
    config = small_config()
    cut = cut_for(sizes(config, hidden=7, ffn=5, layers=(0, 1, 3, 4)), config, scores)
    assert cut.layers == (0, 1, 3, 4)
    assert cut.network["hidden"].indices.tolist() == sorted(sorted(range(20), key=lambda c: -scores.hidden[c])[:7])
    for layer in (1, 4):
        assert cut.within[layer]["ffn"].indices.tolist() == sorted(sorted(range(11), key=lambda c: -scores.within[layer]["ffn"][c])[:5])
    assert set(cut.within) == {1, 4}  # heads and channels stay whole and are not named


def test_equal_scores_keep_the_first(scores):
    flat = replace(scores, hidden=np.ones(20))
    assert cut_for(sizes(small_config(), hidden=4), small_config(), flat).network["hidden"].indices.tolist() == [0, 1, 2, 3]


def test_a_candidate_becomes_a_student_of_its_shape(scores):
    parent = small_decoder()
    wanted = sizes(parent.config, layers=(0, 1, 2, 4), hidden=12, ffn=6, head=2, channel=3)
    student = cut_decoder(parent, cut_for(wanted, parent.config, scores))
    assert student.config == wanted.config
    assert sum(weight.numel() for weight in student.parameters()) == wanted.parameters


def test_saved_and_read_again(tmp_path, scores):
    config = small_config()
    wanted = sizes(config, layers=(0, 1, 4), hidden=12, ffn=6, head=2, channel=3)
    cut = cut_for(wanted, config, scores)
    plan = Plan(parent=config, candidate=wanted, cut=cut, budget=Budget(parameters=5000), made_from={"checkpoint": "ab"})
    plan.save(tmp_path / "plan")
    again = Plan.load(tmp_path / "plan", {"checkpoint": "ab"})
    assert (again.candidate, again.budget, again.made_from, again.cut.layers) == (wanted, plan.budget, plan.made_from, (0, 1, 4))
    assert again.cut.within.keys() == plan.cut.within.keys()
    for found, expected in ((again.cut.network, plan.cut.network), *((again.cut.within[i], plan.cut.within[i]) for i in plan.cut.within)):
        assert {name: s.indices.tolist() for name, s in found.items()} == {name: s.indices.tolist() for name, s in expected.items()}
    with pytest.raises(ArtifactError, match="made from another checkpoint"):
        Plan.load(tmp_path / "plan", {"checkpoint": "cd"})


def test_a_plan_may_drop_layers_only(tmp_path, scores):
    wanted = sizes(small_config(), layers=(0, 2))
    plan = Plan(parent=small_config(), candidate=wanted, cut=cut_for(wanted, small_config(), scores), made_from={})
    plan.save(tmp_path / "plan")
    assert cut_config(small_config(), Plan.load(tmp_path / "plan").cut) == wanted.config


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
    config = small_config()
    layers = (*config.layers[:place], layer, *config.layers[place + 1 :])
    wanted = Candidate(layers=(0, 1, 2, 3, 4), config=replace(config, layers=layers), parameters=0, memory=0)
    with pytest.raises(ConfigError, match="no narrowing of this parent along the axes that are scored"):
        cut_for(wanted, config, scores)
