"""Layers that are run again in the backward pass: the same gradients to the bit, and less kept for them."""

import pytest
import torch
from tests.models.random_models import random_hymba, random_moe_config, random_own
from torch.autograd.graph import saved_tensors_hooks

from amaru.models import Decoder, DecoderConfig
from amaru.nn import Batch

CONFIGS = {"experts": random_moe_config(0), "hymba": random_hymba(0), "all kinds": random_own(1)}


def learned(config: DecoderConfig, every: int | None, dtype: torch.dtype | None) -> tuple[list[torch.Tensor], int]:
    """Logits and all gradients on a packed batch, and how many bytes waited for the backward pass."""
    model = Decoder(config).initialise(0)
    model.compute_dtype, model.recompute_every = dtype, every
    generator = torch.Generator().manual_seed(1)
    batch = Batch.of([torch.randint(config.vocab, (length,), generator=generator) for length in (5, 1, 40, 17)])
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(batch)
    logits.sin().sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)], sum(kept.values())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_bit_equal_and_less_is_kept(name: str, dtype: torch.dtype | None) -> None:
    plain, all_kept = learned(CONFIGS[name], None, dtype)
    for every in (2, 1):
        found, kept = learned(CONFIGS[name], every, dtype)
        assert len(found) == len(plain) and all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
        assert kept < all_kept
        all_kept = kept
