"""Distillation against full-logit formulas and its own fixed point."""

import pytest
import torch
import torch.nn.functional as F
from tests.distill.small import batch, decoder

from amaru.distill import Distillation, LiveTeacher, Terms
from amaru.errors import ConfigError
from amaru.nn import Batch
from amaru.precision import Scheme, quantise


def test_loss_and_gradients_equal_those_of_all_logits_at_once():
    teacher, student, data = decoder(0), decoder(1), batch([19, 1, 30])
    loss = Distillation(teacher, chunk_tokens=7)(student, data)
    loss.total.backward()
    chunked = {name: weight.grad.clone() for name, weight in student.named_parameters()}
    student.zero_grad()
    inputs, counted = Batch(data.ids, data.positions, data.cu_seqlens), data.targets >= 0
    log_q, log_p = (model(inputs)[counted].log_softmax(-1) for model in (student, teacher))
    whole = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    whole.backward()
    assert loss.tokens == 19 + 1 + 30 - 3
    torch.testing.assert_close(loss.total, whole)
    for name, weight in student.named_parameters():
        torch.testing.assert_close(chunked[name], weight.grad, msg=name)


def test_the_teacher_itself_is_the_fixed_point():
    student = decoder(0)
    loss = Distillation(decoder(0))(student, batch([25]))
    loss.total.backward()
    assert abs(loss.total.item()) < 1e-12
    assert max(weight.grad.abs().max().item() for weight in student.parameters()) < 1e-12


def test_the_teacher_gets_no_gradient():
    teacher = decoder(0)
    Distillation(teacher)(decoder(1), batch([9])).total.backward()
    assert all(weight.grad is None for weight in teacher.parameters())


def test_another_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="37 tokens and the student 40"):
        Distillation(decoder(0))(decoder(1, vocab=40), batch([9]))


def test_cross_entropy_stands_beside_the_teacher_at_temperature_one():
    teacher, student, data = decoder(0), decoder(1), batch([19, 30])
    terms = Terms(temperature=2.0, cross_entropy=0.3)
    loss = Distillation(teacher, terms, chunk_tokens=7)(student, data)
    inputs, counted = Batch(data.ids, data.positions, data.cu_seqlens), data.counted
    log_q, log_p = ((model(inputs)[counted] / 2).log_softmax(-1) for model in (student, teacher))
    softened = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * 4
    text = F.cross_entropy(student(inputs)[counted], data.targets[counted])
    torch.testing.assert_close(loss.total, softened + 0.3 * text)
    assert loss.parts == pytest.approx({"forward_kl": softened.item(), "cross_entropy": text.item()})


@pytest.mark.parametrize("terms", [Terms(divergence="reverse_kl"), Terms(divergence="jensen_shannon", beta=0.2)])
def test_a_divergence_is_chosen_by_name(terms):
    teacher, student, data = decoder(0), decoder(1), batch([12])
    inputs, counted = Batch(data.ids, data.positions, data.cu_seqlens), data.counted
    p, q = (model(inputs)[counted].softmax(-1) for model in (teacher, student))
    m = terms.beta * p + (1 - terms.beta) * q
    reverse = (q * (q / p).log()).sum(-1)
    mixed = terms.beta * (p * (p / m).log()).sum(-1) + (1 - terms.beta) * (q * (q / m).log()).sum(-1)
    expected = (reverse if terms.divergence == "reverse_kl" else mixed).mean()
    torch.testing.assert_close(Distillation(teacher, terms)(student, data).total, expected)


def test_a_quantised_teacher_teaches_what_its_codes_say():
    teacher, student, data = decoder(0).float(), decoder(1).float(), batch([15])
    quantise(teacher, Scheme(to="int8"))
    inputs = Batch(data.ids, data.positions, data.cu_seqlens)
    log_q, log_p = (model(inputs)[data.counted].log_softmax(-1) for model in (student, teacher))
    expected = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    torch.testing.assert_close(Distillation(LiveTeacher(teacher))(student, data).total, expected, rtol=1e-5, atol=1e-6)


def test_beta_is_refused_where_it_has_no_effect():
    with pytest.raises(ConfigError, match="beta is Jensen-Shannon's"):
        Terms(beta=0.3)
