"""Prepared text and token files: the same rows as packing in memory, read from disk."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amaru.data.corpus import Document
from amaru.data.corpus import read as read_corpus
from amaru.data.files import Piece, pieces, read
from amaru.data.packing import PackedRows, pack
from amaru.data.prepare import Reading
from amaru.data.samples import samples_of
from amaru.data.shards import Joined, Prepared, token_files
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, ConfigError, DataError
from amaru.recipes.prepare import PrepareRecipe, forecast, prepare_text

TEXTS = [f"document {n} says:\n" + f"word{n} " * (1 + 7 * n % 40) for n in range(60)]


class Quiet:
    def note(self, text: str) -> None: ...
    def update(self, text: str) -> None: ...


def write_lines(path: Path, texts: list) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in texts))
    return path


@pytest.fixture
def model(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    tokenizer.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Lines, parquet and plain files, with everything in them that is left out."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    lines = [{"text": text} for text in TEXTS[:30]]
    write_lines(folder / "a.jsonl", [*lines[:9], "", '{"text": ', {"txt": "no"}, {"text": 5}, *lines[9:], {"text": TEXTS[3] + "  \r\n"}])
    table = pa.table({"text": [*TEXTS[30:50], None, "  ", TEXTS[0]], "id": list(range(23))})
    pq.write_table(table, folder / "b.parquet", row_group_size=5)
    for n, text in enumerate(TEXTS[50:]):
        (folder / f"c{n}.txt").write_text(text)
    (folder / "d.txt").write_bytes(b"caf\xe9")
    return folder


def recipe_of(folder: Path, model: Path, **more) -> PrepareRecipe:
    return PrepareRecipe(data=(str(folder),), tokenizer=str(model), reading=Reading(validation_share=0.2), **{"shard_bytes": 900, **more})


def documents(rows: PackedRows) -> dict[str, list[int]]:
    ends = [*rows.starts[1:].tolist(), len(rows.tokens)]
    return {rows.sources[n : n + 1][0]: rows.tokens[slice(int(rows.starts[n]), end)].tolist() for n, end in enumerate(ends)}


def test_every_text_is_kept_once_and_everything_else_has_a_reason(mixed: Path, model: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = prepare_text(recipe_of(mixed, model), tmp_path / "out", 1, Quiet())
    sides = [documents(found.rows(side, 16)) for side in ("training", "validation")]
    expected = {(*tokenizer.encode(text), tokenizer.eos_id) for text in TEXTS}
    assert sorted(tuple(ids) for side in sides for ids in side.values()) == sorted(expected) and min(map(len, sides)) > 4
    assert found.facts["dropped"] == {
        "'text' is no text": 2,
        "duplicate": 2,
        "empty": 1,
        "no field 'text'": 1,
        "not JSON": 1,
        "not UTF-8 text": 1,
    }
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert {each["sentence"].split(" ")[0].rpartition("/")[2].rstrip(":") for each in dropped} == {
        *("a.jsonl:11", "a.jsonl:12", "a.jsonl:13", "a.jsonl:35"),
        *("b.parquet:21", "b.parquet:22", "b.parquet:23", "d.txt"),
    }
    assert found.facts["read"] == len(TEXTS) + 8 and len(found.facts["shards"]) > 5
    names = {name.rpartition("/")[2] for side in sides for name in side}
    assert {"a.jsonl:1", "a.jsonl:14", "a.jsonl:34", "b.parquet:1", "b.parquet:20", "c9.txt"} <= names


def test_the_number_of_processes_and_an_interruption_change_nothing(mixed: Path, model: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    prepare_text(recipe_of(mixed, model), one, 1, Quiet())
    prepare_text(recipe_of(mixed, model), two, 2, Quiet())
    contents = {file.name: file.read_bytes() for file in one.iterdir()}
    assert {file.name: file.read_bytes() for file in two.iterdir()} == contents
    shards = sorted(two.glob("shard-*"))
    times = {file.name: file.stat().st_mtime_ns for file in shards}
    shards[1].write_bytes(shards[1].read_bytes()[:-9])
    for file in (two / "data.json", shards[2]):
        file.unlink()
    prepare_text(recipe_of(mixed, model), two, 1, Quiet())
    assert {file.name: file.read_bytes() for file in two.iterdir()} == contents
    made = {file.name for file in shards if file.stat().st_mtime_ns != times[file.name]}
    assert made == {shards[1].name, shards[2].name}


def test_rows_on_disk_are_the_rows_in_memory(mixed: Path, model: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = prepare_text(recipe_of(mixed, model), tmp_path / "out", 1, Quiet())
    for side in ("training", "validation"):
        rows = found.rows(side, 7)
        names, texts = zip(*((name, tokenizer.decode(ids[:-1])) for name, ids in documents(rows).items()), strict=True)
        memory = pack([Document(name, text) for name, text in zip(names, texts, strict=True)], tokenizer, 7)
        assert len(rows) == len(memory) and rows.positions == memory.positions and rows.targets == memory.targets
        for index in range(len(rows)):
            assert all(np.array_equal(a, b) for a, b in zip(rows.row(index), memory.row(index), strict=True))
            assert rows.documents_of(index) == memory.documents_of(index)
        assert rows.cut(16).row(1).ids.tolist() == memory.cut(16).row(1).ids.tolist()
    assert isinstance(found.rows("training", 7).tokens, Joined)


def test_other_settings_or_files_do_not_pass_for_finished(mixed: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_text(recipe_of(mixed, model), out, 1, Quiet())
    with pytest.raises(ArtifactError, match="other files or settings"):
        prepare_text(recipe_of(mixed, model, shard_bytes=800), out, 1, Quiet())
    (mixed / "c0.txt").write_text("changed")
    with pytest.raises(ArtifactError, match="other files or settings"):
        prepare_text(recipe_of(mixed, model), out, 1, Quiet())
    (out / "data.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no data\.json"):
        Prepared.load(out)


def test_a_learned_tokenizer_and_samples(mixed: Path, tmp_path: Path) -> None:
    recipe = PrepareRecipe(data=(str(mixed),), vocab=300, shard_bytes=900)
    assert forecast(recipe, tmp_path / "out", 4)["shards"] > 5
    found = prepare_text(recipe, tmp_path / "out", 1, Quiet())
    for sample in samples_of(found, 4, 30, seed=0):
        text = next(text for text in TEXTS if text.startswith(sample.text))
        assert sample.tokens == len(found.tokenizer().encode(text)) + 1
    with pytest.raises(ConfigError, match="either --tokenizer"):
        PrepareRecipe(data=("a",))


def test_nothing_to_prepare_is_a_sentence(tmp_path: Path, model: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"txt": "b"}])
    with pytest.raises(DataError, match=r"There is no text in what was given: .*a\.jsonl:1 has no field 'text'"):
        prepare_text(recipe_of(tmp_path / "a.jsonl", model), tmp_path / "out", 1, Quiet())
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="no column 'text'; it has: body"):
        prepare_text(recipe_of(tmp_path / "b.parquet", model), tmp_path / "out2", 1, Quiet())
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"c\.parquet cannot be read as parquet"):
        read_corpus([str(tmp_path / "c.parquet")])


@pytest.mark.parametrize("size", [1, 17, 100, 5000])
def test_pieces_of_lines_are_the_file(tmp_path: Path, size: int) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "añ" * n} for n in range(20)])
    whole = [record.text for record in read(Piece(str(path)), "text")]
    assert [record.text for piece in pieces(path, size) for record in read(piece, "text")] == whole and len(whole) == 20


def test_token_files_are_documents_closed_by_eos(tokenizer: Tokenizer, tmp_path: Path) -> None:
    memory = pack([Document(f"d{n}", text) for n, text in enumerate(TEXTS)], tokenizer, 16)
    cut = int(memory.starts[31])
    np.save(tmp_path / "a.npy", memory.tokens[:cut])
    np.save(tmp_path / "b.npy", memory.tokens[cut:])
    rows = token_files([tmp_path / "a.npy", tmp_path / "b.npy"], tokenizer, 0.1)
    training, validation = rows("training", 16), rows("validation", 16)
    assert training.starts.tolist() + (validation.starts + len(training.tokens)).tolist() == memory.starts.tolist()
    assert np.concatenate([training.tokens[:], validation.tokens[:]]).tolist() == memory.tokens[:].tolist()
    assert all(np.array_equal(a, b) for a, b in zip(training.row(3), memory.row(3), strict=True))
    assert training.sources[30:32] == (f"{tmp_path / 'a.npy'}#31", f"{tmp_path / 'b.npy'}#1")


@pytest.mark.parametrize(
    "array, sentence",
    [
        (np.zeros((2, 3), np.uint16), r"holds uint16 \[2, 3\]"),
        (np.zeros(3, np.float32), r"holds float32 \[3\]"),
        (np.array([1, 60_000], np.uint16), "has token 60000, the tokenizer knows 0 to"),
        (np.array([5, 6, 7], np.uint16), "too few documents"),
    ],
)
def test_token_files_that_are_none(tokenizer: Tokenizer, tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=sentence):
        token_files([tmp_path / "a.npy"], tokenizer, 0.1)("training", 8)


def test_slices_of_joined_arrays() -> None:
    parts = [np.arange(3), np.arange(0), np.arange(3, 4), np.arange(4, 9)]
    joined, whole = Joined(parts, [len(part) for part in parts]), np.arange(9)
    assert all(joined[a:b].tolist() == whole[a:b].tolist() for a in range(10) for b in range(10))
