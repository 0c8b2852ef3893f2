"""`amaru verify`: exit 0 for the same function, 1 for another, and a certificate on disk."""

import json
from pathlib import Path

import pytest
from tests.cli.small_checkpoint import small_checkpoint

from amaru.cli.main import main


def test_the_same_is_fine_and_leaves_a_certificate_beside_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = small_checkpoint(tmp_path / "a"), small_checkpoint(tmp_path / "b")
    assert main(["verify", str(a), str(b)]) == 0
    assert "equal: " in capsys.readouterr().out
    assert json.loads((a / "certificate.json").read_text())["equal"] is True
    assert not (b / "certificate.json").exists()


def test_the_certificate_of_transformers_lies_in_the_directory_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    small_checkpoint(Path("a"))
    assert main(["verify", "transformers:a", "a"]) == 0
    assert json.loads(Path("a/certificate.json").read_text())["b"] == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_difference_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = small_checkpoint(tmp_path / "a"), small_checkpoint(tmp_path / "b", seed=1)
    assert main(["verify", str(a), str(b), "--json", "--out", str(tmp_path / "c.json")]) == 1
    told = capsys.readouterr()
    facts = json.loads(told.out)
    assert facts["equal"] is False and "different" in told.err
    assert facts.pop("saved") == str(tmp_path / "c.json") and facts == json.loads((tmp_path / "c.json").read_text())
    assert main(["verify", str(a), str(b), "--out", str(tmp_path / "c.json")]) == 1
    assert "layers.0.mixer.in_proj.weight" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_there_is_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_what_was_found_is_told_though_its_place_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = small_checkpoint(tmp_path / "a")
    assert main(["verify", str(a), str(a), "--out", str(a / "config.json" / "c.json")]) == 2
    told = capsys.readouterr()
    assert "equal: " in told.out and "config.json" in told.err


def test_a_seed_beyond_what_torch_takes_is_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "a", "b", "--seed", str(2**64)]) == 2
    assert "--seed" in capsys.readouterr().err
