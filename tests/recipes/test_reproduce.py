"""Controlled pairs: cells are made once, the verdict follows from their records alone, and FP8 trains."""

import json
from dataclasses import replace
from math import sqrt

import pytest
from tests.recipes.small import TEXT, flags, write_corpus

from amaru.cli.main import main
from amaru.config import to_dict
from amaru.errors import ArtifactError, ConfigError
from amaru.recipes.reproduce.claims import CLAIMS, verdict
from amaru.recipes.reproduce.fp8 import SMALL, Cell, Fp8Pairs, cells, judge

T_OF_TWO = 4.302653  # Student's t at 97.5 % with two degrees of freedom, from a printed table


def write_cell(directory, size, seed, arithmetic, bf16, fp8):
    """A record as training leaves it."""
    record = {
        "parameters": 3_700_000,
        "tokens": 600,
        "validation": [[300, 2 * bf16 if arithmetic != "fp8" else 2 * fp8], [600, bf16 if arithmetic != "fp8" else fp8]],
        "loss": {"bf16": bf16, "fp8": fp8},
    }
    path = directory / f"cell-{size}-seed{seed}-{arithmetic}.json"
    path.write_text(json.dumps({"size": size, "seed": seed, "arithmetic": arithmetic} | record))
    return path


def write_pairs(directory, gaps, losses=(4.0, 4.1, 3.9)):
    facts = {"kind": "reproduce-fp8", "recipe": to_dict(Fp8Pairs()), "started": "2026-11-21", "amaru": "0"}
    (directory / "run.json").write_text(json.dumps(facts))
    (directory / "steps.json").write_text("{}")
    for seed, (gap, loss) in enumerate(zip(gaps, losses, strict=False)):
        write_cell(directory, "small", seed, "bf16", loss, loss + 0.01)
        write_cell(directory, "small", seed, "fp8", loss - 0.01, loss * (1 + gap))
    return directory


def test_the_interval_is_students(tmp_path):
    found = judge(write_pairs(tmp_path, [0.0002, 0.0004, 0.0003]))
    half = T_OF_TWO * 0.0001 / sqrt(3)
    assert found["gap"] == pytest.approx(0.0003)
    assert found["interval"] == pytest.approx([0.0003 - half, 0.0003 + half], rel=1e-6)
    assert found["verdict"] == "holds" and found["sentence"].startswith("Holds: FP8's loss is +0.030% beside BF16's over 3 seeds")
    assert found["pairs"][1]["curve"] == [[300, pytest.approx(0.0004)], [600, pytest.approx(0.0004)]]


def test_a_changed_record_changes_the_verdict(tmp_path):
    write_pairs(tmp_path, [0.0002, 0.0004, 0.0003])
    claim = CLAIMS["fp8"]
    assert verdict(claim, tmp_path)["verdict"] == "holds"
    record = tmp_path / "cell-small-seed1-fp8.json"
    content = json.loads(record.read_text())
    content["loss"]["fp8"] *= 1.01
    record.write_text(json.dumps(content))
    assert verdict(claim, tmp_path)["verdict"] == json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([0.01, 0.0101, 0.0102], "does not hold"),
        ([-0.01, -0.0101, -0.0102], "does not hold"),
        ([0.0009, 0.001, 0.0011], "undecided"),
        ([0.0001], "unfinished"),
    ],
)
def test_verdicts(tmp_path, gaps, expected):
    assert judge(write_pairs(tmp_path, gaps))["verdict"] == expected


def test_a_missing_cell_is_named_and_its_pair_left_out(tmp_path):
    write_pairs(tmp_path, [0.0002, 0.0004, 0.0003])
    (tmp_path / "cell-small-seed2-bf16.json").unlink()
    write_cell(tmp_path, "small", 0, "control", 4.002, 4.0)
    found = judge(tmp_path)
    assert [pair["seed"] for pair in found["pairs"]] == [0, 1]
    assert found["pairs"][0]["control_gap"] == pytest.approx(0.0005) and found["pairs"][1]["control_gap"] is None
    assert {"small-seed2-bf16", "large-seed0-fp8", "small-seed1-control"} <= set(found["missing"])
    assert "the larger pair is not there yet" in found["sentence"]


