"""Small models that have learnt something, for tests of what only shows on a model with opinions."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from amaru.models import Decoder
from amaru.nn import Batch


def taught(decoder: Decoder, batches: Iterable[Batch], loss_at_most: float) -> Decoder:
    """Trained in place, a step on each batch; fails unless the last loss is small enough."""
    optimiser, loss = torch.optim.AdamW(decoder.parameters(), lr=0.01), torch.tensor(torch.inf)
    for batch in batches:
        kept = torch.ones(len(batch.ids) - 1, dtype=torch.bool).index_fill(0, batch.cu_seqlens[1:-1] - 1, False)
        loss = F.cross_entropy(decoder(batch)[:-1][kept], batch.ids[1:][kept])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < loss_at_most, "nothing was learnt"
    return decoder.requires_grad_(False)
