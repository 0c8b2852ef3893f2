"""Reward models as people train, measure and use them: what is learned, what is written, and what cannot be, each in one sentence."""

import json
import random
from pathlib import Path

import pytest
from tests.models.reward.small import LAYERS, said
from tests.recipes.verbs import Stops, run

from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.models.checkpoint import fingerprint, save
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.reward import scorer
from amaru.models.reward.attributes import HELPSTEER, PUBLISHED
from amaru.recipes.learning import Learning, Saving
from amaru.recipes.reward.accuracy import Ranked, accuracy
from amaru.recipes.reward.categories import LLMBAR, SUBSETS
from amaru.recipes.reward.recipe import RewardRecipe
from amaru.recipes.reward.scoring import KeptScorer
from amaru.recipes.reward.train import train_reward, worse_than_mean
from amaru.recipes.run import Run

QUICK = ["--add-special-tokens", "--lr", "1e-2", "--batch", "8", "--set", "learning.validations=2"]
EPOCHS = 4
FIXED = {"coherence": 4, "complexity": 1, "verbosity": 2}


def ratings(count: int, seed: int = 0) -> list[dict]:
    """HelpSteer2's fields: the answer five is helpful and correct, no other; some labels are missing."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        for answer in ("five", draw.choice(("two", "three", "six"))):
            good = 4 * (answer == "five")
            row = {"prompt": f"say a number, {number}", "response": f"{answer}.", "helpfulness": good, "correctness": good, **FIXED}
            rows.append({name: None if name == "correctness" and draw.random() < 0.3 else value for name, value in row.items()})
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing, ratings, and the pairs that they make."""
    folder = tmp_path_factory.mktemp("reward")
    rows = ratings(60)
    write(folder / "ratings.jsonl", [*rows, rows[0] | {"prompt": "say nothing", "correctness": float("nan")}])
    both = zip(rows[::2], rows[1::2], strict=True)
    write(folder / "pairs.jsonl", [{"prompt": one["prompt"], "chosen": one["response"], "rejected": two["response"]} for one, two in both])
    tokenizer = Tokenizer.train(["say a number, two three five six. A chat between a curious user and an assistant " * 9], vocab=300)
    save(Decoder(DecoderConfig(vocab=tokenizer.vocab_size, hidden=16, layers=LAYERS)).initialise(0), folder / "model", tokenizer)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    words = ["reward", "train", folder / "model", "--data", folder / "ratings.jsonl", "--epochs", EPOCHS, "--out", folder / "run", *QUICK]
    assert main([*map(str, words)]) == 0
    return folder / "run" / "model"


