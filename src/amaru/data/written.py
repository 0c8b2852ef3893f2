"""Records to a file, as JSON lines or parquet: what `files` reads again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amaru.config import atomic_file
from amaru.errors import BackendError, ConfigError, DataError

SUFFIXES = (".jsonl", ".parquet")


def check_name(path: Path) -> None:
    """Raises `ConfigError` for a name of neither kind; asked before the work whose result the file is to hold."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"Rows are written as {' or '.join(SUFFIXES)}; got {path.name}.")


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """`write_records(Path("pairs.parquet"), records)`: the file appears whole or not at all; a field that a record lacks is null.

    Raises what `check_name` does, and `DataError` for what JSON lines can say and parquet cannot, such as a field of several types.
    """
    check_name(path)
    with atomic_file(path) as temporary:
        if path.suffix == ".parquet":
            _parquet(temporary, records, path.name)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _parquet(path: Path, records: Sequence[Mapping[str, Any]], name: str) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BackendError("Writing parquet needs pyarrow; install it with: pip install 'amaru[data]'") from None
    fields = list(dict.fromkeys(field for record in records for field in record))  # one that the first lacks is not left out
    try:
        pyarrow.parquet.write_table(pyarrow.table({field: [record.get(field) for record in records] for field in fields}), str(path))
    except pyarrow.ArrowException as error:
        raise DataError(f"{name} cannot be written as parquet ({' '.join(str(error).split())}); write .jsonl instead.") from None
