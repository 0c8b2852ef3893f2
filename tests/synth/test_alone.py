"""One step by itself, in Python and on the command line."""

import json

import pytest
from tests.synth.scripted import served

from amaru.cli.main import main
from amaru.errors import ConfigError
from amaru.synth.alone import make
from amaru.synth.endpoint import Endpoint


def test_a_step_in_python_goes_on_where_it_was(tmp_path):
    with served() as server:
        models = {"writer": Endpoint(url=server.url, model="m")}
        step = {"prompt": "open_questions", "column": "question", "count": 3}
        rows = make("list", [{"topic": "Rivers"}], models, tmp_path, **step)
        assert len({row["question"] for row in rows}) == 3 and {row["topic"] for row in rows} == {"Rivers"}
        more = make("list", [{"topic": "Rivers"}, {"topic": "Bridges"}], models, tmp_path, **step)
        assert more[:3] == rows and server.requests == 2
    with pytest.raises(ConfigError, match="There is no step of kind 'lists'"):
        make("lists", [], models, tmp_path)
    with pytest.raises(ConfigError, match=r"has no field 'colunm'\. Did you mean 'column'"):
        make("list", [{"topic": "Rivers"}], models, tmp_path, **{**step, "colunm": "question"})


def test_steps_on_the_command_line(tmp_path, capsys):
    (tmp_path / "answers.jsonl").write_text('{"prompt": "Why?", "answer": "So, there."}\n{"prompt": "How?", "answer": "Thus."}\n')
    with served() as server:
        asking = ["--url", server.url, "--model", "reward"]
        scored = step(tmp_path, capsys, "reward", "weights.helpfulness=1.0", "column=reward", *asking)
        assert all(row["reward"] >= row["attributes"]["helpfulness"] for row in scored) and server.requests == 2
        models = [f"--set=models.{name}.{setting}" for name in "ab" for setting in (f"url={server.url}", f"model={name}")]
        answered = step(tmp_path, capsys, "respond", *models)
        assert [row["answered_by"] for row in answered] == ["a", "b"] * 2
    (tmp_path / "answers.jsonl").write_text('{"answer": "Here, now.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}\n')
    assert [row["verified"] for row in step(tmp_path, capsys, "verify", "by=instructions")] == [False]  # asks nobody
    assert main(["synth", "step", "reward", "--out", str(tmp_path / "x"), "--to", "x.jsonl", "--url", "http://x"]) == 2
    assert "--url and --model together" in capsys.readouterr().err


def test_a_step_that_makes_nothing_tells_why(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n{"m": 1}\n')
    words = ["synth", "step", "filter", "where=n > 1", "--rows", str(tmp_path / "rows.jsonl")]
    assert main([*words, "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to.jsonl")]) == 1
    said = capsys.readouterr().err
    assert "1: 'n > 1' cannot be computed" in said and "1: not: n > 1" in said and not (tmp_path / "to.jsonl").exists()


def step(directory, capsys, kind, *words):
    to = directory / f"{kind}.jsonl"
    where = ["--rows", str(directory / "answers.jsonl"), "--out", str(directory / kind), "--to", str(to)]
    assert main(["synth", "step", kind, *words, *where]) == 0, capsys.readouterr().err
    capsys.readouterr()
    return [json.loads(line) for line in to.read_text().splitlines()]
