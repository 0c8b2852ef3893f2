"""Distillation against full-logit formulas and its own fixed point."""

import pytest
import torch
import torch.nn.functional as F

from amaru.data.loader import TrainingBatch
from amaru.distill import Distillation, forward_kl
from amaru.errors import ConfigError
from amaru.models import Decoder, DecoderConfig
from amaru.nn import MLP, Attention, Batch, Mamba2


def decoder(seed, vocab=37, hidden=24):
    layers = (Mamba2(heads=4, channels=6, groups=2, state=5), MLP(ffn=20), Attention(query_heads=2, kv_heads=1, channels=8))
    return Decoder(DecoderConfig(vocab=vocab, hidden=hidden, layers=layers)).initialise(seed).double()


def batch(lengths, seed=0, vocab=37):
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, vocab, (length,), generator=generator) for length in lengths]
    packed = Batch.of(ids)
    targets = torch.cat([torch.cat([document[1:], torch.tensor([-100])]) for document in ids])
    return TrainingBatch(packed.ids, targets, packed.positions, packed.cu_seqlens, rows=(0,), documents=("a",), epoch=0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_forward_kl_equals_the_definition(temperature):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(7, 13, dtype=torch.float64, generator=generator) for _ in range(2))
    p, q = ((logits / temperature).softmax(-1) for logits in (teacher, student))
    expected = sum(p[i, v] * (p[i, v] / q[i, v]).log() for i in range(7) for v in range(13)) * temperature**2
    torch.testing.assert_close(forward_kl(student, teacher, temperature), expected)


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
