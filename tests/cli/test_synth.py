"""`amaru synth`: plan, preview, run and export against a server in a process of its own, and what is said when something is wrong."""

import json

import pytest
import yaml
from rich.console import Console
from tests.synth.misbehaving import Misbehaving
from tests.synth.recipes import FIVE_STEPS
from tests.synth.scripted import in_thread

from amaru.cli.main import main
from amaru.cli.synth_live import drawn
from amaru.synth.budget import Usage
from amaru.synth.progress import Now, StepNow
from amaru.synth.prompt import our_prompts
from amaru.synth.store import Store


def served(faults=("ok",), kind=Misbehaving):
    """A server in a thread of its own, as `main` blocks this one."""
    return in_thread(kind(faults))


def recipe_file(directory, url, **more):
    writer = {"url": url, "model": "m", "price": {"prompt": 1.0, "completion": 2.0}, "attempts": 2}
    (directory / "recipe.yaml").write_text(yaml.safe_dump({"models": {"writer": writer}, "steps": FIVE_STEPS, **more}, sort_keys=False))
    return str(directory / "recipe.yaml")


def synth(capsys, *words):
    code = main(["synth", *words, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out or "{}"), said.err


def test_plan_preview_run_and_export(tmp_path, capsys):
    with served() as server:
        file, out = recipe_file(tmp_path, server.url, licence="CC-BY-4.0"), str(tmp_path / "out")
        code, plan, _ = synth(capsys, "plan", file)
        assert (code, plan["total"]["calls"], server.requests) == (0, 45, 0)
        code, told, _ = synth(capsys, "run", file, "--out", out, "--preview", "2")
        assert (code, len(told["preview"]), server.requests) == (0, 2, 7)
        assert told["next"] == f"amaru synth run {file} --out {out}"
        code, measured, _ = synth(capsys, "plan", file, "--out", out)
        assert measured["total"]["money"] < plan["total"]["money"]
        code, told, _ = synth(capsys, "run", file, "--out", out)
        assert (code, told["usage"]["calls"], server.requests) == (0, 45, 45)
        assert measured["total"]["money"] == pytest.approx(told["usage"]["money"], rel=0.1)
    for name in ("data.jsonl", "data.parquet"):
        code, facts, _ = synth(capsys, "export", file, "--out", out, "--to", str(tmp_path / name))
        assert (code, facts["rows"], facts["unfinished"]) == (0, 20, 0)
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {"id", "topic", "question", "level", "asked", "answer", "score"}
    card = (tmp_path / "data.md").read_text()
    assert "20 rows. Licence: CC-BY-4.0." in card and "| answers | text | levels | 20 | 0 | 0 | 0 | 20 |" in card


def test_rows_that_failed_are_a_finding(tmp_path, capsys):
    with served(["ok", "400"]) as server:
        file, out = recipe_file(tmp_path, server.url), str(tmp_path / "out")
        code, told, err = synth(capsys, "run", file, "--out", out)
        assert code == 1 and "rows failed, for the reasons above" in err
        assert told["steps"]["questions"]["failed"] == {"status 400: no": 2}
    code, facts, err = synth(capsys, "export", file, "--out", out, "--to", str(tmp_path / "data.jsonl"))
    assert code == 1 and facts["failed"] and "not in the file" in err


def test_plan_and_export_look_on_while_a_run_works_and_make_nothing_where_none_was(tmp_path, capsys):
    with served() as server:
        file, out = recipe_file(tmp_path, server.url), tmp_path / "out"
        assert synth(capsys, "run", file, "--out", str(out))[0] == 0
    with Store(out / "store.sqlite"):  # as a run holds it
        assert synth(capsys, "plan", file, "--out", str(out))[1]["steps"][0]["measured"] == 1
        assert synth(capsys, "export", file, "--out", str(out), "--to", str(tmp_path / "data.jsonl"))[0] == 0
    code, _, err = synth(capsys, "export", file, "--out", str(tmp_path / "none"), "--to", str(tmp_path / "none.jsonl"))
    assert code == 2 and "none holds no synthetic data" in err and not (tmp_path / "none").exists()


def test_what_is_given_wrongly_is_told_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WRITER_KEY", raising=False)
    file, out = recipe_file(tmp_path, "http://127.0.0.1:1/v1"), tmp_path / "out"
    for words, told in (
        (["--rows", "topics"], "STEP=FILE; got 'topics'"),
        (["--set", "models.writer.key=sk-secret"], "no name of an environment variable"),
        (["--set", "models.writer.key=WRITER_KEY"], "WRITER_KEY, which holds the key"),
    ):
        code, _, err = synth(capsys, "run", file, "--out", str(out), *words)
        assert code == 2 and told in err and "secret" not in err and not out.exists()


def test_a_budget_that_is_used_up_is_one_sentence(tmp_path, capsys):
    with served() as server:
        file = recipe_file(tmp_path, server.url, budget={"calls": 3})
        code, _, err = synth(capsys, "run", file, "--out", str(tmp_path / "out"))
    assert code == 2 and "The budget is used up: calls 3, of which 3 are spent" in err


def test_a_graph_names_every_step(tmp_path, capsys):
    assert main(["synth", "graph", recipe_file(tmp_path, "http://x")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("graph LR\n") and "topics --> questions" in out and out.count("-->") == 4


def test_the_live_table_says_what_is_known(capsys):
    steps = (StepNow("topics", "list", 20, 20, 200, 0, 0, 0), StepNow("questions", "list", 200, 120, 1100, 3, 4, 2))
    Console(width=120).print(drawn(Now(steps, 41.2, 140, 3, Usage(140, 1000, 22000, 0.25), 754)))
    said = " ".join(capsys.readouterr().out.split())
    assert "questions" in said and "120 200 1,100 95 % 2" in said
    assert "140 calls, 41.2 a second, pushed back 3 times, 23,000 tokens so far, cost so far 0.2500, about 13 min left" in said


def test_several_processes_are_a_flag(tmp_path, capsys):
    with served() as server:
        code, told, _ = synth(capsys, "run", recipe_file(tmp_path, server.url), "--out", str(tmp_path / "out"), "--workers", "1")
        assert (code, told["workers"], told["lost_workers"], server.requests) == (0, 1, [], 45)
        assert len(set(server.seen)) == 45


def test_a_recipe_that_is_not_there_is_told_with_those_that_are(capsys):
    code, _, err = synth(capsys, "plan", "topics")
    assert code == 2 and "There is: answers, closed_questions, dialogues, genetic_instruct" in err


def test_every_prompt_of_ours_is_rendered_by_its_columns():
    for prompt in our_prompts().values():
        text = prompt.render(dict.fromkeys(prompt.needs, "seven"))
        assert "seven" in text and "{{" not in text
