"""A model with more tokens says of the old ones what it said before."""

import pytest
import torch
from tests.models.random_models import FAMILIES, random_ids, random_model

from amaru.errors import ConfigError
from amaru.models.vocabulary import grown
from amaru.nn.batch import Batch


@pytest.mark.parametrize("family, seed", [("nemotron_h", 0), ("nemotron", 1), ("hymba", 7)], ids=str)
@torch.no_grad()
def test_old_tokens_mean_what_they_meant_and_new_ones_are_average(family: str, seed: int) -> None:
    decoder = random_model(FAMILIES[family](seed), 0, torch.float64)
    vocab = decoder.config.vocab
    larger = grown(decoder, vocab + 3)
    batch = Batch.of(random_ids(vocab, 9, 4))
    before, after = decoder(batch), larger(batch)
    torch.testing.assert_close(after[:, :vocab], before, rtol=0, atol=1e-12)  # a wider product is summed in another order
    assert torch.equal(larger.head.weight[:vocab], decoder.head.weight)
    torch.testing.assert_close(after[:, vocab:], before.mean(1, keepdim=True).expand(-1, 3))
    assert (larger.head.weight is larger.embedding.weight) == decoder.config.tied
    with pytest.raises(ConfigError, match=f"has {vocab} tokens; it can be given more, but not 9"):
        grown(decoder, 9)
