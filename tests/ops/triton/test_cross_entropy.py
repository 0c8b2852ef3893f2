"""The loss at the head and its gradient over the logits, against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from tests.ops.triton.on_device import assert_near, there

from amaru.ops.head_loss import triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients(monkeypatch, dtype):
    monkeypatch.setattr(triton, "BLOCK", 16)
    logits = 3 * torch.randn(5, 41, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[0, 7] = -torch.inf
    targets = torch.tensor([3, 40, -100, 0, 17])
    wide = logits.double().requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), wide)
    found, given = there(logits), there(targets)
    losses = triton.cross_entropy(found, given, -100)
    assert_near([losses], [expected.detach()], torch.float32)
    assert_near([found], [gradient], dtype)


def test_a_target_that_is_no_token_is_seen_in_the_loss():
    losses = triton.cross_entropy(there(torch.zeros(2, 9)), there(torch.tensor([9, 0])), -100)
    assert losses.isnan().tolist() == [True, False]
