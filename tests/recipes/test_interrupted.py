"""Killed at any moment, the same command ends in the same numbers."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.recipes.small import compress_words, train_words, write_corpus

from amaru.cli.main import main
from amaru.models.checkpoint import fingerprint

TIMINGS = {"prefill", "decode"}


def killed_until_done(words: list[str], kills: int, wait: tuple[float, float], seed: int) -> None:
    """Run the command line, SIGKILL it `kills` times at random moments, then let it finish."""
    draw, alive = random.Random(seed), 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-m", "amaru", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(*wait))
        alive += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert alive, "no process was still working when it was to be killed; wait less"
    done = subprocess.run([sys.executable, "-m", "amaru", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def numbers(run: Path) -> dict:
    """Everything a compression decided, without what a clock decided."""
    rows = json.loads((run / "comparison.json").read_text())
    losses = {name: {key: value for key, value in row.items() if key not in TIMINGS} for name, row in rows.items()}
    return {"losses": losses, "student": fingerprint(run / "student"), "search": json.loads((run / "search.json").read_text())}


def compare_with_undisturbed(tmp_path: Path, kills: int, wait: tuple[float, float]) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents=20)
    assert main(train_words(corpus, tmp_path / "parent")) == 0
    parent = tmp_path / "parent" / "model"
    assert main(compress_words(corpus, parent, tmp_path / "calm")) == 0
    killed_until_done(compress_words(corpus, parent, tmp_path / "killed"), kills, wait, seed=7)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "calm")
    leftovers = [path for path in (tmp_path / "killed").rglob(".*") if path.name.endswith(".partial")]
    assert not [path for path in leftovers if path.parent == tmp_path / "killed"], "nothing half-written stays in the run directory"


def test_a_killed_compression_ends_in_the_same_numbers(tmp_path: Path) -> None:
    compare_with_undisturbed(tmp_path, kills=2, wait=(2.5, 5.0))


@pytest.mark.soak
def test_a_compression_killed_many_times_ends_in_the_same_numbers(tmp_path: Path) -> None:
    compare_with_undisturbed(tmp_path, kills=12, wait=(1.5, 9.0))


def test_ctrl_c_says_that_the_command_continues(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents=20)
    words = [word.replace("3k", "300k") for word in train_words(corpus, tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-m", "amaru", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "model-training" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.splitlines()[-1] == "amaru: stopped; the same command continues where it stopped."
    assert list((tmp_path / "run" / "model-training" / "checkpoints").glob("step-*")), "the finished steps are saved"
