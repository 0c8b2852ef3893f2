"""The demo's verdict from records, and one tiny demo from end to end."""

import json
from pathlib import Path

import pytest
from tests.recipes.small import flags

from amaru.cli.main import main
from amaru.cli.output import LiveLine
from amaru.config import to_dict
from amaru.recipes.demo import DemoRecipe, fitting_recipe, judge, paced
from amaru.recipes.learning import Learning
from amaru.recipes.pace import training_pace
from amaru.recipes.shape import Shape


def entry(model: str, loss: float, lr: float = 1e-3, seed: int = 0) -> dict:
    return {"model": model, "lr": lr, "seed": seed, "loss": loss, "folder": f"{model}-{lr}-{seed}-training"}


def records(students: list[float], twins: list[float]) -> list[dict]:
    """The twin tries three rates with seed 0 and is best at 2e-3, which the other seeds then take."""
    runs = [entry("student", loss, seed=seed) for seed, loss in enumerate(students)]
    runs += [entry("twin", twins[0] + extra, lr) for lr, extra in ((1e-3, 0.5), (2e-3, 0.0), (4e-3, 0.2))]
    return runs + [entry("twin", loss, 2e-3, seed) for seed, loss in enumerate(twins) if seed]


def test_the_gap_must_exceed_the_spread_between_seeds() -> None:
    verdict = judge(records([3.0, 3.1, 3.05], [3.5, 3.6, 3.4]))
    assert verdict["holds"] and verdict["twin_lr"] == 2e-3
    assert verdict["gap"] == pytest.approx(0.45) and verdict["spread"] == pytest.approx(0.2)
    assert not judge(records([3.0, 3.3, 3.15], [3.3, 3.4, 3.2]))["holds"]
    assert not judge(records([3.5, 3.5, 3.5], [3.0, 3.0, 3.0]))["holds"]


def test_only_the_twins_best_rate_counts() -> None:
    runs = records([3.0, 3.0], [3.5, 3.5])
    assert judge(runs)["twin"] == pytest.approx(3.5), "losses at other rates are not averaged in"


def test_a_slower_machine_sees_fewer_tokens_in_a_few_steps() -> None:
    whole = DemoRecipe()
    assert paced(whole, 1e6) == paced(whole, 4500.0) == whole
    slow = paced(whole, 2000.0)
    assert slow == paced(whole, 1600.0), "small differences of speed change nothing"
    assert slow.parent.tokens == 315_000 and slow.learning.tokens == 56_000 and slow.short_tokens == 14_000
    assert slow.text.limit_megabytes == pytest.approx(2.8)
    assert paced(whole, 1.0).parent.tokens == 90_000


def test_the_pace_is_that_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Shape(pattern="M-", hidden=16, groups=1, mamba_channels=8, state=4, ffn=16).resolve(32)
    seconds = iter(range(1000))
    monkeypatch.setattr("amaru.recipes.pace.time.perf_counter", lambda: float(next(seconds)))
    assert training_pace(config, Learning(batch_rows=2), 8) == 16.0, "two rows of eight tokens in one second of this clock"


def test_a_demo_that_began_keeps_its_size(tmp_path: Path) -> None:
    begun = paced(DemoRecipe(), 1000.0)
    (tmp_path / "run.json").write_text(json.dumps({"kind": "demo", "recipe": to_dict(begun)}))
    assert fitting_recipe(tmp_path, LiveLine()) == begun


TEXT = ["text.limit_megabytes=0.2", "text.validation_share=0.1", "text.vocab=300", "text.row_length=64"]
SHAPE = ["shape.hidden=32", "shape.mamba_channels=8", "shape.state=8", "shape.attention_channels=16"]
PARENT = ["parent.tokens=4000", "parent.validations=2"]
STUDENT = ["learning.tokens=1500", "learning.validations=2", "short_tokens=600", "seeds=[0,1]", "twin_lrs=[0.001,0.002]"]
SPEED = ["prompt=64", "workload.context=128", "repeats=1"]


def test_a_tiny_demo_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--out", str(tmp_path / "demo"), *flags(TEXT, SHAPE, PARENT, STUDENT, SPEED)]
    code = main([*words, "--json"])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert code == (0 if found["verdict"]["holds"] else 1)
    assert set(found["rows"]) == {"parent", "pruned", "student", "twin"}
    assert found["rows"]["twin"]["parameters"] == found["rows"]["student"]["parameters"] < found["rows"]["parent"]["parameters"]
    assert [run["model"] for run in found["runs"]] == ["student"] * 2 + ["twin"] * 3
    assert set(found["samples"]["class Test"]) == {"parent", "student"} and len(found["next"]) == 3
    page = Path(found["report"]).read_text()
    assert page.count("<svg") == 6 and "http" not in page.replace("http://www.w3.org", "").split("What they write")[0]
    assert main([*words, "--json"]) == code
    again = capsys.readouterr()
    assert json.loads(again.out) == found, "nothing is measured twice"
    assert "tokens/s" not in again.err, "nothing is trained twice"
