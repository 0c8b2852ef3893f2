"""Scoring a model whose weights stay on disk: the same bits as in memory, and the same again after a kill anywhere."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.compress.oracles import small_batch, small_decoder

from amaru.compress import Halfway, Scores, iterative_layer_scores, removals, score
from amaru.models import Decoder, DecoderConfig
from amaru.models.checkpoint import Checkpoint, load, save
from amaru.models.streamed import streamed
from amaru.nn import MLP
from amaru.nn.hybrid_head import HybridHead

KINDS = ("mamba2", "mlp", "attention")
SAMPLES = [small_batch(seed) for seed in range(3)]
TIGHT = 2000  # bytes: every sample is a group of its own
FLOORS = {"mamba2": 1, "attention": 1, "mlp": 1}
MADE = {"checkpoint": "ab"}
COMPUTE = {
    "widths": partial(score, samples=SAMPLES),
    "fluctuation": partial(score, samples=SAMPLES, fluctuation=KINDS),
    "layers": partial(removals, samples=SAMPLES),
    "iteratively": partial(iterative_layer_scores, samples=SAMPLES, floors=FLOORS),
}


def hymba():
    """Layers that share keys and values, and meta tokens in front of every sequence."""
    own = HybridHead(query_heads=4, kv_heads=2, qk_channels=4, v_channels=6, state=3, rank=5)
    layers = (own, replace(own, shares_kv=True), MLP(ffn=7, gated=True, activation="silu"), own, replace(own, shares_kv=True))
    return Decoder(DecoderConfig(vocab=31, hidden=20, layers=layers, meta_tokens=3)).initialise(0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    save(small_decoder("M-*M-M").float(), path)
    return path


def arrays(found):
    if isinstance(found, Scores):
        layers = [array for kept in (found.within, found.means) for layer in kept for array in layer.values()]
        return [found.hidden, found.vocab, *layers]
    return list(found.values()) if isinstance(found, dict) else [found]


def assert_same(found, expected):
    for one, other in zip(arrays(found), arrays(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("compute", COMPUTE.values(), ids=COMPUTE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_from_disk_as_in_memory_to_the_bit(path, compute, dtype):
    whole = compute(load(path, dtype))
    assert_same(compute(streamed(Checkpoint(path), dtype), held=TIGHT), whole)


class Killed(Exception):
    pass


def killed_after(count):
    """A progress line whose reader pulls the plug."""
    told = []

    def progress(text):
        told.append(text)
        if len(told) == count:
            raise Killed

    return progress, told


@pytest.mark.parametrize("name", COMPUTE)
@pytest.mark.parametrize("held", [TIGHT, 2**30], ids=["groups", "one group"])
def test_a_kill_at_any_layer_changes_nothing(path, name, held, tmp_path):
    """Killed again and again, each time one step further than what the file remembers."""
    decoder = streamed(Checkpoint(path), torch.bfloat16)
    expected, steps = COMPUTE[name](decoder, held=held), 0
    while True:
        progress, told = killed_after(4)
        halfway = Halfway(tmp_path / "halfway", MADE, seconds=0)
        try:
            assert_same(COMPUTE[name](decoder, held=held, halfway=halfway, progress=progress), expected)
            break
        except Killed:
            steps += len(told)
            assert steps < 500
    assert steps >= 4
    halfway.done()
    assert not halfway.path.exists()


@pytest.mark.parametrize("name", ["widths", "layers"])
def test_keys_and_values_that_layers_share_survive_as_well(name, tmp_path):
    save(hymba(), tmp_path / "hymba")
    decoder, compute = streamed(Checkpoint(tmp_path / "hymba"), torch.bfloat16), COMPUTE[name]
    expected = compute(load(tmp_path / "hymba", torch.bfloat16))
    for count in (2, 3):
        halfway = Halfway(tmp_path / "halfway", MADE, seconds=0)
        with pytest.raises(Killed):
            compute(decoder, halfway=halfway, progress=killed_after(count)[0])
        assert any(part.endswith(".keys") for part in halfway.found(name)[1])
        assert_same(compute(decoder, halfway=Halfway(tmp_path / "halfway", MADE)), expected)


LARGE = """
import resource, sys, torch
from amaru.compress import removals, score
from amaru.models import Decoder, DecoderConfig
from amaru.models.checkpoint import Checkpoint, write
from amaru.models.decoder import DecoderConfig
from amaru.models.drawn import Drawn
from amaru.models.streamed import streamed
from amaru.nn import MLP
from amaru.nn.hybrid_head import HybridHead
from amaru.nn import MLP, Batch, Mamba2
layers = (Mamba2(heads=16, channels=64, groups=2, state=16), MLP(ffn=2560)) * 8
config = DecoderConfig(vocab=512, hidden=768, layers=layers)
write(sys.argv[1], config, Drawn(config, 0).read, torch.bfloat16)
samples = [Batch.of([torch.arange(20) + number]) for number in range(2)]
decoder = streamed(Checkpoint(sys.argv[1]), torch.float32)
score(decoder, samples[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
score(decoder, samples), removals(decoder, samples)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sum(w.numel() for w in decoder.parameters()))
"""


def test_it_takes_the_memory_of_two_layers(tmp_path):
    """50 million parameters (0.2 GB in fp32), of which the largest layer has 3.9 million."""
    done = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path / "m")], capture_output=True, text=True, timeout=240, check=True)
    grown, parameters = map(int, done.stdout.split())
    assert parameters > 45e6 and grown * 1024 < 100e6


def test_what_was_reached_from_other_inputs_is_not_used(path, tmp_path):
    decoder = streamed(Checkpoint(path), torch.float32)
    other = Halfway(tmp_path / "halfway", {"checkpoint": "other"}, seconds=0)
    score(decoder, SAMPLES[:1], halfway=other)
    assert other.path.exists() and other.found("widths")
    assert Halfway(other.path, MADE).found("widths") is None
    assert Halfway(other.path, {"checkpoint": "other"}).found("layers") is None
    assert_same(score(decoder, SAMPLES, halfway=Halfway(other.path, MADE, seconds=0)), score(decoder, SAMPLES))
    other.path.write_bytes(b"cut short")
    assert_same(score(decoder, SAMPLES, halfway=Halfway(other.path, MADE)), score(decoder, SAMPLES))


def test_it_is_not_written_at_every_step(path, tmp_path):
    halfway = Halfway(tmp_path / "halfway", MADE, seconds=60)
    score(load(path), SAMPLES, halfway=halfway)
    assert not halfway.path.exists()
