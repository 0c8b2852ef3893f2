"""Sampling against distributions worked out by hand and against counted draws."""

import math

import pytest
import torch

from amaru.errors import AmaruError, CheckpointError
from amaru.serve.rows import HEAD, Row, Rows, first_largest, largest
from amaru.serve.sampler import GREEDY, Sampler, Sampling, probabilities

P = [0.4, 0.3, 0.2, 0.06, 0.04]
ORDER = [3, 0, 4, 1, 2]  # where the most likely, second, ... token stands
LOGITS = torch.empty(5)
LOGITS[ORDER] = torch.tensor(P).log() + 7.0  # a constant changes nothing


def ranked(**settings: float) -> list[float]:
    """Probabilities in the order of `P`."""
    return probabilities(LOGITS, Sampling(**{"temperature": 1.0, "top_p": 1.0, **settings}))[ORDER].tolist()  # type: ignore[arg-type]


def scaled(*weights: float) -> list[float]:
    return pytest.approx([weight / sum(weights) for weight in weights], abs=1e-6)  # type: ignore[return-value]


def test_temperature_one_is_the_models_own_distribution() -> None:
    assert ranked() == scaled(*P)


@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0, 50.0])
def test_temperature_is_the_power_of_the_probabilities(temperature: float) -> None:
    assert ranked(temperature=temperature) == scaled(*(p ** (1 / temperature) for p in P))


@pytest.mark.parametrize("temperature", [0, 1e-3, 1e-30])
def test_no_temperature_takes_the_most_likely(temperature: float) -> None:
    assert ranked(temperature=temperature) == scaled(1, 0, 0, 0, 0)


@pytest.mark.parametrize("top_k", [1, 2, 3, 5, 100])
def test_top_k_keeps_k(top_k: int) -> None:
    assert ranked(top_k=top_k) == scaled(*(p if rank < top_k else 0 for rank, p in enumerate(P)))


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-9, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.89, 3), (0.91, 4), (0.97, 5), (1.0, 5)]
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: int) -> None:
    assert ranked(top_p=top_p) == scaled(*(p if rank < kept else 0 for rank, p in enumerate(P)))


def test_top_p_counts_what_temperature_and_top_k_left() -> None:
    """Squared, of the best three: 16, 9, 4 of 29; the first two reach 0.86 > 0.8, the first alone 0.55."""
    assert ranked(temperature=0.5, top_k=3, top_p=0.8) == scaled(16, 9, 0, 0, 0)


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, 5), (0.09, 5), (0.12, 4), (0.4, 3), (0.6, 2), (0.8, 1), (1.0, 1)])
def test_min_p_keeps_what_is_this_share_as_likely_as_the_likeliest(min_p: float, kept: int) -> None:
    assert ranked(min_p=min_p) == scaled(*(p if rank < kept else 0 for rank, p in enumerate(P)))


@pytest.mark.parametrize("tiny", [{"top_p": 5e-324}, {"temperature": 5e-324}, {"temperature": 1e-300, "top_p": 1e-300, "min_p": 1.0}])
def test_numbers_too_small_for_fp32_leave_the_likeliest(tiny: dict[str, float]) -> None:
    assert probabilities(LOGITS.float(), Sampling(**tiny)).nonzero().tolist() == [[ORDER[0]]]  # type: ignore[arg-type]


def test_equal_logits_leave_exactly_k() -> None:
    assert probabilities(torch.zeros(10), Sampling(temperature=1, top_k=3, top_p=1)).tolist() == scaled(1, 1, 1, *[0] * 7)


def test_top_p_of_one_keeps_the_whole_tail_of_a_large_vocabulary() -> None:
    logits = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    assert bool((probabilities(logits, Sampling(temperature=1, top_p=1)) > 0).all())


