"""Verdicts of the compression claims follow from the records of the cells alone, and change with them."""

import itertools
import json

import pytest

from amaru.cli.main import main
from amaru.config import to_dict
from amaru.errors import ConfigError
from amaru.recipes.reproduce.compression.claim import cells, judge
from amaru.recipes.reproduce.compression.settings import CompressionClaims, GroupAware
from amaru.recipes.reproduce.compression.speeds import ROUNDS, TIMINGS, ratios
from amaru.recipes.reproduce.compression.verdicts import tokens_to_reach

RECIPE = CompressionClaims()
TOKENS = RECIPE.learning.tokens


def record(name, seed):
    """As the cell of that name would leave it, in a world where every claim holds."""
    noise = 0.01 * seed
    found = {"seed": seed, "parameters": 2_000_000, "tokens": TOKENS, "student": name, "parent_loss": 3.0, "parent_accuracy": 0.4}
    found |= {"accuracy": 0.399 + noise / 100, "loss": 3.2 + noise, "before": 4.0}
    if name == "heads-ignoring groups":
        found |= {"before": 6.0 + noise, "loss": 3.6 + noise}
    elif name == "axes-every axis":
        found |= {"kendall_tau": 0.3, "winner_before": 2 + seed}
    elif name.startswith("axes-"):
        found |= {"loss": 3.3 + 1.1 * noise}
    elif name.startswith("scratch-"):
        multiple = int(name.split("-")[1])
        found |= {"tokens": multiple * TOKENS, "loss": 5.0 - 0.1 * multiple}
    elif name == "states":
        found |= {"loss": 3.01 + noise / 10}
    elif name in ("puzzle-light-random", "puzzle-light-largest", "puzzle-hard-random", "puzzle-hard-largest"):
        found |= {"loss": 3.4 + 1.2 * noise}
    return found


def write(directory, recipe=RECIPE):
    kind = "reproduce-compression" if recipe is RECIPE else "reproduce-group-aware"
    facts = {"kind": kind, "recipe": to_dict(recipe), "started": "2026-11-21", "amaru": "0"}
    (directory / "run.json").write_text(json.dumps(facts))
    for size, seed in (("small", 0), ("small", 1), ("small", 2), ("large", 0)):
        folder = directory / f"{size}-seed{seed}"
        folder.mkdir()
        for name, _ in cells(recipe, size):
            (folder / f"cell-{name}.json").write_text(json.dumps(record(name, seed)))
            speed(folder, name, 1.3)
        speed(folder, "parent", 1.0)
    return directory


def speed(folder, name, times):
    for how, number in itertools.product(TIMINGS, range(ROUNDS)):
        pace = 1 + number  # the machine's, which changes from round to round
        found = {"prefill": 100 * times * pace, "decode": 10 * times * pace}
        (folder / f"speed-{name}-{how}-{number}.json").write_text(json.dumps(found))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def findings(directory):
    return {claim["name"]: claim for claim in judge(CompressionClaims, directory)["claims"]}


def verdicts(directory):
    return {name: claim["verdict"] for name, claim in findings(directory).items()}


def test_every_claim_is_judged_and_shown(tmp_path, capsys):
    found = judge(CompressionClaims, write(tmp_path))
    assert main(["reproduce", "compression", "--judge", "--out", str(tmp_path)]) == 1
    assert "scratch: holds in part." in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "Heads within their groups" in page and page.count("<svg") == 3 and "nan" not in page
    said = verdicts(tmp_path)
    assert {name for name in said if said[name] == "holds in part"} == {"scratch"}, "more than the longest run is no 40 times"
    assert {*said.values()} == {"holds", "holds in part"} and found["missing"] == []
    assert found["verdict"] == "holds in part"
    assert "The large parent agrees (+0.400)." in findings(tmp_path)["heads"]["sentence"]
    assert "The winner of the large parent was number 2 as cut (tau +0.30)." in findings(tmp_path)["ranking"]["sentence"]


