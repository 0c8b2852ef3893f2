"""`amaru train --precision fp8`: what runs how is told, tensors are looked at, and the checkpoint is one like any other."""

import json

import torch
from safetensors.torch import load_file
from tests.recipes.small import SHAPE, SHORT, TEXT, flags, write_corpus

from amaru.cli.main import main
from amaru.models.checkpoint import load
from amaru.precision.fp8_linear import Fp8Linear

WIDTHS = ["shape.mamba_heads=16", "shape.mamba_channels=4", "shape.kv_heads=1"]  # so that in_proj has 2 x 64 + 2 x 2 x 8 + 16 = 176 rows


ENDS = flags(["fp8.ends=2", "fp8.counted=layers"])


def train(corpus, out, *words):
    settings = flags(TEXT, SHAPE, WIDTHS, SHORT)
    return main(["train", "--data", str(corpus), "--tokens", "1k", "--pattern", "M-M*-M-", "--out", str(out), "--json", *settings, *words])


def test_a_model_is_trained_in_fp8(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "text")
    assert train(corpus, tmp_path / "fp8", "--precision", "fp8", *ENDS) == 0
    printed = capsys.readouterr()
    assert "FP8 in 8 of 17 linear layers" in printed.err
    assert "fp8: layers.2.mixer in_proj out_proj, layers.3.mixer q_proj k_proj v_proj o_proj, layers.4.mixer up_proj" in printed.err
    summary = json.loads(printed.out)
    assert summary["loss"] < 5.6  # ln 300 = 5.70
    looks = [json.loads(line) for line in (tmp_path / "fp8" / "model-training" / "fp8.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == list(range(1, 9)) and len(looks[0]["tensors"]) == 8
    assert "Scales and underflow in FP8" in (tmp_path / "fp8" / "report.html").read_text()
    assert not any(isinstance(module, Fp8Linear) for module in load(summary["checkpoint"]).modules())

    assert train(corpus, tmp_path / "bf16", "--precision", "bf16") == 0
    here, there = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("fp8", "bf16"))
    assert here.keys() == there.keys() and {value.dtype for value in here.values()} == {torch.float32}
    assert any(not torch.equal(here[name], there[name]) for name in here)


def test_a_width_that_does_not_fit_is_refused_before_training(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "text", documents=8)
    assert train(corpus, tmp_path / "run", "--precision", "fp8", *ENDS, "--set", "shape.ffn=72") == 2
    assert "layers.4.mixer.up_proj is 72 x 32, but FP8 takes multiples of 16 only" in capsys.readouterr().err


def test_settings_without_effect_are_refused(tmp_path, capsys):
    assert train(tmp_path, tmp_path / "run", "--precision", "bf16", *ENDS) == 2
    assert "Settings of fp8 have no effect with --precision bf16" in capsys.readouterr().err
