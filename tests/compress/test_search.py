"""The search with arithmetic in place of training, stopped and taken up again; and the file that remembers."""

import math

import pytest
from tests.compress.test_space import IMPORTANCE, PARENT, scores_for

from amaru.compress import Budget, CandidateStore, SearchSpace, enumerate_candidates, judge, rank_zero_shot, shortlist
from amaru.errors import ArtifactError, ConfigError, StorageError, TrainingError


@pytest.fixture(scope="module")
def candidates():
    space = SearchSpace(widths={"hidden": (48,), "ffn": (88, 64)}, kept={"mamba2": (2,)}, use=0.5)
    return enumerate_candidates(PARENT, scores_for(PARENT, IMPORTANCE), Budget(parameters=90_000), space).candidates


@pytest.fixture
def store(tmp_path):
    return CandidateStore(tmp_path / "search.sqlite", "parent and text")


def loss(candidate):
    return {"loss": 1e6 / candidate.parameters, "teacher_kl": 0.5, "bits_per_byte": None}


def test_ranking_is_by_loss_and_keeps_the_rest(candidates, store):
    said = []
    ranked = rank_zero_shot(candidates, loss, store, progress=said.append)
    assert [each.candidate for each in ranked] == sorted(candidates, key=lambda candidate: -candidate.parameters)
    assert ranked[0].result == loss(ranked[0].candidate)
    assert len(said) == len(candidates) and said[0].startswith(f"zero-shot 1/{len(candidates)}: loss ")


def test_a_stopped_search_goes_on_where_it_was(candidates, store):
    """The fourth evaluation fails; the second run evaluates all but the three that were done."""
    seen = []

    def failing(candidate):
        seen.append(candidate)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return loss(candidate)

    with pytest.raises(KeyboardInterrupt):
        rank_zero_shot(candidates, failing, store)
    again = rank_zero_shot(candidates, failing, CandidateStore(store.path, store.made_from))
    assert seen[4:] == list(candidates[3:])
    assert again == rank_zero_shot(candidates, loss, CandidateStore(store.path.with_name("fresh"), "x"))


def test_a_loss_that_is_no_number_ranks_last(candidates, store):
    bad = candidates[1]
    ranked = rank_zero_shot(candidates[:4], lambda each: {"loss": math.nan if each is bad else 2.0}, store)
    assert ranked[-1].candidate is bad
    assert math.isnan(store.get(bad.key, "zero-shot")["loss"])


def test_the_shortlist_holds_the_best_of_different_shapes(candidates, store):
    """The loss puts shapes side by side that differ in ffn alone: 96, 88 (8% less), 64."""
    ranked = rank_zero_shot(
        candidates, lambda each: {"loss": 1e4 / each.config.hidden - each.shape["head"] - each.shape["ffn"] / 1000}, store
    )
    chosen = shortlist(ranked, 3)
    assert chosen[0] is ranked[0] and len(chosen) == 3
    for place, one in enumerate(chosen):
        for other in chosen[:place]:
            left, right = one.candidate.shape, other.candidate.shape
            assert any(abs(left[name] - right[name]) / max(left[name], right[name]) >= 0.1 for name in left)
    assert chosen != ranked[:3]
    assert shortlist(ranked, 3, difference=0.99) == ranked[:3]  # none differs so much: the best fill the list
    assert shortlist(ranked, 1000) == ranked


def test_short_training_decides_and_the_two_rankings_are_compared(candidates, store):
    ranked = rank_zero_shot(candidates, loss, store)[:4]
    after = dict(zip([each.candidate.key for each in ranked], [3.0, 1.0, 2.0, 4.0], strict=True))
    trained = []

    def fit(candidate, tokens):
        trained.append((candidate, tokens))
        return {"loss": after[candidate.key]}

    outcome = judge(ranked, fit, 500, store)
    assert outcome.winner == ranked[1].candidate
    assert [(row.rank_before, row.rank_after, row.after["loss"]) for row in outcome.contenders] == [
        (2, 1, 1.0),
        (3, 2, 2.0),
        (1, 3, 3.0),
        (4, 4, 4.0),
    ]
    assert outcome.contenders[0].before == ranked[1].result
    assert outcome.kendall_tau == pytest.approx((4 - 2) / 6)  # 4 pairs agree, 2 do not
    assert judge(ranked, fit, 500, store) == outcome and len(trained) == 4
    judge(ranked[:1], fit, 500, store, seed=1)
    judge(ranked[:1], fit, 900, store)
    assert trained[4:] == [(ranked[0].candidate, 500), (ranked[0].candidate, 900)]


