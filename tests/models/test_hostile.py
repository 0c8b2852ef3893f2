"""Hostile checkpoints: whatever a stranger wrote, one sentence, and nothing allocated on his word."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.models.random_models import FAMILIES, random_config, random_model

from amaru.errors import AmaruError, CheckpointError
from amaru.models.checkpoint import Checkpoint, save
from amaru.models.convert import Job
from amaru.models.formats import format_of, open_checkpoint
from amaru.models.targets import Request
from amaru.models.verify import verify

HOSTILE: list[Any] = [
    *(-1, 0, 1, 7, 2**31 - 1, 10**15, 10**400, 1.5, -0.0, 1e308),
    *("", "x" * 100_000, "../../etc/passwd", "\x1b[2J", "01", None, True, False),
    *([], [1], [10**9] * 50, ["x"], {}, {"a": {"b": []}}, [[[[]]]], {"__float__": "NaN"}, ...),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_value_in_any_field_is_a_sentence_or_another_reading(family: str, tmp_path: Path) -> None:
    """A size of 10^15 could not be allocated; a bug would be another exception than ours."""
    save(random_model(FAMILIES[family](2), 2), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    refused = 0
    for name in values:
        for value in HOSTILE:
            changed = values | {name: value}
            config.write_text(json.dumps({key: each for key, each in changed.items() if each is not ...}))
            try:
                Checkpoint(tmp_path / "model")
            except AmaruError as error:
                refused += 1
                assert str(error).isprintable() and len(str(error)) < 30_000, (name, value)
    assert refused > 5 * len(values)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(random_model(random_config(1, "M-*-M"), 1), tmp_path / "model")
    return tmp_path / "model"


CONTRADICTIONS: list[tuple[str, dict[str, Any]]] = [
    ("nemotron_h", {"num_hidden_layers": 5}),
    ("amaru", {"vocab_size": 5}),
    ("amaru", {"hidden_size": 3}),
    ("amaru", {"num_hidden_layers": 2}),
]


@pytest.mark.parametrize(("family", "change"), CONTRADICTIONS, ids=str)
def test_fields_that_contradict_each_other_are_refused(family: str, change: dict[str, Any], tmp_path: Path) -> None:
    save(random_model(FAMILIES[family](2), 2), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=f"sets {next(iter(change))} to .*; its"):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_numbers_that_compute_nothing_are_refused_in_a_written_out_stack(value: float, tmp_path: Path) -> None:
    """Python reads NaN and Infinity from JSON."""
    save(random_model(FAMILIES["amaru"](2), 2), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    rotary = next(layer for layer in values["stack"]["layers"] if layer.get("rope"))
    mamba = next(layer for layer in values["stack"]["layers"] if layer["kind"] == "mamba2")
    changes = ((values["stack"], {"norm_eps": value}), (rotary["rope"], {"base": value}), (mamba, {"time_step_limit": [value, value]}))
    for part, change in changes:
        before = dict(part)
        part.update(change)
        config.write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=next(iter(change))):
            open_checkpoint(tmp_path / "model")
        part.update(before)


TEXTS: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b'"config"',
    b"{" * 100_000,
    b'{"model_type": ' + b"[" * 100_000,
    b'{"vocab_size": 1' + b"0" * 10_000 + b"}",
    b'{"model_type": "nemotron_h"',
    b"\xff\xfe\x00",
    b"PK\x03\x04",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_config_that_is_none_is_one_sentence(text: bytes, saved: Path) -> None:
    (saved / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(saved)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_a_config_that_is_no_file_is_never_opened(saved: Path) -> None:
    (saved / "config.json").unlink()
    os.mkfifo(saved / "config.json")
    for read in (Checkpoint, open_checkpoint):
        with pytest.raises(CheckpointError):
            read(saved)
    (saved / "config.json").unlink()
    (saved / "config.json").symlink_to("/dev/zero")
    for read in (Checkpoint, open_checkpoint):
        with pytest.raises(CheckpointError):
            read(saved)


def test_token_ids_that_are_none_are_refused(saved: Path, tmp_path: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    for ids in ("0", [None, "x"], {"id": 1}, 1.5):
        (saved / "config.json").write_text(json.dumps(values | {"eos_token_id": ids}))
        with pytest.raises(CheckpointError, match="eos_token_id"):
            Job(Request(source=str(saved), out=str(tmp_path / "out"), to="hf"))


UNKNOWN: dict[str, bytes] = {"notes.txt": b"text", "empty": b"", "pytorch_model.pt": b"PK\x03\x04" + bytes(40), "model.onnx": bytes(100)}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_nothing_known_is_told_with_what_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(UNKNOWN[name])
    assert format_of(tmp_path / name) is None
    with pytest.raises(CheckpointError, match=r"no checkpoint that amaru reads; it reads .*Hugging Face.*Megatron.*GGUF"):
        open_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="no checkpoint that amaru reads"):
        open_checkpoint(tmp_path)


LIMITED = """
import resource, sys
from pathlib import Path
from amaru.models.formats import open_checkpoint
from amaru.errors import CheckpointError
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 1_000_000_000, held + 1_000_000_000))
try:
    open_checkpoint(sys.argv[1])
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
@pytest.mark.parametrize("header", [False, True], ids=["config", "header"])
def test_a_promise_of_terabytes_is_checked_in_a_gigabyte(header: bool, saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(values | {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 1}))
    if header:
        entry = {"dtype": "F32", "shape": [2**31 - 1, 2**31 - 1], "data_offsets": [0, 4 * (2**31 - 1) ** 2]}
        text = json.dumps({"backbone.embeddings.weight": entry}).encode()
        (saved / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(saved)], capture_output=True, text=True, timeout=120)
    assert ("shape" if not header else "cut short") in done.stdout and done.stderr == "", done.stderr


def test_a_tensor_name_cannot_write_on_a_terminal(saved: Path) -> None:
    data = (saved / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["\x1b[2Jevil\n" + "x" * 5000] = header.pop("backbone.layers.0.norm.weight")
    text = json.dumps(header).encode()
    (saved / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(saved)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_verify_reads_no_pickle(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        verify(saved, saved)
