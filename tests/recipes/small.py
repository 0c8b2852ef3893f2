"""A corpus and settings small enough that a whole pipeline takes seconds."""

import random
from pathlib import Path

NAMES = ("tree", "stone", "river", "cloud", "bird", "fish")
VERBS = ("finds", "sees", "keeps", "loses")


def write_corpus(directory: Path, documents: int = 40, seed: int = 0) -> Path:
    """Text files of short sentences with a little grammar to learn."""
    draw = random.Random(seed)
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        lines = [f"the {draw.choice(NAMES)} {draw.choice(VERBS)} the {draw.choice(NAMES)} {number}.\n" for _ in range(40)]
        (directory / f"{number:03d}.txt").write_text("".join(lines))
    return directory


TEXT = ["text.vocab=300", "text.row_length=64", "text.validation_share=0.2"]
SHAPE = ["shape.hidden=32", "shape.mamba_channels=8", "shape.groups=2", "shape.state=8", "shape.attention_channels=16", "shape.ffn=64"]
SEARCH = [
    "calibration_rows=6",
    "layer_rows=2",
    "ranking_rows=4",
    "space.limit=6",
    "prompt=64",
    "repeats=1",
]
SHORT = ["learning.batch_rows=2", "learning.validations=2"]


def flags(*groups: list[str]) -> list[str]:
    """`--set` before each setting."""
    return [word for group in groups for setting in group for word in ("--set", setting)]


def train_words(corpus: Path, out: Path) -> list[str]:
    return ["train", "--data", str(corpus), "--tokens", "3k", "--pattern", "M-M*-M-", "--out", str(out), *flags(TEXT, SHAPE, SHORT)]


def compress_words(corpus: Path, checkpoint: Path, out: Path) -> list[str]:
    words = [
        "compress",
        str(checkpoint),
        "--data",
        str(corpus),
        "--memory",
        "70%",
        "--context",
        "256",
        "--tokens",
        "2k",
        "--short-tokens",
        "500",
    ]
    return [*words, "--finalists", "2", "--out", str(out), *flags(TEXT[1:], SEARCH, SHORT)]
