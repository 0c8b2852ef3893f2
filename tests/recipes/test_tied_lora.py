"""Tied-LoRA beside LoRA: cells are made once, several at a time, and verdicts follow from their records alone."""

import json

import pytest
from tests.recipes.small import flags, write_corpus
from tests.recipes.test_reproduce import T_OF_TWO

from amaru.cli.main import main
from amaru.config import to_dict
from amaru.errors import ConfigError
from amaru.recipes.reproduce.tied_lora import ONE_LAYER, OTHERS, TIED, Cell, Task, TiedLoraTrials, cells, method_of
from amaru.recipes.reproduce.tied_lora_verdict import judge
from amaru.recipes.text import TextRecipe

TASK = Task(data=("a",), held_out=("b",), score="exact")
TRIALS = TiedLoraTrials(text=TextRecipe(data=("x",)), tasks={"one": TASK, "two": TASK, "three": TASK})


def write_records(directory, score):
    """Every cell with the score that a function of it says."""
    facts = {"kind": "reproduce-tied-lora", "recipe": to_dict(TRIALS), "started": "2026-11-21", "amaru": "0"}
    (directory / "run.json").write_text(json.dumps(facts))
    (directory / "steps.json").write_text("{}")
    for cell in cells(TRIALS):
        trained = 1000 if cell.method == "LoRA" else 260
        record = {**cell._asdict(), "trained": trained, "answers": {"exact": score(cell), "loss": 1.0, "accuracy": 0.5}}
        (directory / f"cell-{cell.name}.json").write_text(json.dumps(record))
    return directory


def alike(cell):
    """Tied methods lose 1 %, give or take; those with frozen factors fall at the high rank."""
    base = 0.5 + 0.01 * cell.seed
    if cell.method in ("LoRA", "TL6", "TL5"):
        return base * (1 if cell.method == "LoRA" else 0.99 + 0.001 * cell.seed)
    return base * (0.9 if cell.rank == 8 else 0.5)


def test_verdicts_follow_from_the_records(tmp_path):
    found = judge(write_records(tmp_path, alike))
    assert found["verdict"] == found["claims"][4]["verdict"] == "holds in part", "TL5 does not fall"
    assert [claim["verdict"] for claim in found["claims"]].count("holds") == len(found["claims"]) - 1
    assert found["missing"] == [] and len(found["cells"]) == 118
    first = found["claims"][0]
    assert first["share"] == 0.26 and first["gap"] == pytest.approx(-0.009) and [*first["tasks"]] == ["one", "two", "three"]
    half = T_OF_TWO * 0.001 / 3**0.5
    assert first["interval"] == pytest.approx([-0.009 - half, -0.009 + half], rel=1e-5)
    assert "VeRA-equivalent -44.4%" in found["sentence"] and "TL5 +0.0%" in found["sentence"]


@pytest.mark.parametrize(
    "changed, claim, verdict",
    [
        (lambda cell: 0.3 if cell.method == "TL6" and cell.base == "hybrid" else alike(cell), 1, "does not hold"),
        (lambda cell: alike(cell) * (1 + 0.03 * (cell.seed - 1) * (cell.method == "TL6")), 0, "undecided"),
        (lambda cell: alike(cell) * (0.9 if cell.rank == 128 else 1), 2, "does not hold"),
        (lambda cell: 0.5, 4, "does not hold"),
        (lambda cell: 0.9 if cell.method == ONE_LAYER else alike(cell), 5, "does not hold"),
    ],
)
def test_what_does_not_hold_is_said(changed, claim, verdict, tmp_path):
    found = judge(write_records(tmp_path, changed))
    assert found["claims"][claim]["verdict"] == verdict and found["verdict"] == "holds in part"


