"""Documents: where the text comes from, what was left out and why, and which of it is kept for validation."""

import glob
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from amaru.config import fingerprint_bytes
from amaru.data.files import LINES, PARQUET, Piece
from amaru.data.files import read as read_file
from amaru.errors import DataError

# What a directory stands for. A file that is named, or matched by a glob, is read whatever it is called.
PROSE = {".csv", ".html", ".json", ".md", ".rst", ".tex", ".text", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
CODE = {
    ".c",
    ".cpp",
    ".cs",
    ".css",
    ".go",
    ".h",
    ".hpp",
    ".java",
    ".jl",
    ".js",
    ".php",
    ".pl",
    ".py",
    ".r",
    ".rb",
    ".rs",
    ".sh",
    ".sql",
    ".toml",
    ".ts",
}
TEXT_SUFFIXES = PROSE | CODE | {*LINES, *PARQUET}


@dataclass(frozen=True)
class Document:
    """One text that is learned as a whole; `source` says where it came from (`stories.txt#3`, `poems.jsonl:12`)."""

    source: str
    text: str


@dataclass(frozen=True)
class CorpusSummary:
    """What was read. `bytes` counts the UTF-8 of the documents kept; `left_out` says why, and how many."""

    files: int
    documents: int
    bytes: int
    duplicates: int
    left_out: dict[str, int]
    fingerprint: str

    def __str__(self) -> str:
        parts = [f"{self.documents:,} documents from {self.files:,} files, {self.bytes / 1e6:.1f} MB"]
        parts += [f"{self.duplicates:,} exact duplicates dropped"] * bool(self.duplicates)
        parts += [f"{count:,} left out: {reason}" for reason, count in sorted(self.left_out.items())]
        return "; ".join(parts)


@dataclass(frozen=True)
class Corpus:
    """Distinct documents, and the account of how they were gathered."""

    documents: list[Document]
    summary: CorpusSummary


class Found(NamedTuple):
    """Files in sorted order, and what was passed over in directories, by reason."""

    files: list[Path]
    left_out: Counter[str]


def find(patterns: list[str]) -> Found:
    """The files that paths, directories and globs stand for, each once.

    >>> find(["notes.txt", "books/", "code/**/*.py"]).files

    A directory stands for the files at any depth below it whose names end like text (`TEXT_SUFFIXES`), hidden
    ones excepted; all others are counted in `left_out`. Raises `DataError` when a pattern stands for no file.
    """
    files: dict[Path, Path] = {}
    left_out: Counter[str] = Counter()
    for pattern in patterns:
        for path in _matches(pattern):
            chosen = _text_files(path, left_out) if path.is_dir() else [path]
            files.update({file.resolve(): file for file in chosen})
    return Found(sorted(files.values()), left_out)


def read(patterns: list[str], *, field: str = "text") -> Corpus:
    """Read every document that the patterns stand for.

    >>> read(["stories.txt", "books/*.jsonl"]).summary

    A file is one document, or several where it holds the marker `<|endoftext|>`; a line of a `.jsonl` file or a row of
    a `.parquet` file is one document, its text under `field`. Raises `DataError` for a file that is not UTF-8 text (with the byte offset),
    a line without the field, and a corpus without any text.
    """
    files, left_out = find(patterns)
    documents = (document for file in files for document in _documents(Piece(str(file)), field))
    corpus = _gather(documents, files=len(files), left_out=left_out)
    if not corpus.documents:
        raise DataError(f"There is no text in {', '.join(patterns)}: {len(files)} file(s) read, all empty. Give others with --data.")
    return corpus


def standard_library() -> Corpus:
    """The Python source of the running interpreter's standard library: real text that every user already has.

    A few of its files are test data in other encodings; they are left out, and the summary counts them.
    """
    left_out: Counter[str] = Counter()
    documents: list[Document] = []
    files = python_files()
    for file in files:
        try:
            documents += _documents(file, "text")
        except DataError:
            left_out["not UTF-8 text"] += 1
    return _gather(documents, files=len(files), left_out=left_out)


def python_files() -> list[Piece]:
    """The files of the standard library, named from its root on; raises `DataError` where an interpreter brings none."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(file for file in root.rglob("*.py") if not {"site-packages", "dist-packages"} & set(file.parts))
    if not files:
        raise DataError(f"This Python has no source files of its standard library under {root}. Give your own text with --data.")
    return [Piece(str(file), name=file.relative_to(root).as_posix()) for file in files]


def split(documents: list[Document], validation_share: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Documents for training and documents for validation.

    >>> training, validation = split(corpus.documents, validation_share=0.05, seed=0)

    A hash of seed and text decides, so neither the order nor the company of a document matters: equal texts fall on
    the same side, and a document added later moves no other. Each side has at least one document and is
    in the order of the hash, so neighbours are unrelated. A corpus of one document is cut at a line end, its end validates.
    """
    if not 0 < validation_share < 1:
        raise DataError(f"The share of validation documents must lie between 0 and 1; got {validation_share}.")
    if len({document.text for document in documents}) < 2:
        return _cut(documents, validation_share)
    points = sorted((int(fingerprint_bytes(str(seed), document.text), 16) / 2**64, document.source, document) for document in documents)
    lowest, highest = points[0][0], points[-1][0]
    validating = [document for point, _, document in points if point == lowest or (point < validation_share and point != highest)]
    training = [document for point, _, document in points if point == highest or (point >= validation_share and point != lowest)]
    return training, validating


def fingerprint(documents: Iterable[Document]) -> str:
    """A hash of the texts in their order; sources do not count, so a moved file is the same corpus."""
    return fingerprint_bytes(*(document.text for document in documents))


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.exists():
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    if not matches:
        raise DataError(f"There is no file {pattern}. Give a file, a directory, or a glob in quotes such as 'texts/**/*.txt'.")
    return matches


def _text_files(directory: Path, left_out: Counter[str]) -> list[Path]:
    chosen = []
    for file in sorted(directory.rglob("*")):
        if not file.is_file():
            continue
        if any(part.startswith(".") for part in file.relative_to(directory).parts):
            left_out["hidden file in a directory"] += 1
        elif file.suffix.lower() not in TEXT_SUFFIXES:
            left_out[f"file in a directory, name ends in '{file.suffix}'"] += 1
        else:
            chosen.append(file)
    if not chosen:
        raise DataError(f"The directory {directory} holds no text files (.txt, .md, .jsonl, .py, ...). Name the files with a glob instead.")
    return chosen


def _documents(piece: Piece, field: str) -> Iterator[Document]:
    """The documents of one file, empty ones included."""
    for record in read_file(piece, field):
        if record.problem is not None:
            raise DataError(record.problem.sentence)
        yield Document(record.source, record.text)


def _gather(documents: Iterable[Document], *, files: int, left_out: Counter[str]) -> Corpus:
    """Drop what is empty and what repeats an earlier text exactly, and keep count of both."""
    kept: dict[str, Document] = {}
    duplicates, left_out = 0, left_out.copy()
    for document in documents:
        if not document.text.strip():
            left_out["empty document"] += 1
        elif document.text in kept:
            duplicates += 1
        else:
            kept[document.text] = document
    distinct = list(kept.values())
    size = sum(len(document.text.encode()) for document in distinct)
    return Corpus(distinct, CorpusSummary(files, len(distinct), size, duplicates, dict(left_out), fingerprint(distinct)))


def _cut(documents: list[Document], validation_share: float) -> tuple[list[Document], list[Document]]:
    source, text = (documents[0].source, documents[0].text) if documents else ("", "")
    wanted = int(len(text) * (1 - validation_share))
    middle = text.rfind("\n", 0, wanted) + 1 or wanted
    if not text[:middle].strip() or not text[middle:].strip():
        raise DataError(f"The corpus is too small to keep a part for validation ({len(text)} characters in one document). Give more text.")
    return [Document(f"{source} (beginning)", text[:middle])], [Document(f"{source} (end)", text[middle:])]
