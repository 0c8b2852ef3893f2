"""The claims of alignment: a world whose answers can be checked, verdicts from records whose outcome is known, and all of it in small."""

import json
import random
from pathlib import Path

import pytest
from tests.recipes.small import flags

from amaru.cli.main import main
from amaru.config import to_dict
from amaru.instructions import follows, instructions_of
from amaru.recipes.reproduce.alignment.claim import cells, judge
from amaru.recipes.reproduce.alignment.settings import AlignmentClaims
from amaru.recipes.reproduce.alignment.strand import ROUNDS, SFT
from amaru.recipes.reproduce.alignment.world import LONGEST, answered, ask, different, solved
from amaru.recipes.reproduce.claims import CLAIMS, verdict
from amaru.report.runs import write_report


def test_every_request_can_be_answered_and_a_careless_answer_is_wrong_now_and_then() -> None:
    requests = [ask(seed) for seed in range(300)]
    right = [solved(each, random.Random(0)) for each in requests]
    assert all(follows(text, each.instructions) and len(text.split()) <= LONGEST for text, each in zip(right, requests, strict=True))
    generator = random.Random(1)
    passing = sum(follows(answered(each, generator, wrong=0.5), each.instructions) for each in requests) / len(requests)
    assert 0.5 < passing < 0.7  # half are spoiled, and some of these follow all the same
    assert ask(7) == ask(7) and {len(each.instructions) for each in requests} == {1, 2}
    record = json.loads(json.dumps(requests[0].record))
    assert follows(right[0], instructions_of(record)) and record["prompt"] == requests[0].text


def test_requests_of_each_use_are_different_ones() -> None:
    some, others = different([300, 100], seed=1)
    assert len({each.text for each in [*some, *others]}) == 400 and different([300, 100], seed=1) == [some, others]
    assert {each.text for each in different([300], seed=2)[0]} != {each.text for each in some}


def record(name: str, seed: int, values: dict[str, float]) -> dict:
    """What a cell would have kept; seeds differ a little."""
    a_little = 0.001 * seed
    if name == "stages":
        return {"seed": seed, "stages": {stage: {"passed": values[stage] + a_little} for stage in (SFT, *ROUNDS)}}
    key = "accuracy" if name.startswith("reward") else "passed"
    return {"seed": seed, key: values[name] - a_little}


PASSED = {SFT: 0.3, "dpo": 0.31, "rpo-1": 0.4, "rpo-2": 0.42, "rpo-3": 0.43}
PASSED |= {"arm-dpo-clean": 0.31, "arm-rpo-clean": 0.36, "arm-dpo-noisy": 0.29, "arm-rpo-noisy": 0.35}
PASSED |= {"reward-50": 0.6, "reward-200": 0.7, "reward-800": 0.8, "larger-careless": 0.35, "larger-aligned": 0.5}


def write_run(directory: Path, changes: dict[str, float], left_out: tuple[str, ...] = ()) -> Path:
    recipe = AlignmentClaims()
    for seed in recipe.seeds:
        (directory / f"seed{seed}").mkdir(parents=True)
        for name, _ in cells(recipe):
            if name not in left_out:
                (directory / f"seed{seed}" / f"cell-{name}.json").write_text(json.dumps(record(name, seed, PASSED | changes)))
    facts = {"kind": "reproduce-alignment", "recipe": to_dict(recipe), "started": "2026-11-21", "amaru": "0"}
    (directory / "run.json").write_text(json.dumps(facts))
    return directory


def test_all_hold_where_every_difference_is_there(tmp_path: Path) -> None:
    found = verdict(CLAIMS["alignment"], write_run(tmp_path, {}))
    assert [each["verdict"] for each in found["claims"]] == ["holds"] * 4 and found["verdict"] == "holds" and not found["missing"]
    assert "to the last round +13.0 (+13.0 to +13.0) points, rpo-1 beside the best other +7.0 (+7.0 to +7.0)." in found["sentence"]
    page = write_report(tmp_path).read_text()
    assert "arm-rpo-noisy" in page and "Pairs that a reward model ranks right" in page


@pytest.mark.parametrize(
    "changes, verdicts",
    [
        ({"rpo-2": 0.6, "rpo-3": 0.61, "larger-aligned": 0.7}, ["holds in part", "holds", "holds", "holds"]),
        ({"rpo-3": 0.29}, ["holds in part", "holds", "holds", "holds"]),
        ({"arm-rpo-noisy": 0.2}, ["holds", "holds in part", "holds", "holds"]),
        ({"arm-rpo-noisy": 0.2, "arm-rpo-clean": 0.2}, ["holds", "does not hold", "holds", "holds"]),
        ({"reward-800": 0.6}, ["holds", "holds", "undecided", "holds"]),
        ({"larger-aligned": 0.42}, ["holds", "holds", "holds", "does not hold"]),
    ],
)
def test_verdicts_follow_the_records(tmp_path: Path, changes: dict[str, float], verdicts: list[str]) -> None:
    assert [each["verdict"] for each in judge(write_run(tmp_path, changes))["claims"]] == verdicts


def test_what_is_missing_is_named_and_decides_nothing(tmp_path: Path) -> None:
    found = judge(write_run(tmp_path, {}, left_out=("larger-aligned", "reward-800")))
    assert [each["verdict"] for each in found["claims"]] == ["holds", "holds", "unfinished", "unfinished"]
    assert found["missing"][:2] == ["seed0/reward-800", "seed0/larger-aligned"] and found["verdict"] == "unfinished"


@pytest.mark.soak
def test_all_cells_in_small(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Three minutes: a world of 600 conversations, and a model that learns little of it."""
    shape = '{{"pattern":"M-*-","hidden":{},"groups":2,"mamba_channels":16,"state":16,"attention_channels":16}}'
    settings = ["learned=600", "prompts=40", "held_out=24", f"small={shape.format(32)}", f"large={shape.format(48)}", "seeds=[0,1]"]
    settings += ["rated=[4,8]", "epochs=14", "strict.verified=0.5", "answering.samples=8"]
    words = ["reproduce", "alignment", "--out", str(tmp_path / "run"), "--json", *flags(settings)]
    assert main(words) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert not found["missing"] and all(each["verdict"] != "unfinished" for each in found["claims"])
    assert main([*words, "--jobs", "2"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["records"] == found["records"]
