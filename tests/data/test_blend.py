"""Blends: exact shares, one pass after another, the same from any step; and what phases may look like."""

from collections import Counter

import numpy as np
import pytest

from amaru.data.blend import Blend, Portion, schedule
from amaru.data.corpus import Document
from amaru.data.loader import Batches, Loader, TrainingBatch
from amaru.data.packing import IGNORED, PackedRows, pack
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError

LENGTHS = {"long": 40, "short": 6, "tiny": 1}


@pytest.fixture(scope="module")
def sources(tokenizer: Tokenizer) -> dict[str, PackedRows]:
    documents = {name: [Document(f"{name}{n}", f"{name} {n} " * 9) for n in range(count)] for name, count in LENGTHS.items()}
    return {name: pack(some, tokenizer, 16) for name, some in documents.items()}


PORTIONS = [
    Portion(until="60%", weights={"long": 7, "short": 3}),
    Portion(until="80%", weights={"long": 1, "short": 2, "tiny": 1}, name="middle"),
    Portion(weights={"long": 1}, row_length=32),
    Portion(last="512", weights={"long": 3, "short": 1}, row_length=32),
]


@pytest.fixture(scope="module")
def blend(sources: dict[str, PackedRows]) -> Blend:
    return Blend(sources, schedule(PORTIONS, tokens=12_800, batch_tokens=128, row_length=16), seed=3)


def contents(batch: TrainingBatch) -> tuple:
    return (*(getattr(batch, name).tolist() for name in ("ids", "targets", "positions", "cu_seqlens")), batch.documents, batch.epoch)


def walked(blend: Batches, steps: int) -> Counter[str]:
    """Input tokens by source, counted document by document."""
    found: Counter[str] = Counter()
    for step in range(steps):
        batch = blend.batch(step)
        for first, end in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True):
            assert batch.positions[first:end].tolist() == list(range(end - first))
        for part in range(blend.phase(step).batch_rows):
            one = blend.batch(step, part, blend.phase(step).batch_rows)
            found[one.documents[0].rstrip("0123456789")] += len(one.ids)
    return found


def test_phases_end_at_their_shares_and_counts(blend: Blend) -> None:
    found = [(phase.name, phase.first, phase.end, phase.row_length, phase.batch_rows) for phase in blend.phases]
    assert found == [("phase 1", 0, 60, 16, 8), ("middle", 60, 80, 16, 8), ("phase 3", 80, 96, 32, 4), ("phase 4", 96, 100, 32, 4)]
    assert blend.phases[1].weights == {"long": 0.25, "short": 0.5, "tiny": 0.25} and blend.steps == 100
    assert [blend.phase(step).name for step in (0, 59, 60, 95, 96, 99)] == ["phase 1", "phase 1", "middle", "phase 3", "phase 4", "phase 4"]


@pytest.mark.parametrize("steps", [0, 1, 37, 60, 75, 96, 100])
def test_what_is_said_to_be_drawn_is_what_was_drawn(blend: Blend, steps: int) -> None:
    drawn = {each.source: each for each in blend.drawn(steps)}
    assert {name: each.tokens for name, each in drawn.items() if each.tokens} == dict(walked(blend, steps))
    for name, rows in blend.sources.items():
        assert drawn[name].epochs == drawn[name].tokens / rows.positions


def test_shares_are_kept_to_a_row_at_every_step(blend: Blend) -> None:
    """Rows of `long` and `short` in the first phase are 16 tokens but for two short ones a pass."""
    for steps in (5, 20, 60):
        drawn = {each.source: each.rows for each in blend.drawn(steps)}
        assert abs(drawn["long"] / (drawn["long"] + drawn["short"]) - 0.7) < 2 / (steps * 8) + 0.01


def test_a_small_source_gives_its_share_of_tokens_and_not_of_rows(sources: dict[str, PackedRows]) -> None:
    blend = Blend(sources, schedule([Portion(weights={"long": 1, "tiny": 1})], 64_000, 128, 16), seed=0)
    tokens = {each.source: each.tokens for each in blend.drawn(blend.steps)}
    assert sources["tiny"].positions % 16
    assert abs(tokens["tiny"] / (tokens["tiny"] + tokens["long"]) - 0.5) < 0.01


