"""Finding, reading and splitting text; and what is said when there is none."""

import json
from pathlib import Path

import pytest

from amaru.data import corpus
from amaru.data.corpus import Document
from amaru.errors import DataError


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_paths_directories_and_globs(tmp_path: Path) -> None:
    write(tmp_path, {"b/2.txt": "two", "b/1.md": "one", "b/x.png": b"\x89PNG\0", "b/.git/a.txt": "hidden"})
    write(tmp_path, {"a.log": "log", "c[1].txt": "three"})
    found = corpus.find([f"{tmp_path}/b", f"{tmp_path}/*.log", f"{tmp_path}/b/**/*.txt", f"{tmp_path}/c[1].txt"])
    assert [file.relative_to(tmp_path).as_posix() for file in found.files] == ["a.log", "b/1.md", "b/2.txt", "c[1].txt"]
    assert found.left_out == {"file in a directory, name ends in '.png'": 1, "hidden file in a directory": 1}
    assert "1 left out: hidden file" in str(corpus.read([f"{tmp_path}/b"]).summary)


def test_documents_and_their_account(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ["un", "dos <|endoftext|>\ntres", ""]]
    write(tmp_path, {"a.txt": "é one\n<|endoftext|>\n\ntwo\n<|endoftext|>\n", "b.py": "\ufeffx = 1\r\n"})
    write(tmp_path, {"c.jsonl": "\n".join(lines) + "\n", "d.txt": "two"})
    found = corpus.read([str(tmp_path)])
    names = [(document.source.removeprefix(f"{tmp_path}/"), document.text) for document in found.documents]
    assert names == [
        ("a.txt#1", "é one"),
        ("a.txt#2", "two"),
        ("b.py", "x = 1\r\n"),
        ("c.jsonl:1", "un"),
        ("c.jsonl:2#1", "dos "),
        ("c.jsonl:2#2", "tres"),
    ]
    summary = found.summary
    assert (summary.files, summary.documents, summary.duplicates, summary.left_out) == (4, 6, 1, {"empty document": 1})
    assert summary.bytes == sum(len(text.encode()) for _, text in names)
    assert corpus.read([f"{tmp_path}/c.jsonl"]).documents == corpus.read([f"{tmp_path}/*.jsonl"]).documents


def test_another_field(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": '{"body": "uno"}\n'})
    assert corpus.read([f"{tmp_path}/a.jsonl"], field="body").documents[0].text == "uno"


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.txt", b"caf\xe9 latin", r"a\.txt is not UTF-8: byte 0xe9 at offset 3"),
        ("a.txt", b"ab\0c", r"a\.txt is not text: it has a zero byte at offset 2"),
        ("a.txt", b"cut \xe2\x82", r"byte 0xe2 at offset 4"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"a\.jsonl:2 has no field 'text'; it has: txt"),
        ("a.jsonl", b'{"text": "\\ud83d\\ude00"}\n{"text": "a \\ud83d b"}\n', r"a\.jsonl:2 holds \\ud83d, half of a letter"),
        ("a.jsonl", b'{"text": "a"}\n\n[1]\n', r"a\.jsonl:3 is no JSON object with fields; it is list"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: the field 'text' must be text; it is int"),
        ("a.jsonl", b'{"text": "a"\n', r"a\.jsonl:1 is not JSON: Expecting ',' delimiter at column 13"),
        ("a.txt", b" \n\n", r"There is no text in .*a\.txt: 1 file\(s\) read, all empty"),
        ("a.txt", b"", r"There is no text in"),
    ],
)
def test_bad_text_is_a_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    write(tmp_path, {name: content})
    with pytest.raises(DataError, match=sentence):
        corpus.read([str(tmp_path / name)])


def test_nothing_to_read(tmp_path: Path) -> None:
    write(tmp_path, {"empty/x.bin": b"\0"})
    for pattern in ["nowhere.txt", "*.none"]:
        with pytest.raises(DataError, match="There is no file"):
            corpus.read([str(tmp_path / pattern)])
    with pytest.raises(DataError, match="holds no text files"):
        corpus.read([str(tmp_path / "empty")])


def texts(documents: list[Document]) -> set[str]:
    return {document.text for document in documents}


def test_split_never_leaks_and_ignores_order() -> None:
    documents = [Document(f"{n}", f"text {n % 150}") for n in range(200)]  # 50 texts occur twice
    training, validating = corpus.split(documents, 0.2, seed=7)
    assert len(training) + len(validating) == 200
    assert not texts(training) & texts(validating)
    assert 15 <= len(texts(validating)) <= 45
    assert corpus.split(documents[::-1], 0.2, seed=7) == (training, validating)
    assert texts(corpus.split(documents, 0.2, seed=8)[1]) != texts(validating)


def test_a_new_document_moves_no_other() -> None:
    documents = [Document(f"{n}", f"text {n}") for n in range(100)]
    validating = texts(corpus.split(documents[:90], 0.3, seed=0)[1])
    assert validating == texts(corpus.split(documents, 0.3, seed=0)[1]) & texts(documents[:90])


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("count", [2, 3])
def test_each_side_gets_a_document(count: int, share: float) -> None:
    training, validating = corpus.split([Document(f"{n}", f"t{n}") for n in range(count)], share, seed=1)
    assert training and validating and len(training) + len(validating) == count


def test_one_document_is_cut_at_a_line() -> None:
    text = "".join(f"line {n}\n" for n in range(100))
    [training], [validating] = corpus.split([Document("book.txt", text)], 0.1, seed=0)
    assert training.text + validating.text == text and training.text.endswith("\n")
    assert abs(len(validating.text) - len(text) / 10) < 10
    with pytest.raises(DataError, match="too small to keep a part"):
        corpus.split([Document("a", "x")], 0.1, seed=0)
    with pytest.raises(DataError, match=r"between 0 and 1; got 1\.5"):
        corpus.split([Document("a", "x")], 1.5, seed=0)


def test_the_standard_library_is_read_whole() -> None:
    found = corpus.standard_library()
    sources = {document.source for document in found.documents}
    assert {"argparse.py", "json/decoder.py"} <= sources
    assert not any("site-packages" in source for source in sources)
    assert found.summary.files == found.summary.documents + found.summary.duplicates + sum(found.summary.left_out.values())
