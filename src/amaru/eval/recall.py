"""Recall and copying among tokens that mean nothing, without decoding: what the state of a hybrid keeps, and what only attention finds.

recall   pairs of a key and a value, then every key again in another order: is its value the likeliest next token? Keys are of one half
         of the vocabulary and values of the other (multi-query associative recall, 2312.04927, 3.1)
copy     random tokens, then the same again: is each the likeliest next token, from the second on?
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from amaru.config import fingerprint_bytes
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.eval.estimate import Score
from amaru.eval.likelihood import Ending
from amaru.eval.subject import Subject
from amaru.eval.task import Judged

VERSION = 2  # 2: keys and values have no token in common
SHORTEST = 8


@dataclass(frozen=True)
class RecallTask:
    """`RecallTask("recall", lengths=(64, 1024), samples=10)`: lengths are those of whole sequences, in tokens.

    accuracy   share of tokens to be recalled that have the highest logit; cells are lengths
    nats       -log p of such a token

    With `alphabet` only so many of the vocabulary's tokens occur.

    Raises `ConfigError` for another name, and for a length below 8.
    """

    name: str
    lengths: tuple[int, ...]
    samples: int
    seed: int = 0
    alphabet: int | None = None

    metrics: tuple[str, ...] = ("accuracy", "nats")

    def __post_init__(self) -> None:
        if self.name not in SEQUENCES:
            raise ConfigError(f"There is no recall task '{self.name}'; there is: {', '.join(SEQUENCES)}.")
        if min(self.lengths) < SHORTEST:
            raise ConfigError(f"Recall needs sequences of at least {SHORTEST} tokens; got {min(self.lengths)}.")

    @property
    def fingerprint(self) -> str:
        drawn = (self.lengths, self.seed) if self.alphabet is None else (self.lengths, self.seed, self.alphabet)
        return fingerprint_bytes("recall", str(VERSION), self.name, repr(drawn))

    def __len__(self) -> int:
        return len(self.lengths) * self.samples

    def require(self, tokenizer: Tokenizer) -> None:
        """Raises `ConfigError` where the vocabulary has too few keys for the longest sequence, before anything is measured."""
        make, _ = SEQUENCES[self.name]
        make(Random(0), ordinary(tokenizer)[: self.alphabet], max(self.lengths))

    def judge(self, subject: Subject, wanted: Sequence[int]) -> Iterator[tuple[int, Judged]]:
        ids = ordinary(subject.tokenizer)[: self.alphabet]
        make, step = SEQUENCES[self.name]
        places = [(self.lengths[index % len(self.lengths)], index // len(self.lengths)) for index in wanted]
        endings = [make(Random(f"{self.name} {length} {sample} {self.seed}"), ids, length) for length, sample in places]
        for number, found in subject.likelihoods(endings):
            hits, nats = found.greedy[step - 1 :: step].double(), -found.logprobs[step - 1 :: step]
            scores = {"accuracy": Score(float(hits.mean()), len(hits)), "nats": Score(float(nats.mean()), len(nats))}
            yield wanted[number], Judged(scores, cell=str(places[number][0]))


def pairs(draw: Random, ids: Sequence[int], length: int) -> Ending:
    """Keys and values, then keys in another order with their values. Raises `ConfigError` where the vocabulary has too few keys."""
    count = length // 4
    keys, values = halves(ids)
    if count > len(keys):
        raise ConfigError(f"{length} tokens of recall need {count} different keys; the vocabulary has {len(keys)} of them.")
    held = list(zip(draw.sample(keys, count), draw.choices(values, k=count), strict=True))
    asked = draw.sample(held, count)
    return Ending(tuple(token for pair in [*held, *asked] for token in pair), 2 * count)


def halves(ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Keys and values."""
    return ids[: len(ids) // 2], ids[len(ids) // 2 :]


def repeated(draw: Random, ids: Sequence[int], length: int) -> Ending:
    half = draw.choices(ids, k=length // 2)
    return Ending((*half, *half), length // 2 + 1)


def ordinary(tokenizer: Tokenizer) -> list[int]:
    """All ids but those of control tokens."""
    return sorted(tokenizer.backend.get_vocab(with_added_tokens=False).values() - tokenizer.backend.get_added_tokens_decoder().keys())


SEQUENCES = {"recall": (pairs, 2), "copy": (repeated, 1)}  # how they are made, and every which token of the ending is asked for
