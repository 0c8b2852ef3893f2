"""A plan in its file, carried out and shown; and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compress.oracles import small_batch, small_config, small_decoder

from amaru.axes import Selection
from amaru.compress import Budget, Cut, Plan, Ranking, Scores, cut_decoder, cut_for, shaped
from amaru.config import Artifact
from amaru.data.narrow import token_uses
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, ConfigError
from amaru.models import Decoder, cost
from amaru.models.checkpoint import load, save

SMALL = small_config()


def drawn_scores(config, seed=0):
    rng = np.random.default_rng(seed)
    named = [{str(layer.read(reading)[1]) for probe in layer.probes.values() for reading in probe.readings} for layer in config.layers]
    within = tuple(
        {name: rng.random([layer.axes()[axis].size for axis in name.split(" x ")]) for name in sorted(names)}
        for layer, names in zip(config.layers, named, strict=True)
    )
    return Scores(hidden=rng.random(config.hidden), within=within, samples=1, tokens=1, ffn_read="before activation", made_from={})


def small_plan(ranking=None, **widths):
    wanted = shaped(SMALL, widths or {"hidden": 12, "ffn": 6, "head": 2, "query": 1}, layers=(0, 1, 2, 4), at={1: {"ffn": 5}})
    cut = cut_for(wanted, SMALL, drawn_scores(SMALL), ranking)
    return Plan(
        parent=SMALL,
        candidate=wanted,
        cut=cut,
        ranking=ranking or Ranking(),
        budget=Budget(parameters=5000),
        made_from={"checkpoint": "ab"},
    )


@pytest.mark.parametrize("ranking", [Ranking(), Ranking(heads_ignoring_groups=True), Ranking(channels_per_head=True)])
def test_saved_and_read_again(tmp_path, ranking):
    plan = small_plan(ranking, hidden=12, head=2, **({} if ranking.heads_ignoring_groups else {"channel": 3}))
    plan.save(tmp_path / "plan")
    again = Plan.load(tmp_path / "plan", {"checkpoint": "ab"})
    assert again.facts() == plan.facts() and again.key == plan.key
    assert (again.parent, again.candidate, again.budget) == (plan.parent, plan.candidate, plan.budget)
    one, other = (each.cut_decoder(small_decoder()) for each in (plan, again))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(ArtifactError, match="made from another checkpoint"):
        Plan.load(tmp_path / "plan", {"checkpoint": "cd"})


def test_every_index_is_part_of_its_key(tmp_path):
    plan = small_plan()
    ffn = plan.cut.within[1]["ffn"]
    other = Cut(plan.cut.layers, plan.cut.network, plan.cut.within | {1: {"ffn": Selection(ffn.indices[::-1].copy())}})
    assert replace(plan, cut=other).key != plan.key == small_plan().key
    plan.save(tmp_path / "plan")
    found = Artifact.load(tmp_path / "plan", kind="plan", schema=2)
    found.arrays["layers.1.ffn"] = ffn.indices[::-1]
    found.save(tmp_path / "plan")
    with pytest.raises(ArtifactError, match="other indices than were saved"):
        Plan.load(tmp_path / "plan")


def test_what_it_does_axis_by_axis():
    rows = {(row.axis, row.kind, row.layers): (row.before, row.after) for row in small_plan().narrowings()}
    assert rows["hidden", "", ()] == (20, 12) and rows["vocab", "", ()] == (31, 31)
    assert rows["head", "mamba2", (0,)] == (3, 2) and rows["state", "mamba2", (0,)] == (5, 5)
    assert rows["ffn", "mlp", (1,)] == (11, 5) and rows["ffn", "mlp", (4,)] == (11, 6)
    assert rows["query", "attention", (2,)] == (2, 1)
    facts = small_plan().facts()
    assert facts["dropped"] == {"mamba2": [3], "mlp": [], "attention": []}
    assert facts["parameters"]["before"] == cost.parameters(SMALL)


def test_carried_out_from_disk_it_is_what_it_is_in_memory(tmp_path):
    parent, plan = small_decoder(), small_plan()
    save(parent, tmp_path / "parent")
    assert plan.cut_checkpoint(tmp_path / "parent", tmp_path / "student") == plan.candidate.config
    written, student = load(tmp_path / "student"), plan.cut_decoder(parent)
    assert all(torch.equal(a, b) for a, b in zip(written.parameters(), student.parameters(), strict=True))
    assert sum(weight.numel() for weight in written.parameters()) == plan.candidate.parameters


def test_a_plan_that_would_not_do_what_it_says_is_refused(tmp_path):
    plan = small_plan()
    with pytest.raises(ConfigError, match="keeps every layer at every width"):
        replace(plan, candidate=shaped(SMALL), cut=Cut(tuple(range(5)))).cut_decoder(small_decoder())
    with pytest.raises(ArtifactError, match=r"promises .* but its indices leave"):
        replace(plan, cut=Cut((0, 1, 2, 4))).cut_decoder(small_decoder())
    with pytest.raises(ArtifactError, match=r"promises 7 parameters"):
        replace(plan, candidate=replace(plan.candidate, parameters=7)).surgery()
    save(small_decoder("M-"), tmp_path / "parent")
    for cut in (lambda: plan.cut_decoder(small_decoder("M-")), lambda: plan.cut_checkpoint(tmp_path / "parent", tmp_path / "student")):
        with pytest.raises(ConfigError, match=r"cuts a model of 5 layers, hidden 20 and .* not a model of 2 layers"):
            cut()
    assert not (tmp_path / "student").exists()


def test_tokens_go_with_their_rows_and_the_tokenizer_with_them(tmp_path):
    texts = ["low lower lowest slow slower slowest", "new newer newest"]
    tokenizer = Tokenizer.train(texts * 3, 290)
    config = replace(SMALL, vocab=tokenizer.vocab_size + 6)  # six rows that no token has
    parent = Decoder(config).initialise(0).double()
    save(parent, tmp_path / "parent", tokenizer)
    ids = [id for text in texts for id in tokenizer.encode(text)]
    uses = token_uses(tokenizer, np.bincount(ids, minlength=config.vocab), config.vocab)
    wanted = shaped(config, {"vocab": 268})
    plan = Plan(parent=config, candidate=wanted, cut=cut_for(wanted, config, drawn_scores(config), uses=uses), made_from={})
    plan.cut_checkpoint(tmp_path / "parent", tmp_path / "student", tokenizer)
    kept, student, smaller = plan.cut.network["vocab"].indices, load(tmp_path / "student"), Tokenizer.load(tmp_path / "student")
    assert student.embedding.weight.shape == student.head.weight.shape == (268, 20) and smaller.vocab_size <= 268
    for text in [*texts, "snowflakes: ☃!"]:
        assert smaller.decode(smaller.encode(text)) == text
        old = tokenizer.encode(text)
        if set(old) <= set(kept.tolist()):
            assert [kept[id] for id in smaller.encode(text)] == old
    batch = small_batch()
    with torch.no_grad():
        told = parent(replace(batch, ids=torch.tensor(kept)[batch.ids]))[:, torch.tensor(kept)]
        torch.testing.assert_close(student(batch), told, atol=1e-12, rtol=0)


def test_tokens_that_cannot_go(tmp_path):
    scores = drawn_scores(SMALL)
    with pytest.raises(ConfigError, match="how often each is used"):
        cut_for(shaped(SMALL, {"vocab": 9}), SMALL, scores)
    with pytest.raises(ConfigError, match="'vocab' cannot be cut to 9: 12 tokens must stay"):
        cut_for(shaped(SMALL, {"vocab": 9}), SMALL, scores, uses=np.where(np.arange(31) < 12, np.inf, 1.0))
    with pytest.raises(ConfigError, match="shape \\[30\\]; the model has 31"):
        cut_for(shaped(SMALL, {"vocab": 9}), SMALL, scores, uses=np.ones(30))
    assert cut_for(shaped(SMALL, {"vocab": 2}), SMALL, scores, uses=np.arange(31.0)).network["vocab"].indices.tolist() == [29, 30]


def test_dropping_layers_alone_is_a_plan():
    wanted = shaped(SMALL, layers=(0, 2))
    plan = Plan(parent=SMALL, candidate=wanted, cut=cut_for(wanted, SMALL, drawn_scores(SMALL)), made_from={})
    assert plan.cut_decoder(small_decoder()).config == cut_decoder(small_decoder(), Cut((0, 2))).config
