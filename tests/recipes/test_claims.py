"""Claims of speed and memory: figures against arithmetic by hand, verdicts from records alone, and where all claims stand."""

import json
from math import sqrt

import pytest
import torch
from tests.recipes.small import flags

from amaru.cli.main import main
from amaru.config import to_dict
from amaru.errors import CapacityError, ConfigError
from amaru.models import cost
from amaru.models.families import config_of
from amaru.recipes.bench.long import Long
from amaru.recipes.reproduce.claims import CLAIMS, verdict
from amaru.recipes.reproduce.speed.constant import ConstantCost
from amaru.recipes.reproduce.speed.plan import Serving, rate
from amaru.recipes.reproduce.speed.settings import LongContext
from amaru.recipes.reproduce.speed.shapes import RIVALS, drawn, reduced, shape_of
from amaru.recipes.reproduce.standing import page, standings

T_OF_ONE = 12.706205  # Student's t at 97.5 % with one degree of freedom, from a printed table


def run_directory(directory, name, recipe, cells):
    directory.mkdir(parents=True, exist_ok=True)
    facts = {"kind": f"reproduce-{name}", "recipe": to_dict(recipe), "started": "2026-11-21 10:00:00", "amaru": "0"}
    (directory / "run.json").write_text(json.dumps(facts))
    (directory / "steps.json").write_text("{}")
    for cell, record in cells.items():
        (directory / f"cell-{cell}.json").write_text(json.dumps(record))
    return directory


def test_the_rate_of_a_transformer_is_that_of_arithmetic_by_hand():
    """Llama-3.1-8B on an H100: 131,072 bytes of KV a token, 32 layers of 32 heads x 128, a head of 128,256 x 4,096."""
    found = rate(config_of("llama-3.1-8b"), Serving())
    embedding = 128256 * 4096
    weights, kv = 2 * (8_030_261_248 - embedding), 131072
    assert found.batch == (int(0.9 * 81559 * 2**20) - 2 * 8_030_261_248) // (kv * (65536 + 1024))
    step = (weights + found.batch * kv * (65536 + 512.5)) / 3.35e12
    assert found.step_seconds == pytest.approx(step, rel=2e-3)
    flops = 65536 * 2 * (8_030_261_248 - 2 * embedding) + 32 * 4 * 4096 * 65536 * 65537 / 2
    assert found.prefill_seconds == pytest.approx(flops / 989.4e12, rel=2e-3)
    written = 1024 * found.batch / (found.batch * found.prefill_seconds + 1024 * found.step_seconds)
    assert found.tokens_per_second == pytest.approx(written)


def test_a_batch_is_halved_until_it_fits_and_what_never_fits_is_told():
    hymba = Serving(machine="A100-80GB", prompt=7168, batch=128, weights="fp16", kv="fp16")
    assert rate(shape_of("llama-3.2-3b"), hymba).batch == 64 and rate(shape_of("hymba-1.5b"), hymba).batch == 128
    with pytest.raises(CapacityError, match="One sequence of 66,560 tokens needs"):
        rate(config_of("llama-3.1-70b"), Serving())


SIZES = [("nemotron-t-8b", 8.05e9), ("phi-4-mini", 3.836e9), ("qwen2.5-3b", 3.086e9), ("smollm2-1.7b", 1.711e9)]


@pytest.mark.parametrize(("name", "parameters"), SIZES)
def test_rivals_have_their_published_sizes(name, parameters):
    assert cost.parameters(RIVALS[name]()) == pytest.approx(parameters, rel=1e-3)


def test_a_narrow_copy_keeps_the_stack_and_what_stands_in_proportion():
    whole, narrow = config_of("nemotron-h-8b"), reduced(config_of("nemotron-h-8b"), 16)
    assert [layer.kind for layer in narrow.layers] == [layer.kind for layer in whole.layers]
    for large, small in zip(whole.layers, narrow.layers, strict=True):
        ratio = cost.elements(large.tensors(), whole.axes() | large.axes()) / cost.elements(small.tensors(), narrow.axes() | small.axes())
        assert 150 < ratio < 260  # 16 x 16, less where B, C and dt are narrow already
    weights = dict(drawn(reduced(whole, 64, vocab=64)).named_parameters())
    assert {name.rsplit(".", 1)[1] for name, each in weights.items() if each.dtype == torch.float32} == {"A_log", "D", "dt_bias"}
    assert cost.kv_bytes_per_token(whole) == 16 * cost.kv_bytes_per_token(narrow)
    with pytest.raises(ConfigError, match="5 does not divide"):
        reduced(whole, 5)


