"""Packed rows against a construction that walks documents token by token."""

import numpy as np
import pytest

from amaru.data.corpus import Document
from amaru.data.packing import IGNORED, PackedRows, made_from, pack
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, DataError

TEXTS = ["abc", "x", "def f(x):\n    return x", "añade " * 9, "hello, world", "0123456789" * 3]
DOCUMENTS = [Document(f"file{n}", text) for n, text in enumerate(TEXTS)]


def walk(tokenizer: Tokenizer) -> list[tuple[int, int, bool]]:
    """(input, target, first of its document) for every position, the stream's last eos left out."""
    triples = []
    for document in DOCUMENTS:
        tokens = [*tokenizer.encode(document.text), tokenizer.eos_id]
        triples += [(token, target, n == 0) for n, (token, target) in enumerate(zip(tokens, [*tokens[1:], IGNORED], strict=True))]
    return triples[:-1]


@pytest.mark.parametrize("row_length", [2, 3, 7, 16, 1000])
def test_rows_are_the_naive_stream(tokenizer: Tokenizer, row_length: int) -> None:
    rows, expected = pack(DOCUMENTS, tokenizer, row_length), walk(tokenizer)
    chunks = [expected[first : first + row_length] for first in range(0, len(expected), row_length)]
    assert len(rows) == len(chunks)
    for index, chunk in enumerate(chunks):
        row = rows.row(index)
        assert row.ids.tolist() == [token for token, _, _ in chunk]
        assert row.targets.tolist() == [target for _, target, _ in chunk]
        assert row.starts.tolist() == [n for n, (_, _, first) in enumerate(chunk) if first or n == 0]
        assert (row.targets != IGNORED).any()


@pytest.mark.parametrize("row_length", [2, 5, 11])
def test_nothing_is_dropped(tokenizer: Tokenizer, row_length: int) -> None:
    rows = pack(DOCUMENTS, tokenizer, row_length)
    targets = np.concatenate([rows.row(index).targets for index in range(len(rows))])
    expected = [token for document in DOCUMENTS for token in [*tokenizer.encode(document.text)[1:], tokenizer.eos_id]]
    assert targets[targets != IGNORED].tolist() == expected
    assert rows.targets == len(expected)


def test_documents_of_a_row(tokenizer: Tokenizer) -> None:
    rows = pack(DOCUMENTS, tokenizer, 5)
    owner = [document.source for document in DOCUMENTS for _ in [*tokenizer.encode(document.text), tokenizer.eos_id]][:-1]
    for index in range(len(rows)):
        assert rows.documents_of(index) == tuple(dict.fromkeys(owner[index * 5 : (index + 1) * 5]))


def test_saved_rows_come_back_and_know_their_origin(tokenizer: Tokenizer, tmp_path) -> None:
    rows, path = pack(DOCUMENTS, tokenizer, 7), tmp_path / "rows.safetensors"
    rows.save(path)
    again = PackedRows.load(path, made_from(DOCUMENTS, tokenizer, 7))
    assert (again.sources, again.row_length, again.made_from) == (rows.sources, 7, rows.made_from)
    assert np.array_equal(again.tokens, rows.tokens) and np.array_equal(again.starts, rows.starts)
    with pytest.raises(ArtifactError, match="another documents"):
        PackedRows.load(path, made_from(DOCUMENTS[1:], tokenizer, 7))
    with pytest.raises(ArtifactError, match="another row length"):
        PackedRows.load(path, made_from(DOCUMENTS, tokenizer, 8))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="not a whole"):
        PackedRows.load(path)


def test_a_large_vocabulary_keeps_its_ids() -> None:
    special = ("<|endoftext|>", *(f"<{n}>" for n in range(70_000)))
    tokenizer = Tokenizer.train(["ab"], vocab=256 + len(special), special=special)
    row = pack([Document("a", "zé")], tokenizer, 8).row(0)
    assert min(row.ids) > 2**16
    assert [*row.ids.tolist(), row.targets.tolist()[-1]] == [*tokenizer.encode("zé"), tokenizer.eos_id]


def test_refusals(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="at least 2 tokens long; got 1"):
        pack(DOCUMENTS, tokenizer, 1)
    with pytest.raises(DataError, match="no documents"):
        pack([], tokenizer, 4)
    with pytest.raises(DataError, match=r"empty\.py has no token"):
        pack([DOCUMENTS[0], Document("empty.py", "")], tokenizer, 4)
