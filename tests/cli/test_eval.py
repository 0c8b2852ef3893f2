"""`amaru eval`: the numbers are those of `evaluate` on the same rows."""

import json
from pathlib import Path

import pytest
from tests.cli.small_checkpoint import TEXT, small_checkpoint

from amaru.cli.main import main
from amaru.data.corpus import read
from amaru.data.loader import in_order
from amaru.data.packing import pack
from amaru.data.tokenizer import Tokenizer
from amaru.eval import evaluate, measure, open_task, token_bytes
from amaru.models.checkpoint import load
from amaru.recipes.evaluate import subject_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return small_checkpoint(tmp_path / "m")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_numbers_are_those_of_the_library(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = small_checkpoint(checkpoint.parent / "t", seed=1)
    words = ["--data", str(text), "--row-length", "16", "--teacher", str(teacher)]
    assert main(["eval", str(checkpoint), *words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    tokenizer = Tokenizer.load(checkpoint)
    rows = pack(read([str(text)]).documents, tokenizer, 16)
    result = evaluate(load(checkpoint), in_order(rows, 4), load(teacher), token_bytes=token_bytes(tokenizer))
    for name in ("tokens", "loss", "next_token_accuracy", "bits_per_byte", "teacher_kl", "teacher_agreement", "perplexity"):
        assert facts[name] == pytest.approx(getattr(result, name)), name
    assert main(["eval", str(checkpoint), *words]) == 0
    assert f"{result.loss:.4f} nats/token" in capsys.readouterr().out


def test_limit_rows_takes_the_first(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", str(checkpoint), "--data", str(text), "--row-length", "16", "--limit-rows", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["tokens"] == 32


def test_bad_words_are_sentences(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("año".encode("latin-1"))
    for data, told in (("absent.txt", "absent.txt"), ("empty.txt", "no text"), ("latin.txt", "not UTF-8")):
        assert main(["eval", str(checkpoint), "--data", str(tmp_path / data)]) == 2
        assert told in capsys.readouterr().err
    assert main(["eval", str(checkpoint), "--data", str(tmp_path), "--batch-rows", "0"]) == 2


def test_strided_windows_and_agreement_by_position(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(checkpoint), "--data", str(text), "--row-length", "16", "--stride", "4", "--teacher", str(checkpoint)]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["stride"] == 4 and facts["by_position"][-1]["last"] == 15
    assert all(row["top1"] == row["top5"] == 1 for row in facts["by_position"])


def test_tasks_are_scored_kept_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (small_checkpoint(tmp_path / f"m{seed}", seed) for seed in (0, 1))
    (tmp_path / "words.jsonl").write_text('{"context": "def f(x):", "continuation": "return"}\n{"context": "x +", "continuation": "1"}\n')
    words = ["eval", str(one), "--tasks", str(tmp_path / "words.jsonl"), "--tasks", "recall", "--lengths", "16,32", "--samples", "2"]
    words += ["--against", str(two), "--cache", str(tmp_path / "kept.sqlite")]
    assert main([*words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in first["tasks"]] == [f"{tmp_path.name}/words", "recall"]
    assert {"mean", "low", "high", "p", "test"} <= first["tasks"][0]["difference"]["accuracy"].keys()
    assert list(first["tasks"][1]["cells"]) == ["16", "32"] and first["notes"] == []
    assert main([*words, "--report", str(tmp_path / "page.html")]) == 0
    shown = capsys.readouterr().out
    assert "6 items were kept from before" in shown and "perplexity" in shown and (tmp_path / "page.html").exists()


def test_the_tables_of_a_paper_are_filled_and_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, files = small_checkpoint(tmp_path / "m"), tmp_path / "files" / "deep"
    files.mkdir(parents=True)
    choices = [{"query": f"Question: {n} + 1?", "choices": [f"{n + 1}", "x"], "gold": 0} for n in range(3)]
    (files / "piqa.jsonl").write_text("".join(json.dumps(each) + "\n" for each in choices))
    (files / "arc_challenge.jsonl").write_text("".join(json.dumps(each) + "\n" for each in choices * 9))
    words = ["eval", str(checkpoint), "--suite", "nemotron-h", "--files", str(tmp_path / "files"), "--cache", "none"]
    assert main([*words, "--out", str(tmp_path / "run"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in facts["rows"]}
    assert rows.keys() == {"PIQA", "ARC-Challenge"} and rows["ARC-Challenge"]["items"] == 2 and rows["PIQA"]["published"]["8B"] == 82.2
    alone = measure(open_task(files / "piqa.jsonl"), subject_of(checkpoint)).estimates
    assert rows["PIQA"]["metrics"]["accuracy per character"]["mean"] == alone["accuracy per character"].mean and facts["models"][0] == "56B"
    missing = {sentence.split(":")[0]: sentence for sentence in facts["missing"]}
    assert len(missing) + len(rows) == 16 and "records need question, answer with ####" in missing["GSM8K"]
    assert "another harness" in missing["RULER, 128k"]
    assert main(words) == 0
    assert "its 25 examples are the first of its own items" in (shown := capsys.readouterr().out) and "82.2" in shown
    (tmp_path / "run" / "report.html").unlink()
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "Beside the published figures" in (tmp_path / "run" / "report.html").read_text()
    assert main([*words[:5], str(tmp_path / "m")]) == 2 and "Nothing of nemotron-h" in capsys.readouterr().err
    assert main(["eval", str(checkpoint), "--suite", "gpt"]) == 2 and "there is: nemotron-h" in capsys.readouterr().err


def test_a_run_directory_of_text_draws_agreement_by_place(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(text), "--row-length", "16", "--teacher", str(checkpoint), "--out", str(checkpoint.parent / "run")]
    assert main(["eval", str(checkpoint), *words]) == 0
    assert main(["report", str(checkpoint.parent / "run"), "--out", str(checkpoint.parent / "page.html")]) == 0
    page = (checkpoint.parent / "page.html").read_text()
    assert "Beside the teacher, by place" in page and page.count('class="mark"') == 2 and "8 to 15" in page


def test_text_or_tasks_but_not_both_and_not_neither(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(checkpoint)]) == 2
    assert main(["eval", str(checkpoint), "--data", str(text), "--tasks", "recall"]) == 2
    assert main(["eval", str(checkpoint), "--tasks", "arc"]) == 2
    assert "made here are: passkey" in capsys.readouterr().err
    words = ["--tasks", "copy", "--tasks", "recall", "--lengths", "16,8k", "--cache", str(text.parent / "kept.sqlite")]
    assert main(["eval", str(checkpoint), *words]) == 2
    assert "8000 tokens of recall need 2000 different keys" in (told := capsys.readouterr().err) and "items" not in told
