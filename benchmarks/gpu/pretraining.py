"""A model from nothing on one GPU: 50 M parameters on 150 M tokens in BF16 and in FP8, then half of it, by the commands that users have.

Run directories lie in runs/gpu; what a call does not finish, the next one on the same machine goes on with. TEXT, several paths or globs
divided by spaces, is read beside Python's own source.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from measure import DEVICE, TINY

from amaru.config.records import read_lines

RUNS = Path("runs/gpu-tiny" if TINY else "runs/gpu")
TOKENS, SHORT = ("8k", "2k") if TINY else ("150M", "5M")
SHAPE = ("M-M*-", 64) if TINY else ("M-M-M*-M-M-M*-M-M-", 512)
SETTINGS = {
    "text.vocab": 1024 if TINY else 16384,
    "text.row_length": 64 if TINY else 1024,
    "learning.batch_rows": 8 if TINY else 64,
    **({"text.limit_megabytes": 1, "shape.mamba_heads": 16, "shape.mamba_channels": 16} if TINY else {}),
}
POINTS = 40  # of a loss curve that is kept


def pretrained(precision: str) -> dict[str, Any]:
    """What `amaru train` prints of that run, its pace and its curve; a run that is there is not made again."""
    pattern, hidden = SHAPE
    model = ["--pattern", pattern, "--hidden", hidden, "--tokens", TOKENS, "--lr", "2e-3"]
    chosen = [*model, "--precision", precision, "--device", DEVICE.type]
    found = _amaru("train", *_text(), *chosen, *_set(SETTINGS), "--out", RUNS / precision)
    steps = list(read_lines(RUNS / precision / "model-training" / "metrics.jsonl"))
    return found | {"curve": list(curve(steps)), "pace": sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)}


def halved() -> dict[str, Any]:
    """What `amaru compress` prints of the search for half of the BF16 model."""
    parent = RUNS / "bf16" / "model"
    wished = ["--params", "50%", "--tokens", SHORT, "--short-tokens", SHORT, "--finalists", 2, "--device", DEVICE.type]
    settings = {name: value for name, value in SETTINGS.items() if name != "text.vocab" and not name.startswith("shape.")}
    return _amaru("compress", parent, *_text(), *wished, *_set(settings), "--out", RUNS / "half")


def curve(steps: list[dict[str, Any]]) -> Iterator[tuple[int, float]]:
    """Tokens seen and the mean loss of the steps since the last point."""
    size, seen = max(1, len(steps) // POINTS), 0
    for first in range(0, len(steps), size):
        some = steps[first : first + size]
        seen += sum(step["tokens"] for step in some)
        yield seen, mean(step["loss"] for step in some)


def _text() -> list[str]:
    return [word for path in ("@python", *os.environ.get("TEXT", "").split()) for word in ("--data", path)]


def _set(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def _amaru(*words: Any) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "amaru", *map(str, words), "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)