def test_heads_alone_are_a_claim_of_their_own(tmp_path, capsys):
    write(tmp_path, GroupAware())
    there = sorted(path.stem for path in (tmp_path / "small-seed0").glob("cell-*"))
    assert there == ["cell-heads-group-aware", "cell-heads-ignoring groups"]
    assert main(["reproduce", "group-aware", "--judge", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("heads: holds.")
    assert "Heads within their groups" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("claim", "cell", "values", "expected"),
    [
        ("heads", "heads-ignoring groups", {"before": 3.9, "loss": 3.1}, "does not hold"),
        ("heads", "heads-ignoring groups", {"loss": 3.1}, "holds in part"),
        ("heads", "heads-ignoring groups", {"before": 4.0, "loss": 3.21}, "undecided"),
        ("axes", "axes-depth", {"loss": 3.0}, "holds in part"),
        ("axes", "axes-every axis", {"loss": 3.9}, "does not hold"),
        ("ranking", "axes-every axis", {"winner_before": 1}, "does not hold"),
        ("scratch", "scratch-4", {"loss": 3.0}, "does not hold"),
        ("kept", "puzzle-light-minipuzzle", {"accuracy": 0.3}, "holds in part"),
        ("puzzle", "puzzle-hard-random", {"loss": 3.0}, "holds in part"),
        ("uniform", "puzzle-light-minipuzzle", {"loss": 3.9}, "does not hold"),
        ("states", "states", {"loss": 3.5}, "holds in part"),
    ],
)
def test_changed_records_change_the_verdict(tmp_path, claim, cell, values, expected):
    write(tmp_path)
    for seed in RECIPE.small.seeds:
        change(tmp_path / f"small-seed{seed}" / f"cell-{cell}.json", **values)
    assert verdicts(tmp_path)[claim] == expected


def test_what_loses_no_more_must_be_slower_and_what_loses_more_may_be_faster(tmp_path):
    write(tmp_path)
    for seed in RECIPE.small.seeds:
        folder = tmp_path / f"small-seed{seed}"
        change(folder / "cell-axes-ffn and hidden.json", loss=record("axes-every axis", seed)["loss"])
        speed(folder, "axes-ffn and hidden", 1.1 + 0.01 * seed)
    assert verdicts(tmp_path)["axes"] == "holds"
    for seed in RECIPE.small.seeds:
        speed(tmp_path / f"small-seed{seed}", "axes-depth", 2.0 + 0.01 * seed)
    assert verdicts(tmp_path)["axes"] == "holds in part"


def test_one_seed_that_disagrees_widens_the_interval(tmp_path):
    write(tmp_path)
    change(tmp_path / "small-seed1" / "cell-heads-ignoring groups.json", loss=2.0)
    found = findings(tmp_path)["heads"]
    low, high = found["compared"]["loss"].bounds
    assert low < 0 < high and found["verdict"] == "holds in part"


def test_what_is_missing_is_named(tmp_path):
    write(tmp_path)
    for seed in (1, 2):
        (tmp_path / f"small-seed{seed}" / "cell-states.json").unlink()
        (tmp_path / f"small-seed{seed}" / "speed-puzzle-light-minipuzzle-alone-3.json").unlink()
    found = judge(CompressionClaims, tmp_path)
    assert found["missing"] == ["small-seed1/states", "small-seed2/states"]
    assert verdicts(tmp_path)["states"] == verdicts(tmp_path)["kept"] == found["verdict"] == "unfinished"


def test_speeds_are_beside_the_parent_of_their_round(tmp_path):
    folder = write(tmp_path) / "small-seed0"
    assert ratios(folder, "states") == pytest.approx({f"{what}_{how}": 1.3 for how in TIMINGS for what in ("prefill", "decode")})
    change(folder / "speed-states-alone-2.json", decode=10**6)
    assert ratios(folder, "states")["decode_alone"] == pytest.approx(1.3), "one round that was disturbed does not decide"


def test_tokens_to_reach_a_loss():
    runs = [(100.0, 5.0), (200.0, 4.0), (400.0, 3.0)]
    assert tokens_to_reach(4.5, runs) == pytest.approx(100 * 2**0.5), "half way, on a scale of logarithms"
    assert tokens_to_reach(5.5, runs) == 100 and tokens_to_reach(3.0, runs) == pytest.approx(400)
    assert tokens_to_reach(2.9, runs) is None
    assert tokens_to_reach(3.0, runs[::-1]) == pytest.approx(400), "the order of the runs does not matter"


def test_twins_that_never_get_there_are_told_from_those_that_do(tmp_path):
    write(tmp_path)
    change(tmp_path / "small-seed0" / "cell-scratch-10.json", loss=3.0)
    times = findings(tmp_path)["scratch"]["times"]
    assert times[1:] == [None, None] and 4 < times[0] < 10


def test_settings_that_compare_nothing_are_refused():
    with pytest.raises(ConfigError, match="at least two different seeds"):
        CompressionClaims(small=RECIPE.large)
    with pytest.raises(ConfigError, match="ascending"):
        CompressionClaims(multiples=(2, 1))
    with pytest.raises(ConfigError, match="above 0"):
        CompressionClaims(scratch_lrs=())
