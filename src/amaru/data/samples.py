"""Some documents of a prepared directory, decoded, for people who want to see what a model would read."""

from typing import NamedTuple

import numpy as np

from amaru.data.shards import Prepared

TOKENS_A_CHARACTER = 4  # more than a character ever takes in a byte-level vocabulary


class Sample(NamedTuple):
    """The beginning of a document; `tokens` counts all of it, eos too."""

    source: str
    side: str
    tokens: int
    text: str


def samples_of(prepared: Prepared, count: int, characters: int, seed: int) -> list[Sample]:
    """`count` documents drawn from the training side, each once, in the order they stand there."""
    rows, tokenizer = prepared.rows("training", 2), prepared.tokenizer()
    documents = len(rows.starts)
    drawn = np.sort(np.random.default_rng(seed).choice(documents, min(count, documents), replace=False))
    found = []
    for number in drawn.tolist():
        first = int(rows.starts[number])
        end = int(rows.starts[number + 1]) if number + 1 < documents else len(rows.tokens)
        ids = rows.tokens[first : min(end - 1, first + TOKENS_A_CHARACTER * characters)]
        text = tokenizer.decode(ids.tolist())[:characters]
        found.append(Sample(rows.sources[number : number + 1][0], "training", end - first, text))
    return found
