"""One result on stdout, as JSON or for people; progress on stderr."""

import json
from pathlib import Path

import numpy as np
import pytest

from amaru.cli.output import LiveLine, closest, emit


def show(result, console):
    console.print(f"loss {result['loss']} [T, heads]")


def test_json_is_one_document_of_plain_values(capsys):
    result = {"loss": float("nan"), "steps": np.int64(3), "path": Path("a/b"), "curve": [(1, float("inf"))], 5: None, "ok": np.bool_(True)}
    emit(result, json=True, people=show)
    out = capsys.readouterr().out
    assert json.loads(out) == {"loss": None, "steps": 3, "path": "a/b", "curve": [[1, None]], "5": None, "ok": True}


def test_what_json_cannot_say_is_an_error():
    with pytest.raises(TypeError):
        emit({"model": object()}, json=True, people=show)


def test_people_get_text_with_its_brackets(capsys):
    emit({"loss": 2.5}, json=False, people=show)
    assert capsys.readouterr().out == "loss 2.5 [T, heads]\n"


def test_progress_in_a_log_is_a_line_now_and_then(capsys):
    with LiveLine(seconds_between_log_lines=3600) as live:
        for step in range(50):
            live.update(f"step {step}")
        live.note("saved")
    assert capsys.readouterr() == ("", "step 0\nsaved\n")


def test_closest():
    assert closest("--stpes", ["--steps", "--out"]) == " Did you mean '--steps'?"
    assert closest("zzz", ["a", "b"]) == " There is: a, b."
