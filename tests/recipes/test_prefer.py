"""Preference optimisation from comparisons to a model, as people type it and as a stage of a longer run."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.align.small import model, some, tokenizer, write_pairs
from tests.recipes.test_interrupted import killed_until_done
from tests.recipes.verbs import Stops, run

from amaru.adapters import LoRA, files
from amaru.align import Comparison, Comparisons, read, write
from amaru.align.terms import Terms
from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.models.checkpoint import fingerprint, load, save
from amaru.nn.batch import Batch
from amaru.recipes.comparisons import gathered
from amaru.recipes.learning import Learning, Saving
from amaru.recipes.prefer import stage
from amaru.recipes.preference import Against, PreferRecipe
from amaru.recipes.run import Run
from amaru.recipes.several import Silence

QUICK = ["--template", "chatml", "--lr", "3e-3", "--epochs", "3", "--batch", "8", "--set", "learning.dtype=fp32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing, and pairs in which red is always better."""
    folder = tmp_path_factory.mktemp("prefer")
    known = tokenizer()
    save(model(known.vocab_size), folder / "model", known)
    write_pairs(folder / "pairs.jsonl", 60)
    return folder


def test_a_small_model_learns_what_is_better(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with (folder / "pairs.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "x", "chosen": "same", "rejected": "same"}) + "\n")
    words = ["prefer", folder / "model", "--data", folder / "pairs.jsonl", *QUICK, "--set", "validation_share=0.2", "--out", folder / "dpo"]
    forecast, _ = run(capsys, *words, "--dry-run")
    assert not (folder / "dpo").exists() and forecast["steps"] == 18
    assert "pairs.jsonl:61: two answers are the same text" in forecast["dropped"][0]
    result, said = run(capsys, *words)
    before, after = result["before"], result["after"]
    assert (before["accuracy"], before["margin"], before["kl"]) == (0.5, 0, 0)  # it is its own reference
    assert after["accuracy"] == 1 and after["margin"] > 0.3 and after["loss"] < 0.6 and result["warning"] is None
    assert after["chosen"] > after["rejected"] and after["kl"] > 0 and after["log_p_rejected"] < before["log_p_rejected"]
    assert "1 dropped: equal answers" in said and "its optimum is at no finite gap" in said
    (dropped,) = [json.loads(line) for line in (folder / "dpo/model-dropped.jsonl").read_text().splitlines()]
    assert dropped["source"].endswith("pairs.jsonl:61")
    steps = [json.loads(line) for line in (folder / "dpo/model-training/metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 18 and {"accuracy", "margin", "chosen", "rejected", "kl", "longer"} <= steps[-1]["parts"].keys()
    assert steps[-1]["validation"]["accuracy"] == 1
    page = (folder / "dpo/report.html").read_text()
    assert "Chosen and rejected apart" in page and "rows dropped" in page
    learned = Tokenizer.load(folder / "dpo/model")
    assert learned.decode([learned.eos_id]) == "<|im_end|>" and fingerprint(folder / "model") != fingerprint(folder / "dpo/model")
    again, said = run(capsys, *words)
    assert "0 of them computed now" in said and again["after"] == after and said.count("kept from before") == 5


def recipe(folder: Path, **more: object) -> PreferRecipe:
    learning = Learning(batch_rows=2, lr=3e-3, weight_decay=0.0, expert_balance=0.0, validations=2, saving=Saving(seconds=0))
    settings: dict = {"learning": learning, "template": "chatml", "validation_share": 0.2, **more}
    return PreferRecipe(start=str(folder / "model"), **settings)


def comparisons(count: int = 12) -> Comparisons:
    return Comparisons(tuple(some(count, answers=3)), 1, {"amaru": count})


@pytest.mark.parametrize("by", ["cached", "live", "adapter"])
def test_an_adapter_is_held_to_the_model_without_it_by_any_way(by: str, folder: Path, tmp_path: Path) -> None:
    asked = recipe(folder, lora=LoRA(rank=2), terms=Terms(method="rpo", beta=0.5), reference=Against(by=by), epochs=2.0)
    with Run(tmp_path / by, "prefer", asked, Silence()) as running:
        trained = stage(running, "rpo", asked, comparisons(), merge=True)
    before, after = trained.figures["before"], trained.figures["after"]
    assert before["margin"] == pytest.approx(0, abs=1e-6) and after["loss"] < before["loss"] and after["margin"] > before["margin"]
    assert trained.adapter is not None and trained.checkpoint is not None
    adapted = load(folder / "model")
    files.load(adapted, trained.adapter)
    batch = Batch.of([torch.arange(3, 20)])
    with torch.no_grad():
        torch.testing.assert_close(load(trained.checkpoint)(batch), adapted(batch), atol=1e-5, rtol=1e-5)


def test_killed_anywhere_it_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    asked = recipe(folder, epochs=1.0, terms=Terms(sft=1e-3))
    with Run(tmp_path / "whole", "prefer", asked, Silence()) as running:
        whole = stage(running, "model", asked, comparisons())
    for places in ((1,), (2,), (5, 1)):  # in the reference of the training rows, of those held out, and among the steps
        directory = tmp_path / "-".join(map(str, places))
        for place in places:
            with pytest.raises(KeyboardInterrupt), Run(directory, "prefer", asked, Stops(place)) as running:
                stage(running, "model", asked, comparisons())
        with Run(directory, "prefer", asked, Silence()) as running:
            cut = stage(running, "model", asked, comparisons())
        assert cut.figures == whole.figures
        assert (cut.checkpoint / "model.safetensors").read_bytes() == (whole.checkpoint / "model.safetensors").read_bytes()  # type: ignore[operator]


@pytest.mark.soak
def test_a_process_killed_at_random_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    words = ["prefer", folder / "model", "--data", folder / "pairs.jsonl", *QUICK, "--epochs", "40", "--set", "learning.saving.seconds=0"]
    words = [*map(str, words), "--out"]
    assert main([*words, str(tmp_path / "calm")]) == 0
    killed_until_done([*words, str(tmp_path / "killed")], kills=8, wait=(3.0, 9.0), seed=5)
    calm, killed = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("calm", "killed"))
    assert calm == killed
    assert json.loads((tmp_path / "calm/model.json").read_text()) == json.loads((tmp_path / "killed/model.json").read_text())


def test_stages_follow_each_other_in_one_run_and_a_scorer_gives_rewards(folder: Path, tmp_path: Path) -> None:
    first = recipe(folder, terms=Terms(beta=0.3), learning=Learning(batch_rows=4, lr=3e-3, expert_balance=0.0, dtype="fp32"))
    with Run(tmp_path / "rounds", "prefer", first, Silence()) as running:
        dpo = stage(running, "dpo", first, comparisons())
        terms = Terms(method="rpo", beta=0.3)
        second = PreferRecipe(start=str(dpo.checkpoint), terms=terms, learning=first.learning, validation_share=0.2)
        rpo = stage(running, "rpo", second, comparisons(), scorer=lambda given: [[len(a.text) for a in each.answers] for each in given])
    assert dpo.checkpoint != rpo.checkpoint and rpo.figures["before"]["margin"] == 0  # held to the stage before, whose template it has
    assert rpo.figures["longer"] == 1 and rpo.figures["after"]["longer"] > 0.5 and dpo.figures["longer"] < 1
    weights = [load_file(each.checkpoint / "model.safetensors") for each in (dpo, rpo)]  # type: ignore[operator]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_comparisons_from_nowhere_are_named_and_rewards_that_are_no_numbers_dropped(folder: Path) -> None:
    alike = Comparisons(tuple(replace(each, source="") for each in comparisons(6).found), 0, {})

    def scorer(given: Sequence[Comparison]) -> list[list[float]]:
        return [[math.nan if number == 2 else 1.0, *[0.0] * (len(each.answers) - 1)] for number, each in enumerate(given)]

    found = gathered(recipe(folder), alike, scorer)
    (dropped,) = found.dropped
    assert len(found.found) == 5 and dropped.sentence.startswith("comparison#3: the reward") and "not finite" in dropped.sentence


def test_rewards_from_a_file_of_scores_and_prompts_seen_before(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pairs = read([str(write_pairs(tmp_path / "pairs.jsonl", 20))]).found
    write(tmp_path / "scored.jsonl", [each.rewarded([2.0, 0.5]) for each in pairs[:16]])
    asked = [{"prompt": each.messages[0]["content"].upper(), "completion": "red"} for each in pairs[:3]]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    words = ["prefer", folder / "model", "--data", tmp_path / "pairs.jsonl", "--scores", tmp_path / "scored.jsonl", "--method", "rpo"]
    words += ["--trained-on", tmp_path / "chats.jsonl", "--beta", "0.01", "--eta", "2", *QUICK]
    told, _ = run(capsys, *words, "--dry-run")
    assert "4 dropped: no score in the files of scores" in told["data"] and "3 ask what the model was fine-tuned on" in told["data"]
    assert "rewards 1.5 apart on average: its optimum is a log-ratio gap of 300 nats" in told["loss"]
    told, _ = run(capsys, *words, "--dry-run", "--set", "shared_prompts=drop")
    assert "3 dropped: prompt of the fine-tuning" in told["data"]
    held, _ = run(capsys, *words, "--held-out", write_pairs(tmp_path / "few.jsonl", 5), "--dry-run")
    assert sum("asks what is held out" in each for each in held["dropped"]) == 5 and held["held_out"].startswith("5 comparisons")


def test_an_answer_with_two_scores_is_not_learned_from(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write_pairs(tmp_path / "pairs.jsonl", 30)
    pairs = read([str(file)]).found
    write(tmp_path / "scored.jsonl", [*(each.rewarded([1, 0]) for each in pairs), *(each.rewarded([0, 1]) for each in pairs[:3])])
    rated = [replace(each, answers=tuple(replace(a, attributes={"wit": len(a.text)}) for a in each.answers)) for each in pairs]
    write(tmp_path / "rated.jsonl", rated)
    words = ["prefer", folder / "model", "--data", file, "--method", "rpo", *QUICK, "--dry-run", "--scores"]
    told, _ = run(capsys, *words, tmp_path / "scored.jsonl")
    assert "; 3 dropped: different scores in the files of scores" in told["data"] and "rewards 1 apart" in told["loss"]
    assert f"{file}:1: the files of scores give an answer of it different scores." in told["dropped"]
    told, _ = run(capsys, *words, tmp_path / "rated.jsonl", "--reward", "wit")  # of which the data has nothing
    assert told["dropped"] == [] and "rewards 1.3" in told["loss"]  # "green" is longer than "red" by 2, the others by 1


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--method", "rpo"], "rpo needs a reward for every answer"),
        (["--method", "ipo", "--eta", "2"], "eta and distance belong to rpo"),
        (["--template", "nemotron4"], "writes <extra_id_0>, <extra_id_1>, which the tokenizer does not know"),
        (["--longest", "5"], "it has more than 5 tokens"),
        (["--longest", "5", "--too-long", "cut"], "prompt or answer have no token among the first 5"),
        (["--reference-by", "adapter"], "There is no adapter to switch off"),
        (["--merge"], "--merge is for adapters"),
        (["--rank", "4"], "--rank belongs to an adapter"),
        (["--reward", "charm=1,wit=2"], "No comparison has charm, wit for every answer, which makes the reward; answers are rated by"),
        (["--reward", "helpfulness=much"], "--reward is attributes with weights"),
        (["--set", "learning.tokens=100"], "Epochs of comparisons decide"),
        (["--set", "terms.smoothing=0.7"], "smoothing"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    given = [] if "--template" in words else ["--template", "chatml"]
    code = main(["prefer", str(folder / "model"), "--data", str(folder / "pairs.jsonl"), *given, *words, "--out", str(folder / "bad")])
    assert code == 2 and sentence in capsys.readouterr().err and not (folder / "bad").exists()


def test_a_reference_with_other_tokens_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = Tokenizer.train(["something else entirely"], vocab=280).with_special(["<|im_start|>", "<|im_end|>"])
    save(model(other.vocab_size), tmp_path / "other", other)
    words = ["prefer", folder / "model", "--data", folder / "pairs.jsonl", "--template", "chatml", "--reference", tmp_path / "other"]
    assert main([*map(str, words), "--out", str(tmp_path / "bad")]) == 2
    assert "has another tokenizer than" in capsys.readouterr().err
