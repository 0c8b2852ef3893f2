"""Log-likelihoods of the ends of sequences, many sequences packed into one pass; logits exist for those ends only.

for index, found in likelihoods(decoder, [Ending((5, 9, 3), 1), Ending((5, 9, 4), 2)]):
    found.logprobs.sum(), found.greedy.all()
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from amaru.errors import DataError
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch

TOKENS = 8192  # of a pass, unless one sequence alone is longer
LOGITS_AT_ONCE = 2**25  # 128 MiB in fp32


class Ending(NamedTuple):
    """Of a sequence of ids, the tokens from `first` (at least 1) on are asked about."""

    ids: tuple[int, ...]
    first: int


class Likelihood(NamedTuple):
    """`logprobs` fp64 [n] of an ending's tokens, in nats; `greedy` bool [n]: the token has the highest logit."""

    logprobs: Tensor
    greedy: Tensor


def likelihoods(decoder: Decoder, endings: Sequence[Ending], tokens: int = TOKENS) -> Iterator[tuple[int, Likelihood]]:
    """Each ending's index and likelihood, the longest sequences first, as passes of about `tokens` tokens are done.

    Sequences that differ in their last token only (the one-token answers to one question) are run once. Raises `DataError` for an
    ending without a token, one that begins with the sequence, and ids that the vocabulary does not have.
    """
    _check(decoder, endings)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, ending in enumerate(endings):
        groups.setdefault(ending.ids[:-1], []).append(index)
    for inputs in _passes(sorted(groups, key=len, reverse=True), tokens):
        yield from _pass(decoder, endings, {ids: groups[ids] for ids in inputs})


def _check(decoder: Decoder, endings: Sequence[Ending]) -> None:
    for index, (ids, first) in enumerate(endings):
        if not 1 <= first < len(ids):
            raise DataError(f"Sequence {index} has {len(ids)} tokens and its ending begins at {first}; both parts need a token.")
        if max(ids) >= decoder.config.vocab:
            known = decoder.config.vocab - 1
            raise DataError(f"Sequence {index} has token {max(ids)}, but the model knows 0 to {known}: another tokenizer.")


def _passes(inputs: Sequence[tuple[int, ...]], tokens: int) -> Iterator[list[tuple[int, ...]]]:
    held: list[tuple[int, ...]] = []
    for ids in inputs:
        if held and sum(map(len, held)) + len(ids) > tokens:
            yield held
            held = []
        held.append(ids)
    if held:
        yield held


@torch.inference_mode()
def _pass(decoder: Decoder, endings: Sequence[Ending], groups: dict[tuple[int, ...], list[int]]) -> list[tuple[int, Likelihood]]:
    batch = Batch.of([torch.tensor(ids) for ids in groups]).to(decoder.embedding.weight.device)
    hidden = decoder.hidden_states(batch).split([len(ids) for ids in groups])
    return [
        (index, _likelihood(decoder, rows[endings[index].first - 1 :], endings[index]))
        for rows, indices in zip(hidden, groups.values(), strict=True)
        for index in indices
    ]


def _likelihood(decoder: Decoder, hidden: Tensor, ending: Ending) -> Likelihood:
    wanted = torch.tensor(ending.ids[ending.first :], device=hidden.device)
    at_once = max(1, LOGITS_AT_ONCE // decoder.config.vocab)
    logprobs, greedy = [], []
    for rows, targets in zip(hidden.split(at_once), wanted.split(at_once), strict=True):
        logits = decoder.logits(rows)
        logprobs.append(logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0].double().cpu())
        greedy.append((logits.argmax(-1) == targets).cpu())
    return Likelihood(torch.cat(logprobs), torch.cat(greedy))