def test_training_on_ratings(folder: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["reward", "train", folder / "model", "--data", folder / "ratings.jsonl", "--epochs", EPOCHS, "--out", folder / "run", *QUICK]
    result, spoken = run(capsys, *words)
    assert spoken.count("kept from before") >= 5 and result["checkpoint"] == str(trained)
    assert result["attributes"]["names"] == list(HELPSTEER) and result["attributes"]["weights"] == PUBLISHED
    rows = dict(zip(HELPSTEER, result["quality"]["model"]["attributes"], strict=True))
    assert rows["helpfulness"]["error"] < 0.5 < 3 < rows["helpfulness"]["error_of_mean"] and rows["helpfulness"]["labels"] == 6
    assert 0 < rows["correctness"]["labels"] < 6 and rows["coherence"]["error_of_mean"] < 1e-9  # the start is the mean already
    assert result["quality"]["start"]["attributes"][0]["error"] == pytest.approx(rows["helpfulness"]["error_of_mean"], rel=1e-3)
    page = (folder / "run" / "report.html").read_text()
    assert "1 dropped: a reward is not finite" in result["data"]
    assert "ratings.jsonl:121" in (folder / "run" / "training-dropped.jsonl").read_text()
    assert result["worse_than_mean"] == [] and "labels seen" in page and "helpfulness" in page
    forecast, _ = run(capsys, *words, "--dry-run")
    assert forecast["example"].startswith("<extra_id_0>System\nA chat between") and forecast["example"].endswith("<extra_id_2>")
    assert forecast["steps"] == -(-EPOCHS * 114 // 8) and "88 labels of correctness" in forecast["labels"]


def test_what_is_told_worse_than_by_the_mean_is_said() -> None:
    rows = [{"labels": 5, "error": error, "error_of_mean": 1.0} for error in (0.9, 1.0005, 1.2)]
    assert worse_than_mean(["a", "b", "c", "d"], [*rows, {"labels": 0, "error": None, "error_of_mean": None}]) == ["c"]


def test_accuracy_by_subset_with_intervals(folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bar = [{"input": f"say a number, {n}", "output_1": "five.", "output_2": "six.", "label": 1 + n % 2} for n in range(8)]
    (tmp_path / "Natural.json").write_text(json.dumps(bar))
    files = ["--data", folder / "pairs.jsonl", "--data", tmp_path / "Natural.json", "--kept", tmp_path / "kept.sqlite"]
    found, _ = run(capsys, "reward", "eval", trained, *files, "--against", trained)
    subsets = found["accuracy"]["subsets"]
    assert (subsets["pairs"]["mean"], subsets["pairs"]["count"]) == (1.0, 60) and subsets["llmbar-natural"]["mean"] == 0.5
    assert 0.9 < subsets["pairs"]["low"] < 0.95 and found["accuracy"]["whole"]["mean"] == pytest.approx(64 / 68)
    assert found["against"]["difference"]["p"] == 1.0 and found["accuracy"]["categories"]["Chat Hard"]["of_subsets"] == "1 of 6"
    found, _ = run(capsys, "reward", "eval", trained, "--data", folder / "ratings.jsonl", "--kept", tmp_path / "kept.sqlite")
    assert found["ratings"]["helpfulness"]["correlation"] > 0.95 and found["ratings"]["correctness"]["labels"] == 88
    assert found["accuracy"]["subsets"]["ratings"]["mean"] == 1.0 and found["even"] == 60 - found["accuracy"]["subsets"]["ratings"]["count"]


def test_rewardbench_by_its_own_rules() -> None:
    """A category counts math as much as all code, the whole is the mean of the categories, a tie is wrong."""
    right = {"math-prm": 300, "hep-go": 41, "alpacaeval-easy": 90}
    counts = {"math-prm": 447, "hep-go": 82, "alpacaeval-easy": 100}
    pairs = [Ranked(name, "", 1.0 if n < right[name] else 0.0) for name, count in counts.items() for n in range(count)]
    found = accuracy(pairs)
    reasoning = (984 * 300 / 447 + 41) / (984 + 82)
    assert found["categories"]["Reasoning"]["mean"] == pytest.approx(reasoning)
    assert found["categories"]["Reasoning"]["of_subsets"] == "2 of 7" and [*found["categories"]] == ["Chat", "Reasoning"]
    assert found["whole"]["mean"] == pytest.approx((0.9 + reasoning) / 2) and found["ties"] == len(pairs) - 431
    halves = [(each["high"] - each["low"]) / 2 for each in found["categories"].values()]
    assert found["whole"]["high"] - found["whole"]["low"] == pytest.approx(sum(half**2 for half in halves) ** 0.5, rel=0.05)
    assert sum(map(len, SUBSETS.values())) == 23
    assert {*LLMBAR.values()} == {*SUBSETS["Chat Hard"]} - {"mt-bench-hard"}


def test_files_come_back_with_scores_as_computed(folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    chats = [{"messages": said(f"say a number, {n}", "five."), "id": n} for n in range(5)]
    data = write(tmp_path / "chats.jsonl", [*chats, {"prompt": "a", "completion": " "}, {"text": "no answer"}])
    kept = ["--kept", tmp_path / "kept.sqlite"]
    found, spoken = run(capsys, "reward", "score", trained, "--data", data, "--out", tmp_path / "out.jsonl", *kept, code=1)
    assert (found["rows"], found["dropped"], found["kept"]) == (5, 2, 0) and "2 rows were not scored" in spoken
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    ask = scorer(trained)
    for row in rows:
        (alone,) = ask([row["messages"]])
        assert row["attributes"] == pytest.approx(alone.attributes, abs=1e-4)
        assert row["score"] == pytest.approx(sum(PUBLISHED[name] * value for name, value in row["attributes"].items()), abs=1e-12)
        assert any(value != round(value, 3) for value in row["attributes"].values())
    reasons = sorted(json.loads(line)["sentence"] for line in (tmp_path / "out.jsonl.dropped.jsonl").read_text().splitlines())
    assert f"{data}:6: The answer is empty" in reasons[0] and f"{data}:7 is no conversation" in reasons[1]
    again, _ = run(capsys, "reward", "score", trained, "--data", data, "--out", tmp_path / "out.parquet", *kept, code=1)
    assert again["kept"] == 5 and again["mean"] == found["mean"]
    found, _ = run(capsys, "reward", "score", trained, "--data", folder / "pairs.jsonl", "--out", tmp_path / "pairs.jsonl", *kept)
    first = json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])
    assert first["chosen_reward"] > first["rejected_reward"] and first["chosen_attributes"]["helpfulness"] > 3 and found["answers"] == 120
    words = ["reward", "score", trained, "--data", data, "--out", tmp_path / "other.jsonl", "--weights", "verbosity=-2", *kept]
    assert run(capsys, *words, code=1)[0]["mean"] == pytest.approx(sum(-2 * row["attributes"]["verbosity"] for row in rows) / 5)
    words = ["reward", "score", trained, "--data", tmp_path / "out.jsonl", "--out", tmp_path / "twice.jsonl", *kept]
    assert main([*map(str, words)]) == 2 and "has a field 'attributes' already" in capsys.readouterr().err


def test_amaru_s_own_layout_keeps_its_fields_and_its_scores(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    asked, answers = [{"role": "user", "content": "say a number"}], [{"content": "five."}, {"content": "no."}]
    data = write(tmp_path / "own.jsonl", [{"messages": asked, "responses": answers, "id": 7}])
    words = ["reward", "score", trained, "--kept", "none", "--data"]
    run(capsys, *words, data, "--out", tmp_path / "scored.jsonl")
    row = json.loads((tmp_path / "scored.jsonl").read_text())
    assert row["id"] == 7 and [each["content"] for each in row["responses"]] == ["five.", "no."]
    assert all(each["score"] and each["attributes"] for each in row["responses"])
    again = [*words, tmp_path / "scored.jsonl", "--out", tmp_path / "twice.jsonl"]
    assert main([*map(str, again)]) == 2 and "has scores in its responses already" in " ".join(capsys.readouterr().err.split())
    run(capsys, *again, "--overwrite")


def test_pairs_and_a_stopped_run_end_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    learning = Learning(batch_rows=4, micro_tokens=600, lr=1e-2, warmup_share=0.0, validations=1, saving=Saving(seconds=0))
    recipe = RewardRecipe(
        start=str(folder / "model"), data=(str(folder / "pairs.jsonl"),), objective="bradley-terry", add_special_tokens=True, limit=20,
        epochs=1.0, learning=learning,
    )  # fmt: skip
    with Run(tmp_path / "whole", "reward", recipe, Stops(-1)) as calm:
        whole = train_reward(recipe, calm)
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "cut", "reward", recipe, Stops(3)) as cut:
        train_reward(recipe, cut)
    assert [*(tmp_path / "cut").glob("model-training/checkpoints/step-00000002/model.safetensors")]
    with Run(tmp_path / "cut", "reward", recipe, Stops(-1)) as cut:
        again = train_reward(recipe, cut)
    assert fingerprint(whole["checkpoint"]) == fingerprint(again["checkpoint"]) and whole["quality"] == again["quality"]
    assert whole["rows"]["training"].startswith("20 pairs") and whole["attributes"]["names"] == ["reward"]
    assert whole["quality"]["start"]["loss"] == pytest.approx(0.693147, abs=1e-5) and whole["quality"]["model"]["loss"] < 0.6


def test_a_reward_model_goes_on_with_its_head(folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["reward", "train", trained, "--data", folder / "ratings.jsonl", "--only-head", "--epochs", 0.1, "--out", tmp_path / "run"]
    result, _ = run(capsys, *words, *QUICK)
    before, after = (result["quality"][name]["attributes"][0]["error"] for name in ("start", "model"))
    assert before < 0.5 and after < 0.5
    tensors = [(path / "model.safetensors").read_bytes() for path in (trained, Path(result["checkpoint"]))]
    assert tensors[0] == tensors[1]  # the decoder stayed as it was
    assert fingerprint(trained) != fingerprint(result["checkpoint"])


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["model", "--data", "ratings.jsonl"], "lacks <extra_id_0>, <extra_id_1>, <extra_id_2>, which answers are scored with. Give --add"),
        (["model", "--data", "ratings.jsonl", "--pool", "end-of-turn"], "no chat template, so there is no end of turn to score at"),
        (["model", "--data", "pairs.jsonl"], "No answer is rated, so there is nothing to regress on; for answers that are compared"),
        (["model", "--data", "ratings.jsonl", "--attributes", "helpfulness,charm"], "no published weight for charm"),
        (["model", "--data", "ratings.jsonl", "--attributes", "humor"], "No answer has a label of humor; the data has labels of helpf"),
        (["model", "--data", "ratings.jsonl", "--range", "0,3"], "ratings.jsonl:1 (answer 1 to this prompt)"),
        (["model", "--data", "ratings.jsonl", "--weights", "helpfulness"], "--weights is NAME=NUMBER"),
        (["model", "--data", "ratings.jsonl", "--objective", "bradley-terry"], "rated answers are compared with --better-by"),
        (["model", "--data", "ratings.jsonl", "--set", "learning.tokens=5"], "Epochs and learning.batch_rows"),
        (["run/model", "--data", "charm.jsonl"], "complexity, verbosity, but the data has labels of charm; begin"),
        (["run/model", "--data", "ratings.jsonl", "--attributes", "humor"], "and the recipe asks for other attributes"),
        (["run/model", "--data", "pairs.jsonl", "--objective", "bradley-terry"], "by regression, and the recipe asks for bradley-terry"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    folder: Path, trained: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    write(folder / "charm.jsonl", [{"messages": said(f"a{n}", "b"), "attributes": {"charm": 1, "helpfulness": 2}} for n in range(3)])
    assert main(["reward", "train", *words, "--out", "none"]) == 2
    assert sentence in capsys.readouterr().err and not (folder / "none").exists()


def test_settings_that_have_no_effect_are_refused() -> None:
    for settings, sentence in [
        ({"pool": "end-of-turn", "system": "x"}, "A system sentence belongs to the label prefix"),
        ({"template": "chatml"}, "a template is for end-of-turn"),
        ({"objective": "bradley-terry", "weights": {"reward": 2.0}}, "one attribute and no weights"),
        ({"better_by": {"helpfulness": 1.0}}, "regression learns the ratings themselves"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            RewardRecipe(start="m", data=("d",), **settings)  # type: ignore[arg-type]


def test_the_end_of_turn_of_a_chat_template(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["reward", "train", folder / "model", "--data", folder / "ratings.jsonl", "--pool", "end-of-turn", "--template", "chatml"]
    words += ["--objective", "bradley-terry", "--better-by", "helpfulness=1", "--limit", 8, "--epochs", 1, "--out", tmp_path / "run"]
    result, _ = run(capsys, *words, *QUICK)
    model = scorer(result["checkpoint"])
    assert model.model.prompts.tokenizer.decode(model.ids(said("a", "b"))).endswith("<|im_start|>assistant\nb<|im_end|>")
    assert KeptScorer(result["checkpoint"], None)([said("a", "b")]) == model([said("a", "b")])
