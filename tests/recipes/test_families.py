"""Every family trains from the command line, from a shape that a file writes out: the loss falls, the checkpoint loads and goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.recipes.small import SEARCH, SHORT, TEXT, flags, write_corpus

from amaru.cli.main import main
from amaru.config import to_dict
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint
from amaru.models.decoder import DecoderConfig
from amaru.models.families import family_for
from amaru.nn.attention import Attention
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE
from amaru.nn.rope import Rope

HEAD = HybridHead(query_heads=2, kv_heads=1, qk_channels=8, v_channels=16, rank=2, rope=Rope(), window=16, sinks=4)
GATED = MLP(ffn=48, gated=True, activation="silu")
SHAPES = {
    "hymba": DecoderConfig(vocab=300, hidden=16, layers=(HEAD, GATED), tied=True, meta_tokens=4),
    "llama": DecoderConfig(vocab=300, hidden=16, layers=(Attention(query_heads=2, kv_heads=1, channels=8, rope=Rope()), GATED)),
    "nemotron4": DecoderConfig(
        vocab=300, hidden=16, layers=(Attention(query_heads=2, kv_heads=1, channels=8, rope=Rope()), MLP(ffn=64)), norm="layernorm1p"
    ),
    "moe": DecoderConfig(
        vocab=300, hidden=16, layers=(Mamba2(heads=4, channels=8, groups=2, state=8), MoE(experts=4, top_k=2, ffn=16, shared_ffn=16))
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), documents=12)


def shape_file(family: str, folder: Path) -> Path:
    """As people have it: a config.json where the family can say the stack, else YAML of its layers."""
    config = SHAPES[family]
    if family in ("llama", "nemotron4"):
        (folder / "config.json").write_text(json.dumps(family_for(config).write_config(config)))
        return folder / "config.json"
    (folder / "shape.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return folder / "shape.yaml"


@pytest.mark.parametrize("family", SHAPES)
def test_a_family_trains(family: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", str(corpus), "--config", str(shape_file(family, tmp_path)), "--tokens", "3k", "--lr", "1e-2"]
    assert main([*words, "--out", str(tmp_path / "run"), *flags(TEXT[1:], SHORT), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    steps = [json.loads(line) for line in (tmp_path / "run/model-training/metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    trained = Checkpoint(found["checkpoint"]).config
    assert [type(layer) for layer in trained.layers] == [type(layer) for layer in SHAPES[family].layers]
    assert (trained.hidden, trained.meta_tokens, trained.norm) == (16, SHAPES[family].meta_tokens, SHAPES[family].norm)
    assert "Data" in (tmp_path / "run/report.html").read_text()


def test_hybrid_heads_that_share_a_cache_and_experts_are_scored_searched_cut_taught_and_drawn(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in Hymba: heads that see all, heads with a window, and heads that read the keys and values of those."""
    wide, experts = replace(HEAD, query_heads=4, kv_heads=2, window=None, sinks=0), MoE(experts=4, top_k=2, ffn=16, shared_ffn=16)
    windowed = replace(wide, window=16, sinks=4)
    parent = DecoderConfig(vocab=300, hidden=32, layers=(wide, windowed, experts, replace(windowed, shares_kv=True)), meta_tokens=4)
    (tmp_path / "shape.yaml").write_text(yaml.safe_dump(to_dict(parent)))
    words = ["train", "--data", str(corpus), "--config", str(tmp_path / "shape.yaml"), "--tokens", "128", "--out", str(tmp_path / "parent")]
    assert main([*words, *flags(TEXT[1:], SHORT)]) == 0
    words = ["compress", str(tmp_path / "parent/model"), "--data", str(corpus), "--params", "85%", "--tokens", "128", "--context", "64"]
    words += ["--short-tokens", "100", "--finalists", "1", "--out", str(tmp_path / "run"), *flags(TEXT[1:], SEARCH, SHORT)]
    assert main([*words, "--set", "space.floors.hybrid_head=0.3", "--set", "space.shares={v_channel: [1.0, 0.5]}"]) == 0
    student = Checkpoint(tmp_path / "run/student").config
    assert 0.7 < cost.parameters(student) / cost.parameters(parent) <= 0.85
    page = (tmp_path / "run/report.html").read_text()
    assert "layer 1, hybrid head: cannot go alone" in page and "experts: " in page
    capsys.readouterr()


def test_two_shapes_are_refused(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", str(corpus), "--config", str(shape_file("moe", tmp_path)), "--hidden", "32", "--dry-run"]
    assert main(words) == 2
    assert "has its own shape; leave --pattern, --hidden" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert main(["train", "--data", str(corpus), "--config", str(tmp_path / "list.yaml"), "--dry-run"]) == 2
    assert "holds a list; a model is a mapping" in capsys.readouterr().err
