"""Bad input gets one sentence and exit 2, and nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.recipes.small import SHORT, TEXT, compress_words, flags, train_words, write_corpus

from amaru.cli.main import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and a trained model to break."""
    place = tmp_path_factory.mktemp("bad")
    assert main(train_words(write_corpus(place / "corpus"), place / "parent")) == 0
    return place


def sentence(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The last line of stderr of a command line that must exit with 2."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.splitlines()[-1].startswith("amaru: ")
    return captured.err.splitlines()[-1]


def copy_of(checkpoint: Path, to: Path) -> Path:
    to.mkdir()
    for file in checkpoint.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_text_that_is_not_there_or_not_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    out = ["--out", str(tmp_path / "run")]
    assert "nowhere.txt" in sentence(capsys, "train", "--data", str(tmp_path / "nowhere.txt"), *out)
    assert "There is no text" in sentence(capsys, "train", "--data", str(tmp_path / "empty.txt"), *out)
    found = sentence(capsys, "train", "--data", str(tmp_path / "latin.txt"), *out)
    assert "latin.txt" in found and "UTF-8" in found and "3" in found
    assert "give --data" in sentence(capsys, "train", *out)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--memory", "3%"], "the smallest in the search space has"),
        (["--memory", "1KiB"], "the smallest in the search space has"),
        (["--params", "100%"], "there is nothing to cut"),
        (["--memory", "many"], "write it as 24GiB"),
        ([], "needs a budget"),
        (["--memory", "60%", "--set", "learning.lrr=1"], "Did you mean 'lr'?"),
        (["--memory", "60%", "--finalists", "0"], "greater than 0"),
        (["--memory", "60%", "--tokens", "few"], "--tokens: 'few' is not a count"),
        (["--memory", "60%", "--set", "text.vocab=5000"], "brings its own tokenizer of 300 tokens"),
    ],
)
def test_budgets_and_settings(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    base = ["compress", str(place / "parent" / "model"), "--data", str(place / "corpus"), "--out", str(tmp_path / "run")]
    small = flags(TEXT[1:], ["calibration_rows=2", "layer_rows=1"])
    assert expected in sentence(capsys, *base, *words, *small)


@pytest.mark.parametrize("damage", ["missing", "extra", "truncated", "no config"])
def test_damaged_checkpoints_are_named(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    broken = copy_of(place / "parent" / "model", tmp_path / "broken")
    weights = broken / "model.safetensors"
    tensors = load_file(weights)
    expected = "model.safetensors"
    if damage == "missing":
        expected = "backbone.layers.2.mixer.A_log"
        save_file({name: tensor for name, tensor in tensors.items() if name != expected}, weights)
    elif damage == "extra":
        expected = "backbone.layers.2.mixer.B_log"
        save_file(tensors | {expected: tensors["backbone.norm_f.weight"].clone()}, weights)
    elif damage == "truncated":
        expected = "lm_head.weight"
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        expected = "config.json"
        (broken / "config.json").unlink()
    words = ["compress", str(broken), "--data", str(place / "corpus"), "--memory", "60%", "--out", str(tmp_path / "run")]
    assert expected in sentence(capsys, *words)
    assert expected in sentence(capsys, "generate", str(broken), "--prompt", "the")


def test_an_unknown_checkpoint_and_an_unknown_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing-here" in sentence(capsys, "eval", str(tmp_path / "nothing-here"), "--data", "x")
    assert "no run.json" in sentence(capsys, "report", str(tmp_path))


def test_a_full_disk_is_a_sentence_and_the_same_command_finishes_later(place: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the model fits no more, the small files before it do."""
    corpus, out = place / "corpus", tmp_path / "run"
    words = train_words(corpus, out)
    code = """
import resource, signal, sys
from amaru.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (out / "model").exists()
    assert main(words) == 0, "with room again the same command finishes"
    model, undisturbed = load_file(out / "model" / "model.safetensors"), load_file(place / "parent" / "model" / "model.safetensors")
    assert all((model[name] == undisturbed[name]).all() for name in undisturbed)


def test_a_teacher_with_another_tokenizer_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy_of(place / "parent" / "model", tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    first, second = (name for name, index in vocab.items() if index in (100, 101))
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    words = ["distill", "--teacher", str(place / "parent" / "model"), "--student", str(other), "--data", str(place / "corpus")]
    assert "different tokenizers" in sentence(capsys, *words, "--out", str(tmp_path / "run"), *flags(TEXT, SHORT))


def test_a_dry_run_leaves_nothing_behind(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = compress_words(place / "corpus", place / "parent" / "model", tmp_path / "run")
    assert main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "run").exists()


def test_settings_that_would_have_no_effect_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--from", str(place / "parent" / "model"), "--data", str(place / "corpus"), "--out", str(tmp_path / "run")]
    assert "has its own shape" in sentence(capsys, *words, "--hidden", "999")
    assert "brings its own tokenizer" in sentence(capsys, *words, "--set", "text.vocab=5000")
    assert "at least two different seeds" in sentence(capsys, "demo", "--out", str(tmp_path / "d"), "--set", "seeds=[1]")
    assert "at least one learning rate" in sentence(capsys, "demo", "--out", str(tmp_path / "d"), "--set", "twin_lrs=[]")


def test_a_tokenizer_larger_than_its_model_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy_of(place / "parent" / "model", tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    added = {"id": 300, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"].append(added)
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    for verb in (["compress", str(other), "--memory", "60%"], ["train", "--from", str(other)]):
        assert "300 embeddings" in sentence(capsys, *verb, "--data", str(place / "corpus"), "--out", str(tmp_path / "run"))


def test_eval_refuses_a_teacher_with_another_tokenizer(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy_of(place / "parent" / "model", tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    words = ["eval", str(place / "parent" / "model"), "--data", str(place / "corpus"), "--teacher", str(other)]
    assert "different tokenizers" in sentence(capsys, *words)
