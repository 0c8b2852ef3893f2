"""One safetensors file: the bytes of safetensors' own writer, and one sentence for each way a header can lie."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amaru.errors import CheckpointError
from amaru.models.tensor_file import TORCH_DTYPES, Entry, TensorFile, write_tensors


def tensors(seed: int, count: int = 30) -> dict[str, torch.Tensor]:
    """Every dtype, odd shapes, a scalar and an empty one, under names that no order puts as they come."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    for index in range(count):
        shape = [(), (0,), (3,), (5, 2), (1, 7, 3)][index % 5]
        dtype = list(TORCH_DTYPES.values())[index % len(TORCH_DTYPES)]
        made[f"layer.{(index * 7) % count}.é"] = (torch.randn(shape, generator=generator) * 3).to(dtype)
    return made


def write(path: Path, made: dict[str, torch.Tensor]) -> None:
    write_tensors(path, [Entry.of(name, tensor) for name, tensor in made.items()], iter(made.values()))


@pytest.mark.parametrize("seed", range(3))
def test_the_bytes_are_those_of_save_file_whatever_order_the_tensors_come_in(seed: int, tmp_path: Path) -> None:
    made = tensors(seed)
    save_file(made, tmp_path / "theirs", metadata={"format": "pt"})
    write(tmp_path / "ours", made)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_is_read_is_what_safetensors_reads(tmp_path: Path) -> None:
    save_file(tensors(0), tmp_path / "file", metadata={"format": "pt"})
    file, theirs = TensorFile(tmp_path / "file"), load_file(tmp_path / "file")
    assert file.entries.keys() == theirs.keys()
    for name, tensor in theirs.items():
        ours = file.read(name)
        assert ours.dtype == tensor.dtype and ours.shape == tensor.shape
        assert ours.reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8)), name


def test_rows_are_slices_of_the_whole(tmp_path: Path) -> None:
    weight = torch.randn(11, 3, 2).bfloat16()
    write(tmp_path / "file", {"first": torch.ones(5), "weight": weight})
    for start, stop in ((0, 11), (4, 9), (10, 11), (3, 3)):
        assert TensorFile(tmp_path / "file").rows("weight", start, stop).equal(weight[start:stop])


def test_a_tensor_that_is_not_what_was_promised_is_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="promised"):
        write_tensors(tmp_path / "file", [Entry("a", "F32", (3,))], iter([torch.zeros(4)]))


def file_of(path: Path, header: bytes, data: int) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(data))


GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}

LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an unknown dtype": (lambda h: h["a"].update(dtype="F33"), "'a' is of dtype 'F33'"),
    "a dtype that is no string": (lambda h: h["a"].update(dtype=["F32"]), "'a' is of dtype"),
    "a shape of another size": (lambda h: h["a"].update(shape=[2, 4]), "'a' of F32"),
    "a huge shape": (lambda h: h["a"].update(shape=[10**9, 10**9]), "'a' of F32"),
    "a huger shape": (lambda h: h["a"].update(shape=[10**18] * 16), "'a' of F32"),
    "a number beyond 63 bits": (lambda h: h["a"].update(shape=[10**30]), "'a' has the shape"),
    "a negative size": (lambda h: h["a"].update(shape=[-2, -3]), "'a' has the shape"),
    "a size of true": (lambda h: h["a"].update(shape=[True, 6]), "'a' has the shape"),
    "a fraction": (lambda h: h["a"].update(shape=[2.0, 3]), "'a' has the shape"),
    "too many dimensions": (lambda h: h["a"].update(shape=[1] * 5000 + [6]), "'a' has the shape"),
    "offsets backwards": (lambda h: h["a"].update(data_offsets=[24, 0]), "claims the bytes 24 to 0"),
    "three offsets": (lambda h: h["a"].update(data_offsets=[0, 24, 24]), "offsets"),
    "a gap": (lambda h: h["b"].update(data_offsets=[26, 34]), "'b' begins at byte 26, where 24 is expected"),
    "an overlap": (lambda h: h["b"].update(data_offsets=[16, 24]), "'b' begins at byte 16, where 24 is expected"),
    "not from the start": (lambda h: h.pop("a"), "'b' begins at byte 24, where 0 is expected"),
    "unclaimed bytes": (lambda h: h.pop("b"), "8 bytes lie behind its last tensor"),
    "a field too many": (lambda h: h["a"].update(more=1), "entry 'a'"),
    "a field too few": (lambda h: h["a"].pop("dtype"), "entry 'a'"),
    "an entry that is a list": (lambda h: h.update(a=[1]), "entry 'a'"),
    "bytes past the end": (lambda h: h["b"].update(shape=[5], data_offsets=[24, 34]), "'b' lie past its end"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_told_by_its_tensor(lie: str, tmp_path: Path) -> None:
    header = json.loads(json.dumps(GOOD))
    file_of(tmp_path / "file", json.dumps(header).encode(), 32)
    assert set(TensorFile(tmp_path / "file").entries) == {"a", "b"}
    LIES[lie][0](header)
    file_of(tmp_path / "file", json.dumps(header).encode(), 32)
    with pytest.raises(CheckpointError, match="file is cut short or damaged") as caught:
        TensorFile(tmp_path / "file")
    assert LIES[lie][1] in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    entry = b'{"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'
    file_of(tmp_path / "file", b'{"a": %s, "a": %s}' % (entry, entry), 1)
    with pytest.raises(CheckpointError, match="two entries 'a'"):
        TensorFile(tmp_path / "file")


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    """A named pipe would block for ever, a directory and a link to itself would be errors of the system."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "directory", "loop", "zero", "absent"):
        with pytest.raises(CheckpointError, match=name):
            TensorFile(tmp_path / name)


def test_a_file_that_became_shorter_after_it_was_opened_is_told(tmp_path: Path) -> None:
    write(tmp_path / "file", {"a": torch.zeros(100)})
    file = TensorFile(tmp_path / "file")
    os.truncate(tmp_path / "file", 200)
    with pytest.raises(CheckpointError, match="became shorter"):
        file.read("a")


STREAM = """
import resource, sys, torch
from pathlib import Path
from amaru.models.tensor_file import Entry, TensorFile, write_tensors
directory, count, elements = Path(sys.argv[1]), 24, 4_000_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = [Entry(f"t{i}", "F32", (elements,)) for i in range(count)]
write_tensors(directory / "a", plan, (torch.full((elements,), float(i)) for i in range(count)))
file = TensorFile(directory / "a")
write_tensors(directory / "b", plan, (file.read(entry.name) for entry in plan))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_streaming_holds_a_few_tensors_however_large_the_file(tmp_path: Path) -> None:
    """A file of 384 MB in tensors of 16 MB, written, read and written again, by no more than 64 MB."""
    done = subprocess.run([sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) * 1024 < 64e6
    assert (tmp_path / "a").stat().st_size > 384e6
