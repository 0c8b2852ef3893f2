"""Training is measured beside its limit and a real peer; a large vocabulary never has all its logits."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.models.random_models import random_config, random_model

from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.checkpoint import save
from amaru.models.decoder import Decoder
from amaru.recipes.bench import memory, saving
from amaru.recipes.bench.memory import RESET, MemoryBench
from amaru.recipes.bench.saving import SavingBench
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


def test_saving_is_timed_beside_the_steps(checkpoint: Path) -> None:
    found = saving.run(checkpoint, SavingBench(length=9, rows=2, steps=1), quiet)
    parameters = cost.parameters(random_config(0, "M-*"))
    assert 12 * parameters < found.bytes < 12 * parameters + 1e5, "weights and two moments in fp32"
    assert min(found.step, found.still, found.copied, found.written) > 0


def test_a_peer_that_is_unknown_is_told(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="no peer 'vllm' for training"):
        run(checkpoint, {"vllm": sys.executable}, TrainBench(), quiet)


@pytest.mark.skipif(not RESET.exists(), reason="only Linux tells the most that a process held")
def test_the_head_never_holds_all_its_logits() -> None:
    bench = MemoryBench(vocab=131_072, hidden=8, head_tokens=1024, chunk=64)
    logits = 2 * bench.vocab * bench.head_tokens
    with ThreadPoolExecutor(2) as both:  # each is a process of its own
        peaks = both.map(lambda chunk: memory._peak("head", memory._head, bench, chunk), (bench.chunk, 0))
        few, all_at_once = (peak.above for peak in peaks)
    assert few < logits / 2 and all_at_once > 3 * logits  # some tens of megabytes of the former are torch waking up


def test_what_is_measured_of_a_checkpoint_are_its_gradients(checkpoint: Path) -> None:
    work = memory._model(str(checkpoint), 30, 1)
    (decoder,) = {cell.cell_contents for cell in work.__closure__ or () if isinstance(cell.cell_contents, Decoder)}
    work()
    assert decoder.recompute_every == 1 and all(parameter.grad is not None for parameter in decoder.parameters())
