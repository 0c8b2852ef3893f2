"""torch_dist as such: tensors in chunks of any grid, read and written; damaged and hostile ones are one sentence before any memory."""

import itertools
import pickle
import tracemalloc
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from amaru.errors import CheckpointError
from amaru.models.formats.megatron.checkpoint import opened
from amaru.models.formats.megatron.folder import Directory
from amaru.models.formats.megatron.torch_dist import TorchDist
from amaru.models.formats.megatron.torch_dist_writer import Piece, write_torch_dist

SHAPE = (4, 6, 5)


def cut(generator, tensor, offset=()):
    """Pieces of any grid, not only a regular one."""
    dimension = len(offset)
    if dimension == tensor.ndim:
        return [(offset, tensor)]
    size = tensor.shape[dimension]
    edges = sorted({0, size, *torch.randint(0, size + 1, (2,), generator=generator).tolist()})
    return [piece for a, b in itertools.pairwise(edges) for piece in cut(generator, tensor.narrow(dimension, a, b - a), (*offset, a))]


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_any_chunks_make_up_the_tensor(tmp_path_factory, seed):
    generator = torch.Generator().manual_seed(seed)
    directory = tmp_path_factory.mktemp("dist")
    tensor = torch.randn(SHAPE, generator=generator).to(torch.bfloat16)
    write_torch_dist(directory, (Piece("t", SHAPE, offset, part) for offset, part in cut(generator, tensor)), ["o/shard_0_1"], {})
    held = TorchDist(Directory(directory))
    assert held.objects == ("o/shard_0_1",) and held.tensors["t"].shape == SHAPE
    assert torch.equal(held.rows("t", 0, 4), tensor) and torch.equal(held.rows("t", 1, 3), tensor[1:3])
    assert torch.equal(held.rows("t", 2, 6, layer=3), tensor[3, 2:6])


def test_several_files_are_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr("amaru.models.formats.megatron.torch_dist_writer.FILE_BYTES", 4000)
    tensors = {f"t{index}": torch.randn(20, 17) for index in range(7)}
    write_torch_dist(tmp_path, (Piece(name, (20, 17), (0, 0), tensor) for name, tensor in tensors.items()), [], {})
    assert len(list(tmp_path.glob("__*_0.distcp"))) == 4
    held = TorchDist(Directory(tmp_path))
    assert all(torch.equal(held.rows(name, 0, 20), tensor) for name, tensor in tensors.items())


@pytest.fixture
def checkpoint(tmp_path):
    whole = torch.randn(6, 5)
    write_torch_dist(tmp_path, [Piece("t", (6, 5), (0, 0), whole[:3]), Piece("t", (6, 5), (3, 0), whole[3:])], [], {})
    return tmp_path


def rewritten(directory, change):
    """The same checkpoint with other metadata."""
    metadata = FileSystemReader(directory).read_metadata()
    change(metadata)
    (directory / ".metadata").write_bytes(pickle.dumps(metadata))


def all_places(**changed):
    def change(metadata):
        metadata.storage_data = {index: replace(place, **changed) for index, place in metadata.storage_data.items()}

    return change


def chunks(*boxes):
    def change(metadata):
        entry = metadata.state_dict_metadata["t"]
        first = next(iter(metadata.storage_data.items()))
        entry.chunks = [ChunkStorageMetadata(torch.Size(offset), torch.Size(size)) for offset, size in boxes]
        for offset, _ in boxes:
            metadata.storage_data.setdefault(replace(first[0], offset=torch.Size(offset)), first[1])

    return change


def huge(metadata):
    metadata.state_dict_metadata["t"].size = torch.Size((2**40, 2**20))
    metadata.state_dict_metadata["t"].chunks = [ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((2**40, 2**20)))]


def no_places(metadata):
    metadata.storage_data = {}


