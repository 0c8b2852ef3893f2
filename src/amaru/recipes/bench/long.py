"""Long prompts under a budget: a hybrid beside a Transformer of the same parameters, both in this engine."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from pydantic import Field

from amaru.config import Config
from amaru.errors import CapacityError, ConfigError
from amaru.models import cost
from amaru.models.checkpoint import load
from amaru.models.cost import Workload
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.mlp import MLP
from amaru.nn.rope import Rope
from amaru.serve.forward import Work, advance

QUERIES_PER_CACHE = 4  # query heads that share keys and values, as in Llama 3
CHANNELS = 64  # of a head, as in Llama 3.2 1B
FEW = 4  # steps of which the fastest counts
Progress = Callable[[str], None]


class Long(Config):
    """`Long(prompt=65536, new=1024, memory=2_000_000_000)`: prompts, tokens written after each, bytes for states and caches.

    depths   places of a prompt at which a chunk of `chunk` tokens is timed; what lies between follows by straight lines
    """

    prompt: int = Field(default=65536, gt=0)
    new: int = Field(default=1024, gt=0)
    memory: int = Field(default=2 * 10**9, gt=0)
    chunk: int = Field(default=512, gt=0)
    depths: int = Field(default=5, gt=1)

    def check(self) -> None:
        if self.prompt < self.chunk * self.depths:
            raise ConfigError(f"Long.prompt must be at least depths x chunk, {self.chunk * self.depths} tokens; got {self.prompt}.")


class Throughput(Config):
    """Of one model: seconds to read one prompt, seconds of a step of `batch` sequences, tokens written per second over both.

    `bend` is how far the middle of the prompt lies from a straight line between its ends: 0.01 is 1 %.
    """

    parameters: int
    bytes_per_sequence: int
    batch: int
    prefill_seconds: float
    bend: float
    step_seconds: float
    tokens_per_second: float


def transformer_like(config: DecoderConfig) -> DecoderConfig:
    """The Llama of as many parameters: same width, vocabulary and depth; the FFN's width makes up the number.

    >>> cost.parameters(transformer_like(hybrid)) / cost.parameters(hybrid)       # within half a row of FFN a block of 1
    """
    blocks, heads = max(1, len(config.layers) // 2), max(1, config.hidden // CHANNELS)
    attention = Attention(
        query_heads=heads, kv_heads=max(1, heads // QUERIES_PER_CACHE), channels=config.hidden // heads, rope=Rope(base=500_000.0)
    )

    def of(ffn: int) -> DecoderConfig:
        block = (attention, MLP(ffn=ffn, gated=True, activation="silu"))
        return DecoderConfig(vocab=config.vocab, hidden=config.hidden, layers=block * blocks, norm_eps=config.norm_eps, tied=config.tied)

    one, wanted = cost.parameters(of(1)), cost.parameters(config)
    row = cost.parameters(of(2)) - one
    if wanted < one:
        raise ConfigError(f"No Llama of width {config.hidden} and {blocks} blocks is as small as {wanted:,} parameters.")
    return of(1 + round((wanted - one) / row))


def beside_a_transformer(checkpoint: str | Path, long: Long, progress: Progress = print) -> dict[str, Throughput]:
    """`beside_a_transformer("ckpt", Long())["hybrid"].tokens_per_second`, and "transformer" beside it, with random weights."""
    hybrid = load(checkpoint)
    found = {"hybrid": measure(hybrid, long, progress)}
    twin, dtype = transformer_like(hybrid.config), hybrid.embedding.weight.dtype
    del hybrid
    return found | {"transformer": measure(Decoder(twin).initialise(0).to(dtype), long, progress)}


def measure(decoder: Decoder, long: Long, progress: Progress = print) -> Throughput:
    """Time pieces of the work and add them up: every piece runs at its real depth in the prompt and at the real batch.

    Raises `CapacityError` when not one sequence fits into the budget.
    """
    stored = "bf16" if decoder.embedding.weight.dtype == torch.bfloat16 else "fp32"
    workload = Workload(context=long.prompt + long.new, weights=stored, kv=stored, conv=stored)
    each = cost.memory(decoder.config, workload).sequences
    batch = long.memory // each
    if batch < 1:
        raise CapacityError(f"One sequence of {workload.context:,} tokens needs {each:,} bytes; the budget is {long.memory:,}.")
    progress(f"prefill of {long.prompt:,} tokens")
    prefill, bend = _prefill_seconds(decoder, long)
    progress(f"decode of {batch} sequences behind {long.prompt:,} tokens")
    step = _step_seconds(decoder, long, batch)
    return Throughput(
        parameters=cost.parameters(decoder.config),
        bytes_per_sequence=each,
        batch=batch,
        prefill_seconds=prefill,
        bend=bend,
        step_seconds=step,
        tokens_per_second=batch * long.new / (batch * prefill + long.new * step),
    )


def _prefill_seconds(decoder: Decoder, long: Long) -> tuple[float, float]:
    state, ids = decoder.new_state(1, long.prompt), _ids(decoder, long.chunk)
    places = [(long.prompt - long.chunk) * depth // (long.depths - 1) for depth in range(long.depths)]
    spans = [_seconds(lambda place=place: advance(decoder, state, [Work(ids, place, 0)])) for place in [0, *places]][1:]
    areas = [(low + high) / 2 for low, high in pairwise(spans)]
    middle = spans[len(spans) // 2]
    return sum(areas) / len(areas) * long.prompt / long.chunk, middle / ((spans[0] + spans[-1]) / 2) - 1


def _step_seconds(decoder: Decoder, long: Long, batch: int) -> float:
    """The mean of the first step behind the prompt and the last."""
    state, ids = decoder.new_state(batch, long.prompt + long.new), _ids(decoder, batch)
    ends = (long.prompt, long.prompt + long.new - 1)

    def step(place: int) -> None:
        advance(decoder, state, [Work([token], place, slot) for slot, token in enumerate(ids)])

    step(long.prompt)
    return sum(min(_seconds(lambda place=place: step(place)) for _ in range(FEW)) for place in ends) / 2


def _ids(decoder: Decoder, count: int) -> list[int]:
    return torch.randint(3, decoder.config.vocab, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
