"""What training computes on packed documents is what it computes on each apart, in every family; and every family learns so."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.random_models import FAMILIES, random_model
from torch import Tensor

from amaru.data.loader import Loader, TrainingBatch, collate
from amaru.data.packing import PackedRows
from amaru.models.decoder import Decoder
from amaru.nn.hybrid_head import HybridHead
from amaru.train.loop import TrainConfig, train
from amaru.train.objective import CrossEntropy

LENGTHS = (29, 2, 11, 3, 40, 17)
SEEDS = {"hymba": 7}  # with meta tokens, and windows that are crossed
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}


def packed(vocab: int, row_length: int, lengths: tuple[int, ...] = LENGTHS) -> PackedRows:
    """Documents of random tokens; so long a row that none is cut, unless it is asked for."""
    tokens = np.random.default_rng(3).integers(0, vocab, sum(lengths)).astype(np.uint16)
    starts = np.cumsum([0, *lengths[:-1]])
    return PackedRows(tokens, starts, tuple(f"d{n}" for n in range(len(lengths))), row_length, {"row length": str(row_length)})


def apart(batch: TrainingBatch) -> list[TrainingBatch]:
    """Every document of a batch as a batch of its own."""
    found = []
    for first, end in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True):
        part, none = slice(first, end), ()
        ids, targets, positions = batch.ids[part], batch.targets[part], batch.positions[part]
        found.append(TrainingBatch(ids, targets, positions, torch.tensor([0, end - first]), none, none, 0))
    return found


def gradients(decoder: Decoder, batches: list[TrainingBatch]) -> tuple[Tensor, dict[str, Tensor]]:
    """The summed loss of the targets of all batches, and what it asks of every parameter."""
    decoder.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        if batch.target_tokens:
            loss = CrossEntropy()(decoder, batch)
            (loss.total * loss.tokens).backward()
            total += loss.total.detach().double() * loss.tokens
    return total, {name: parameter.grad.clone() for name, parameter in decoder.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("row_length", [512, 16], ids=["whole", "cut into rows"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_of_packed_documents_are_those_of_each_apart(family: str, dtype: torch.dtype, row_length: int) -> None:
    config = FAMILIES[family](SEEDS.get(family, 0))
    # In fp64 weights of every size; in fp32 those that training begins with, since extreme ones round by more than is asked for.
    decoder = random_model(config, 0, dtype) if dtype == torch.float64 else Decoder(config).initialise(0)
    rows = packed(decoder.config.vocab, row_length)
    batch = collate(rows, range(len(rows)))
    alone = apart(batch)
    assert len(alone) >= len(LENGTHS) and batch.target_tokens == rows.targets
    (loss, found), (expected_loss, expected) = gradients(decoder, [batch]), gradients(decoder, alone)
    assert abs(float(loss / expected_loss) - 1) < TOLERANCES[dtype]
    assert found.keys() == expected.keys() and len(found) > 2
    for name, grad in expected.items():
        scale = max(1.0, float(grad.abs().max()))
        assert float((found[name] - grad).abs().max()) < TOLERANCES[dtype] * scale, name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_from_packed_documents(family: str, tmp_path: Path) -> None:
    """One step through the loop lowers the loss of the batch that it was taken on; meta tokens move with the rest."""
    config = FAMILIES[family](SEEDS.get(family, 0))
    decoder, rows = Decoder(config).initialise(0), packed(config.vocab, 64)
    batch = collate(rows, range(len(rows)))
    meta = None if decoder.meta_tokens is None else decoder.meta_tokens.detach().clone()
    recipe = TrainConfig(steps=1, batch_rows=len(rows), lr=3e-3)
    before = CrossEntropy()(decoder, batch).total.item()
    train(decoder, CrossEntropy(), Loader(rows, len(rows), 0), recipe, tmp_path)
    assert CrossEntropy()(decoder, batch).total.item() < before - 0.01
    assert meta is None or (decoder.meta_tokens is not None and not torch.equal(meta, decoder.meta_tokens))


def test_meta_tokens_and_windows_are_among_the_cases() -> None:
    configs = {family: FAMILIES[family](SEEDS.get(family, 0)) for family in FAMILIES}
    assert configs["hymba"].meta_tokens and configs["amaru"].meta_tokens
    assert any(isinstance(layer, HybridHead) and layer.window for layer in configs["hymba"].layers)