def test_a_missing_cell_is_named_and_nothing_is_made_of_it(tmp_path):
    write_records(tmp_path, alike)
    (tmp_path / "cell-transformer-two-TL6-r8-seed1.json").unlink()
    found = judge(tmp_path)
    assert found["missing"] == ["transformer-two-TL6-r8-seed1"]
    assert found["claims"][0]["verdict"] == "undecided"  # of two seeds an interval is wide
    (tmp_path / "cell-transformer-one-LoRA-r8-seed2.json").unlink()
    assert judge(tmp_path)["claims"][0]["verdict"] == judge(tmp_path)["verdict"] == "unfinished"


def test_cells_are_few_and_all_methods_are_what_they_are_called():
    order = list(cells(TRIALS))
    assert len(order) == len(set(order)) == len({cell.name for cell in order}) <= 120
    config = TRIALS.hybrid.shape.resolve(300)
    counts = {
        method: method_of(Cell("hybrid", "one", method, 8, 0), TRIALS.hybrid, config, 1.0).trained_count(config)
        for method in ("LoRA", *TIED, *OTHERS)
    }
    assert counts["TL6"] == counts["TL5"] + counts["VeRA-equivalent"] and counts["TL5"] == counts["A alone"] + counts["B alone"]
    assert counts[ONE_LAYER] == pytest.approx(counts["TL6"], rel=0.05) and counts["LoRA"] > 3 * counts["TL6"]
    with pytest.raises(ConfigError, match="no method 'TL7'"):
        TiedLoraTrials(text=TRIALS.text, tasks=TRIALS.tasks, rates={"TL7": 1.0})


def test_a_whole_comparison_is_made_once_and_continued(tmp_path, capsys):
    corpus, out, data = write_corpus(tmp_path / "text", documents=20), tmp_path / "run", tmp_path / "task.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"the tree sees {n}", "completion": f" stone {n}"}) + "\n" for n in range(12)))
    shape = ["hidden=16", "ffn=24", "groups=1", "mamba_heads=2", "mamba_channels=8", "state=4", "attention_channels=8", "kv_heads=2"]
    settings = [f"text.data=[{corpus}]", "text.vocab=300", "text.row_length=64", "text.validation_share=0.2"]
    settings += [f"tasks.only.data=[{data}]", f"tasks.only.held_out=[{data}]", "seeds=[0,1]", "ranks=[2]", "rank=4", "high=8"]
    settings += [f"{base}.shape.{each}" for base in ("hybrid", "transformer") for each in shape]
    settings += ["hybrid.shape.pattern=MM", "hybrid.alone=0", "transformer.shape.pattern=**", "transformer.alone=1"]
    settings += ["pretraining.tokens=512", "pretraining.batch_rows=2", "row_length=64", "others=[TL5]"]
    words = ["reproduce", "tied-lora", "--out", str(out), "--json", *flags(settings)]
    held, learned = tmp_path / "held.jsonl", data.read_text().splitlines(keepends=True)
    held.write_text("".join(learned[:3]))
    words = [word.replace(f"held_out=[{data}]", f"held_out=[{held}]") for word in words]
    assert main(words) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == [] and len(found["cells"]) == 21
    assert all(cell["answers"]["count"] == 3 for cell in found["cells"]) and "The hybrid" in (out / "report.html").read_text()
    for name in ("hybrid-only-TL6-r2-seed1", "transformer-only-LoRA-r4-seed0"):
        (out / f"cell-{name}.json").unlink()
    before = json.loads((out / "steps.json").read_text())
    assert main(words) in (0, 1)
    again, after = json.loads(capsys.readouterr().out), json.loads((out / "steps.json").read_text())
    assert {name for name in after if after[name] != before[name]} <= {
        "cell-hybrid-only-TL6-r2-seed1.json", "cell-transformer-only-LoRA-r4-seed0.json"
    }  # fmt: skip
    assert again["claims"] == found["claims"]
    assert main(["reproduce", "fp8", "--jobs", "2"]) == 2 and "one after the other" in capsys.readouterr().err
