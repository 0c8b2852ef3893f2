"""The tokenizer against transformers reading the files we write, and against itself in another process."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoTokenizer

from amaru.data.tokenizer import Tokenizer
from amaru.errors import DataError

TEXTS = ["def f(x):\n    return x  # añade", "", " \t\n\n  spaces  ", "日本語 🦙 e\u0301", "a<|endoftext|>b<|padding|>", "\x07\r\n"]


def test_transformers_reads_it_without_a_warning(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs(text, split_special_tokens=True)["input_ids"] for text in TEXTS] == tokenizer.encode_batch(TEXTS)
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id)
    assert len(theirs) == tokenizer.vocab_size == 300


def test_loading_says_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    code = f"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained({str(tmp_path)!r})('def')"
    run = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, env={"TRANSFORMERS_VERBOSITY": "info"})
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "warn" in line.lower() or "incorrect" in line.lower()], done.stderr


def test_text_comes_back(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.eos_id not in tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.eos_id]) == "<|endoftext|>"


def test_training_repeats_in_another_process(tokenizer: Tokenizer) -> None:
    code = (
        "from conftest import SENTENCES; from amaru.data.tokenizer import Tokenizer;"
        "print(Tokenizer.train(SENTENCES, vocab=300).fingerprint)"
    )
    for threads in ("1", "3"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, env={"RAYON_NUM_THREADS": threads}
        )
        assert done.stdout.strip() == tokenizer.fingerprint, done.stderr


def test_a_loaded_tokenizer_keeps_its_files_and_what_it_adds(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "hello": 3, "world": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("hello world hello") == [0, 3, 4, 3] == AutoTokenizer.from_pretrained(tmp_path)("hello world hello")["input_ids"]
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id, loaded.vocab_size) == (0, 1, None, 5)
    loaded.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert again.fingerprint == loaded.fingerprint and again.companions["chat_template.jinja"] == "{{ messages }}"


def test_refusals(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json in"):
        Tokenizer.load(tmp_path)
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="names no end-of-text token"):
        Tokenizer.load(tmp_path).eos_id  # noqa: B018
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(DataError, match="eos_token is '<end>', which its vocabulary does not hold"):
        Tokenizer.load(tmp_path).eos_id  # noqa: B018
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer that can be read"):
        Tokenizer.load(tmp_path)
    with pytest.raises(DataError, match="holds 256 bytes and at least one special token; got 100 and 2"):
        Tokenizer.train(["a"], vocab=100)
