"""Choosing the next token of every sequence of a step: row by row with torch's own calls, and all rows at once as the engine does.

    python benchmarks/serving/choosing.py --threads 2

Both run in turns, on the same logits; median milliseconds of a step. Peaked logits have a deviation of 12, flat ones of 3.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from amaru.serve.rows import Rows
from amaru.serve.sampler import GREEDY, Sampler, Sampling

DRAWN = Sampling(temperature=0.8, top_p=0.95)


def likeliest(row: Tensor) -> int:
    if not bool(row.isfinite().all()):
        raise ValueError("logits are not finite")
    return int(row.argmax())


def drawn(row: Tensor) -> int:
    """Of the likeliest few hundred where they hold the share of top-p, else of everything, sorted."""
    everything = (row / DRAWN.temperature).softmax(-1)
    p, ids = everything.topk(256)
    if p.sum() < DRAWN.top_p:
        p, ids = everything.sort(descending=True, stable=True)
    kept = p.cumsum(-1) - p < DRAWN.top_p
    return int(ids[kept][p[kept].multinomial(1)])


def by_row(choose: Callable[[Tensor], int], logits: Tensor) -> list[int]:
    return [choose(row) for row in logits]


def at_once(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    rows = Rows(logits, [sampler.sampling.temperature for sampler in samplers])
    return [sampler(row) for sampler, row in zip(samplers, rows, strict=True)]


def milliseconds(ways: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Of each way, taken in turns."""
    spans: list[list[float]] = [[] for _ in ways]
    for turn in range(repeats + 1):
        for way, taken in zip(ways, spans, strict=True):
            start = time.perf_counter()
            way()
            if turn:  # the first warms up
                taken.append(1e3 * (time.perf_counter() - start))
    return [median(taken) for taken in spans]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=131072)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    for name, choose, sampling, deviation in (
        ("likeliest", likeliest, GREEDY, 3.0),
        ("drawn, peaked", drawn, DRAWN, 12.0),
        ("drawn, flat", drawn, DRAWN, 3.0),
    ):
        logits = deviation * torch.randn(given.sequences, given.vocab)
        alone, together = partial(by_row, choose, logits), partial(at_once, [Sampler(sampling) for _ in logits], logits)
        assert sampling.temperature or alone() == together()
        before, now = milliseconds([alone, together], given.repeats)
        print(f"{name:<16}{before:>8.2f} ms row by row{now:>8.2f} ms at once{before / now:>8.1f}x")


if __name__ == "__main__":
    main()
