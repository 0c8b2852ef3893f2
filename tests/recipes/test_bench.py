"""The benchmark runs its own rows and a real peer's, and says what it cannot run."""

import sys
from pathlib import Path

import pytest
import torch
from tests.models.random_models import random_config, random_model

from amaru.errors import BackendError, ConfigError
from amaru.models import roofline
from amaru.models.checkpoint import save
from amaru.models.cost import Workload
from amaru.models.devices import Device, Machine
from amaru.recipes.bench.infer import Bench, run
from amaru.recipes.bench.limits import product_rate, read_rate

DEVICE = Device(name="here", memory=2**30, bandwidth=1e9, flops={"bf16": 1e9, "fp32": 1e9})
BENCH = Bench(prefill=(9,), decode=(1, 3), context=5, steps=2, repeats=1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(random_model(random_config(0, "MM-*-M")), tmp_path / "model")
    return tmp_path / "model"


def test_rows_of_ours_the_limit_and_a_peer(checkpoint: Path) -> None:
    result = run(checkpoint, {"transformers": sys.executable}, BENCH, lambda text: None, DEVICE)
    assert [row.name for row in result.rows] == ["prefill 9", "decode 1", "decode 3"]
    assert all(row.ours > 0 and (row.peers["transformers"] or 0) > 0 for row in result.rows)
    config = random_config(0, "MM-*-M")
    bound = roofline.decode(config, Workload(context=6, batch=3, weights="fp32", kv="fp32"), Machine(count=1, device=DEVICE)).seconds
    assert bound and result.rows[2].limit == pytest.approx(3 / bound)
    assert result.versions.keys() == {"amaru", "torch", "transformers"}


def test_a_peer_that_fails_or_is_unknown_is_told(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no peer 'ollama'"):
        run(checkpoint, {"ollama": sys.executable}, BENCH, lambda text: None, DEVICE)
    with pytest.raises(BackendError, match="vllm failed"):
        run(checkpoint, {"vllm": sys.executable}, BENCH, lambda text: None, DEVICE)


def test_rates_of_this_machine_are_believable() -> None:
    assert 1e8 < read_rate(2**26) < 1e13
    assert 1e8 < product_rate(torch.float32, 256) < 1e15
