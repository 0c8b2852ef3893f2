"""Losses on preferences against the values and limits of the papers, and against sums written out answer by answer."""

import math

import pytest
import torch
from torch import Tensor

from amaru.align.losses import Groups, preference
from amaru.align.terms import Terms

VALUES = {0.0: 0.0, 0.25: 0.0078, 0.5: 0.0303, 1.0: 0.1109, 2.0: 0.3278, 4.0: 0.6031}  # of KL(s(b) || s(0)), by b


def groups(rewards: list[list[float]]) -> Groups:
    """Comparisons with so many answers each, which their rewards order."""
    width = max(map(len, rewards))
    real = torch.tensor([[place < len(each) for place in range(width)] for each in rewards])
    padded = torch.tensor([[*each, *[0.0] * (width - len(each))] for each in rewards], dtype=torch.float64)
    better = (padded[:, :, None] > padded[:, None, :]) & real[:, :, None] & real[:, None, :]
    zeros = torch.zeros_like(padded)
    return Groups(zeros.long(), real, padded, better, zeros, zeros)


def rpo(a: Tensor, b: float, **more: object) -> Tensor:
    """The loss of one pair, whose implicit gap is a."""
    terms = Terms(method="rpo", beta=0.5, eta=2.0, **more)  # type: ignore[arg-type]
    h = torch.stack([a / 0.5 + 7.0, torch.full_like(a, 7.0)])  # only gaps count
    return preference(terms, h[None], groups([[b / 2.0 - 3.0, -3.0]]))[0]


@pytest.mark.parametrize("b, expected", VALUES.items())
def test_the_values_of_the_report(b: float, expected: float) -> None:
    assert rpo(torch.tensor(0.0, dtype=torch.float64), b).item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("distance", ["backward_kl", "forward_kl", "squared"])
def test_the_gradient_by_the_implicit_gap(distance: str) -> None:
    for a, b in ((0.0, 1.0), (0.7, 0.7), (-1.3, 2.0), (2.5, -0.5)):
        x = torch.tensor(a, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(rpo(x, b, distance=distance), x)
        s_a, s_b = (1 / (1 + math.exp(-each)) for each in (a, b))
        expected = {"backward_kl": s_a - s_b, "forward_kl": s_a * (1 - s_a) * (a - b), "squared": 2 * (a - b)}
        assert grad.item() == pytest.approx(expected[distance], abs=1e-12)


def test_limits_to_dpo_and_to_smoothed_dpo() -> None:
    h, pair = torch.tensor([[0.9, -0.4]], dtype=torch.float64), groups([[1.0, 0.0]])
    dpo = preference(Terms(method="dpo", beta=0.5), h, pair)
    far = preference(Terms(method="rpo", beta=0.5, eta=200.0), h, pair)
    torch.testing.assert_close(far, dpo, atol=1e-12, rtol=0)
    smoothing = 0.2  # a constant b is DPO with so large a share of wrong labels, but for the entropy, which is constant
    gap = math.log((1 - smoothing) / smoothing)
    smoothed = preference(Terms(method="dpo", beta=0.5, smoothing=smoothing), h, pair)
    entropy = -smoothing * math.log(smoothing) - (1 - smoothing) * math.log(1 - smoothing)
    torch.testing.assert_close(preference(Terms(method="rpo", beta=0.5, eta=gap), h, pair) + entropy, smoothed, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(method="dpo", beta=0.7, smoothing=0.1),
        Terms(method="ipo", beta=0.7),
        Terms(method="rpo", beta=0.7, eta=1.3),
        Terms(method="rpo", beta=0.7, eta=1.3, distance="forward_kl"),
        Terms(method="rpo", beta=0.7, eta=1.3, distance="squared"),
    ],
    ids=lambda terms: f"{terms.method} {terms.distance}",
)
def test_any_number_of_answers_against_sums_written_out(terms: Terms) -> None:
    rewards = [[1.0, 0.5, 0.5, -2.0], [0.3, 0.1], [2.0, 1.0, 0.0]]
    drawn = torch.Generator().manual_seed(3)
    h = torch.randn(3, 4, generator=drawn, dtype=torch.float64)
    found = preference(terms, h, groups(rewards))
    for values, r, loss in zip(h.tolist(), rewards, found.tolist(), strict=True):
        assert loss == pytest.approx(written_out(terms, values[: len(r)], r), abs=1e-12)


def written_out(terms: Terms, h: list[float], r: list[float]) -> float:
    pairs = [(h[i] - h[j], r[i] - r[j]) for i in range(len(r)) for j in range(len(r)) if i != j]
    if terms.method == "rpo" and terms.distance == "squared":
        return sum((terms.beta * a - terms.eta * b) ** 2 for a, b in pairs) / len(pairs)
    if terms.method == "rpo":
        model, given = shares([terms.beta * each for each in h]), shares([terms.eta * each for each in r])
        p, q = (given, model) if terms.distance == "backward_kl" else (model, given)
        return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    gaps = [a for a, b in pairs if b > 0]
    if terms.method == "ipo":
        return sum((a - 1 / (2 * terms.beta)) ** 2 for a in gaps) / len(gaps)
    log_s = [math.log(1 / (1 + math.exp(-terms.beta * sign * a))) for a in gaps for sign in (1, -1)]
    return sum(-(1 - terms.smoothing) * x - terms.smoothing * y for x, y in zip(log_s[::2], log_s[1::2], strict=True)) / len(gaps)


def shares(scores: list[float]) -> list[float]:
    return [math.exp(each) / sum(map(math.exp, scores)) for each in scores]


@pytest.mark.parametrize(
    "terms, gap",
    [(Terms(method="rpo", beta=1e-3), 1.0), (Terms(method="rpo", beta=1.0), 1.0), (Terms(method="ipo", beta=0.2), 1.0)],
)
def test_the_implied_optimum_is_where_the_gradient_is_nothing(terms: Terms, gap: float) -> None:
    x = torch.tensor(terms.optimum(gap), dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(preference(terms, torch.stack([x, x.detach() * 0])[None], groups([[gap, 0.0]])).sum(), x)
    assert abs(grad.item()) < 1e-12
    assert f"{terms.optimum(gap):.3g} nats" in terms.implied(gap, 80.0)
    assert Terms(method="dpo").optimum(gap) == math.inf and Terms(method="rpo", beta=1e-3).optimum(1.0) == 1000


@pytest.mark.parametrize("distance", ["backward_kl", "forward_kl", "squared"])
def test_the_pull_at_the_start_is_the_gradient(distance: str) -> None:
    of_rewards = Terms(method="rpo", beta=0.3, eta=2.0, distance=distance)  # type: ignore[arg-type]
    every = [Terms(beta=0.3, smoothing=0.1), Terms(method="ipo", beta=0.3), of_rewards]
    for terms in every:
        h = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(preference(terms, h, groups([[1.5, 0.0]])).sum(), h)
        assert grad.tolist() == [[pytest.approx(-terms.pull(1.5)), pytest.approx(terms.pull(1.5))]]
    told = Terms(beta=1e-3, sft=1e-4).implied(math.nan, 80.0)
    assert "pulls with 0.0005 on each log-probability, the SFT term with 0.0001 on that of the best answer (0.2 times as much)" in told
