"""Shards: cut at their size in writing order, found again by the index, and an index that lies is told."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amaru.errors import CheckpointError
from amaru.models.shards import INDEX, SINGLE, ShardReader, write_shards
from amaru.models.tensor_file import Entry

SIZES = (30, 40, 100, 8, 8, 8, 50)  # fp32 numbers: 120, 160, 400, 32, 32, 32 and 200 bytes


def tensors() -> dict[str, torch.Tensor]:
    return {f"layer.{index}": torch.full((size,), float(index)) for index, size in enumerate(SIZES)}


def write(directory: Path, shard_bytes: int) -> None:
    directory.mkdir()
    write_shards(directory, [Entry.of(name, tensor) for name, tensor in tensors().items()], iter(tensors().values()), shard_bytes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write(tmp_path / "model", 300)
    return tmp_path / "model"


def test_a_shard_is_full_when_the_next_tensor_would_not_fit(saved: Path) -> None:
    held = [sorted(load_file(file)) for file in sorted(saved.glob("*.safetensors"))]
    assert held == [["layer.0", "layer.1"], ["layer.2"], ["layer.3", "layer.4", "layer.5", "layer.6"]]
    assert sorted(path.name for path in saved.iterdir())[:2] == ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]
    assert json.loads((saved / INDEX).read_text())["metadata"]["total_size"] == 4 * sum(SIZES)


def test_one_shard_needs_no_index(tmp_path: Path) -> None:
    write(tmp_path / "model", 10_000)
    assert [path.name for path in (tmp_path / "model").iterdir()] == [SINGLE]


@pytest.mark.parametrize("shard_bytes", [1, 300, 10_000])
def test_what_was_written_is_read(shard_bytes: int, tmp_path: Path) -> None:
    write(tmp_path / "model", shard_bytes)
    reader = ShardReader(tmp_path / "model")
    assert reader.entries == {name: Entry.of(name, tensor) for name, tensor in tensors().items()}
    for name, tensor in tensors().items():
        assert torch.equal(reader.read(name), tensor) and torch.equal(reader.rows(name, 2, 7), tensor[2:7])


def test_tensors_too_many_or_too_few_are_a_mistake_of_ours(tmp_path: Path) -> None:
    plan = [Entry.of(name, tensor) for name, tensor in tensors().items()]
    with pytest.raises(AssertionError, match="more tensors"):
        write_shards(tmp_path, plan[:-1], tensors().values())
    with pytest.raises(RuntimeError):
        write_shards(tmp_path, plan, list(tensors().values())[:-1])


def indexed(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((directory / INDEX).read_text())
    change(index)
    (directory / INDEX).write_text(json.dumps(index))


def says(**changes: Any) -> Callable[[Path], Any]:
    """An index whose weight_map says this too."""
    named = {name.replace("_", "."): file for name, file in changes.items()}
    return lambda path: indexed(path, lambda index: index["weight_map"].update(named))


def second(directory: Path) -> Path:
    return directory / "model-00002-of-00003.safetensors"


LIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weight_map": (lambda path: indexed(path, lambda index: index.pop("weight_map")), "has no weight_map"),
    "a weight_map that is a list": (lambda path: indexed(path, lambda index: index.update(weight_map=["layer.0"])), "has no weight_map"),
    "an empty weight_map": (lambda path: indexed(path, lambda index: index.update(weight_map={})), "has no weight_map"),
    "an index of itself": (says(layer_0=INDEX), "a shard is a"),
    "a nested index": (says(layer_0={"layer.0": "x"}), "no weight_map"),
    "a path upwards": (says(layer_0="../x.safetensors"), "a shard is a"),
    "a root path": (says(layer_0="/x.safetensors"), "a shard is a"),
    "a zero byte": (says(layer_0="x\0.safetensors"), "a shard is a"),
    "a long name": (says(layer_0="x" * 999 + ".safetensors"), "a shard is a"),
    "a shard that is not there": (lambda path: second(path).unlink(), "lacks the shard"),
    "a shard that is a directory": (lambda path: (second(path).unlink(), second(path).mkdir()), "lacks the shard"),
    "a shard that is a pipe": (lambda path: (second(path).unlink(), os.mkfifo(second(path))), "lacks the shard"),
    "a shard that links to itself": (lambda path: (second(path).unlink(), second(path).symlink_to(second(path).name)), "lacks the shard"),
    "a tensor that is not there": (says(ghost="model-00002-of-00003.safetensors"), "'ghost'"),
    "a tensor left out": (lambda path: indexed(path, lambda index: index["weight_map"].pop("layer.5")), "'layer.5', which"),
    "a tensor elsewhere": (says(layer_0="model-00002-of-00003.safetensors"), "'layer.0'"),
    "a tensor in two shards": (lambda path: shutil.copyfile(path / "model-00001-of-00003.safetensors", second(path)), "is in both"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_one_sentence(lie: str, saved: Path) -> None:
    damage, reason = LIES[lie]
    damage(saved)
    with pytest.raises(CheckpointError) as caught:
        ShardReader(saved)
    assert reason in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_shards_may_be_links_as_the_cache_of_the_hub_has_them(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    second(saved).rename(tmp_path / "blobs" / "abc")
    second(saved).symlink_to("../blobs/abc")
    assert torch.equal(ShardReader(saved).read("layer.2"), tensors()["layer.2"])
