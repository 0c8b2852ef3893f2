"""`amaru convert`: what it says, what it leaves, and its exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.cli.small_checkpoint import small_checkpoint
from tests.models.random_models import random_config, random_model

from amaru.cli.main import main
from amaru.models import DecoderConfig
from amaru.models.checkpoint import load, save
from amaru.nn import MLP, Mamba2


def test_a_copy_is_proven_and_says_what_it_covered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = small_checkpoint(tmp_path / "a")
    assert main(["convert", str(source), str(tmp_path / "b"), "--to", "hf"]) == 0
    told = capsys.readouterr().out
    assert "tensors" in told and "MB/s" in told and "tokenizer.json" in told and "equal: " in told
    assert json.loads((tmp_path / "b" / "certificate.json").read_text())["b"] == str(tmp_path / "b")
    assert main(["verify", str(source), str(tmp_path / "b")]) == 0


def test_json_is_one_document_with_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = small_checkpoint(tmp_path / "a")
    assert main(["convert", str(source), str(tmp_path / "b"), "--to", "hf", "--dtype", "bf16", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["equal"] is True and facts["differences"]["bfloat16"] == 0 < facts["differences"]["float32"]
    assert facts["parameters"] == sum(parameter.numel() for parameter in load(source).parameters())
    assert load(tmp_path / "b").norm.weight.dtype == torch.bfloat16


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = small_checkpoint(tmp_path / "a")
    assert main(["convert", str(source), str(tmp_path / "b"), "--to", "hf", "--dry-run"]) == 0
    assert "would be hf" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_a_certificate_it_says_that_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = small_checkpoint(tmp_path / "a")
    assert main(["convert", str(source), str(tmp_path / "b"), "--to", "hf", "--no-verify"]) == 0
    assert "not compared" in capsys.readouterr().out
    assert not (tmp_path / "b" / "certificate.json").exists()


def test_uniform_says_what_was_padded_and_by_how_much_it_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = random_config(0, "M-*-")
    config = replace(config, layers=(*config.layers[:3], MLP(ffn=config.layers[1].ffn + 8)))  # type: ignore[union-attr]
    save(random_model(config), tmp_path / "a", dtype=torch.bfloat16)
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "hf", "--uniform"]) == 0
    told = capsys.readouterr().out
    assert "padded from" in told and "in float32" in told and "in bfloat16" in told


def test_padding_that_eps_makes_visible_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow, wide = (Mamba2(heads=2, channels=channels, groups=1, state=4) for channels in (3, 6))
    save(random_model(DecoderConfig(vocab=40, hidden=12, layers=(narrow, wide), norm_eps=0.1)), tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "hf", "--uniform"]) == 1
    assert "was written, but padding changed its logits" in capsys.readouterr().err
    assert load(tmp_path / "b").config.layers == (wide, wide)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--to", "onnx"], "no format 'onnx'"),
        (["--to", "hf", "--dtype", "int3"], "got 'int3'"),
        (["--to", "hf", "--tp", "2"], "ranks"),
        (["--to", "hf", "--tokenizer", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_usage(words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = small_checkpoint(tmp_path / "a")
    assert main(["convert", str(source), str(tmp_path / "b"), *words]) == 2
    told = capsys.readouterr()
    assert reason in told.err and told.out == "" and "\n" not in told.err.strip()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_no_checkpoint_is_told_with_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("text")
    assert main(["convert", str(tmp_path / "notes.txt"), str(tmp_path / "b"), "--to", "hf"]) == 2
    told = capsys.readouterr().err
    assert "no checkpoint that amaru reads" in told and "GGUF" in told and "Megatron" in told
