"""A decoder whose weights stay on disk gives what one in memory gives, and holds one layer at most."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.models.random_models import random_config, random_ids, random_model

from amaru.models.checkpoint import Checkpoint, load, save
from amaru.models.source import gathered, pieces
from amaru.models.streamed import streamed
from amaru.nn import Batch


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_logits_are_those_of_the_whole_model(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    config = random_config(5, "M-*-M", tied=tied)
    save(random_model(config, 5), tmp_path / "model")
    batch = Batch.of(random_ids(config.vocab, 3, 41))
    decoder = streamed(Checkpoint(tmp_path / "model"), dtype)
    with torch.no_grad():
        assert torch.equal(decoder(batch), load(tmp_path / "model", dtype)(batch))
        assert torch.equal(decoder(batch), load(tmp_path / "model", dtype)(batch))
    assert {parameter.device.type for layer in decoder.layers for parameter in layer.parameters()} == {"meta"}


class Whole:
    """A source that can read no rows: only whole tensors."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path, self.config, self.names = checkpoint.path, checkpoint.config, checkpoint.names
        self.read, self.dtype = checkpoint.read, checkpoint.dtype


def test_a_source_that_reads_no_rows_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = random_config(6)
    save(random_model(config, 6), tmp_path / "model")
    monkeypatch.setattr("amaru.models.source.PIECE", 100)
    checkpoint = Checkpoint(tmp_path / "model")
    ids = torch.tensor([5, 0, 5, 7])
    for source in (checkpoint, Whole(checkpoint)):
        whole = checkpoint.read("embedding.weight")
        parts = list(pieces(source, "embedding.weight", tuple(whole.shape)))
        assert len(parts) > 5 and torch.equal(torch.cat(parts), whole)
        assert torch.equal(gathered(source, "embedding.weight", ids), whole[ids])


LARGE = """
import resource, sys, torch
from amaru.models.checkpoint import write
from amaru.models.decoder import DecoderConfig
from amaru.models.verify import verify
from amaru.nn import MLP, Mamba2
layers = (Mamba2(heads=16, channels=64, groups=2, state=16), MLP(ffn=2560)) * 8
config = DecoderConfig(vocab=20000, hidden=768, layers=layers)
specs = {name: spec.layout.shape(axes) for name, (spec, axes) in config.tensors().items()}
for name in "ab":
    write(f"{sys.argv[1]}/{name}", config, lambda name: torch.full(specs[name], 0.01), torch.bfloat16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert verify(f"{sys.argv[1]}/a", f"{sys.argv[1]}/b", lengths=(5, 20)).equal
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sum(torch.Size(s).numel() for s in specs.values()))
"""


def test_two_models_are_compared_in_the_memory_of_a_few_layers(tmp_path: Path) -> None:
    """Two models of 79 million parameters (0.63 GB in fp32), of which the largest layer has 3.9 million."""
    done = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], capture_output=True, text=True, timeout=240, check=True)
    grown, parameters = map(int, done.stdout.split())
    assert parameters > 75e6 and grown * 1024 < 150e6


def test_some_layers_in_turn_and_none_left_behind(tmp_path: Path) -> None:
    """Each is whole while it is used, also when the one who uses them stops in the middle."""
    config = random_config(5, "M-*-M")
    save(random_model(config, 5), tmp_path / "model")
    decoder, whole = streamed(Checkpoint(tmp_path / "model"), torch.float32), load(tmp_path / "model", torch.float32)
    for index, layer in zip((0, 2, 4), decoder.in_order((0, 2, 4)), strict=True):
        for name, weight in whole.layers[index].named_parameters():
            assert torch.equal(layer.get_parameter(name), weight)
    layers = decoder.in_order()
    next(layers)
    layers.close()
    assert {parameter.device.type for layer in decoder.layers for parameter in layer.parameters()} == {"meta"}


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_that_is_held_gives_the_same_logits(tied: bool, tmp_path: Path) -> None:
    config = random_config(5, "M-", tied=tied)
    save(random_model(config, 5), tmp_path / "model")
    decoder, whole = streamed(Checkpoint(tmp_path / "model"), torch.bfloat16), load(tmp_path / "model", torch.bfloat16)
    hidden = torch.randn(7, config.hidden, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad(), decoder.hold_head():
        assert torch.equal(decoder.logits(hidden), whole.logits(hidden))
    assert decoder.head.held is None
