"""Fine-tuning, rounds of preferences and of a teacher's answers in one run, as people type it; and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tests.align.rounds.small import WORDS, write_model, write_rows
from tests.models.reward.small import TOKENIZER, reward_model
from tests.recipes.test_interrupted import killed_until_done

from amaru.align.rounds.prompts import prompt_of
from amaru.cli.main import main
from amaru.cli.settings import build_recipe
from amaru.errors import ConfigError
from amaru.models.checkpoint import fingerprint
from amaru.models.reward import scorer
from amaru.models.reward.checkpoint import save
from amaru.recipes.align import align
from amaru.recipes.alignment.named import check_named
from amaru.recipes.alignment.preferring import identity, judges
from amaru.recipes.alignment.settings import AlignRecipe, Judging
from amaru.recipes.run import Run

PAIRS = [(one, other) for one in WORDS for other in WORDS if one != other]
LEARNING = {"lr": 1e-2, "batch_rows": 4, "validations": 1, "dtype": "fp32"}


def row(one: str, other: str) -> dict:
    """A prompt of whose checks a model that knows little follows some, now and then."""
    kinds = ["length_constraints:number_words", "keywords:letter_frequency", "keywords:letter_frequency"]
    letters = [{"letter": word[0], "let_relation": "at least", "let_frequency": 1} for word in (one, other)]
    words = {"num_words": 2, "relation": "at least"}
    return {"prompt": f"say {one} then {other}", "instruction_id_list": kinds, "kwargs": [words, *letters]}


def write_recipe(folder: Path, **changes: object) -> Path:
    """A start, conversations with some wrong answers, prompts for rounds and held-out ones, and a recipe over them."""
    start = write_model(folder / "start")
    said = [{"prompt": row(*pair)["prompt"], "completion": pair[n % 5 == 0] + " " + pair[1]} for n, pair in enumerate(PAIRS[:14])]
    recipe = {
        "start": str(start),
        "sft": [
            {"name": "code", "data": [str(write_rows(folder / "code.jsonl", said[:4]))], "epochs": 2},
            {"name": "general", "data": [str(write_rows(folder / "general.jsonl", said[4:]))], "epochs": 20, "replay": 0.5},
        ],
        "sft_learning": LEARNING,
        "rounds": [
            {
                "kind": "preference",
                "name": "rpo",
                "times": 2,
                "prompts": [str(write_rows(folder / "prompts.jsonl", [row(*pair) for pair in PAIRS[14:24]]))],
                "answering": {"samples": 8, "temperature": 1.3, "max_tokens": 12, "at_once": 3},
                "loss": {"method": "rpo", "beta": 0.1, "sft": 0.01},
                "gate": {"verified": 0.3},
                "learning": LEARNING | {"lr": 1e-3},
            },
            {
                "kind": "distillation",
                "name": "taught",
                "prompts": [str(folder / "prompts.jsonl")],
                "teacher": str(write_model(folder / "teacher", seed=3)),
                "answering": {"samples": 2, "max_tokens": 8, "at_once": 3},
                "learning": LEARNING | {"lr": 1e-3},
            },
        ],
        "held_out": [str(write_rows(folder / "held-out.jsonl", [row(*pair) for pair in PAIRS[24:]]))],
        "held_out_tokens": 8,
        "row_length": 48,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe | changes))
    return file


def aligned(capsys: pytest.CaptureFixture, *words: object, code: int = 0) -> tuple[dict, str]:
    found = main(["align", *map(str, words), "--json"])
    said = capsys.readouterr()
    assert found == code, said.err
    return json.loads(said.out or "{}"), said.err


def numbers(run: Path) -> dict:
    """What a run decided: weights, comparisons, and every held-out item."""
    models = json.loads((run / "comparison.json").read_text())
    files = {path.name: path.read_text() for path in sorted(run.glob("rpo-*-comparisons.jsonl"))}
    return {
        "weights": {name: fingerprint(path) for name, path in models["models"].items()},
        "rows": models["rows"],
        "files": {name: text.replace(str(run.parent), "") for name, text in files.items()},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("align")
    write_recipe(folder)
    return folder


def test_the_whole_order_and_again(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = [folder / "recipe.yaml", "--out", folder / "calm"]
    plan, _ = aligned(capsys, *words, "--dry-run")
    assert [stage["name"] for stage in plan["stages"]] == ["code", "general", "rpo-1", "rpo-2", "taught"] and not (folder / "calm").exists()
    assert [stage["from"] for stage in plan["stages"]] == ["start", "code", "general", "rpo-1", "rpo-2"]
    result, said = aligned(capsys, *words)
    assert list(result["rows"]) == ["start", "code", "general", "rpo-1", "rpo-2", "taught"]
    found = numbers(folder / "calm")
    assert len(set(found["weights"].values())) == 6 and all(len(row["items"]) == 6 for row in found["rows"].values())
    judged = [json.loads(line) for line in (folder / "calm" / "rpo-1-judged.jsonl").read_text().splitlines()]
    assert len(judged) == 10 and all(len(each["answers"]) <= 8 for each in judged)
    for line in (folder / "calm" / "rpo-2-comparisons.jsonl").read_text().splitlines():
        best, worst = json.loads(line)["responses"]
        assert best["score"] >= 0.3 and best["score"] > worst["score"] and best["attributes"]["verified"] == best["score"]
    steps = json.loads((folder / "calm" / "steps.json").read_text())
    assert steps["rpo-2"]["made_from"]["start"] == steps["rpo-2"]["made_from"]["reference"] == found["weights"]["rpo-1"]
    assert "rpo-2, from rpo-1" in said and "ended by the model" in said and Path(result["report"]).read_text().count("rpo-2") > 1
    again, said = aligned(capsys, *words)
    assert again == result and numbers(folder / "calm") == found and "computed now" not in said.replace("0 of them computed now", "")
    assert said.count("kept from before") >= 20


class Stopped(Exception):
    """What ends a run in the middle."""


class StopsAt:
    """Progress that ends the run when it is told the nth thing."""

    def __init__(self, place: int) -> None:
        self.left = place

    def note(self, text: str) -> None:
        self.update(text)

    def update(self, text: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped


@pytest.fixture
def calm(folder: Path) -> Path:
    """The run that nobody stopped; what a test before has made of it is kept."""
    recipe = build_recipe(AlignRecipe, folder / "recipe.yaml", {}, [])
    with Run(folder / "calm", "align", recipe, StopsAt(0)) as run:
        align(recipe, run)
    return folder / "calm"


def test_stopped_anywhere_it_ends_in_the_same_numbers(folder: Path, calm: Path) -> None:
    recipe = build_recipe(AlignRecipe, folder / "recipe.yaml", {}, [])
    for place in (24, 40, 9, 55, 30):  # of what is told, anew each time: what is whole is told too
        with pytest.raises(Stopped), Run(folder / "stopped", "align", recipe, StopsAt(place)) as run:
            align(recipe, run)
    with Run(folder / "stopped", "align", recipe, StopsAt(0)) as run:
        align(recipe, run)
    assert numbers(folder / "stopped") == numbers(calm)


@pytest.mark.soak
def test_a_run_killed_many_times_ends_in_the_same_numbers(folder: Path, calm: Path) -> None:
    killed_until_done(["align", str(folder / "recipe.yaml"), "--out", str(folder / "often")], kills=14, wait=(2.0, 7.0), seed=4)
    assert numbers(folder / "often") == numbers(calm)


def test_prompts_on_two_sides_are_refused_or_dropped(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write_recipe(tmp_path)
    write_rows(tmp_path / "prompts.jsonl", [row(*pair) for pair in PAIRS[12:26]])
    _, said = aligned(capsys, file, "--out", tmp_path / "run", code=2)
    assert "4 prompts of round rpo are on another side too" in said and "prompts.jsonl:1 (" in said and "set overlap=drop" in said
    plan, _ = aligned(capsys, file, "--set", "overlap=drop", "--dry-run")
    assert plan["stages"][2]["prompts"] == 10 and plan["stages"][2]["dropped"].startswith("4 of 14 dropped")
    write_rows(tmp_path / "held-out.jsonl", [row(*PAIRS[0])])
    _, said = aligned(capsys, file, "--set", "overlap=drop", "--dry-run", code=2)
    assert "1 prompts held out are on another side too" in said and "fine-tuning learns the answers" in said


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--set", "rounds=[]", "--set", "sft=[]"], "There is nothing to do"),
        (["--set", "held_out=[{}/free.jsonl]"], "1 prompts that are held out cannot be verified, such as"),
    ],
)
def test_what_is_refused(folder: Path, capsys: pytest.CaptureFixture, words: list[str], sentence: str) -> None:
    write_rows(folder / "free.jsonl", [{"prompt": "say what you like"}])
    _, said = aligned(capsys, folder / "recipe.yaml", *(word.format(folder) for word in words), "--dry-run", code=2)
    assert sentence in said


@pytest.mark.parametrize(
    "place, changes, sentence",
    [
        (0, {"judging": {"reward_model": "nowhere"}}, "Round rpo: .*nowhere"),
        (0, {"judging": {"reward_model": "{}/start"}}, "Round rpo: .*is no reward model"),
        (0, {"judging": {"judge_model": "nowhere"}}, "Round rpo: There is no checkpoint directory nowhere"),
        (0, {"judging": {"verifier": "nowhere.py:passes"}}, "Round rpo: There is no function nowhere.py:passes"),
        (0, {"others": ["nowhere"]}, "Round rpo: There is no checkpoint directory nowhere"),
        (1, {"teacher": "nowhere"}, "Round taught: There is no checkpoint directory nowhere"),
    ],
)
def test_what_a_later_round_needs_is_missed_at_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, place: int, changes: dict, sentence: str
) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["rounds"][place] |= json.loads(json.dumps(changes).replace("{}/", f"{folder}/"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for words in (["--dry-run"], ["--out", tmp_path / "run"]):
        _, said = aligned(capsys, tmp_path / "recipe.yaml", *words, code=2)
        assert re.search(sentence, " ".join(said.split()))
    assert not (tmp_path / "run" / "sft").exists()


def test_a_model_that_the_run_itself_makes_may_be_named(folder: Path) -> None:
    recipe = build_recipe(AlignRecipe, folder / "recipe.yaml", {}, [])
    first = replace(recipe.rounds[0], others=(str(folder / "run" / "sft" / "general"),))  # type: ignore[call-arg]
    check_named(replace(recipe, rounds=(first,)), folder / "run")
    with pytest.raises(ConfigError, match="no checkpoint directory"):
        check_named(replace(recipe, rounds=(first,)), folder / "other")


def test_a_gate_that_nothing_passes_says_what_became_of_the_prompts(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [folder / "recipe.yaml", "--set", "sft=[]", "--out", tmp_path / "run"]
    _, said = aligned(capsys, *words, code=2)
    assert "Round rpo-1 has nothing to learn from: 0 comparisons of 10 prompts" in said and "A looser gate" in said


def test_a_reward_model_judges_what_nobody_can_verify(folder: Path, calm: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = reward_model()
    save(model.decoder, tmp_path / "reward", TOKENIZER, model.said)
    prompts = write_rows(tmp_path / "free.jsonl", [{"prompt": f"say {one} then {other}"} for one, other in PAIRS[14:20]])
    answering = {"samples": 4, "temperature": 1.3, "max_tokens": 12}
    judging = {"reward_model": str(tmp_path / "reward")}
    round_ = {"kind": "preference", "name": "rpo", "prompts": [str(prompts)], "answering": answering, "judging": judging}
    learning, other = LEARNING | {"lr": 1e-3}, str(calm / "rpo-1")
    round_ |= {"others": [other]}
    recipe = {"start": str(calm / "sft" / "model"), "rounds": [round_ | {"loss": {"method": "rpo"}, "learning": learning}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    aligned(capsys, tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    tally = json.loads((tmp_path / "run" / "rpo-tally.json").read_text())
    assert tally["by"] == {"reward model": tally["kept"]} and tally["kept"] >= 2
    judged = [json.loads(line) for line in (tmp_path / "run" / "rpo-judged.jsonl").read_text().splitlines()]
    assert {answer["model"] for each in judged for answer in each["answers"]} == {"itself", other}
    score = scorer(tmp_path / "reward")
    for line in (tmp_path / "run" / "rpo-comparisons.jsonl").read_text().splitlines():
        row = json.loads(line)
        told = [score([[*row["messages"], {"role": "assistant", "content": each["content"]}]])[0].score for each in row["responses"]]
        assert [each["score"] for each in row["responses"]] == pytest.approx(told, abs=1e-4) and told[0] > told[1]


def test_judges_are_those_of_the_recipe(folder: Path, calm: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def short(record, text):\n    return float(len(text) < record['most'])\n")
    judging = Judging(verify=False, verifier=f"{tmp_path}/mine.py:short", judge_model=str(calm / "rpo-1"))
    found = judges(judging, torch.device("cpu"))
    assert found.function and found.function({"most": 3}, "hi") == 1.0 and found.scorer is None and found.duel and not found.verify
    prompt = prompt_of("p:1", {"prompt": "say sun then sea"})
    margins = [found.duel(prompt, one, other) for one, other in (("sun sea", "hill"), ("hill", "sun sea"))]
    assert margins == [None, None] or margins[0] == pytest.approx(-(margins[1] or 0.0), abs=1e-5)
    before = identity(judging)
    (tmp_path / "mine.py").write_text("def short(record, text):\n    return float(len(text) <= record['most'])\n")
    assert identity(judging) != before  # answers are judged again when the verifier changes
