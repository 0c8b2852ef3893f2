"""Records that were written are read again, whatever fields they lack; what cannot be written is told."""

import pytest

from amaru.data.files import Piece, objects
from amaru.data.written import write_records
from amaru.errors import ConfigError, DataError

RECORDS = [{"a": 1, "b": ["x"]}, {"a": 2, "c": {"d": "ü\n"}}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_records_are_read_again(tmp_path, name):
    write_records(tmp_path / name, RECORDS)
    found = [record for _, record in objects(Piece(str(tmp_path / name)))]
    assert [{field: value for field, value in record.items() if value is not None} for record in found] == RECORDS


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"as \.jsonl or \.parquet; got rows\.csv"):
        write_records(tmp_path / "rows.csv", RECORDS)
    with pytest.raises(DataError, match=r"rows\.parquet cannot be written.*write \.jsonl"):
        write_records(tmp_path / "rows.parquet", [{"a": 1}, {"a": "x"}])
    assert not list(tmp_path.iterdir())
