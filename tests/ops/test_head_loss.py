"""The chunked head against all logits at once, for both losses that training uses."""

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close, with_gradients
from torch.nn.functional import cross_entropy, kl_div

from amaru.errors import ConfigError
from amaru.ops.head_loss import TokenCrossEntropy, chunked, head_loss, reference

TOKENS, HIDDEN, VOCAB = 63, 12, 101


def arguments():
    torch.manual_seed(0)
    return [torch.randn(TOKENS, HIDDEN), torch.randn(VOCAB, HIDDEN) * 0.5]


def by_targets(logits, rows):
    targets = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(1))
    return cross_entropy(logits, targets[rows], reduction="sum")


def by_teacher(logits, rows):
    teacher = torch.randn(TOKENS, VOCAB, generator=torch.Generator().manual_seed(2))[rows].to(logits.dtype)
    return kl_div(logits.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="sum")


@pytest.mark.parametrize("chunk_tokens", [1, 10, 63, 1000])
@pytest.mark.parametrize("token_loss", [by_targets, by_teacher])
def test_loss_and_gradients_equal_full_logits(token_loss, chunk_tokens):
    tensors = [tensor.double() for tensor in arguments()]
    expected = with_gradients(lambda h, w: token_loss(h @ w.T, slice(0, TOKENS)), tensors)
    assert_close(with_gradients(lambda h, w: head_loss(h, w, token_loss, chunk_tokens=chunk_tokens), tensors), expected, 1e-13)
    found = with_gradients(lambda h, w: head_loss(h, w, token_loss, chunk_tokens=chunk_tokens), arguments())
    assert_close(found, expected, FP32)


def test_reference_is_full_logits():
    hidden, weight = arguments()
    assert torch.equal(reference.head_loss(hidden, weight, by_targets), by_targets(hidden @ weight.T, slice(0, TOKENS)))


def test_logits_exist_for_one_chunk_at_a_time():
    seen = []

    def token_loss(logits, rows):
        assert logits.dtype == torch.float32
        seen.append((len(logits), rows.start, rows.stop))
        return by_targets(logits, rows)

    hidden, weight = arguments()
    head_loss(hidden.bfloat16().requires_grad_(), weight.requires_grad_(), token_loss, chunk_tokens=20)
    assert seen == [(20, 0, 20), (20, 20, 40), (20, 40, 60), (3, 60, 63)]


def test_bfloat16_hidden_leaves_float32_gradients_of_the_weight():
    hidden, weight = arguments()
    hidden = hidden.bfloat16()
    found = with_gradients(lambda h, w: chunked.head_loss(h, w, by_targets, chunk_tokens=10), [hidden, weight])
    expected = with_gradients(lambda h, w: reference.head_loss(h, w, by_targets), [hidden.double(), weight.bfloat16().double()])
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.bfloat16, torch.float32]
    # Rounded to bfloat16 on the way: the logits, their gradient, and each product, by half of 2^-8 each.
    assert_close(found, expected, 1.5 * 2.0**-8)


def test_without_gradients_only_the_loss():
    hidden, weight = arguments()
    with torch.no_grad():
        loss = head_loss(hidden, weight.requires_grad_(), by_targets, chunk_tokens=10)
    assert not loss.requires_grad
    assert_close([loss], [by_targets(hidden @ weight.detach().T, slice(0, TOKENS))], FP32)


def test_a_frozen_head_gets_no_gradient_and_the_loss_can_be_scaled():
    hidden, weight = arguments()
    hidden.requires_grad_()
    (head_loss(hidden, weight, by_targets) / TOKENS).backward()
    expected = torch.autograd.grad(by_targets(hidden @ weight.T, slice(0, TOKENS)) / TOKENS, hidden)
    assert weight.grad is None
    assert_close([hidden.grad], expected, FP32)


def test_a_scale_is_not_rounded_with_the_gradient():
    hidden, weight = arguments()
    hidden, targets = hidden.bfloat16().requires_grad_(), torch.arange(TOKENS)
    whole = torch.autograd.grad(head_loss(hidden, weight, TokenCrossEntropy(targets)), hidden)[0]
    scaled = torch.autograd.grad(head_loss(hidden, weight, TokenCrossEntropy(targets)) / 7, hidden)[0]
    assert torch.equal(scaled, (whole.float() * (torch.ones(()) / 7)).bfloat16())


def test_gradients_are_given_once():
    hidden, weight = arguments()
    loss = head_loss(hidden.requires_grad_(), weight, by_targets)
    loss.backward(retain_graph=True)
    with pytest.raises(ConfigError, match="gives its gradients once"):
        loss.backward()


def test_another_tensor_that_wants_a_gradient_is_an_error():
    hidden, weight = arguments()
    temperature = torch.ones((), requires_grad=True)
    with pytest.raises(ConfigError, match=r"another tensor of shape \[\] that requires a gradient"):
        head_loss(hidden.requires_grad_(), weight, lambda logits, rows: by_targets(logits / temperature.exp(), rows))


@pytest.mark.parametrize("chunk_tokens", [1, 10, 1000])
def test_native_gradients_in_the_place_of_logits_equal_full_logits(chunk_tokens):
    targets = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(1))
    targets[::5] = -7
    loss = TokenCrossEntropy(targets, ignored=-7)
    expected = with_gradients(lambda h, w: reference.head_loss(h, w, loss), [tensor.double() for tensor in arguments()])
    found = with_gradients(lambda h, w: head_loss(h, w, loss, chunk_tokens=chunk_tokens), arguments())
    assert_close(found, expected, FP32)
    hidden, weight = arguments()
    rounded = [hidden.bfloat16(), weight]
    by_torch = with_gradients(lambda h, w: head_loss(h, w, lambda *t: loss(*t), chunk_tokens=chunk_tokens), rounded)
    found = with_gradients(lambda h, w: head_loss(h, w, loss, chunk_tokens=chunk_tokens), rounded)
    assert_close(found, by_torch, [FP32, BF16, BF16])


def test_native_loss_of_large_and_of_infinite_logits():
    logits = torch.tensor([[1e4, 0.0, -1e4], [torch.inf, 0.0, 0.0], [0.0, torch.nan, 0.0], [-torch.inf, 0.0, 0.0]])
    loss = TokenCrossEntropy(torch.tensor([1, 0, 0, 1]))
    rows = [slice(row, row + 1) for row in range(4)]
    expected = [loss(logits[row], row) for row in rows]
    changed = logits.clone()
    found = [loss.replace(changed[row], row) for row in rows]
    assert torch.allclose(torch.stack(found), torch.stack(expected), equal_nan=True)
    assert torch.allclose(changed[0], torch.tensor([1.0, -1.0, 0.0])) and changed[1:3].isnan().all(-1).all()


def test_targets_outside_the_vocabulary_are_named():
    hidden, weight = arguments()
    with pytest.raises(ConfigError, match="Targets lie in 0 to 100; got 0 to 101"):
        head_loss(hidden.requires_grad_(), weight, TokenCrossEntropy(torch.tensor([0, *[VOCAB] * (TOKENS - 1)])))
