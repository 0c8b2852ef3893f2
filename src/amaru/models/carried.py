"""What belongs to a model beside its tensors: the files of its tokenizer, and the ids that begin and end a text."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaru.data.tokenizer import Tokenizer
from amaru.errors import CheckpointError, DataError
from amaru.models.families import read_json
from amaru.models.formats.llama2c import read_tokenizer

GENERATION = "generation_config.json"
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    GENERATION,
)
FOLDERS = ("", "tokenizer", "context/nemo_tokenizer")  # where formats keep them
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Carried:
    """`Carried.of(Path("model"))`: files by name, and ids by their name in `config.json`; both empty where there are none.

    `tokenizer` is one that was given instead of the files.
    """

    files: dict[str, Path] = field(default_factory=dict)
    ids: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None

    @classmethod
    def of(cls, path: Path) -> "Carried":
        """What lies in a checkpoint directory; ids of `config.json` come before those of `generation_config.json`."""
        files: dict[str, Path] = {}
        for folder in FOLDERS if path.is_dir() else ():
            files |= {name: path / folder / name for name in FILES if name not in files and (path / folder / name).is_file()}
        ids = _ids(files[GENERATION]) if GENERATION in files else {}
        return cls(files, ids | (_ids(path / "config.json") if (path / "config.json").is_file() else {}))

    @classmethod
    def given(cls, path: Path, vocab: int) -> "Carried":
        """A tokenizer from a directory, a `tokenizer.json`, or llama2.c's `tokenizer.bin` for so many rows of the embedding."""
        if path.suffix == ".bin":
            tokenizer = read_tokenizer(path, vocab)
        elif path.is_dir() or (path.is_file() and path.name == "tokenizer.json"):
            tokenizer = Tokenizer.load(path if path.is_dir() else path.parent)
        else:
            raise DataError(f"There is no tokenizer {path}; a directory, a tokenizer.json or llama2.c's tokenizer.bin is needed.")
        if tokenizer.vocab_size > vocab:
            raise DataError(f"The tokenizer {path} knows {tokenizer.vocab_size} tokens, and the model has {vocab} rows for them.")
        return cls({}, {f"{name}_token_id": getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")}, tokenizer)

    def loaded(self) -> Tokenizer | None:
        """The tokenizer itself, where amaru can read it."""
        return self.tokenizer or (Tokenizer.load(self.files["tokenizer.json"].parent) if "tokenizer.json" in self.files else None)

    def unpack(self, directory: Path) -> list[str]:
        """Put everything into a directory; the names of the files. Ids go into `generation_config.json` where no file has them."""
        for name, path in self.files.items():
            shutil.copyfile(path, directory / name)
        if self.tokenizer:
            self.tokenizer.save(directory)
        if self.ids and GENERATION not in self.files:
            (directory / GENERATION).write_text(json.dumps(self.ids, indent=2) + "\n", encoding="utf-8")
        return sorted(name for name in FILES if (directory / name).is_file())


def _ids(path: Path) -> dict[str, Any]:
    found = {name: value for name, value in read_json(path).items() if name in IDS}
    for name, value in found.items():
        if not all(each is None or type(each) is int for each in (value if isinstance(value, list) else [value])):
            raise CheckpointError(f"{path} sets {name} to {json.dumps(value)[:80]}; a token id, a list of them or null is needed.")
    return found
