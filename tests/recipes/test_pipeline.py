"""train -> compress -> distill -> eval -> generate -> verify -> report, through the command line, on a tiny corpus."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from safetensors.torch import load_file
from tests.recipes.small import SHORT, TEXT, compress_words, flags, train_words, write_corpus

from amaru.cli.main import main
from amaru.compress.plan import Plan
from amaru.compress.scores import Scores
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, fingerprint


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def parent(corpus: Path) -> Path:
    run = corpus.parent / "parent"
    assert main(train_words(corpus, run)) == 0
    return run


@pytest.fixture(scope="module")
def compressed(corpus: Path, parent: Path) -> Path:
    run = corpus.parent / "compressed"
    assert main(compress_words(corpus, parent / "model", run)) == 0
    return run


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_training_learns_and_keeps_a_record(parent: Path) -> None:
    steps = [json.loads(line) for line in (parent / "model-training" / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 25))
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert "validation loss" in (parent / "report.html").read_text()
    assert not (parent / "model-training" / "checkpoints").exists(), "training checkpoints go when the model is saved"


def test_the_student_is_what_was_planned(parent: Path, compressed: Path) -> None:
    plan = Plan.load(compressed / "plan.safetensors")
    student, whole = Checkpoint(compressed / "student").config, Checkpoint(parent / "model").config
    assert student == plan.candidate.config
    assert cost.parameters(student) == plan.candidate.parameters < cost.parameters(whole)
    assert plan.budget.memory is not None and plan.candidate.memory <= plan.budget.memory
    search = json.loads((compressed / "search.json").read_text())
    assert sum(row["loss_after"] is not None for row in search["candidates"]) == 2
    best = min((row for row in search["candidates"] if row["loss_after"] is not None), key=lambda row: row["loss_after"])
    assert best["winner"], "the judge is the loss after short distillation"


def test_distillation_helps_the_cut(compressed: Path) -> None:
    rows = json.loads((compressed / "comparison.json").read_text())
    assert rows["student"]["teacher_kl"] < rows["pruned"]["teacher_kl"]
    assert rows["parent"]["teacher_kl"] == 0 and rows["student"]["memory"] < rows["parent"]["memory"]


def test_the_cut_is_proven_again_from_disk(compressed: Path) -> None:
    found, plan = json.loads((compressed / "certificate.json").read_text()), Plan.load(compressed / "plan.safetensors")
    assert found["holds"] and found["wrong"] == [] and found["plan"] == plan.key
    weights = load_file(compressed / "pruned" / "model.safetensors")
    assert found["tensors"] == len(weights) and found["parameters"] == sum(weight.numel() for weight in weights.values())
    assert 0 <= found["turned"]["max_abs"] <= found["turned"]["allowed"]


def test_the_report_has_all_that_was_decided_and_what_it_cost(corpus: Path, parent: Path, compressed: Path) -> None:
    page = (compressed / "report.html").read_text().replace("\n", "")
    search, facts = (json.loads((compressed / name).read_text()) for name in ("search.json", "run.json"))
    assert len(page) < 1_000_000 and "holds: " in page
    marks = page.count('<g class="mark">')
    assert marks >= 7 + 14, "a bar for every layer's importance, and two stacks"
    for row in Plan.load(compressed / "plan.safetensors").narrowings():
        assert re.search(rf"<td>{row.axis}[^<]*</td><td>[^<]*</td><td[^>]*>{row.before}</td><td[^>]*>{row.after}</td>", page)
    trained = [*compressed.glob("search/*"), compressed / "student-training"]
    tokens = [sum(json.loads(line)["tokens"] for line in (folder / "metrics.jsonl").read_text().splitlines()) for folder in trained]
    ranked = sum(row["tokens"] for row in search["candidates"])
    for counted in (ranked, sum(tokens[:-1]), tokens[-1]):
        assert f">{counted:,}<" in page
    assert "MFLOP a token of a prompt" in page, "no time was asked for, so candidates are told by their work"
    for command in (facts["command"], f"amaru cut {parent / 'model'} cut --plan {compressed}/plan.safetensors"):
        assert str(escape(command)) in page


def test_the_same_command_keeps_every_step(corpus: Path, parent: Path, compressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in compressed.rglob("*.safetensors")}
    assert main(compress_words(corpus, parent / "model", compressed)) == 0
    assert {path: path.stat().st_mtime_ns for path in compressed.rglob("*.safetensors")} == before
    assert "distilled student: kept from before" in capsys.readouterr().err


def test_another_recipe_does_not_enter_the_run(corpus: Path, parent: Path, compressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*compress_words(corpus, parent / "model", compressed), "--seed", "5"]) == 2
    assert "seed: 0 there, 5 now" in capsys.readouterr().err


def test_distill_eval_generate_verify_report(
    corpus: Path, parent: Path, compressed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, pruned = str(parent / "model"), str(compressed / "pruned")
    words = ["--teacher", teacher, "--student", pruned, "--data", str(corpus), "--tokens", "1k", "--out", str(tmp_path / "d")]
    found = run_json(capsys, "distill", *words, *flags(TEXT[1:], SHORT))
    assert found["rows"]["model"]["teacher_kl"] < found["rows"]["before"]["teacher_kl"]
    evaluated = run_json(capsys, "eval", found["checkpoint"], "--data", str(corpus / "000.txt"), "--row-length", "64")
    assert 0 < evaluated["loss"] < 6
    generated = run_json(capsys, "generate", found["checkpoint"], "--prompt", "the ", "--max-tokens", "5", "--temperature", "0")
    assert generated["results"][0]["tokens"] == 5
    certificate = run_json(capsys, "verify", found["checkpoint"], found["checkpoint"], "--out", str(tmp_path / "c.json"))
    assert certificate["equal"]
    report = run_json(capsys, "report", str(tmp_path / "d"), "--out", str(tmp_path / "r.html"))
    assert report["bytes"] > 10_000


def test_stock_transformers_gives_the_students_logits(compressed: Path) -> None:
    """In a process that never imports amaru; the figures of ours come in as a file."""
    import torch
    from safetensors.torch import save_file

    from amaru.models.checkpoint import load
    from amaru.nn import Batch

    ids = torch.arange(3, 60) % 290
    with torch.no_grad():
        save_file({"ids": ids, "logits": load(compressed / "student")(Batch.of([ids]))}, str(compressed / "expected.safetensors"))
    code = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
expected = load_file(sys.argv[1] + "/expected.safetensors")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/student")
with torch.no_grad():
    found = model(expected["ids"][None]).logits[0]
assert AutoTokenizer.from_pretrained(sys.argv[1] + "/student").decode([300 - 1]) != ""
assert "amaru" not in sys.modules
print((found - expected["logits"]).abs().max().item())
"""
    done = subprocess.run([sys.executable, "-c", code, str(compressed)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1e-4


def test_continuing_from_a_checkpoint(corpus: Path, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--from", str(parent / "model"), "--data", str(corpus), "--tokens", "300", "--out", str(tmp_path / "more")]
    more = run_json(capsys, *words, *flags(TEXT[1:], SHORT))
    assert fingerprint(more["checkpoint"]) != fingerprint(parent / "model")
    assert Checkpoint(more["checkpoint"]).config == Checkpoint(parent / "model").config
    before = json.loads((parent / "quality-model.json").read_text())["loss"]
    assert more["loss"] < before + 0.1, "it goes on from where the parent was, not from random weights"


def test_the_comparison_follows_the_text(corpus: Path, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A document more in the text makes every figure anew, in the record as on the screen."""
    text = write_corpus(tmp_path / "text", documents=20)
    words = compress_words(text, parent / "model", tmp_path / "run")
    first = run_json(capsys, *words)
    write_corpus(tmp_path / "text", documents=60)
    second = run_json(capsys, *words)
    recorded = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert recorded["parent"]["loss"] == second["rows"]["parent"]["loss"] != first["rows"]["parent"]["loss"]


def test_every_setting_can_come_from_set(corpus: Path, parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"text.data=[{corpus}]", "memory=60%", "space.floors.mlp=0.9", "learning.tokens=1000"]
    found = run_json(capsys, "compress", str(parent / "model"), *flags(settings), "--dry-run")
    assert found["recipe"]["memory"] == "60%" and found["recipe"]["learning"]["tokens"] == 1000
    assert found["recipe"]["space"]["floors"] == {"mamba2": 0.5, "attention": 0.25, "mlp": 0.9}, "the other floors stay"
    pattern = run_json(capsys, "train", *flags([f"text.data=[{corpus}]", "shape.pattern=*-M-"]), "--dry-run")
    assert pattern["recipe"]["shape"]["pattern"] == "*-M-"


def test_what_a_dry_run_prints_is_a_recipe(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*train_words(corpus, tmp_path / "x"), "--dry-run"]) == 0
    (tmp_path / "recipe.yaml").write_text(capsys.readouterr().out)
    found = run_json(capsys, "train", "--recipe", str(tmp_path / "recipe.yaml"), "--dry-run")
    assert found["recipe"]["shape"]["hidden"] == 32 and found["steps"] == 24


def test_the_other_ways_to_score_and_to_choose(corpus: Path, parent: Path, tmp_path: Path) -> None:
    asked = ["layers_iteratively=true", "ffn_after_activation=true", "fluctuation=[mamba2]", "ranking.channels_per_head=true"]
    one_shape = ["space.widths={channel: [4]}", "space.shares={}", "space.kept={mamba2: [3], mlp: [3]}", "space.use=0"]
    words = [*compress_words(corpus, parent / "model", tmp_path / "run"), "--memory", "99%", *flags(asked, one_shape)]
    assert main(words) == 0
    scores, plan = Scores.load(tmp_path / "run" / "scores.safetensors"), Plan.load(tmp_path / "run" / "plan.safetensors")
    assert scores.ffn_read == "after activation"
    assert scores.fluctuation == ("mamba2",) and scores.means[0].keys() == {"group x head x channel"}
    assert sorted(scores.layers.tolist()) == list(range(7)), "an order, not magnitudes"
    channels = plan.cut.within[0]["channel"].indices
    energy = scores.within[0]["group x head x channel"] ** 2
    assert (channels == np.sort(np.argsort(-energy, axis=-1)[..., :4])).all(), "each head has the channels that are its own best"
    assert plan.ranking.channels_per_head and "each head with channels of its own" in plan.facts()["ranking"]


def test_dry_run_writes_nothing(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, *train_words(corpus, tmp_path / "x"), "--dry-run")
    assert (found["steps"], found["tokens"]) == (24, 24 * 2 * 64)
    assert found["recipe"]["shape"]["hidden"] == 32 and not (tmp_path / "x").exists()
