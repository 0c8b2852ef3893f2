"""The loader: pure in the step, each row once per epoch, boundaries where documents and rows begin."""

from collections import Counter

import numpy as np
import pytest

from amaru.data.corpus import Document
from amaru.data.loader import Loader, collate, in_order
from amaru.data.packing import PackedRows, pack
from amaru.data.tokenizer import Tokenizer
from amaru.errors import DataError


@pytest.fixture(scope="module")
def rows(tokenizer: Tokenizer) -> PackedRows:
    return pack([Document(f"doc{n}", "word " * (3 + 5 * n) + str(n)) for n in range(7)], tokenizer, 12)


@pytest.mark.parametrize("batch_rows", [1, 3, 4, 100])
def test_each_epoch_holds_each_row_once(rows: PackedRows, batch_rows: int) -> None:
    loader, epochs = Loader(rows, batch_rows, seed=5), 3
    steps = -(-epochs * len(rows) // batch_rows)
    visited = [row for step in range(steps) for row in loader.batch(step).rows]
    orders = [visited[epoch * len(rows) : (epoch + 1) * len(rows)] for epoch in range(epochs)]
    assert all(Counter(order) == Counter(range(len(rows))) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_a_batch_depends_on_seed_and_step_only(rows: PackedRows) -> None:
    forward = [Loader(rows, 4, seed=1).batch(step).ids.tolist() for step in range(6)]
    again = Loader(rows, 4, seed=1)
    assert [again.batch(step).ids.tolist() for step in reversed(range(6))] == forward[::-1]
    assert [Loader(rows, 4, seed=2).batch(step).ids.tolist() for step in range(6)] != forward


def test_epoch_is_that_of_the_first_row(rows: PackedRows) -> None:
    loader = Loader(rows, 2, seed=0)
    assert [loader.batch(step).epoch for step in range(len(rows))] == [2 * step // len(rows) for step in range(len(rows))]


def test_rows_lie_end_to_end(rows: PackedRows) -> None:
    indices = [4, 0, len(rows) - 1]
    batch = collate(rows, indices)
    parts = [rows.row(index) for index in indices]
    assert batch.ids.tolist() == [token for part in parts for token in part.ids]
    assert batch.targets.tolist() == [target for part in parts for target in part.targets]
    begins, offset = [], 0
    for part in parts:
        begins += [offset + start for start in part.starts]
        offset += len(part.ids)
    assert batch.cu_seqlens.tolist() == [*begins, offset]
    positions = [n for first, last in zip(begins, [*begins[1:], offset], strict=True) for n in range(last - first)]
    assert batch.positions.tolist() == positions
    assert set(batch.documents) == {name for index in indices for name in rows.documents_of(index)}


def test_no_target_crosses_a_boundary(rows: PackedRows) -> None:
    batch = Loader(rows, len(rows), seed=3).batch(0)
    ends = batch.cu_seqlens[1:-1] - 1
    inside = np.setdiff1d(np.arange(len(batch.ids)), [*ends.tolist(), len(batch.ids) - 1])
    assert batch.targets[inside].tolist() == batch.ids[inside + 1].tolist()


def test_in_order_visits_everything_once(rows: PackedRows) -> None:
    assert [row for batch in in_order(rows, 4) for row in batch.rows] == list(range(len(rows)))
    assert sum(batch.target_tokens for batch in in_order(rows, 4)) == rows.targets
    assert [batch.rows for batch in in_order(rows, 4, limit=6)] == [(0, 1, 2, 3), (4, 5)]


def test_tensors_move_together_and_boundaries_stay(rows: PackedRows) -> None:
    moved = Loader(rows, 2, seed=0).batch(0).to("meta")
    assert {tensor.device.type for tensor in (moved.ids, moved.targets, moved.positions)} == {"meta"}
    assert moved.cu_seqlens.device.type == "cpu", "layers read them without waiting for a GPU"
    assert moved.rows == Loader(rows, 2, seed=0).batch(0).rows


def test_a_batch_needs_a_row(rows: PackedRows) -> None:
    with pytest.raises(DataError, match="at least 1 row"):
        Loader(rows, 0, seed=0)
