"""In which order rows are visited: endless passes over all of them, each in an order drawn from the seed and its number.

A pass holds each row once. Its order takes 8 bytes a row in memory, a few thousandths of the tokens that it orders.
"""

import functools

import numpy as np

from amaru.data.packing import Rows
from amaru.errors import DataError

Seed = tuple[int, ...]


def visit(rows: Rows, seed: Seed, place: int) -> int:
    """The row at a place, counted from 0 through all passes."""
    epoch, within = divmod(place, len(rows))
    return int(_order(len(rows), seed, epoch)[within])


def tokens_visited(rows: Rows, seed: Seed, end: int) -> int:
    """The tokens in the rows at places 0 to `end - 1`, exactly: rows are not all of one length."""
    epochs, within = divmod(end, len(rows))
    begun = int(rows.lengths(_order(len(rows), seed, epochs)[:within]).sum()) if within else 0
    return epochs * rows.positions + begun


def share(places: range, part: int, parts: int) -> range:
    """One of `parts` equal stretches of the rows of a batch; raises `DataError` when they do not divide."""
    if not 0 <= part < parts or len(places) % parts:
        raise DataError(f"A batch of {len(places)} rows is not cut into {parts} equal parts; choose rows that are a multiple of {parts}.")
    size = len(places) // parts
    return places[part * size : (part + 1) * size]


@functools.lru_cache(maxsize=4)
def spread(shares: tuple[int, ...], seed: Seed) -> tuple[np.ndarray, np.ndarray]:
    """Who gives each row where source i gives `shares[i]`, and how many it gave before: each evenly spread, from a drawn offset on."""
    draw = np.random.default_rng(seed)
    keys = np.concatenate([(np.arange(count) + draw.random()) / max(count, 1) for count in shares])
    order = np.argsort(keys, kind="stable")
    givers = np.repeat(np.arange(len(shares), dtype=np.uint16), shares)
    ranks = np.concatenate([np.arange(count) for count in shares])
    return givers[order], ranks[order]


@functools.lru_cache(maxsize=16)
def _order(rows: int, seed: Seed, epoch: int) -> np.ndarray:
    return np.random.default_rng([*seed, epoch]).permutation(rows)