def test_controls_stand_beside_the_verdict(tmp_path):
    write_pairs(tmp_path, [0.0002, 0.0004, 0.0003])
    for seed, (loss, gap) in enumerate(zip((4.0, 4.1, 3.9), (0.001, -0.001, 0.003), strict=True)):
        write_cell(tmp_path, "small", seed, "control", loss * (1 + gap), loss)
    found, half = judge(tmp_path), T_OF_TWO * 0.002 / sqrt(3)
    assert found["controls"] == {"gap": pytest.approx(0.001), "interval": pytest.approx([0.001 - half, 0.001 + half], rel=1e-6)}
    assert found["sentence"].endswith("BF16 beside itself, its first weights rounded once, comes to +0.100% (-0.397% to +0.597%).")


def test_pairs_come_before_controls():
    order = list(cells(Fp8Pairs()))
    assert order[:2] == [Cell("small", 0, "bf16"), Cell("small", 0, "fp8")]
    assert len(order) == 11 and [cell.arithmetic for cell in order[-3:]] == ["control"] * 3


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    with pytest.raises(ConfigError, match="at least two different seeds"):
        Fp8Pairs(small=replace(SMALL, seeds=(0, 0), controls=()))
    with pytest.raises(ConfigError, match="A control belongs to a pair"):
        Fp8Pairs(large=replace(SMALL, seeds=(0,), controls=(1,)))
    assert main(["reproduce", "speed"]) == 2
    assert "There is no claim 'speed'" in capsys.readouterr().err
    with pytest.raises(ArtifactError, match=r"no run\.json"):
        judge(tmp_path)


SHAPE = ["pattern=M-*-M", "hidden=32", "ffn=48", "groups=2", "mamba_heads=16", "mamba_channels=2", "state=8", "attention_channels=16"]
LEARNING = ["tokens=1024", "batch_rows=2", "validations=2"]
IN_FP8 = ["1.mixer.up_proj", "1.mixer.down_proj", *(f"2.mixer.{each}_proj" for each in "qkvo"), "3.mixer.up_proj", "3.mixer.down_proj"]


def test_a_whole_comparison_is_made_once_and_continued(tmp_path, capsys):
    corpus, out = write_corpus(tmp_path / "text", documents=20), tmp_path / "run"
    settings = [f"text.data=[{corpus}]", "text.limit_megabytes=null", "look_every=4", *TEXT, "small.seeds=[0,1]", "small.controls=[1]"]
    settings += ["fp8.ends=1", "fp8.counted=layers"]
    settings += [*(f"small.shape.{each}" for each in SHAPE), *(f"small.learning.{each}" for each in LEARNING), "large.seeds=[]"]
    words = ["reproduce", "fp8", "--out", str(out), "--json", *flags(settings)]
    assert main(words) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == [] and len(found["pairs"]) == 2
    assert all(abs(gap) < 0.05 for pair in found["pairs"] for _, gap in pair["curve"])
    assert any(pair["gap"] != 0 for pair in found["pairs"]) and found["pairs"][1]["control_gap"] is not None
    looks = [json.loads(line) for line in (out / "small-seed0-fp8-training" / "fp8.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == [1, 4, 8]
    assert list(looks[0]["tensors"]) == [f"layers.{name}" for name in IN_FP8]
    page = (out / "report.html").read_text()
    assert "Scales and underflow: small, seed 1" in page and found["sentence"].split(":")[0] in page

    (out / "cell-small-seed1-fp8.json").unlink()
    before = json.loads((out / "steps.json").read_text())
    assert main([*words[:4], "--judge", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == ["small-seed1-fp8"]
    assert main(words) in (0, 1)
    after = json.loads((out / "steps.json").read_text())
    assert {name for name in after if after[name] != before[name]} <= {"cell-small-seed1-fp8.json"}
    assert json.loads(capsys.readouterr().out)["pairs"] == found["pairs"]
