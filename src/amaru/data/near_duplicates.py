"""Texts that are nearly equal: MinHash finds the candidates, the shingles themselves decide, and the first of its kind stays."""

import hashlib
import re
import unicodedata
from typing import NamedTuple

import numpy as np

SHINGLE = 5  # characters
HASHES = 128
TOGETHER = 1024  # shingles hashed at once: 1 MB, which stays in the cache
WORDS = re.compile(r"\w+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Like(NamedTuple):
    """An earlier text, and the share of shingles (of those in either) that both have."""

    name: str
    similarity: float


class NearDuplicates:
    """`NearDuplicates(0.8).add("b", text)`: what it is a copy of, `Like("a", 0.93)`, or None, and then later texts are compared with it.

    Texts are alike when the Jaccard similarity of their sets of five characters is at least `threshold`, in lower case and
    without punctuation. Only texts are compared that agree in one of `bands` bands of their 128 MinHashes (Broder 1997; bands: Leskovec,
    Rajaraman, Ullman, section 3.4): two of similarity s are with probability 1 - (1 - s^r)^bands, r = 128 / bands. Those that are compared
    are compared exactly, so a larger number of bands finds more and calls nothing alike that is not. The result follows from the texts
    and their order alone.
    """

    def __init__(self, threshold: float, bands: int = 32) -> None:
        assert 0 < threshold < 1 and HASHES % bands == 0
        self.threshold = threshold
        self.bands = bands
        self._names: list[str] = []
        self._shingles: list[np.ndarray] = []
        self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(bands)]

    def add(self, name: str, text: str) -> Like | None:
        found = shingles(text)
        keys = [band.tobytes() for band in signature(found).reshape(self.bands, -1)]
        candidates = {number for key, bucket in zip(keys, self._buckets, strict=True) for number in bucket.get(key, ())}
        closest = max(((jaccard(found, self._shingles[number]), -number) for number in candidates), default=(0.0, 0))
        if closest[0] >= self.threshold:
            return Like(self._names[-closest[1]], closest[0])
        for key, bucket in zip(keys, self._buckets, strict=True):
            bucket.setdefault(key, []).append(len(self._names))
        self._names.append(name)
        self._shingles.append(found)
        return None


def chance(similarity: float, bands: int) -> float:
    """How likely two texts of that similarity are compared: `chance(0.8, 32) > 0.9999999`."""
    return 1 - (1 - similarity ** (HASHES // bands)) ** bands


def normal(text: str) -> str:
    """Words in lower case with one blank between them."""
    return " ".join(WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def shingles(text: str) -> np.ndarray:
    """uint64, sorted, each once: hashes of all runs of five characters; of the whole text when it is shorter."""
    characters = np.frombuffer(normal(text).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(characters) < SHINGLE:
        characters = np.pad(characters, (0, SHINGLE - len(characters)))
    windows = np.lib.stride_tricks.sliding_window_view(characters, SHINGLE)
    hashed = np.zeros(len(windows), dtype=np.uint64)
    for column in windows.T:
        hashed = _mixed(hashed ^ column)
    return np.unique(hashed)


def signature(found: np.ndarray) -> np.ndarray:
    """uint32 [128]: of each hash function the least value over the shingles."""
    least = np.full(HASHES, 2**32 - 1, dtype=np.uint32)
    for first in range(0, len(found), TOGETHER):
        values = found[first : first + TOGETHER] * _FACTORS[:, None] + _OFFSETS[:, None]
        np.minimum(least, (values >> np.uint64(32)).min(axis=1).astype(np.uint32), out=least)
    return least


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """The share of what is in both of what is in either."""
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / (len(left) + len(right) - both)


def _mixed(values: np.ndarray) -> np.ndarray:
    values = values * MULTIPLIER
    return values ^ (values >> np.uint64(29))


def _drawn(what: str) -> np.ndarray:
    """uint64 [128] from a hash, so the same on every machine."""
    return np.frombuffer(b"".join(hashlib.blake2b(f"{what} {n}".encode(), digest_size=8).digest() for n in range(HASHES)), dtype="<u8")


# Multiply-shift hashing (Dietzfelbinger 1997): odd factors, any offsets.
_FACTORS, _OFFSETS = _drawn("factor") | np.uint64(1), _drawn("offset")
