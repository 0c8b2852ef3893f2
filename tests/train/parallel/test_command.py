"""`amaru train` in several processes: the checkpoint of one, and a run that is stopped goes on in another layout."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.parallel.test_serving import amaru

from amaru.models.checkpoint import load

pytestmark = pytest.mark.soak
SETTINGS = ("learning.batch_rows=4", "text.row_length=48", "text.vocab=300", "learning.lr=1e-3", "learning.saving.seconds=0")
SHAPE = ("--pattern", "M-M*-", "--hidden", "256", "--precision", "fp32", *(word for setting in SETTINGS for word in ("--set", setting)))
BOTH = ("--processes", "2", "--tensor-parallel", "2", "--sequence-parallel")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"def f{n}(x):\n    return {n} * x  # the {n}th\n\n" for n in range(400)), encoding="utf-8")
    second = tmp_path / "more.txt"
    second.write_text("class A:\n    pass\n" * 40, encoding="utf-8")
    return ["train", "--data", str(text), "--data", str(second), "--tokens", "4k", *SHAPE]


def trained(*words: str) -> dict:
    done = amaru(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_processes_write_the_checkpoint_of_one(words: list[str], tmp_path: Path) -> None:
    one = trained(*words, "--out", str(tmp_path / "one"))
    expected = load(one["checkpoint"]).state_dict()
    for name, layout in {"data": BOTH[:2], "tensor": BOTH}.items():
        found = trained(*words, "--out", str(tmp_path / name), *layout)
        assert found["loss"] == pytest.approx(one["loss"], rel=1e-4) and found["tokens"] == one["tokens"]
        torch.testing.assert_close(dict(load(found["checkpoint"]).state_dict()), dict(expected), rtol=1e-3, atol=1e-4)


def test_a_stopped_run_goes_on_in_another_layout(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = [sys.executable, "-m", "amaru", *words, "--out", str(out)]
    with subprocess.Popen([*line, *BOTH], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        while not list((out / "model-training" / "checkpoints").glob("step-*")):
            assert running.poll() is None
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 2
        assert running.stderr is not None and "the same command continues" in running.stderr.read()
    steps = int(sorted((out / "model-training" / "checkpoints").glob("step-*"))[-1].name.removeprefix("step-"))
    assert 0 < steps < 21
    assert trained(*words, "--out", str(out), "--processes", "2")["tokens"] == 21 * 4 * 48
    one = trained(*words, "--out", str(tmp_path / "one"))
    assert trained(*words, "--out", str(out))["loss"] == pytest.approx(one["loss"], rel=1e-4)
