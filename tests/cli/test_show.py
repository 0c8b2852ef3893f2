"""`amaru show`: the counts it prints are those of the tensors."""

import json
from pathlib import Path

import pytest
from tests.cli.small_checkpoint import small_checkpoint

from amaru.cli.main import main
from amaru.models.checkpoint import load


def test_parameters_of_a_checkpoint_are_those_of_its_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_checkpoint(tmp_path / "m")
    assert main(["show", str(path), "--axes", "2", "--json"]) == 0
    facts, decoder = json.loads(capsys.readouterr().out), load(path)
    assert facts["parameters"] == sum(parameter.numel() for parameter in decoder.parameters()) == sum(facts["parameters_by_kind"].values())
    assert facts["pattern"] == "M-*-M"
    assert {row["letter"]: row["layers"] for row in facts["kinds"]} == {"M": [0, 4], "-": [1, 3], "*": [2]}
    shapes = {tensor["name"]: tensor["shape"] for tensor in facts["layer"]["tensors"]}
    assert shapes == {name: list(parameter.shape) for name, parameter in decoder.layers[2].named_parameters()}


def test_people_see_the_stack_and_the_layouts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nemotron-h-8b", "--axes", "0"]) == 0
    out = capsys.readouterr().out
    for text in ("M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", "8.10 B", "109.64 M", "18560 x 4096", "[group x head x channel]"):
        assert text in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nemotron-h-8"], "Did you mean 'nemotron-h-8b'?"),
        (["nothing/like/it"], "Presets are"),
        (["nemotron-h-8b", "--axes", "52"], "0 to 51"),
    ],
)
def test_what_is_not_there_is_a_sentence(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *words]) == 2
    assert told in capsys.readouterr().err
