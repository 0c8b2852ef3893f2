"""Residual streams of models that differ in width and depth."""

import pytest
import torch
from tests.distill.small import FFN, MAMBA, batch, decoder

from amaru.distill import Distillation, LiveTeacher, Matching, Terms
from amaru.distill.hidden import project, states
from amaru.errors import ConfigError
from amaru.models import Decoder, DecoderConfig
from amaru.nn import Batch
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.rope import Rope

FIVE = (MAMBA, FFN, MAMBA, FFN, MAMBA)


def inputs(data):
    return Batch(data.ids, data.positions, data.cu_seqlens)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 3, ((0, 0), (1, 1), (2, 2))),
        (2, 8, ((0, 3), (1, 7))),
        (3, 5, ((0, 1), (1, 2), (2, 4))),
        (4, 2, ((0, 0), (1, 0), (2, 1), (3, 1))),
    ],
)
def test_layers_are_paired_at_the_same_share_of_the_depth(student, teacher, expected):
    assert Matching().paired(student, teacher) == expected


def test_layers_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match="Layers 3 of 3 and 0 of 5"):
        Matching(layers=((3, 0),)).paired(3, 5)
    with pytest.raises(ConfigError, match="compared once"):
        Matching(layers=((1, 0), (1, 2))).paired(3, 5)


def test_states_are_those_of_the_layers_run_one_by_one():
    model, data = decoder(0, layers=FIVE), batch([9, 4])
    last, found = states(model, inputs(data), (0, 3))
    x, kv = model.embed(data.ids), None
    for index, layer in enumerate(model.layers):
        x, kv = layer(x, inputs(data), None, kv)
        if index in found:
            assert torch.equal(found[index], x)
    assert torch.equal(last, model.hidden_states(inputs(data))) and sorted(found) == [0, 3]


def test_states_are_of_real_tokens_only():
    head = HybridHead(query_heads=2, kv_heads=1, qk_channels=8, v_channels=16, rank=2, rope=Rope(), window=16, sinks=4)
    config = DecoderConfig(vocab=37, hidden=16, layers=(head, head), tied=True, meta_tokens=4)
    model, data = Decoder(config).initialise(0).double(), batch([9, 4])
    last, found = states(model, inputs(data), (1,))
    assert torch.equal(model.norm(found[1]), last)


@pytest.mark.parametrize("by", ["cosine", "mse"])
def test_the_loss_equals_its_formula(by):
    teacher, student, data = decoder(0, hidden=32, layers=FIVE), decoder(1), batch([11, 6])
    matching = Matching(by=by, weight=0.7)
    pairs = matching.paired(3, 5)
    project(student, 32, len(pairs), seed=3).double()
    loss = Distillation(teacher, Terms(hidden=matching), pairs=pairs)(student, data)
    kl = Distillation(teacher)(student, data).total
    (_, mine), (_, theirs) = states(student, inputs(data), (0, 1, 2)), states(teacher, inputs(data), (1, 2, 4))
    found = []
    for matrix, (own, other) in zip(student.projections, pairs, strict=True):
        s, t = (mine[own] @ matrix.weight.T)[data.counted], theirs[other][data.counted]
        cosine = (s * t).sum(-1) / (s.norm(dim=-1) * t.norm(dim=-1))
        found.append((1 - cosine if by == "cosine" else (s - t).norm(dim=-1) ** 2 / t.norm(dim=-1) ** 2).mean())
    expected = torch.stack(found).mean()
    assert loss.parts == pytest.approx({"forward_kl": kl.item(), by: expected.item()})
    torch.testing.assert_close(loss.total, kl + 0.7 * expected)
    loss.total.backward()
    assert all(matrix.weight.grad.abs().max() > 0 for matrix in student.projections)


def test_a_dynamic_balance_gives_both_terms_one_size_and_has_no_gradient_itself():
    teacher, student, data = decoder(0), decoder(1), batch([11, 6])
    parameters = dict(student.named_parameters())

    def gradients(terms, pairs=()):
        student.zero_grad()
        loss = Distillation(teacher, terms, pairs=pairs)(student, data)
        loss.total.backward()
        return loss, {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in parameters.items()}

    pairs = Matching().paired(3, 3)
    kl, of_kl = gradients(Terms())
    fixed, of_both = gradients(Terms(hidden=Matching()), pairs)
    balanced, found = gradients(Terms(hidden=Matching(balance="dynamic")), pairs)
    torch.testing.assert_close(balanced.total, 2 * kl.total)
    alpha = kl.total.item() / fixed.parts["cosine"]
    for name in parameters:
        torch.testing.assert_close(found[name], of_kl[name] + alpha * (of_both[name] - of_kl[name]))


def test_layers_that_run_again_in_the_backward_pass_change_nothing():
    teacher, data, matching = decoder(0), batch([11, 6]), Matching()
    found = []
    for again in (None, 1):
        student = decoder(1)
        student.recompute_every = again
        Distillation(teacher, Terms(hidden=matching), pairs=matching.paired(3, 3))(student, data).total.backward()
        found.append([weight.grad for weight in student.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_other_widths_need_projections():
    matching = Matching()
    with pytest.raises(ConfigError, match="24 and 32 numbers are compared only through projections"):
        Distillation(decoder(0, hidden=32), Terms(hidden=matching), pairs=matching.paired(3, 3))(decoder(1), batch([9]))


def test_terms_and_pairs_belong_together():
    with pytest.raises(ConfigError, match="belong together"):
        Distillation(decoder(0), Terms(hidden=Matching()))
    with pytest.raises(ConfigError, match=r"T = 1\.0, and T = 2\.0"):
        Distillation(LiveTeacher(decoder(0)), Terms(temperature=2.0))
