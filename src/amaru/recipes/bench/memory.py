"""Memory of training: peaks with and without what keeps them low, each taken in a process of its own."""

import gc
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from pydantic import Field

from amaru.config import Config
from amaru.errors import BackendError
from amaru.models.checkpoint import load
from amaru.nn.batch import Batch
from amaru.ops.head_loss import TokenCrossEntropy, head_loss
from amaru.ops.head_loss.reference import head_loss as whole_head_loss

RESET, PEAK = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux alone tells, and forgets, the most a process held
Progress = Callable[[str], None]
Prepare = Callable[..., Callable[[], object]]


class MemoryBench(Config):
    """`MemoryBench(vocab=131072, head_tokens=4096)`.

    vocab, hidden       of the head whose loss is taken, with bf16 activations and fp32 weights
    head_tokens, chunk  at once, and how many of them have logits at a time
    length              of the one sequence that the checkpoint learns from
    recompute           every so many layers one is run again; 0: none
    """

    vocab: int = Field(default=131_072, gt=0)
    hidden: int = Field(default=1024, gt=0)
    head_tokens: int = Field(default=4096, gt=0)
    chunk: int = Field(default=1024, gt=0)
    length: int = Field(default=2048, gt=0)
    recompute: tuple[int, ...] = (0, 2, 1)


class Peak(Config):
    """Bytes: what was held before, weights among it, and the most that came on top while gradients were taken."""

    name: str
    before: int
    above: int


class MemoryResult(Config):
    checkpoint: str
    logits: int
    peaks: tuple[Peak, ...]
    settings: MemoryBench


def run(checkpoint: str | Path, bench: MemoryBench, progress: Progress = print) -> MemoryResult:
    """`run("ckpt", MemoryBench()).peaks`: the head alone, chunk by chunk and with all logits; then the checkpoint's gradients.

    `logits` are the bytes of all logits of the head in bf16. Raises `BackendError` on another system than Linux.
    """
    peaks = []
    for name, chunk in (("head, chunk by chunk", bench.chunk), ("head, all logits", 0)):
        progress(name)
        peaks.append(_peak(name, _head, bench, chunk))
    for every in bench.recompute:
        name = f"model, {f'one layer of {every} run again' if every else 'everything kept'}"
        progress(name)
        peaks.append(_peak(name, _model, str(checkpoint), bench.length, every))
    logits = 2 * bench.vocab * bench.head_tokens
    return MemoryResult(checkpoint=str(checkpoint), logits=logits, peaks=tuple(peaks), settings=bench)


def _peak(name: str, prepare: Prepare, *arguments: object) -> Peak:
    found = taken(name, prepare, *arguments)
    return Peak(name=name, before=found.before, above=found.above)


class Taken(NamedTuple):
    """Bytes that a process held before some work, the most that came on top, and what the work gave back."""

    before: int
    above: int
    result: Any


def taken(name: str, prepare: Prepare, *arguments: object) -> Taken:
    """`taken("steps", prepare, recipe).above`: of `prepare(recipe)()` in a process of its own; `prepare` is a function of some module.

    Raises `BackendError` on another system than Linux, and where the process ends early.
    """
    if not RESET.exists():
        raise BackendError(f"The most that a process held is read from {PEAK}, which only Linux has.")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, torch.get_num_threads(), prepare, *arguments))
    process.start()
    theirs.close()
    try:
        return Taken(*ours.recv())
    except EOFError:
        raise BackendError(f"The process that measured '{name}' ended early; is there enough memory?") from None
    finally:
        process.join()


def _measure(answer: Connection, threads: int, prepare: Prepare, *arguments: object) -> None:
    """In the new process: what `prepare` holds, and the most that its result takes beside that."""
    torch.set_num_threads(threads)
    work = prepare(*arguments)
    gc.collect()
    before = psutil.Process().memory_info().rss
    RESET.write_text("5")
    result = work()
    most = next(int(line.split()[1]) * 1024 for line in PEAK.read_text().splitlines() if line.startswith("VmHWM"))
    answer.send((before, most - before, result))


def _head(bench: MemoryBench, chunk: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(bench.head_tokens, bench.hidden, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(bench.vocab, bench.hidden, generator=generator).mul_(bench.hidden**-0.5).requires_grad_()
    loss = TokenCrossEntropy(torch.randint(bench.vocab, (bench.head_tokens,), generator=generator))
    if chunk:
        return lambda: head_loss(hidden, weight, loss, chunk_tokens=chunk).backward()
    return lambda: whole_head_loss(hidden, weight, loss).backward()


def _model(checkpoint: str, length: int, every: int) -> Callable[[], object]:
    """Gradients of one sequence; optimizer state, two more numbers for each weight, comes on top."""
    decoder = load(checkpoint, dtype=torch.float32)
    decoder.requires_grad_(True)
    decoder.compute_dtype, decoder.recompute_every = torch.bfloat16, every or None
    ids = torch.randint(decoder.config.vocab, (length,), generator=torch.Generator().manual_seed(0))
    targets = TokenCrossEntropy(ids.roll(-1))
    return lambda: head_loss(decoder.hidden_states(Batch.of([ids])), decoder.head.weight, targets).backward()
