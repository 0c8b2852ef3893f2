"""What a path is: every format is recognised by what lies there, and two at once are told."""

import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.models.random_models import random_config, random_model

from amaru.errors import CheckpointError
from amaru.models.checkpoint import Checkpoint, save
from amaru.models.formats import FORMATS, format_of, gguf, megatron, nemo, open_checkpoint
from amaru.nn import Mamba2


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    config = replace(random_config(3, "M-*-M"), norm_eps=1e-5)
    layers = tuple(replace(layer, taps=4) if isinstance(layer, Mamba2) else layer for layer in config.layers)
    save(random_model(replace(config, layers=layers), 3), tmp_path / "hf")
    return Checkpoint(tmp_path / "hf")


def test_each_format_that_is_written_is_recognised_and_gives_the_same_tensors(source: Checkpoint, tmp_path: Path) -> None:
    megatron.export(source, tmp_path / "megatron")
    nemo.export(source, tmp_path / "nemo")
    places = {"hf": tmp_path / "hf", "megatron": tmp_path / "megatron", "nemo": tmp_path / "nemo"}
    for name, path in places.items():
        assert format_of(path) == name
        found = open_checkpoint(str(path))
        assert found.config == source.config and set(found.names) == set(source.names)
        assert all(torch.equal(found.read(name), source.read(name)) for name in source.names)
    assert format_of(tmp_path / "megatron" / "iter_0000000") == "megatron"


def test_gguf_is_recognised_whatever_its_name(source: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    for name in ("model.gguf", "model.bin", "model"):
        gguf.write(tmp_path / name, source.config, source.read, "f32")
        assert format_of(tmp_path / name) == "gguf"


def test_files_are_told_apart_by_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "stories.bin").write_bytes(struct.pack("<7i", 8, 8, 1, 1, 1, 8, 8))
    with tarfile.open(tmp_path / "archive.bin", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path / "stories.bin")
    assert format_of(tmp_path / "stories.bin") == "llama2c"
    with pytest.raises(CheckpointError, match=r"both a \.nemo archive and a llama2\.c checkpoint"):
        format_of(tmp_path / "archive.bin")
    (tmp_path / "archive.bin").rename(tmp_path / "archive")
    assert format_of(tmp_path / "archive") == "nemo archive"


def test_two_formats_in_one_place_are_an_error_that_names_both(source: Checkpoint) -> None:
    (source.path / "latest_checkpointed_iteration.txt").write_text("0")
    with pytest.raises(CheckpointError, match=r"both a Hugging Face directory.* and a Megatron directory"):
        open_checkpoint(source.path)


def test_a_crash_between_two_renames_is_made_good(source: Checkpoint) -> None:
    path = source.path
    path.rename(path.with_name(".hf.previous"))
    assert open_checkpoint(path).config == source.config


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*nowhere"):
        open_checkpoint(tmp_path / "nowhere")
    assert set(FORMATS) == {"hf", "megatron", "nemo", "nemo archive", "gguf", "llama2c"}
