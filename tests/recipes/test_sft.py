"""From conversations and text to trained models, as people type it: fine-tuning in stages, prepared text, blends."""

import json
from pathlib import Path

import pytest
import torch
from tests.recipes.small import write_corpus
from tests.recipes.verbs import run

from amaru.cli.main import main
from amaru.data.templates import template_of
from amaru.data.tokenizer import Tokenizer
from amaru.models.checkpoint import Checkpoint, load, save
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.batch import Batch

LAYERS = (Mamba2(heads=4, channels=4, groups=2, state=8), Attention(query_heads=2, kv_heads=1, channels=8), MLP(ffn=24))
QUICK = ["--row-length", "64", "--epochs", "6", "--lr", "1e-2", "--set", "learning.batch_rows=2", "--set", "learning.validations=1"]


def write_chats(path: Path, question: str, answer: str, count: int) -> Path:
    chats = [[("user", question.format(n)), ("assistant", answer.format(n))] for n in range(count)]
    lines = [{"messages": [{"role": role, "content": text} for role, text in chat]} for chat in chats]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing, and two sets of conversations."""
    folder = tmp_path_factory.mktemp("sft")
    code = write_chats(folder / "code.jsonl", "add {}", "def add(x):\n    return x + {}", 50)
    write_chats(folder / "general.jsonl", "who is {}?", "{} is a number.", 20)
    tokenizer = Tokenizer.train(code.read_text().splitlines(), vocab=300)
    save(Decoder(DecoderConfig(vocab=tokenizer.vocab_size, hidden=16, layers=LAYERS)).initialise(0), folder / "model", tokenizer)
    return folder


def test_two_stages_with_replay(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["sft", folder / "model", "--data", folder / "code.jsonl", "--then", folder / "general.jsonl", "--replay", "4%"]
    words += ["--template", "nemotron4", "--add-special-tokens", "--out", folder / "run", *QUICK]
    forecast, _ = run(capsys, *words, "--dry-run")
    assert [stage["name"] for stage in forecast["stages"]] == ["stage-1", "stage-2"] and forecast["end_of_turn"] == "<extra_id_1>"
    result, said = run(capsys, *words)
    assert "50 conversations" in said and "20 conversations" in said and "2 of stage-1 replayed" in said
    assert said.count("  example 3 (") == 2 and said.index("example 3") < said.index("stage-1: ", said.index("example 1")) + 10_000
    shown = forecast["stages"][0]["examples"][0]["text"]
    assert shown.startswith("<extra_id_0>System\n\n<extra_id_1>User\nadd ") and shown.endswith("<extra_id_1>⟧") and shown.count("⟦") == 1
    assert shown in said.replace("\n    ", "\n") or shown.split("⟦")[1][:9] in said
    first, last = (result["rows"][name] for name in ("stage-1", "stage-2"))
    assert last["stage-2"]["loss"] < first["stage-2"]["loss"] - 0.1  # the second stage learned what the first did not know
    model, start = Checkpoint(result["checkpoint"]), Checkpoint(folder / "model")
    tokenizer = Tokenizer.load(result["checkpoint"])
    assert model.config.vocab == start.config.vocab + 2 == tokenizer.vocab_size
    assert tokenizer.decode([tokenizer.eos_id]) == "<extra_id_1>"
    assert json.loads((Path(result["checkpoint"]) / "config.json").read_text())["eos_token_id"] == tokenizer.eos_id
    template = template_of(None, tokenizer)
    assert "generation" not in template.source.replace("add_generation_prompt", "")
    prompt = template.ids(template.render([{"role": "user", "content": "who is 3?"}], begin=True))
    assert torch.isfinite(load(result["checkpoint"])(Batch.of([torch.tensor(prompt)]))).all()
    page = (folder / "run" / "report.html").read_text()
    assert "Stage stage-2" in page and "⟦" in page
    again, said = run(capsys, *words)
    assert again == result and said.count("kept from before") >= 8


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--data", "{}/code.jsonl"], "The tokenizer has no chat template; give --template chatml, nemotron4, plain"),
        (["--data", "{}/code.jsonl", "--template", "chatml"], "writes <|im_end|>, <|im_start|>, which the tokenizer does not know"),
        (["--data", "{}/code.jsonl", "--replay", "2%"], "--replay is for a second stage"),
        (["--then", "{}/code.jsonl"], "together with --data"),
        (["--data", "{}/code.jsonl", "--then", "{}/general.jsonl", "--replay", "0.1%"], "is none; give a larger share"),
        (["--data", "{}/code.jsonl", "--set", "learning.tokens=5"], "epochs decide"),
        (["--data", "{}/model/config.json", "--then", "{}/code.jsonl"], "holds no conversations"),
        ([], "needs 'stages'"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    flags = ["--template", "nemotron4", "--add-special-tokens"] if "--then" in words and "--data" in words else []
    filled = [word.format(folder) for word in words]
    assert main(["sft", str(folder / "model"), *filled, *flags, "--out", str(folder / "none")]) == 2
    assert sentence in capsys.readouterr().err and not (folder / "none").exists()


def test_prepared_text_and_a_blend_with_phases_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", documents=12), tmp_path / "tokens"
    prepared, _ = run(capsys, "data", "prepare", corpus, "--vocab", 300, "--out", out, "--validation-share", 0.2, "--workers", 1)
    assert prepared["read"] == 12 and sum(side["documents"] for side in prepared["kept"].values()) == 12
    shown, _ = run(capsys, "data", "show", out, "--samples", 2)
    assert len(shown["samples"]) == 2 and shown["samples"][0]["text"].startswith("the ")
    other = write_corpus(tmp_path / "other", documents=6, seed=1)
    phases = [{"until": "50%", "weights": {"old": 3, "new": 1}}, {"weights": {"new": 1}, "row_length": 128, "name": "long"}]
    blend = {"sources": {"old": {"data": [str(out)]}, "new": {"data": [str(other)]}}, "phases": phases}
    recipe = {"text": {"blend": blend, "row_length": 64, "validation_share": 0.2}, "learning": {"tokens": 2560, "batch_rows": 2}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | {"shape": {"pattern": "M*-", "hidden": 32, "ffn": 32, "mamba_channels": 8}}))
    trained, said = run(capsys, "train", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    drawn = {each["source"]: each for each in trained["drawn"]}
    assert drawn["old"]["rows"] == 15 and drawn["new"]["rows"] == 5 + 10  # 20 steps of 128 tokens: 2 rows each, then 1
    assert f"new: {drawn['new']['tokens']:,} tokens drawn" in said and 1500 < drawn["new"]["tokens"] <= 1600
    record = json.loads((tmp_path / "run" / "model-training" / "drawn.json").read_text())
    assert [(phase["name"], phase["first"], phase["row_length"]) for phase in record["phases"]] == [("phase 1", 0, 64), ("long", 10, 128)]


@pytest.mark.parametrize(
    "data, sentence",
    [
        (["{}/a.txt=0.7", "{}/b.txt"], "Either every source has a weight or none has; {}/b.txt has none. Write it {}/b.txt=0.5."),
        (["{}/a.txt=0.7", "{}/b.txt=-1"], "positive numbers, one for each source that it draws from; got {}/b.txt=-1.0"),
        (["{}/a.txt=0.7", "{}/c.txt=0.3"], "There is no text in {}/c.txt"),
        (["{}/a.txt=0.7", "{}/a.txt=0.3"], "named twice"),
    ],
)
def test_blends_that_cannot_be(tmp_path: Path, data: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    for name, text in (("a", "word\n" * 50), ("b", "other\n" * 50), ("c", " ")):
        (tmp_path / f"{name}.txt").write_text(text)
    flags = [word for each in data for word in ("--data", each.format(tmp_path))]
    assert main(["train", *flags, "--out", str(tmp_path / "run")]) == 2
    assert sentence.replace("{}", str(tmp_path)) in capsys.readouterr().err
