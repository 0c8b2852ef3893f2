"""Functions of users: found beside a recipe or in a module, and every way of not finding one is a sentence."""

import json

import pytest

from amaru.config.functions import function_named
from amaru.errors import ConfigError


def test_a_function_is_found_in_a_file_and_in_a_module(tmp_path):
    (tmp_path / "rows.py").write_text("def go(row):\n    return row\n")
    assert function_named("rows.py:go", tmp_path)(3) == 3
    assert function_named(f"{tmp_path}/rows.py:go")(4) == 4
    assert function_named("json:dumps") is json.dumps


@pytest.mark.parametrize("text", ["def go(row)\n    return row\n", "1 / 0\n", "import nothing_there\n", "def come(row): ...\n", None])
def test_what_cannot_be_loaded_is_told_with_the_reason(tmp_path, text):
    if text is not None:
        (tmp_path / "rows.py").write_text(text)
    reason = {"1 / 0\n": "ZeroDivisionError", None: "FileNotFoundError"}.get(text, "")
    with pytest.raises(ConfigError, match=rf"no function rows\.py:go \({reason}"):
        function_named("rows.py:go", tmp_path)


@pytest.mark.parametrize("place", ["rows", "json:", ":dumps", "no_such_module:go"])
def test_half_a_name_is_none(place):
    with pytest.raises(ConfigError, match="It is named as"):
        function_named(place)
