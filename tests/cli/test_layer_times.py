"""What is told of measured layers: by `amaru plan --measure`, and of a table on disk."""

import json
from pathlib import Path

import pytest
from tests.compress.test_latency import HERE, measured

from amaru.cli.main import main
from amaru.compress.latency import LatencyTable, Point
from amaru.models import Decoder, DecoderConfig
from amaru.models.checkpoint import save
from amaru.nn import MLP
from amaru.recipes import latency


def test_a_table_on_disk_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "latency.safetensors"
    whole = measured([(64, MLP(ffn=96)), (32, MLP(ffn=96))])
    times = {"prefill": -2e-6, "decode": (1e-6, 2e-6), "fixed_prefill": 1e-3, "fixed_decode": (1e-4, 1e-4)}
    noisy = Point(hidden=64, layer=MLP(ffn=8), blocks=3, spread=0.4, **times)
    LatencyTable(HERE, (*whole.points, noisy)).save(file)
    assert main(["show", str(file)]) == 0
    told = capsys.readouterr().out
    assert "measured: a clock, 2 threads, bfloat16, prompts of 32, steps of 1, 4 x 1 at 64" in told
    assert "1 of them seem to take less than nothing" in told
    assert main(["show", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["shape"] for row in found["points"]] == ["ffn 96", "ffn 96", "ffn 8"] and found["points"][2]["prefill"] == -2e-6


def test_a_model_is_measured_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(latency, "cached", lambda now: tmp_path / f"{now.key}.safetensors")  # not the user's own
    monkeypatch.setattr(latency, "REPEATS", 3)
    config = DecoderConfig(vocab=97, hidden=32, layers=(MLP(ffn=64), MLP(ffn=64), MLP(ffn=32)))
    save(Decoder(config).initialise(0), tmp_path / "model")
    words = ["plan", str(tmp_path / "model"), "--context", "16", "--batch", "2", "--measure", "--prompt", "8"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["measured"]
    assert [(row["shape"], row["count"], len(row["decode"])) for row in found["points"]] == [("ffn 64", 2, 1), ("ffn 32", 1, 1)]
    total = found["rest"]["prefill"] + sum(row["count"] * row["prefill"] for row in found["points"])
    assert found["total"]["prefill"] == pytest.approx(total)
    assert main(words) == 0
    assert "the model" in capsys.readouterr().out and len(list(tmp_path.glob("*.safetensors"))) == 1
