"""The chain from a model on disk to a smaller one: init, score, show, cut, each by its verb, each file used by the next."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.small_checkpoint import small_checkpoint
from transformers import AutoModelForCausalLM

from amaru.cli.main import main
from amaru.compress import Scores, removals, score
from amaru.data.loader import Loader
from amaru.data.packing import PackedRows
from amaru.models.checkpoint import Checkpoint, load
from amaru.nn import Batch

TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on in the sun of a long afternoon. "
FEW = ["--samples", "3", "--row-length", "16", "--layer-samples", "2", "--layer-tokens", "9"]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, list[str]]:
    """A checkpoint, and the command that scores it."""
    (tmp_path / "text.txt").write_text("\n\n".join(f"{number} {TEXT}" for number in range(40)), encoding="utf-8")
    path = small_checkpoint(tmp_path / "parent")
    return path, ["score", str(path), "--data", str(tmp_path / "text.txt"), *FEW, "--out", str(tmp_path / "run"), "--json"]


def told(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(words) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    return " ".join(capsys.readouterr().err.split())


def test_from_a_model_to_a_smaller_one(made: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, command = made
    told(command, capsys)
    scores = tmp_path / "run" / "scores.safetensors"
    assert sorted(told(command, capsys)["costs"]) == ["layers", "widths"] and not list((tmp_path / "run").glob("*.halfway"))
    facts = told(["show", str(scores), "--json"], capsys)
    assert (facts["samples"], facts["tokens"], len(facts["per_layer"])) == (3, 48, len(Checkpoint(path).config.layers))
    assert main(["show", str(scores)]) == 0
    assert "importance on 3 samples, 48 tokens" in capsys.readouterr().out
    sizes = ["--scores", str(scores), "--width", "hidden=11", "--width", "ffn=5", "--layers", "mamba2=1"]
    out, plan = tmp_path / "student", tmp_path / "plan.safetensors"
    made_plan = told(["cut", str(path), str(out), *sizes, "--save-plan", str(plan), "--json"], capsys)
    stock = AutoModelForCausalLM.from_pretrained(out)
    assert sum(weight.numel() for weight in stock.parameters()) == made_plan["parameters"]["after"]
    (dropped,) = made_plan["dropped"]["mamba2"]
    layers = Scores.load(scores).layers
    assert layers is not None and layers[dropped] == min(layers[index] for index in (0, 4))
    told(["cut", str(path), str(tmp_path / "again"), "--plan", str(plan), "--json"], capsys)
    for one, other in zip(load(out).parameters(), load(tmp_path / "again").parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_scored_is_the_named_text(made: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers as the library gives for rows that are read back from the run directory."""
    path, command = made
    told([*command, "--set", "dtype=fp32"], capsys)
    found = Scores.load(tmp_path / "run" / "scores.safetensors")
    rows = PackedRows.load(tmp_path / "run" / "training.rows")
    batches = [batch for batch in map(Loader(rows, 1, 0).batch, range(len(rows))) if len(batch.ids) == 16]
    samples = [Batch(batch.ids, batch.positions, batch.cu_seqlens) for batch in batches[:3]]
    decoder = load(path, torch.float32)
    assert (found.hidden == score(decoder, samples).hidden).all()
    expected = removals(decoder, [first_tokens(sample, 9) for sample in samples[:2]])
    assert found.layers_by == "mse" and all((found.removals[metric] == expected[metric]).all() for metric in ("mse", "kl"))


def first_tokens(sample: Batch, count: int) -> Batch:
    edges = sample.cu_seqlens.tolist()
    return Batch.of([sample.ids[start : min(stop, count)] for start, stop in pairwise(edges) if start < count])


def test_bad_input_is_said(made: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, command = made
    told(command, capsys)
    scores = str(tmp_path / "run" / "scores.safetensors")
    other = small_checkpoint(tmp_path / "other", seed=1)
    cut = ["cut", str(other), str(tmp_path / "student"), "--scores", scores]
    assert "holds scores of another checkpoint" in refused([*cut, "--width", "ffn=5"], capsys)
    assert "the text fills" in refused([*command[:-2], str(tmp_path / "short"), "--samples", "4000"], capsys)
    cut[1] = str(path)
    assert "There are no moe layers" in refused([*cut, "--layers", "moe=1"], capsys)
    assert "7 mamba2 layers cannot stay; 2 are there" in refused([*cut, "--layers", "mamba2=7"], capsys)
    assert "There is no layer 99 to drop" in refused([*cut, "--drop", "99"], capsys)
    assert "--width is NAME=NUMBER" in refused([*cut, "--width", "ffn"], capsys)
    assert "needs --scores and sizes" in refused(cut[:3], capsys)
    assert not (tmp_path / "student").exists()


def test_new_weights_of_a_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_checkpoint(tmp_path / "shape")
    facts = told(["init", str(path), str(tmp_path / "new"), "--seed", "3", "--tokenizer", str(path), "--json"], capsys)
    assert Checkpoint(tmp_path / "new").config == Checkpoint(path).config
    new = load(tmp_path / "new")
    assert facts["parameters"] == sum(weight.numel() for weight in new.parameters())
    assert new.embedding.weight.dtype == torch.bfloat16
    assert "--dtype is one of" in refused(["init", str(path), str(tmp_path / "no"), "--dtype", "int8"], capsys)