def test_each_pass_over_a_source_holds_each_row_once(blend: Blend, sources: dict[str, PackedRows]) -> None:
    drawn: list[int] = []
    for step in range(blend.phases[1].end or 0):
        for part in range(8):
            one = blend.batch(step, part, 8)
            drawn += one.rows if one.documents[0].startswith("short") else ()
    count = len(sources["short"])
    passes = [drawn[first : first + count] for first in range(0, len(drawn) - count + 1, count)]
    assert len(passes) > 3 and all(sorted(each) == list(range(count)) for each in passes)
    assert passes[0] != passes[1]


def test_a_batch_depends_on_seed_and_step_only(blend: Blend, sources: dict[str, PackedRows]) -> None:
    again, other = Blend(sources, blend.phases, seed=3), Blend(sources, blend.phases, seed=4)
    steps = [0, 59, 60, 81, 97]
    assert [contents(again.batch(step)) for step in reversed(steps)][::-1] == [contents(blend.batch(step)) for step in steps]
    assert contents(other.batch(60)) != contents(blend.batch(60))
    assert again.fingerprint == blend.fingerprint != other.fingerprint


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_are_the_batch(blend: Blend, sources: dict[str, PackedRows], parts: int) -> None:
    for batches in (blend, Loader(sources["long"], 8, seed=1)):
        whole = batches.batch(90)
        some = [batches.batch(90, part, parts) for part in range(parts)]
        assert np.concatenate([part.ids for part in some]).tolist() == whole.ids.tolist()
        assert sum(part.target_tokens for part in some) == whole.target_tokens == int((whole.targets != IGNORED).sum())
    with pytest.raises(DataError, match="not cut into 3 equal parts"):
        blend.batch(90, 0, 3)


def test_a_loader_counts_what_it_drew(sources: dict[str, PackedRows]) -> None:
    loader = Loader(sources["short"], 3, seed=1)
    (drawn,) = loader.drawn(29)
    assert drawn.tokens == sum(len(loader.batch(step).ids) for step in range(29)) and drawn.rows == 87


@pytest.mark.parametrize(
    "portions, sentence",
    [
        ([], "at least one phase"),
        ([Portion(until="50%", weights={"a": 1})], "The phases end at step 50, the run at step 100"),
        ([Portion(weights={"a": 1}), Portion(weights={"a": 1})], "Every phase but the last needs 'until'"),
        ([Portion(until="60%", weights={"a": 1})] * 2 + [Portion(weights={"a": 1})], "phase 2 has no step"),
        ([Portion(until="60%", weights={"a": 1}), Portion(last="1k", weights={"a": 1})], "Only the last phase may have 'last'"),
        ([Portion(weights={"a": 1}), Portion(last="20k", weights={"a": 1})], "phase 1 has no step"),
        ([Portion(weights={"a": 1}, row_length=48)], "rows of 48 tokens, which do not divide the 128 tokens"),
        ([Portion(until="130%", weights={"a": 1})], "at most at 100 %"),
    ],
)
def test_phases_that_do_not_make_a_run(portions: list[Portion], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        schedule(portions, tokens=12_800, batch_tokens=128, row_length=16)


def test_weights_and_sources_that_cannot_be(sources: dict[str, PackedRows]) -> None:
    for weights, found in (({"a": 0.0}, "a=0.0"), ({"a": 1.0, "b": -1.0}, "b=-1.0"), ({}, "none"), ({"a": float("nan")}, "a=nan")):
        with pytest.raises(ConfigError, match=f"positive numbers.*got {found}"):
            Portion(weights=weights)
    with pytest.raises(DataError, match="draws from web, which is no source; there is long, short, tiny"):
        Blend(sources, schedule([Portion(weights={"web": 1})], 1280, 128, 16), seed=0)
    blend = Blend(sources, schedule([Portion(weights={"long": 1})], 1280, 128, 16), seed=0)
    with pytest.raises(DataError, match="there is no step 10"):
        blend.batch(10)
