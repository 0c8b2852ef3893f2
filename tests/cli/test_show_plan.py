"""`amaru show PLAN`: every axis from how many to how many and in which layers, readable in 80 columns."""

import json
from pathlib import Path

import numpy as np
import pytest

from amaru.cli.cut import _widths
from amaru.cli.main import main
from amaru.compress import Plan, Ranking, Scores, cut_for, shaped
from amaru.errors import ConfigError
from amaru.models import DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Mamba2

LAYERS = {"M": Mamba2(heads=6, channels=4, groups=2, state=5), "-": MLP(ffn=11), "*": Attention(query_heads=4, kv_heads=2, channels=6)}
PARENT = DecoderConfig(vocab=31, hidden=20, layers=layers_from_pattern("M-*M-", LAYERS))
SHARED = {"group x head x channel": np.ones((2, 3, 4)), "group x state": np.ones((2, 5))}
WITHIN = {"M": SHARED, "-": {"ffn": np.ones(11)}, "*": {"kv_group x query x v_channel": np.ones((2, 2, 6))}}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    within = tuple(WITHIN[layer.letter] for layer in PARENT.layers)
    scores = Scores(hidden=np.ones(20), within=within, samples=1, tokens=1, ffn_read="before activation", made_from={})
    wanted = shaped(PARENT, {"hidden": 12, "head": 2, "ffn": 6, "vocab": 30}, layers=(0, 1, 2, 4), at={4: {"ffn": 5}})
    ranking = Ranking(heads_ignoring_groups=True)
    cut = cut_for(wanted, PARENT, scores, ranking, np.arange(31.0))
    path = tmp_path / "plan.safetensors"
    Plan(parent=PARENT, candidate=wanted, cut=cut, ranking=ranking, made_from={"checkpoint": "ab"}).save(path)
    return path


def test_people_see_what_is_narrowed_and_what_is_not(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(plan)]) == 0
    told = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in told.splitlines()]
    assert "(layers) mamba2 2 1 without 3" in rows
    assert "hidden (network) 20 12" in rows and "vocab (network) 31 30" in rows
    assert "head for each group mamba2 3 2 all 1" in rows
    assert "ffn mlp 11 6 1" in rows and "ffn mlp 11 5 4" in rows
    assert "kept whole: group 2, channel 4, state 5, kv_group 2, query 2, qk_channel 6, v_channel 6" in rows
    assert "heads ignoring groups (an experiment" in told and "made from  checkpoint ab" in told
    assert "a tokenizer of its own" in told


def test_programs_see_all_of_it(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(plan), "--json"]) == 0
    facts, found = json.loads(capsys.readouterr().out), Plan.load(plan)
    assert facts["key"] == found.key and facts["parameters"]["after"] == found.candidate.parameters
    assert facts["kept"] == [0, 1, 2, 4] and facts["dropped"]["mamba2"] == [3]
    assert {row["axis"] for row in facts["axes"] if row["after"] < row["before"]} == {"hidden", "vocab", "head", "ffn"}


def test_widths_of_one_layer_and_of_all_are_told_apart() -> None:
    assert _widths(["ffn=512", "3:ffn=256", "3:head=2"]) == ({"ffn": 512}, {3: {"ffn": 256, "head": 2}})
    with pytest.raises(ConfigError, match="LAYER:AXIS=SIZE, such as 3:ffn=512; got 'all:ffn=3'"):
        _widths(["all:ffn=3"])
