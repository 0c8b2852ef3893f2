"""What the small models read: text, and among it documents that can only be predicted by recalling: pairs, copies, pass keys; and sums.

    text = mixture(recipe, run)       # `Text` with one phase, natural text for validation

Rows of what is made here hold whole documents, so that no boundary cuts what is to be recalled from where it stood. Documents are as
long as a row, or half, or a quarter of it and so on: recalling over a short way is learned first. What is to be recalled comes again and
again: where every key was asked for once, as `amaru eval --tasks recall` asks, three of four tokens could only be guessed, and 2.2 M
tokens taught a model of 3.7 M parameters nothing.
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
from amaru.errors import ConfigError
from amaru.eval.long_context.probes import PROBES
from amaru.eval.recall import halves, ordinary
from amaru.recipes.run import Run
from amaru.recipes.text import ONLY, Text, TextRecipe, prepare

VERSION = "2"
SHORTEST = {"recall": 32, "passkey": 128}  # tokens of a document; others are as long as a row
Made = Callable[["Words", Random, int], Sequence[int]]


class Words(NamedTuple):
    """A tokenizer, the ids that pairs and copies are made of, and the most tokens of such a document (a row, unless said)."""

    tokenizer: Tokenizer
    ids: Sequence[int]
    longest: int | None = None


def recalled(words: Words, draw: Random, length: int) -> Sequence[int]:
    """What teaches the tasks `recall` and `copy`."""
    return draw.choice((asked_again, periodic))(words, draw, length)


def asked_again(words: Words, draw: Random, length: int) -> Sequence[int]:
    """Few keys, each with one value, in any order: `k3 v7 k1 v7 k3 v7 k5 v2 ...`"""
    keys, values = halves(words.ids)
    held = {key: draw.choice(values) for key in draw.sample(keys, draw.randint(2, max(2, min(len(keys), length // 4))))}
    return [token for key in draw.choices([*held], k=length // 2) for token in (key, held[key])]


def periodic(words: Words, draw: Random, length: int) -> Sequence[int]:
    """Tokens that mean nothing, over and over again."""
    period = draw.randint(2, max(2, length // 2))
    return (draw.choices(words.ids, k=period) * (1 + length // period))[:length]


def passkey(words: Words, draw: Random, length: int) -> Sequence[int]:
    """A pass key somewhere in as many plain sentences as fit, and the answer."""
    depth, same = draw.random(), draw.getstate()
    for units in range(length // 12, -1, -1):
        draw.setstate(same)
        made = PROBES["passkey"].make(draw, units, depth)
        ids = words.tokenizer.encode(f"{made.prompt} {made.answers[0]}.")
        if len(ids) <= length:
            return ids
    raise ConfigError(f"A pass key and its question are {len(ids)} tokens long, more than the {length} of a document; make rows longer.")


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


def mixture(text: TextRecipe, weights: dict[str, float], tokens: int, alphabet: int, longest: int | None, run: Run) -> Text:
    """Natural text and so much of what is made here that no row is seen twice in `tokens` tokens."""
    natural = prepare(text, run)
    words = Words(natural.tokenizer, ordinary(natural.tokenizer)[:alphabet], longest)
    sources = {ONLY: natural.training}
    for name in sorted(weights.keys() - {ONLY}):
        count = 1 + int(tokens * weights[name] / sum(weights.values())) // text.row_length
        sources[name] = _rows(name, words, count, text.row_length, run)
    return Text(natural.tokenizer, dict(sorted(sources.items())), natural.validation, (Portion(weights=weights),))


def _rows(name: str, words: Words, count: int, length: int, run: Run) -> PackedRows:
    said = repr((name, count, length, len(words.ids), *([words.longest] if words.longest else [])))
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
    """Documents that fill a row to its last token; what they leave is the token that ends texts."""
    draw, left = Random(f"{name} {number}"), length
    shortest = min(length, SHORTEST.get(name, length))
    most = words.longest if words.longest and name == "recall" else length
    halvings = (length >> halved for halved in range(length) if length % (1 << halved) == 0)
    lengths = [each for each in halvings if shortest <= each <= max(most, shortest)]
    while left:
        part = draw.choice([each for each in lengths if each <= left])
        ids = list(SOURCES[name](words, draw, part - 1))
        yield np.array(ids + [words.tokenizer.eos_id] * (part - len(ids)), dtype=np.uint32)
        left -= part
