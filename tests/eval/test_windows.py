"""Strided windows against every document run by itself, and agreement by position against plain arithmetic."""

import math

import pytest
import torch
from tests.eval.small import small_subject
from tests.eval.test_perplexity import TEXTS

from amaru.data.corpus import Document
from amaru.data.loader import in_order
from amaru.data.packing import PackedRows, pack
from amaru.errors import ConfigError
from amaru.eval.agreement import ByPosition
from amaru.eval.perplexity import evaluate
from amaru.eval.windows import windows
from amaru.nn.batch import Batch


@pytest.fixture(scope="module")
def rows() -> PackedRows:
    return pack([Document(f"d{index}", text) for index, text in enumerate(TEXTS)], small_subject().tokenizer, 1000)


@torch.no_grad()
def strided(length: int, stride: int) -> tuple[float, int]:
    """Nats and tokens, a window at a time, in words close to the definition."""
    subject = small_subject()
    nats, tokens = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([*subject.tokenizer.encode(text), subject.tokenizer.eos_id])
        predicted = 1
        for begin in range(0, len(ids), stride):
            end = min(begin + length, len(ids) - 1)
            if predicted > end:
                break
            logs = subject.decoder(Batch.of([ids[begin:end]])).double().log_softmax(-1)
            for place in range(predicted, end + 1):
                nats, tokens = nats - float(logs[place - 1 - begin, ids[place]]), tokens + 1
            predicted = end + 1
    return nats, tokens


@pytest.mark.parametrize(("length", "stride", "together"), [(8, 3, 1), (8, 8, 4), (5, 1, 7), (1000, 10, 2)])
def test_every_token_is_predicted_once_behind_its_window(rows: PackedRows, length: int, stride: int, together: int) -> None:
    found = evaluate(small_subject().decoder, windows(rows, length, stride, together))
    nats, tokens = strided(length, stride)
    assert found.tokens == tokens == rows.targets
    assert found.loss == pytest.approx(nats / tokens, rel=1e-5)


def test_a_limit_takes_the_first_windows(rows: PackedRows) -> None:
    assert [len(batch.rows) for batch in windows(rows, 8, 4, together=2, limit=5)] == [2, 2, 1]


def test_a_stride_beyond_the_window_would_leave_tokens_out(rows: PackedRows) -> None:
    with pytest.raises(ConfigError, match="stride"):
        list(windows(rows, 8, 9))


def test_agreement_is_told_by_the_place_of_a_token(rows: PackedRows) -> None:
    model, teacher = small_subject().decoder, small_subject(1).decoder
    by = ByPosition()
    whole = evaluate(model, in_order(rows, 1), teacher, by_position=by)
    found = by.rows()
    assert [(row.first, row.last) for row in found][:4] == [(0, 0), (1, 1), (2, 3), (4, 7)]
    assert sum(row.tokens for row in found) == whole.tokens
    assert sum(row.kl * row.tokens for row in found) / whole.tokens == pytest.approx(whole.teacher_kl, rel=1e-5)
    assert sum(row.top1 * row.tokens for row in found) / whole.tokens == pytest.approx(whole.teacher_agreement)


def test_five_of_the_teachers_likeliest() -> None:
    by = ByPosition()
    theirs = torch.tensor([[5.0, 4, 3, 2, 1, 0, -1], [5.0, 4, 3, 2, 1, 0, -1]])
    mine = torch.tensor([[5.0, 4, 3, -9, -9, 2, 1], [-9, -8, -7, 2.0, 1, 3, 4]])
    by.add(torch.tensor([2, 3]), mine, theirs)
    (row,) = by.rows()
    assert (row.first, row.last, row.tokens, row.top1) == (2, 3, 2, 0.5)
    assert row.top5 == pytest.approx((3 / 5 + 3 / 5) / 2)
    p, q = (each.double().softmax(-1) for each in (theirs, mine))
    assert row.kl == pytest.approx(float((p * (p.log() - q.log())).sum()) / 2, rel=1e-5) and math.isfinite(row.kl)
