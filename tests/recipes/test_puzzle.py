"""Puzzle through the command line, with every kind of limit, on a tiny corpus; stopped in the middle, and gone on with."""

import json
from pathlib import Path

import pytest
from tests.recipes.small import SEARCH, SHORT, TEXT, flags, train_words, write_corpus

from amaru.cli.main import main
from amaru.compress.latency import LatencyTable
from amaru.compress.plan import Plan
from amaru.config.records import read_record
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, load
from amaru.recipes import search as search_stage

PUZZLE = ["puzzle.local.tokens=600", "puzzle.solutions=3", "puzzle.variants.shares={head: [0.5], kv_group: [0.5], ffn: [0.5]}"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("puzzle")
    assert main(train_words(write_corpus(place / "corpus"), place / "run")) == 0
    return place / "run" / "model"


def words(parent: Path, out: Path, *more: str) -> list[str]:
    corpus = str(parent.parents[1] / "corpus")
    first = ["compress", str(parent), "--data", corpus, "--out", str(out), "--context", "128", "--tokens", "1k", "--short-tokens", "300"]
    return [*first, "--finalists", "2", *more, *flags(TEXT[1:], SEARCH, SHORT)]


def puzzle(parent: Path, out: Path, *more: str) -> list[str]:
    return words(parent, out, "--method", "puzzle", "--params", "75%", *more, *flags(PUZZLE))


def test_a_block_for_every_layer(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped when the blocks are scored and the first candidate is ranked; the same command ends with what it had."""
    run = tmp_path / "run"
    with monkeypatch.context() as stopped:
        stopped.setattr(search_stage, "judge", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(puzzle(parent, run)) == 2
    blocks = {path.name: path.stat().st_mtime_ns for path in (run / "blocks").iterdir()}
    before = json.loads((run / "blocks.json").read_text())
    assert len(blocks) == 7 and len(before) == 3 * 3 + 3 * 3 + 2
    assert main(puzzle(parent, run)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (run / "blocks").iterdir()} == blocks
    assert json.loads((run / "blocks.json").read_text()) == before
    plan, whole = Plan.load(run / "plan.safetensors"), Checkpoint(parent).config
    student = Checkpoint(run / "student").config
    assert student == plan.candidate.config and cost.parameters(student) == plan.candidate.parameters <= 0.75 * cost.parameters(whole)
    assert student.hidden == whole.hidden
    table = read_record(run / "search.json")
    assert table["described"].startswith("1,458 choices of blocks; ")
    assert sum(row["loss_after"] is not None for row in table["candidates"]) == 2
    own = [row for row in before if row["kl"] == 0]
    assert len(own) == 7 and all(row["error_taught"] <= row["error_cut"] for row in before if row["error_cut"] is not None)
    # The pruned model has the weights that blocks learned by themselves.
    narrowed = [index for index, layer in zip(plan.candidate.layers, student.layers, strict=True) if layer != whole.layers[index]]
    pruned, cut, certificate = load(run / "pruned"), plan.cut_decoder(load(parent)), read_record(run / "certificate.json")
    assert certificate["holds"] and 0 < certificate["taught"] < certificate["tensors"]
    assert narrowed, "the budget asks for narrower blocks"
    for place, index in enumerate(plan.candidate.layers):
        pairs = zip(pruned.layers[place].parameters(), cut.layers[place].parameters(), strict=True)
        assert all((one == other).all() for one, other in pairs) == (index not in narrowed), index


def test_depth_first_and_the_controls(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After depth pruning no dropped layer comes back; the largest choice has more parameters than the one by scores."""
    sizes = {}
    for objective in ("scores", "parameters", "random"):
        run = tmp_path / objective
        more = flags(["puzzle.kept={mamba2: 2}", "puzzle.local.tokens=0", f"puzzle.objective={objective}", "puzzle.solutions=1"])
        assert main(puzzle(parent, run, *more, "--finalists", "1")) == 0
        plan = Plan.load(run / "plan.safetensors")
        assert sum(Checkpoint(parent).config.layers[index].kind == "mamba2" for index in plan.candidate.layers) <= 2
        sizes[objective] = plan.candidate.parameters
    assert sizes["parameters"] >= max(sizes.values())


def test_every_limit_at_once_with_measured_times(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "times.safetensors"
    limits = ["--memory", "90%", "--prefill-latency", "99%", "--decode-latency", "99%", "--throughput", "1.01x", "--prompt", "32"]
    space = ["space.widths={hidden: [16], ffn: [32], head: [1], channel: []}", "space.use=0", "most_batch=2", "space.depth_steps=2"]
    command = words(parent, run, *limits, "--latency-table", str(file), *flags(space))
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "times: measured: " in said and "prefill: predicted " in said and "decode: predicted " in said
    table = LatencyTable.load(file)
    assert table.circumstances.batches == (1, 2) and len(table.points) == 2 * 2 + 2 * 2 + 2
    prediction = read_record(run / "prediction.json")
    for name in ("prefill", "decode"):
        assert prediction[name]["off"] == pytest.approx(prediction[name]["predicted"] / prediction[name]["measured"] - 1)
    winner = Plan.load(run / "plan.safetensors").candidate
    assert winner.prefill == pytest.approx(prediction["prefill"]["predicted"]) and winner.batch in (1, 2) and winner.throughput
    page = (run / "report.html").read_text()
    assert "milliseconds of a step" in page and "milliseconds for the prompt" in page and "MFLOP" not in page
    assert f"<td class=\"number\">{prediction['decode']['off']:+.0%}</td>" in page
    stamp = file.stat().st_mtime_ns
    assert main(command) == 0 and file.stat().st_mtime_ns == stamp, "nothing is measured again"


def test_budgets_that_no_stack_meets(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(parent, tmp_path / "a", "--throughput", "5x")) == 2
    assert "say with --memory what fits" in capsys.readouterr().err
    assert main(words(parent, tmp_path / "b", "--decode-latency", "soon", "--target", "h100")) == 2
    assert "'soon' is not a time; write it as 1.5s, 30ms or 200us" in capsys.readouterr().err
    assert main(words(parent, tmp_path / "c", "--decode-latency", "1us", "--target", "cpu")) == 2
    assert "name another device, or measure" in capsys.readouterr().err
    assert main(words(parent, tmp_path / "d", "--params", "5k", "--method", "puzzle", *flags(["puzzle.variants.no_op=false"]))) == 2
    assert "The nearest that the library comes, to each by itself: parameters " in capsys.readouterr().err
