"""From a checkpoint and conversations to an adapter, as people type it: what is reached, what is learned, what is left alone."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.models.random_models import FAMILIES, random_model
from tests.recipes.test_sft import LAYERS, write_chats
from tests.recipes.verbs import Stops, run

from amaru.adapters import LoRA, files, peft_files
from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.models.checkpoint import fingerprint, load, save
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.batch import Batch
from amaru.precision.quantise import quantise
from amaru.precision.scheme import Scheme
from amaru.recipes.adapt import AdaptRecipe, conversations, learned, text_of
from amaru.recipes.learning import Learning, Saving
from amaru.recipes.reproduce.workers import Silence
from amaru.recipes.run import Run

QUICK = ["--row-length", "64", "--epochs", "4", "--lr", "2e-2", "--set", "learning.batch_rows=2", "--set", "learning.validations=1"]
TIED = ["--method", "tied-lora", "--rank", "2", "--targets", "mamba,q_proj", *QUICK]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    write_chats(folder / "code.jsonl", "add {}", "def add(x):\n    return x + {}", 50)
    lines = [{"prompt": f"add {n}\n", "completion": f"x + {n}"} for n in range(45, 60)]
    (folder / "plain.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = Tokenizer.train((folder / "code.jsonl").read_text().splitlines(), vocab=300)
    decoder = Decoder(DecoderConfig(vocab=tokenizer.vocab_size, hidden=16, layers=LAYERS)).initialise(0)
    save(decoder, folder / "model", tokenizer)
    quantise(decoder, Scheme(to="int8"))
    save(decoder, folder / "codes", tokenizer)
    return folder


def test_an_adapter_learns_and_the_model_is_left_alone(folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = fingerprint(folder / "model")
    words = ["adapt", folder / "model", "--data", folder / "code.jsonl", "--template", "plain", *TIED, "--out", folder / "tied"]
    forecast, _ = run(capsys, *words, "--dry-run")
    assert not (folder / "tied").exists() and "TL6" in forecast["coverage"] and "⟦def add" in forecast["examples"][0]["text"]
    result, said = run(capsys, *words, "--merge", "--peft")
    assert re.search(r"mamba2 +1 of 1 +2 of 2 ", said) and "TL6: 402 numbers" in said  # told before anything is trained
    assert said.index("mamba2 ") < said.index("steps of")
    assert result["trained"] == forecast["trained"] == sum(p.numel() for p in files_of(folder / "tied/adapter", folder / "model"))
    assert result["after"]["loss"] < result["before"]["loss"] - 0.5
    assert fingerprint(folder / "model") == before and result["difference"] < 1e-6
    batch = Batch.of([torch.arange(3, 20)])
    adapted, plain = load(folder / "model"), load(folder / "model")
    files.load(adapted, folder / "tied/adapter")
    peft_files.read(plain, folder / "tied/peft")
    with torch.no_grad():
        torch.testing.assert_close(load(folder / "tied/merged")(batch), adapted(batch), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(plain(batch), adapted(batch), atol=1e-5, rtol=1e-5)
    assert "What is reached" in (folder / "tied/report.html").read_text()
    again, said = run(capsys, *words)
    assert said.count("kept from before") == 5 and again["after"] == result["after"]


def files_of(adapter: Path, model: Path) -> list[torch.nn.Parameter]:
    decoder = load(model)
    files.load(decoder, adapter)
    return [parameter for parameter in decoder.parameters() if parameter.requires_grad]


def test_over_codes_and_with_all_weights(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--data", folder / "code.jsonl", "--template", "plain", *QUICK]
    over, _ = run(capsys, "adapt", folder / "codes", *words, "--method", "lora", "--measure", "--out", folder / "over")
    full, said = run(capsys, "adapt", folder / "model", *words, "--method", "full", "--out", folder / "full")
    for result in (over, full):
        assert result["after"]["loss"] < result["before"]["loss"] - 0.5
    assert over["cost"]["LoRA"]["tokens_per_second"] > 0 and [*over["cost"]] == ["LoRA"]  # codes are not trained
    assert full["trained"] == full["parameters"] and "all 12,812 numbers" in said and full["next"] == [f"amaru serve {folder}/full/model"]


def test_hymba_is_reached_whole_and_by_segments(folder: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer = Tokenizer.load(folder / "model")
    save(random_model(replace(FAMILIES["hymba"](0), vocab=tokenizer.vocab_size)), folder / "hymba", tokenizer)
    words = ["adapt", folder / "hymba", "--data", folder / "code.jsonl", "--template", "plain", "--rank", "2", *QUICK, "--epochs", "1"]
    whole, _ = run(capsys, *words, "--out", folder / "whole")
    assert all(row["linears"][0] == row["linears"][1] > 0 for row in whole["coverage"] if row["kind"] != "head")
    parts, _ = run(capsys, *words, "--targets", "in_proj.q,in_proj.x,out_proj", "--method", "tied-lora", "--out", folder / "parts")
    for result in (whole, parts):
        assert result["after"]["loss"] < result["before"]["loss"]
    (row,) = (row for row in parts["coverage"] if row["kind"] == "hybrid_head")
    assert row["layers"][0] == row["layers"][1] and 0 < row["weights"][0] < row["weights"][1]


def test_a_stopped_run_ends_in_the_same_bytes_and_saves_the_adapter_alone(folder: Path, tmp_path: Path) -> None:
    learning = Learning(batch_rows=2, lr=1e-2, weight_decay=0.0, expert_balance=0.0, validations=1, saving=Saving(seconds=0))
    settings = {"template": "plain", "row_length": 64, "epochs": 1.0, "lora": LoRA(rank=2, dropout=0.3), "learning": learning}
    recipe, made = AdaptRecipe(start=str(folder / "model"), data=(str(folder / "code.jsonl"),), **settings), {}  # type: ignore[arg-type]
    with Run(tmp_path / "whole", "adapt", recipe, Silence()) as run:
        text = text_of(recipe, run)
        made["whole"] = learned(recipe, run, text)
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "cut", "adapt", recipe, Stops(3)) as run:
        learned(recipe, run, text_of(recipe, run))
    (saved,) = (tmp_path / "cut").glob("adapter-training/checkpoints/step-00000002/model.safetensors")
    assert sum(tensor.numel() for tensor in load_file(saved).values()) == recipe.method.trained_count(load(folder / "model").config)
    with Run(tmp_path / "cut", "adapt", recipe, Silence()) as run:
        made["cut"] = learned(recipe, run, text)
    assert (made["cut"] / files.TENSORS).read_bytes() == (made["whole"] / files.TENSORS).read_bytes()


def test_what_is_held_out_is_not_learned(folder: Path) -> None:
    asked = AdaptRecipe(start="", data=(f"{folder}/*.jsonl",), held_out=(str(folder / "plain.jsonl"),))
    part = conversations(asked)
    assert len(part.validation) == 15 and len(part.training) == 50 and "15 of these were to be learned too" in part.summary


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--targets", "qkv"], "No linear layer is meant by 'qkv'. There is: all; kinds mamba2, attention, mlp"),
        (["--rank", "17"], "Rank 17 is above a dimension of layers.0.mixer.in_proj, 68 x 16"),
        (["--layers", "0,7"], "There is no layer 7; this model's are 0 to 2"),
        (["--layers", "0-"], "--layers is numbers and ranges"),
        (["--method", "full", "--rank", "2"], "--rank belongs to an adapter"),
        (["--method", "full", "--merge"], "--merge and --peft are for adapters"),
        (["--set", "learning.expert_balance=0.1"], "expert_balance moves biases of the base"),
        (["--set", "tied_lora.rank=4", "--set", "lora.rank=4"], "One method is trained at a time"),
        (["--template", "chatml"], "writes <|im_end|>, <|im_start|>, which the tokenizer does not know"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["--template", "plain"] if "--template" not in words else []
    code = main(["adapt", str(folder / "model"), "--data", str(folder / "code.jsonl"), *given, *words, "--out", str(folder / "bad")])
    assert code == 2 and sentence in capsys.readouterr().err and not (folder / "bad").exists()
