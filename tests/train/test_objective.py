"""The loss of a packed batch against each document alone, with the logits of all its tokens."""

import pytest
import torch
from tests.train.small import packed_rows
from torch.nn.functional import cross_entropy

from amaru.data.loader import collate
from amaru.nn.batch import Batch
from amaru.train.objective import CrossEntropy


@pytest.mark.parametrize("chunk_tokens", [7, 1024])
def test_packed_is_the_mean_over_documents_alone(model, chunk_tokens: int) -> None:
    rows = packed_rows(row_length=10_000)
    loss = CrossEntropy(chunk_tokens)(model, collate(rows, [0]))
    loss.total.backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    stream = torch.from_numpy(rows.tokens.astype("int64"))
    documents = stream.tensor_split(rows.starts[1:].tolist())
    sums = [cross_entropy(model(Batch.of([ids[:-1]])), ids[1:], reduction="sum") for ids in documents]
    assert loss.tokens == rows.targets == sum(len(ids) - 1 for ids in documents)
    alone = torch.stack(sums).sum() / rows.targets
    alone.backward()
    torch.testing.assert_close(loss.total.detach(), alone.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=2e-4, atol=2e-6, msg=name)