def test_hymba_s_cache_is_the_paper_s(tmp_path, capsys):
    assert main(["reproduce", "hymba-cache", "--out", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["claims"][0]["figure"] == pytest.approx(11.67, abs=0.005) and found["verdict"] == "holds"
    assert "917.5 MB against 78.6 MB" in found["sentence"]
    record = tmp_path / "run" / "cell-cache.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"ours": 2 * content["ours"]}))
    assert verdict(CLAIMS["hymba-cache"], tmp_path / "run")["verdict"] == "holds in part"


def test_nemotron_4_fits_in_8_bits_only(tmp_path, capsys):
    assert main(["reproduce", "nemotron-4-fits", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert "in BF16 they take 85.3 GB, which does not fit" in json.loads(capsys.readouterr().out)["sentence"]


def test_the_share_that_models_wrote_follows_from_the_published_sizes(tmp_path, capsys):
    """20,000 of people beside 800,000 + 200,000 + 160,000 + 300,000, the last up to three times; a changed record changes the verdict."""
    assert main(["reproduce", "synthetic-share", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert "among 1,460,000 to 2,060,000 rows: 98.6% to 99.0% were made by models" in json.loads(capsys.readouterr().out)["sentence"]
    cell = tmp_path / "run" / "cell-sizes.json"
    for people, expected in ((35_000, "undecided"), (60_000, "does not hold")):
        cell.write_text(json.dumps(json.loads(cell.read_text()) | {"people": people}))
        assert main(["reproduce", "synthetic-share", "--judge", "--out", str(tmp_path / "run"), "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["verdict"] == expected


def engine(ratio):
    found = {"parameters": 3e7, "batch": 4, "prefill_seconds": 1.0, "step_seconds": 0.1, "tokens_per_second": 9.0}
    rates = {"ours": found, "theirs": found}
    return {"ours": "nemotron-h-8b", "theirs": "nemotron-t-8b", "rates": rates, "ratio": ratio, "threads": 2}


ROUNDS = [((2.5, 2.6), "holds"), ((1.0, 1.01), "does not hold"), ((1.7, 1.9), "undecided"), ((2.5,), "unfinished")]


@pytest.mark.parametrize(("ratios", "expected"), ROUNDS)
def test_rounds_of_the_engine_decide_by_their_interval(tmp_path, ratios, expected):
    recipe = LongContext(long=Long(prompt=4096), rounds=2)
    cells = {f"engine-nemotron-h-8b-nemotron-t-8b-round{number}": engine(ratio) for number, ratio in enumerate(ratios)}
    found = CLAIMS["long-context"].judge(run_directory(tmp_path, "long-context", recipe, cells))["claims"][-1]
    assert found["verdict"] == expected
    if len(ratios) == 2:
        half = T_OF_ONE * abs(ratios[1] - ratios[0]) / sqrt(2) / sqrt(2)
        assert found["interval"] == pytest.approx([sum(ratios) / 2 - half, sum(ratios) / 2 + half], rel=1e-6)


def constant_records(hybrid_extra):
    def record(kept, extra):
        times = [[10.0, 10.1], [10.0 + extra, 10.1 + extra]]
        return {"parameters": 3e7, "contexts": [1024, 2048], "bytes": kept, "milliseconds": times, "threads": 2}

    return {"mamba": record([5, 5], 0.05), "hybrid": record([5, 7], hybrid_extra), "transformer": record([4, 8], 4.0)}


def test_constant_cost_is_judged_by_growth(tmp_path):
    recipe = ConstantCost(contexts=(1024, 2048), rounds=2)
    directory = run_directory(tmp_path / "run", "constant-cost", recipe, constant_records(0.5))
    claim = CLAIMS["constant-cost"]
    assert [each["verdict"] for each in claim.judge(directory)["claims"]] == ["holds", "holds", "holds"]
    run_directory(tmp_path / "run", "constant-cost", recipe, constant_records(2.0))
    assert verdict(claim, directory)["verdict"] == "holds in part"
    (directory / "cell-mamba.json").unlink()
    found = verdict(claim, directory)
    assert found["verdict"] == "unfinished" and found["missing"] == ["mamba"]


def test_a_step_is_measured_at_all_contexts_and_drawn(tmp_path, capsys):
    words = flags(["contexts=[64,256]", "rounds=2", "steps=1", "divisor=32"])
    assert main(["reproduce", "constant-cost", "--out", str(tmp_path), "--json", *words]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == [] and found["claims"][0]["verdict"] == "holds"
    assert len(found["tables"][0]["rows"]) == 6 and "A step of one sequence" in (tmp_path / "report.html").read_text()


def test_a_changed_record_changes_the_page(tmp_path):
    directory = run_directory(tmp_path / "a" / "run", "constant-cost", ConstantCost(contexts=(1024, 2048), rounds=2), constant_records(0.5))
    before = {each["name"]: each["verdict"] for each in standings([tmp_path])}
    assert before["constant-cost"] == "holds" and before["4b"] == "not begun" and before.keys() == CLAIMS.keys()
    record = directory / "cell-mamba.json"
    record.write_text(record.read_text().replace("[5, 5]", "[5, 6]"))
    after = standings([tmp_path])
    assert {each["name"]: each["verdict"] for each in after} == before | {"constant-cost": "holds in part"}
    assert "| does not hold here |" in page(after) and "begun 2026-11-21 10:00:00" in page(after)
    (directory / "run.json").write_text((directory / "run.json").read_text().replace('"rounds"', '"turns"'))
    assert "has no field 'turns'" in page(standings([tmp_path]))


def test_all_claims_are_listed_and_written(tmp_path, capsys):
    assert main(["reproduce", "--records", str(tmp_path), "--page", str(tmp_path / "claims.md")]) == 0
    assert "not begun" in capsys.readouterr().out
    assert all(f"`amaru reproduce {name}`" in (tmp_path / "claims.md").read_text() for name in CLAIMS)
    for words in (["--judge"], ["fp8", "--page", "a.md"]):
        assert main(["reproduce", *words]) == 2
    assert "leave fp8 out" in capsys.readouterr().err
