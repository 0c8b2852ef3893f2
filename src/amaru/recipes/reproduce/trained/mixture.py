"""What the small models read: text, and among it rows that can only be predicted by recalling: pairs, copies, pass keys; and sums.

    text = mixture(recipe, run)       # `Text` with one phase, natural text for validation

Rows of what is made here are whole: each holds one document as long as a row, or two of half a row, so that no boundary cuts what is
to be recalled from where it stood.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from amaru.config import fingerprint_bytes
from amaru.data.blend import Portion
from amaru.data.packing import PackedRows
from amaru.data.tokenizer import Tokenizer
from amaru.eval.long_context.probes import PROBES
from amaru.eval.recall import ordinary, pairs, repeated
from amaru.recipes.run import Run
from amaru.recipes.text import ONLY, Text, TextRecipe, prepare

VERSION = "1"
Made = Callable[["Words", Random, int], Sequence[int]]


class Words(NamedTuple):
    """A tokenizer, and the ids that pairs and copies are made of."""

    tokenizer: Tokenizer
    ids: Sequence[int]


def recalled(words: Words, draw: Random, length: int) -> Sequence[int]:
    """Pairs whose values are asked for again, or a text that is repeated, as `amaru eval --tasks recall` makes them."""
    return draw.choice((pairs, repeated))(draw, words.ids, length).ids


def passkey(words: Words, draw: Random, length: int) -> Sequence[int]:
    """A pass key somewhere in plain sentences, and the answer."""
    depth, units, same = draw.random(), max(1, length // 24), draw.getstate()
    while True:
        draw.setstate(same)
        made = PROBES["passkey"].make(draw, units, depth)
        ids = words.tokenizer.encode(f"{made.prompt} {made.answers[0]}.")
        if len(ids) <= length or units == 1:
            return ids[:length]
        units -= max(1, (len(ids) - length) // 64)


def sums(words: Words, draw: Random, length: int) -> Sequence[int]:
    """Lines such as `37 + 45 = 82`."""
    ids: list[int] = []
    while len(ids) + len(line := words.tokenizer.encode(f"{added(draw)}\n")) <= length:
        ids += line
    return ids


def added(draw: Random) -> str:
    one, other = draw.randrange(100), draw.randrange(100)
    return f"{one} + {other} = {one + other}"


SOURCES: dict[str, Made] = {"recall": recalled, "passkey": passkey, "sums": sums}


def mixture(text: TextRecipe, weights: dict[str, float], tokens: int, alphabet: int, run: Run) -> Text:
    """Natural text and so much of what is made here that no row is seen twice in `tokens` tokens."""
    natural = prepare(text, run)
    words = Words(natural.tokenizer, ordinary(natural.tokenizer)[:alphabet])
    sources = {ONLY: natural.training}
    for name in sorted(weights.keys() - {ONLY}):
        count = 1 + int(tokens * weights[name] / sum(weights.values())) // text.row_length
        sources[name] = _rows(name, words, count, text.row_length, run)
    return Text(natural.tokenizer, dict(sorted(sources.items())), natural.validation, (Portion(weights=weights),))


def _rows(name: str, words: Words, count: int, length: int, run: Run) -> PackedRows:
    said = repr((name, count, length, len(words.ids)))
    origin = {"made": fingerprint_bytes(VERSION, said), "tokenizer": words.tokenizer.fingerprint}

    def make(path: Path) -> None:
        made_rows(name, words, count, length, origin).save(path)

    return run.keep(f"{name}.rows", origin, make, lambda path: PackedRows.load(path, origin), title=name, describe=str)


def made_rows(name: str, words: Words, count: int, length: int, origin: dict[str, str]) -> PackedRows:
    """`count` rows of one of `SOURCES`."""
    documents = [document for number in range(count) for document in _row(name, words, number, length)]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in documents])[:-1]])
    names = tuple(f"{name} {number}" for number in range(len(documents)))
    return PackedRows(np.concatenate(documents), starts, names, length, origin)


def _row(name: str, words: Words, number: int, length: int) -> Iterator[np.ndarray]:
    """One or two documents that fill a row to its last token; what they leave is the token that ends texts."""
    draw = Random(f"{name} {number}")
    parts = (length,) if name == "passkey" else draw.choice([(length,), (length // 2, length - length // 2)])
    for part in parts:
        ids = list(SOURCES[name](words, draw, part - 1))
        yield np.array(ids + [words.tokenizer.eos_id] * (part - len(ids)), dtype=np.uint32)
