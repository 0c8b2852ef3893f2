"""`amaru quantize`: a directory that every verb loads, a record of what it cost, and refusals that leave everything as it was."""

import json
from pathlib import Path

import pytest
import torch
from tests.cli.small_checkpoint import TEXT, small_checkpoint

from amaru.cli.main import main
from amaru.data.corpus import read
from amaru.data.loader import in_order
from amaru.data.packing import pack
from amaru.data.tokenizer import Tokenizer
from amaru.eval.perplexity import evaluate
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.models.quantised import quantised
from amaru.ops.quantised_linear import Kind


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "text.txt"


def test_the_record_says_what_the_parts_measure(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, out = small_checkpoint(tmp_path / "original"), tmp_path / "codes"
    words = ["quantize", str(original), "--to", "int4", "--group", "64", "--out", str(out), "--keep", "attention"]
    assert main([*words, "--data", str(text), "--row-length", "16", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert json.loads((out / "quantization.json").read_text()) == facts
    found = Checkpoint(out)
    assert {each.kind for each in found.encodings.values()} == {Kind.INT4, Kind.INT8}
    assert all(each.group == 64 for each in found.encodings.values() if each.kind is Kind.INT4)
    assert not any("_proj" in name and found.config.layers[int(name.split(".")[1])].kind == "attention" for name in found.encodings)
    assert found.values["quantization_config"]["source"] == fingerprint(original)
    decoder = load(out)
    assert facts["bytes"] == sum(each.nbytes for each in (*decoder.parameters(), *decoder.buffers()))
    tokenizer = Tokenizer.load(out)
    rows = pack(read([str(text)]).documents, tokenizer, 16)
    measured = evaluate(decoder, in_order(rows, 4), teacher=load(original))
    quality = facts["quality"]
    assert quality["loss"] == pytest.approx(measured.loss) and quality["kl"] == pytest.approx(measured.teacher_kl)
    assert quality["loss_before"] == pytest.approx(evaluate(load(original), in_order(rows, 4)).loss)
    change = {name: load(original).get_parameter(name).detach() for name in found.encodings}
    eight = [(held.weight - change[name]).norm() / change[name].norm() for name, held in quantised(decoder).items() if "head" in name]
    assert facts["weight_error"]["int8"] == pytest.approx(float(eight[0]), rel=1e-4)


@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_other_verbs_take_the_result(to: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, out = small_checkpoint(tmp_path / "original"), tmp_path / "codes"
    assert main(["quantize", str(original), "--to", to, "--out", str(out)]) == 0
    assert "not compared" in capsys.readouterr().out
    assert main(["generate", str(out), "--prompt", "def f", "--max-tokens", "3", "--json"]) == 0
    assert main(["eval", str(out), "--data", str(text), "--row-length", "16"]) == 0
    assert main(["show", str(out)]) == 0
    capsys.readouterr()
    assert main(["convert", str(out), str(tmp_path / "numbers"), "--to", "hf", "--dtype", "fp32"]) == 0
    assert "the numbers that its codes mean" in capsys.readouterr().out
    for name in Checkpoint(out).names:
        assert torch.equal(Checkpoint(tmp_path / "numbers").read(name), Checkpoint(out).read(name))


def test_what_is_refused_leaves_everything_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = small_checkpoint(tmp_path / "original")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for words, message in (
        (["--to", "int8", "--out", str(tmp_path / "mine")], "is no checkpoint"),
        (["--to", "int8", "--out", str(original)], "the place of its source"),
        (["--to", "int3", "--out", str(tmp_path / "new")], "'int8', 'int4' or 'fp8'"),
        (["--to", "int4", "--group", "48", "--out", str(tmp_path / "new")], "32, 64 or 128"),
        (["--to", "int4", "--keep", "nothing", "--out", str(tmp_path / "new")], "Nothing to keep is called 'nothing'"),
    ):
        assert main(["quantize", str(original), *words]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"] and not (tmp_path / "new").exists()
    assert main(["quantize", str(original), "--to", "int8", "--out", str(tmp_path / "new"), "--dry-run"]) == 0
    assert not (tmp_path / "new").exists()
    assert main(["quantize", str(original), "--to", "int8", "--out", str(tmp_path / "new")]) == 0
    assert main(["quantize", str(tmp_path / "new"), "--to", "int4", "--out", str(tmp_path / "twice")]) == 2
    assert "holds codes already" in capsys.readouterr().err


def test_codes_are_not_trained(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, out = small_checkpoint(tmp_path / "original"), tmp_path / "codes"
    assert main(["quantize", str(original), "--to", "int8", "--out", str(out)]) == 0
    words = ["--data", str(text), "--tokens", "64", "--set", "text.row_length=16", "--out", str(tmp_path / "run")]
    assert main(["distill", "--teacher", str(original), "--student", str(out), *words]) == 2
    assert "holds codes, which are not trained" in capsys.readouterr().err
