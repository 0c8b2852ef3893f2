"""An accumulated batch is the whole batch: its loss, its gradients, its steps; weighted by targets, whatever the rows hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.train.small import RECIPE, fresh_model, packed_rows, run

from amaru.data.loader import Loader
from amaru.data.packing import PackedRows
from amaru.errors import TrainingError
from amaru.train.objective import CrossEntropy
from amaru.train.step import accumulate, micro_batches

ROWS, LENGTH = 6, 24


def uneven() -> PackedRows:
    """Rows with very different numbers of targets: a document of two tokens has one, a long one nearly all."""
    tokens = np.arange(ROWS * LENGTH + 1, dtype=np.uint16) % 250
    starts = np.concatenate([np.arange(0, 2 * LENGTH, 2), [2 * LENGTH + 9, 4 * LENGTH]])
    return PackedRows(tokens, starts, tuple(f"d{n}" for n in range(len(starts))), LENGTH, {"by": "hand"})


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("most", [LENGTH, 2 * LENGTH, 3 * LENGTH + 5, 1])
def test_parts_add_up_to_the_whole(most: int) -> None:
    loader = Loader(uneven(), ROWS, seed=1)
    whole, parted = fresh_model().double(), fresh_model().double()
    expected = accumulate(whole, CrossEntropy(), micro_batches(loader, 3, None))
    batches = micro_batches(loader, 3, most)
    found = accumulate(parted, CrossEntropy(), batches)
    assert len(batches) == {LENGTH: 6, 2 * LENGTH: 3, 3 * LENGTH + 5: 2, 1: 6}[most]
    assert len({batch.target_tokens for batch in batches}) > 1, "weights differ"
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.total, expected.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(parted), gradients(whole), rtol=1e-9, atol=1e-12)


def test_a_run_in_micro_batches_is_the_run(tmp_path, rows) -> None:
    recipe = replace(RECIPE, batch_rows=4)
    whole = run(tmp_path / "whole", fresh_model().double(), recipe, rows)
    parted = run(tmp_path / "parted", fresh_model().double(), replace(recipe, micro_tokens=rows.row_length), rows)
    assert [step.tokens for step in parted.steps] == [step.tokens for step in whole.steps]
    assert [step.loss for step in parted.steps] == pytest.approx([step.loss for step in whole.steps], rel=1e-9)


def test_a_batch_without_targets_is_refused() -> None:
    rows = packed_rows()
    batch = Loader(rows, 2, seed=0).batch(0)
    with pytest.raises(TrainingError, match="nothing to predict in a batch of 48 tokens"):
        accumulate(fresh_model(), CrossEntropy(), [replace(batch, targets=torch.full_like(batch.targets, -100))])


def test_use_of_the_machine_is_flops_per_second(tmp_path, rows) -> None:
    from amaru.models import cost

    history = run(tmp_path, model := fresh_model(), RECIPE, rows, matmul_rate=1e9)
    step, batch = history.steps[2], Loader(rows, RECIPE.batch_rows, RECIPE.seed).batch(2)
    context = int(batch.positions.double().mean()) + 1
    assert step.mfu == pytest.approx(3 * len(batch.ids) * cost.forward_flops(model.config, context) / step.seconds / 1e9)