def by_definition(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The whole vocabulary sorted, one rule after the other."""
    p, ids = (logits / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    if sampling.top_k:
        p[sampling.top_k :] = 0
        p /= p.sum()
    if sampling.top_p < 1:
        p[p.cumsum(-1) - p >= sampling.top_p] = 0
    p[p < sampling.min_p * p[0]] = 0
    return torch.zeros_like(p).scatter_(0, ids, p / p.sum())


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 9.0], ids="spread {}".format)
@pytest.mark.parametrize(
    "rule", [{"top_p": 0.95}, {"top_p": 0.3}, {"min_p": 0.05}, {"top_k": 40}, {"top_k": 300}, {"top_k": 900, "top_p": 0.8}], ids=str
)
def test_a_head_leaves_what_sorting_everything_leaves(spread: float, rule: dict[str, float]) -> None:
    """Flat rows, whose head decides nothing, and peaked ones; many equals, as of logits rounded to bf16."""
    sampling = Sampling(**{"temperature": 0.8, "top_p": 1.0, **rule})  # type: ignore[arg-type]
    for seed in range(3):
        logits = (spread * torch.randn(5000, generator=torch.Generator().manual_seed(seed))).bfloat16().double()
        assert torch.allclose(probabilities(logits, sampling), by_definition(logits, sampling), rtol=1e-9, atol=0)


def test_a_row_in_company_is_the_row_alone() -> None:
    logits = 3 * torch.randn(7, 2048, generator=torch.Generator().manual_seed(1))
    temperatures = [0.0, 0.7, 1.0, 0.0, 1e-30, 5.0, 0.3]
    for row, one, temperature in zip(Rows(logits, temperatures), logits, temperatures, strict=True):
        alone = Row.alone(one.clone(), temperature)
        assert (row.best, row.finite) == (alone.best, alone.finite) == (int(one.argmax()), True)
        if temperature:
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(row.head[:2], alone.head[:2], strict=True))
            assert len(row.head.p) == HEAD or row.head.edge == alone.head.edge < row.head.p[-1]


@pytest.mark.parametrize("distinct", [10, 400, 10**6])
def test_the_largest_are_found_in_the_blocks_that_hold_the_largest(distinct: int) -> None:
    rows = torch.randint(0, distinct, (5, 8192), generator=torch.Generator().manual_seed(3)).float()
    values, ids = largest(rows, 33)
    assert torch.equal(values, rows.topk(33).values) and torch.equal(rows.gather(1, ids), values)
    assert all(len(set(each)) == 33 for each in ids.tolist())


def test_the_first_of_the_largest_is_found_in_blocks() -> None:
    logits = torch.randint(0, 4, (40, 1024), generator=torch.Generator().manual_seed(2)).float()
    assert torch.equal(first_largest(logits), logits.argmax(-1))
    assert torch.equal(first_largest(logits[:, :1000]), logits[:, :1000].argmax(-1))


def test_draws_come_as_often_as_their_probability() -> None:
    sampler, draws = Sampler(Sampling(temperature=0.7, top_p=0.95, seed=1)), 4000
    expected = probabilities(LOGITS, sampler.sampling)
    counts = torch.bincount(torch.tensor([sampler(Row.alone(LOGITS, 0.7)) for _ in range(draws)]), minlength=5)
    for count, p in zip(counts.tolist(), expected.tolist(), strict=True):
        assert abs(count - draws * p) <= 4 * math.sqrt(draws * p * (1 - p)) + 1e-9  # four standard deviations


def test_the_seed_alone_decides() -> None:
    first, second, third = (Sampler(Sampling(temperature=1, top_p=1, seed=seed)) for seed in (5, 5, 6))
    torch.manual_seed(0)
    one = [first(Row.alone(LOGITS, 1.0)) for _ in range(50)]
    torch.manual_seed(1)
    other = [(second(Row.alone(LOGITS, 1.0)), torch.rand(3))[0] for _ in range(50)]  # neither the global generator nor its use matters
    assert one == other != [third(Row.alone(LOGITS, 1.0)) for _ in range(50)]


def test_greedy_draws_nothing() -> None:
    assert {Sampler(GREEDY)(Row.alone(LOGITS)) for _ in range(3)} == {ORDER[0]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_told(value: float) -> None:
    logits = LOGITS.clone()
    logits[2] = value
    with pytest.raises(CheckpointError, match="not finite"):
        Sampler(GREEDY)(Row.alone(logits))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"seed": -1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(AmaruError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
