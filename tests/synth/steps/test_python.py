"""Functions of users that are not as they should be."""

import pytest
from tests.synth.steps.through import through

from amaru.errors import ConfigError

STEP = {"kind": "python", "function": "rows.py:go"}


def test_a_function_that_gives_no_rows_fails_the_row_alone(tmp_path):
    (tmp_path / "rows.py").write_text("def go(row):\n    return row['gives']\n")
    rows = [{"gives": each} for each in (5, [{"n": 1}, 2], "text", None, [], {"n": 1}, [{"n": 2}, {"n": 3}])]
    made, tallies, _, _ = through(tmp_path, rows, STEP, directory=tmp_path)
    assert made == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert tallies["step0"].dropped.total() == 2 and tallies["step0"].failed.total() == 3
    assert all("a dict, a list of them or None" in reason for reason in tallies["step0"].failed)


def test_a_module_that_cannot_be_loaded_is_told_before_anything_is_made(tmp_path):
    (tmp_path / "rows.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=r"Step step0: There is no function rows\.py:go \(ZeroDivisionError"):
        through(tmp_path, [{"n": 1}], STEP, directory=tmp_path)