def other_dtype(metadata):
    metadata.state_dict_metadata["t"].properties.dtype = torch.float16


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (all_places(relative_path="../t.distcp"), r"names the file '\.\./t\.distcp'; chunks lie in \*\.distcp files of the same directory"),
        (all_places(relative_path="/etc/passwd"), "names the file '/etc/passwd'"),
        (all_places(relative_path="a\0.distcp"), "names the file"),
        (all_places(relative_path="gone.distcp"), "lacks the file gone.distcp"),
        (all_places(offset=10**9), "is cut short: .metadata knows bytes up to"),
        (all_places(offset=-5), "is not the metadata of a checkpoint"),
        (all_places(length=2**62), "is cut short"),
        (all_places(offset=0), "gives the same bytes of __0_0.distcp to two tensors"),
        (all_places(transform_descriptors=["zstd"]), "is compressed"),
        (huge, r"keeps \d+ bytes for a chunk of t, which are too few"),
        (no_places, "is not the metadata of a checkpoint"),
        (chunks(((0, 0), (3, 5)), ((4, 0), (3, 5))), "outside its shape"),
    ],
)
def test_metadata_that_cannot_be_true(checkpoint, change, sentence):
    rewritten(checkpoint, change)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=sentence):
        TorchDist(Directory(checkpoint))
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_holes_and_overlaps_are_found(checkpoint):
    rewritten(checkpoint, chunks(((0, 0), (3, 5))))
    held = TorchDist(Directory(checkpoint))
    assert not held.tensors["t"].whole
    with pytest.raises(CheckpointError, match="do not make up the whole of it"):
        held.rows("t", 0, 6)
    assert held.rows("t", 0, 3).shape == (3, 5)


def test_a_chunk_of_another_kind_is_found_when_it_is_read(checkpoint):
    rewritten(checkpoint, other_dtype)
    with pytest.raises(CheckpointError, match=r"holds something else where \.metadata says that t is"):
        TorchDist(Directory(checkpoint)).rows("t", 0, 6)


def test_a_truncated_file_is_found_on_opening(checkpoint):
    data = (checkpoint / "__0_0.distcp").read_bytes()
    for kept in (0, len(data) // 2, len(data) - 1):
        (checkpoint / "__0_0.distcp").write_bytes(data[:kept])
        with pytest.raises(CheckpointError, match=r"__0_0\.distcp is cut short"):
            TorchDist(Directory(checkpoint))


@settings(max_examples=60)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=30))
def test_overwritten_bytes_never_pass_for_other_shapes(tmp_path_factory, place, noise):
    """A damaged chunk is a sentence, or a tensor of the right shape and kind: its values have no checksum in this format."""
    directory = tmp_path_factory.mktemp("damaged")
    write_torch_dist(directory, [Piece("t", (6, 5), (0, 0), torch.randn(6, 5))], [], {})
    data = bytearray((directory / "__0_0.distcp").read_bytes())
    place %= len(data)
    data[place : place + len(noise)] = noise[: len(data) - place]
    (directory / "__0_0.distcp").write_bytes(data)
    try:
        read = TorchDist(Directory(directory)).rows("t", 0, 6)
    except CheckpointError:
        return
    assert read.shape == (6, 5) and read.dtype == torch.float32


def test_metadata_that_would_run_code_do_not(checkpoint, tmp_path):
    class Runs:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    rewritten(checkpoint, lambda metadata: setattr(metadata, "planner_data", Runs()))
    with pytest.raises(CheckpointError, match=r"\.metadata asks for 'builtins\.exec'.*nothing of it was run"):
        TorchDist(Directory(checkpoint))
    assert not (tmp_path / "ran").exists()


NONE = "is not a JSON object"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [('{"sharded_backend": "fsdp"}', "of kind 'fsdp'; amaru reads 'torch_dist' and 'zarr'"), ("[" * 10**5, NONE), ("[]", NONE)],
)
def test_other_backends_are_named(checkpoint, text, sentence):
    (checkpoint / "metadata.json").write_text(text)
    with pytest.raises(CheckpointError, match=sentence):
        opened(Directory(checkpoint))


@pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps({"a": 1}), pickle.dumps([])])
def test_metadata_that_are_none(checkpoint, data):
    (checkpoint / ".metadata").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"\.metadata is (damaged|not the metadata)"):
        TorchDist(Directory(checkpoint))
    (checkpoint / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"There is no \.metadata"):
        TorchDist(Directory(checkpoint))
