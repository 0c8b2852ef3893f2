"""New weights, a block at a time: those of the same shape and rule as `initialise` draws, whatever is read first."""

import torch
from tests.models.random_models import random_config

from amaru.models.checkpoint import Checkpoint, assemble, load, write
from amaru.models.decoder import Decoder
from amaru.models.drawn import Drawn


def test_a_weight_depends_on_seed_and_block_alone() -> None:
    config = random_config(3, "M-*-M")
    forwards, backwards = Drawn(config, seed=7), Drawn(config, seed=7)
    names = forwards.names
    there = {name: forwards.read(name).clone() for name in names}
    for name in reversed(names):
        assert torch.equal(backwards.read(name), there[name])
    other = Drawn(config, seed=8)
    assert not torch.equal(other.read("layers.1.mixer.up_proj.weight"), there["layers.1.mixer.up_proj.weight"])
    up, other_up = (there[f"layers.{index}.mixer.up_proj.weight"] for index in (1, 3))
    assert up.shape != other_up.shape or not torch.equal(up, other_up)


def test_the_rule_is_that_of_initialise() -> None:
    """Equal where nothing is drawn; elsewhere the same spread."""
    config = random_config(3, "M-*-M")
    ours, theirs = assemble(config, Drawn(config, seed=0).read), Decoder(config).initialise(0)
    expected = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        if expected[name].std() == 0:
            assert torch.equal(weight, expected[name]), name
        elif weight.numel() > 500:
            torch.testing.assert_close(weight.std(), expected[name].std(), rtol=0.15, atol=0)


def test_written_and_loaded(tmp_path) -> None:
    config = random_config(4, "M-*", tied=True)
    write(tmp_path / "new", config, Drawn(config, seed=1).read, torch.float32)
    assert Checkpoint(tmp_path / "new").config == config
    loaded = dict(load(tmp_path / "new").named_parameters())
    again = Drawn(config, seed=1)
    for name, weight in loaded.items():
        assert torch.equal(weight, again.read(name)), name
