"""Conversations with a judge behind HTTP: two turns, reference answers, ratings, both orders of two models, and nothing asked twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.small_checkpoint import small_checkpoint
from tests.eval.scripted_judge import ANSWER, Scripted, rating, scripted
from tests.eval.small import small_subject
from tests.synth.scripted import served

from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError, EndpointError
from amaru.eval import Store, Subject, measure
from amaru.eval.judged.conversations import open_conversations
from amaru.eval.judged.pairwise import duel, outcome
from amaru.eval.judged.words import letter_of, rating_of
from amaru.eval.subject import chat_of
from amaru.recipes.judge import EndpointJudge
from amaru.synth.endpoint import Endpoint

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Which number comes after one?", "And after two?"]},
    {"question_id": 82, "category": "math", "turns": ["What is the pass key?", "Say it again."]},
    {"question_id": 83, "category": "math", "turns": ["Question: which?", "VAR_A"], "reference": ["This one.", "89"]},
]
REFERENCES = [{"question_id": 82, "choices": [{"index": 0, "turns": ["1234567", "1234567."]}]}]


def chat_subject(seed: int = 0) -> Subject:
    plain = small_subject(seed)
    return replace(plain, chat=chat_of(plain.tokenizer.with_chat(TEMPLATE, "<|endoftext|>")), memory=2**25)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def judge_at(server: Scripted, path: Path, **settings: Any) -> EndpointJudge:
    return EndpointJudge(Endpoint(url=server.url, model="judge", **settings), path)


def test_both_turns_are_answered_and_rated_with_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amaru.eval.judged.conversations.TOKENS", 12)
    questions, good = write(tmp_path / "q.jsonl", QUESTIONS), write(tmp_path / "r.jsonl", REFERENCES)
    with scripted(stubborn=4) as server:
        task = open_conversations(questions, judge_at(server, tmp_path / "judge.sqlite"), good)
        subject = chat_subject()
        result = measure(task, subject, Store(tmp_path / "kept.sqlite"))
        for index, item in enumerate(task.items):
            first, second = json.loads(result.items[index].told)
            messages = ({"role": "user", "content": item.turns[0]}, {"role": "assistant", "content": first})
            assert subject.prompt((*messages, {"role": "user", "content": item.turns[1]})) == subject.tokenizer.encode(
                f"user: {item.turns[0]}\nassistant: {first}\nuser: {item.turns[1]}\nassistant:"
            )
            scores = result.items[index].scores
            assert [scores[name].value for name in task.metrics[1:]] == [rating(first), rating(second)]
            assert scores["score"].value == (rating(first) + rating(second)) / 2
        assert list(result.cells) == ["writing", "math"] and result.cells["math"].count == 2
        by_question = [question for question in server.seen if "VAR_A" in question]
        assert all("Reference answer:\n89" in question and "This one." in question for question in by_question) and by_question
        assert any("1234567." in question for question in server.seen)
        assert not any("Reference answer" in question for question in server.seen if "after one" in question)
        asked = len(server.seen)
        again = measure(task, subject, Store(tmp_path / "kept.sqlite"))
        assert again.kept == 3 and len(server.seen) == asked and again.items == result.items
        measure(task, subject)  # the answers are the same, so the judge's are still there
        assert len(server.seen) == asked


def test_two_models_win_only_in_both_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amaru.eval.judged.conversations.TOKENS", 8)
    questions = write(tmp_path / "q.jsonl", QUESTIONS)
    with scripted() as fair, scripted(favours=True) as unfair:
        for server, turned in ((fair, 0), (unfair, 3)):
            task = open_conversations(questions, judge_at(server, tmp_path / f"{turned}.sqlite"))
            one, other = measure(task, chat_subject(0)), measure(task, chat_subject(1))
            found = duel(task, one, other)
            lengths = [[len("".join(json.loads(result.items[index].told))) for index in range(3)] for result in (one, other)]
            by_length = ["win" if a > b else "loss" if b > a else "tie" for a, b in zip(*lengths, strict=True)]
            assert list(found.outcomes.values()) == (["tie"] * 3 if turned else by_length) and found.turned == turned
            assert found.won.mean == sum({"win": 1, "tie": 0.5, "loss": 0}[each] for each in found.outcomes.values()) / 3
            assert all(len(ANSWER.findall(question)) == 4 for question in server.seen[-6:])
    assert [outcome(*pair) for pair in ("AB", "BA", "AA", "CC", "AC")] == ["win", "loss", "tie", "tie", "tie"]


def test_verdicts_are_read_and_one_that_never_comes_is_told(tmp_path: Path) -> None:
    assert [rating_of(said) for said in ("[[3]] no, [[ 7.5 ]]", "Rating: 7", "[[11]]", "[[0]]")] == [7.5, None, None, None]
    assert [letter_of(said) for said in ("[[A]] or [[C]]", "[[D]]")] == ["C", None]
    with scripted(stubborn=1) as server:
        server.stubborn = 1_000_000  # only the first has no verdict
        assert judge_at(server, tmp_path / "a.sqlite").ask([[{"role": "user", "content": asked()}]], rating_of) == [rating("Four.")]
    with scripted() as server, pytest.raises(EndpointError, match="no verdict in double brackets"):
        judge_at(server, tmp_path / "b.sqlite", attempts=2).ask([[{"role": "user", "content": asked()}]], letter_of)


def test_a_question_without_a_verdict_costs_no_other_its_own(tmp_path: Path) -> None:
    questions = [[{"role": "user", "content": f"the {which} answer"}] for which in ("first", "second", "third")]
    with served(lambda body: "none" if "first" in body["messages"][-1]["content"] else "[[7]]") as server:
        endpoint = Endpoint(url=server.url, model="judge", attempts=1, concurrency=1)  # the first ends before the others begin
        with pytest.raises(EndpointError, match="gave no verdict"):
            EndpointJudge(endpoint, tmp_path / "c.sqlite").ask(questions, rating_of)
        assert EndpointJudge(endpoint, tmp_path / "c.sqlite").ask(questions[1:], rating_of) == [7.0, 7.0] and server.requests == 3


def asked() -> str:
    return "<conversation>\n\nUser:\n2 + 2?\n\nAnswer of the assistant:\nFour.\n\n</conversation with the assistant>"


def test_what_is_no_conversation_is_refused(tmp_path: Path) -> None:
    with scripted() as server:
        judge = judge_at(server, tmp_path / "judge.sqlite")
        task = open_conversations(write(tmp_path / "q.jsonl", QUESTIONS), judge)
        with pytest.raises(ConfigError, match="give --chat"):
            measure(task, small_subject())
        for record, told in (({"turns": []}, "has no turns"), ({"turns": ["a", "b"], "reference": ["c"]}, "2 turns, but 1 reference")):
            with pytest.raises(DataError, match=told):
                open_conversations(write(tmp_path / "bad.jsonl", [record]), judge)
        with pytest.raises(DataError, match="is no reference answer"):
            open_conversations(tmp_path / "q.jsonl", judge, write(tmp_path / "r.jsonl", [{"id": 1}]))


def test_the_command_asks_judges_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amaru.eval.judged.conversations.TOKENS", 6)
    one, two = (small_checkpoint(tmp_path / f"m{seed}", seed) for seed in (0, 1))
    for path in (one, two):
        Tokenizer.load(path).with_chat(TEMPLATE, "<|endoftext|>").save(path)
    questions = write(tmp_path / "question.jsonl", QUESTIONS)
    words = ["eval", str(one), "--tasks", str(questions), "--chat", "--against", str(two), "--cache", str(tmp_path / "kept.sqlite")]
    assert main(words) == 2 and "give --judge URL" in capsys.readouterr().err
    assert main([*words, "--judge", "http://localhost:1/v1"]) == 2 and "give both --judge" in capsys.readouterr().err
    with scripted() as server:
        words += ["--judge", server.url, "--judge-model", "judge", "--pairwise", "--report", str(tmp_path / "page.html")]
        assert main([*words, "--json"]) == 0
        row = json.loads(capsys.readouterr().out)["tasks"][0]
        assert row["duel"]["win"] + row["duel"]["tie"] + row["duel"]["loss"] == 3 and 1 <= row["metrics"]["score"]["mean"] <= 10
        assert main(words) == 0
        shown = capsys.readouterr().out
    assert "side by side:" in shown and "writing:" in shown and "exact sign test" in (tmp_path / "page.html").read_text()