def test_the_better_half_goes_on_with_twice_the_tokens(candidates, store):
    """Five contenders, three rounds: 5 at 100 tokens, 3 at 200, 2 at 400; the table has every round, and a stop costs nothing."""
    ranked = rank_zero_shot(candidates, loss, store)[:5]
    keys = [each.candidate.key for each in ranked]
    losses = {100: [5.0, 4.0, 3.0, 2.0, 1.0], 200: [9.0, 9.0, 1.5, 1.0, 2.0], 400: [9.0, 9.0, 0.9, 1.0, 9.0]}
    trained = []

    def fit(candidate, tokens):
        trained.append((keys.index(candidate.key), tokens))
        if len(trained) == 7:
            raise KeyboardInterrupt
        return {"loss": losses[tokens][keys.index(candidate.key)]}

    with pytest.raises(KeyboardInterrupt):
        judge(ranked, fit, 100, store, rounds=3)
    outcome = judge(ranked, fit, 100, store, rounds=3)
    assert trained == [(0, 100), (1, 100), (2, 100), (3, 100), (4, 100), (4, 200), (3, 200), (3, 200), (2, 200), (3, 400), (2, 400)]
    assert [(keys.index(each.candidate.key), each.rank_before, [r["loss"] for r in each.rounds]) for each in outcome.contenders] == [
        (2, 3, [3.0, 1.5, 0.9]),
        (3, 4, [2.0, 1.0, 1.0]),
        (4, 5, [1.0, 2.0]),
        (1, 2, [4.0]),
        (0, 1, [5.0]),
    ]
    assert outcome.winner.key == keys[2] and outcome.contenders[0].after == {"loss": 0.9}
    until_one = judge(ranked, fit, 100, store, rounds=9)
    assert len(until_one.contenders[0].rounds) == 3, "one that is left has nobody to be judged against"


def test_ranking_by_something_else(candidates, store):
    """Accuracy and agreement are best large, KL is best small; loss stays what finalists are judged by."""

    def evaluate(candidate):
        place = candidates.index(candidate)
        agreement = math.nan if place == 1 else 0.1
        return {"loss": float(place), "teacher_kl": abs(place - 3.0), "accuracy": place / 10, "teacher_agreement": agreement}

    for by, best in (("loss", 0), ("teacher_kl", 3), ("accuracy", len(candidates) - 1), ("teacher_agreement", 0)):
        ranked = rank_zero_shot(candidates, evaluate, store, by=by)
        assert ranked[0].candidate is candidates[best], by
        assert shortlist(ranked, 3)[0] is ranked[0]
    assert ranked[-1].candidate is candidates[1]


def test_one_contender_has_no_agreement(candidates, store):
    assert judge(rank_zero_shot(candidates, loss, store)[:1], lambda candidate, tokens: {"loss": 1.0}, 1, store).kendall_tau is None


def test_a_search_that_cannot_end(candidates, store):
    with pytest.raises(ConfigError, match="shortlist is empty"):
        judge([], lambda candidate, tokens: {"loss": 1.0}, 1, store)
    with pytest.raises(TrainingError, match="No contender has a finite loss"):
        judge(rank_zero_shot(candidates, loss, store)[:2], lambda candidate, tokens: {"loss": math.nan}, 1, store)


def test_results_of_another_origin_are_not_seen(store):
    store.put("key", "zero-shot", {"loss": 1.0})
    store.put("key", "zero-shot", {"loss": 2.0})
    store.put("key", "zero-shot", {"loss": 3.0}, seed=1)
    assert (store.get("key", "zero-shot"), store.get("key", "zero-shot", 1)) == ({"loss": 2.0}, {"loss": 3.0})
    assert store.get("other", "zero-shot") is None and store.get("key", "fit 1") is None
    other = CandidateStore(store.path, "another parent")
    assert other.get("key", "zero-shot") is None


def test_a_file_that_is_no_store(tmp_path):
    (tmp_path / "text").write_text("no database at all, but some longer text " * 5)
    with pytest.raises(ArtifactError, match="not a store of search results"):
        CandidateStore(tmp_path / "text", "x")
    (tmp_path / "directory").mkdir()
    with pytest.raises(StorageError, match="Cannot use"):
        CandidateStore(tmp_path / "directory", "x")
