"""Divergences against their definitions, bounds that they keep, and gradients against finite differences."""

import math

import pytest
import torch

from amaru.distill import forward_kl
from amaru.distill.losses import Divergence, divergence
from amaru.ops.head_loss import head_loss

NAMES: tuple[Divergence, ...] = ("forward_kl", "reverse_kl", "jensen_shannon")


def logits(count=2, rows=7, vocab=13, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    return [scale * torch.randn(rows, vocab, dtype=torch.float64, generator=generator) for _ in range(count)]


def defined(p, q):
    return sum(a * math.log(a / b) for row, other in zip(p.tolist(), q.tolist(), strict=True) for a, b in zip(row, other, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_forward_kl_of_logits_equals_the_definition(temperature):
    student, teacher = logits()
    p, q = (each.div(temperature).softmax(-1) for each in (teacher, student))
    assert forward_kl(student, teacher, temperature).item() == pytest.approx(defined(p, q) * temperature**2, rel=1e-12)


@pytest.mark.parametrize("beta", [0.5, 0.2])
def test_each_divergence_equals_its_definition(beta):
    p, q = (each.softmax(-1) for each in logits())
    m = beta * p + (1 - beta) * q
    expected = {
        "forward_kl": defined(p, q),
        "reverse_kl": defined(q, p),
        "jensen_shannon": beta * defined(p, m) + (1 - beta) * defined(q, m),
    }
    for name in NAMES:
        assert divergence(name, p.log(), q.log(), beta).item() == pytest.approx(expected[name], rel=1e-12)


def test_jensen_shannon_is_bounded_and_symmetric_at_one_half():
    p, q = (each.log_softmax(-1) for each in logits(scale=60.0))
    found = divergence("jensen_shannon", p, q)
    assert 6 * math.log(2) < found <= 7 * math.log(2)
    torch.testing.assert_close(found, divergence("jensen_shannon", q, p))


def test_jensen_shannon_goes_to_the_kls_at_its_ends():
    p, q = (each.log_softmax(-1) for each in logits())
    near = 1e-6
    torch.testing.assert_close(divergence("jensen_shannon", p, q, near) / near, divergence("forward_kl", p, q), rtol=1e-4, atol=0)
    torch.testing.assert_close(divergence("jensen_shannon", p, q, 1 - near) / near, divergence("reverse_kl", p, q), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_equal_distributions_have_divergence_zero_and_no_gradient(name):
    (teacher,) = logits(1)
    student = teacher.clone().requires_grad_()
    found = divergence(name, teacher.log_softmax(-1), student.log_softmax(-1))
    found.backward()
    assert abs(found.item()) < 1e-13 and student.grad.abs().max() < 1e-13


@pytest.mark.parametrize("name", NAMES)
def test_gradients_through_the_chunked_head_equal_finite_differences(name):
    generator = torch.Generator().manual_seed(2)
    hidden, weight, teacher = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in [(5, 3), (7, 3), (5, 7)])

    def loss():
        def token_loss(logits, rows):
            return divergence(name, teacher[rows].log_softmax(-1), logits.log_softmax(-1), 0.3)

        return head_loss(hidden, weight, token_loss, chunk_tokens=2)

    hidden.requires_grad_(), weight.requires_grad_()
    found = torch.autograd.grad(loss(), (hidden, weight))
    for tensor, gradient in zip((hidden, weight), found, strict=True):
        numbers, step = tensor.detach().view(-1), 1e-5
        for place in range(len(numbers)):
            values = []
            for moved in (step, -2 * step):
                numbers[place] += moved
                values.append(loss().item())
            numbers[place] += step
            assert gradient.flatten()[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-9)
