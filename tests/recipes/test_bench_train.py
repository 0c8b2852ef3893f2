"""Training is measured beside its limit and a real peer; a large vocabulary never has all its logits."""

import sys
from pathlib import Path

import pytest
from tests.models.random_models import random_config, random_model

from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.checkpoint import save
from amaru.recipes.bench import memory
from amaru.recipes.bench.memory import RESET, MemoryBench
from amaru.recipes.bench.train import TrainBench, run


def quiet(text: str) -> None: ...


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(random_model(random_config(0, "M-*")), tmp_path / "model")
    return tmp_path / "model"


def test_rows_of_ours_the_limit_and_a_peer(checkpoint: Path) -> None:
    bench = TrainBench(lengths=(9, 40), tokens=20, steps=1)
    result = run(checkpoint, {"transformers": sys.executable}, bench, quiet, rate=1e9)
    assert [row.name for row in result.rows] == ["train 9", "train 40"]
    for row, seen in zip(result.rows, (5, 20), strict=True):
        assert row.limit == pytest.approx(1e9 / 3 / cost.forward_flops(random_config(0, "M-*"), seen))
        assert row.mfu == pytest.approx(row.ours / row.limit) and row.peers["transformers"] > 0
        assert row.chosen["transformers"] in ("bf16 autocast", "fp32")


def test_a_peer_that_is_unknown_is_told(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="no peer 'vllm' for training"):
        run(checkpoint, {"vllm": sys.executable}, TrainBench(), quiet)


@pytest.mark.skipif(not RESET.exists(), reason="only Linux tells the most that a process held")
def test_the_head_never_holds_all_its_logits() -> None:
    bench = MemoryBench(vocab=131_072, hidden=8, head_tokens=1024, chunk=64)
    logits = 2 * bench.vocab * bench.head_tokens
    few, all_at_once = (memory._peak("head", memory._head, bench, chunk).above for chunk in (bench.chunk, 0))
    assert few < logits / 2 and all_at_once > 3 * logits  # some tens of megabytes of the former are torch waking up


@pytest.mark.skipif(not RESET.exists(), reason="only Linux tells the most that a process held")
def test_a_checkpoint_is_measured_in_a_process_of_its_own(checkpoint: Path) -> None:
    peak = memory._peak("model", memory._model, str(checkpoint), 30, 1)
    assert peak.before > 1e7 and 0 < peak.above < 1e9
