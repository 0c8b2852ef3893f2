"""How fast a decoder is on this machine, and how many bytes it holds: measured, never estimated."""

import statistics
import time
from collections.abc import Callable

import torch
from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.serve.forward import CHUNK_TOKENS, Work, advance


class Timing(Config):
    """`Timing(prompt=1024, batch=8, context=4096)`: what is run, and how often.

    prompt    tokens of the one sequence that is prefilled
    batch     sequences that decode together, the last token at position `context` - 1
    steps     decode steps in each repetition
    repeats   repetitions, of which the median is taken, after one that is not counted
    """

    prompt: int = Field(default=1024, gt=0)
    batch: int = Field(default=1, gt=0)
    context: int = Field(default=4096, gt=0)
    steps: int = Field(default=8, gt=0)
    repeats: int = Field(default=5, gt=0)
    seed: int = 0

    def check(self) -> None:
        if self.steps > self.context:
            raise ConfigError(f"Timing.steps must fit into context; got {self.steps} and {self.context}.")


class Speed(Config):
    """Medians in tokens per second, with what they were measured under; bytes of the tensors that existed then."""

    prefill: float
    decode: float
    weight_bytes: int
    state_bytes: int
    timing: Timing
    dtype: str
    device: str
    threads: int


def measure(decoder: Decoder, timing: Timing = Timing()) -> Speed:  # noqa: B008  (a frozen config)
    """`measure(student, Timing(context=4096, batch=8)).decode`

    Decoding starts from a pool as large as the context with zeros in it: the time of a step does not depend on
    what the caches hold, only on how far they reach.
    """
    weight = decoder.embedding.weight
    state = decoder.new_state(timing.batch, timing.context)
    return Speed(
        prefill=_prefill(decoder, timing),
        decode=_decode(decoder, state, timing),
        weight_bytes=sum(parameter.nbytes for parameter in decoder.parameters()),
        state_bytes=state.bytes,
        timing=timing,
        dtype=str(decoder.compute_dtype or weight.dtype).removeprefix("torch."),
        device=str(weight.device) if weight.device.type == "cpu" else torch.cuda.get_device_name(weight.device),
        threads=torch.get_num_threads(),
    )


def _prefill(decoder: Decoder, timing: Timing) -> float:
    return timing.prompt / _median_seconds(prefilling(decoder, timing.prompt, timing.seed), decoder, timing.repeats)


def _decode(decoder: Decoder, state: DecoderState, timing: Timing) -> float:
    run = decoding(decoder, state, timing.batch, timing.context, timing.steps, timing.seed)
    return timing.batch * timing.steps / _median_seconds(run, decoder, timing.repeats)


def prefilling(decoder: Decoder, prompt: int, seed: int = 0) -> Callable[[], None]:
    """What a prompt of so many tokens takes, to be run and timed: `seconds(prefilling(decoder, 1024), decoder)`."""
    state = decoder.new_state(1, prompt)
    ids = _random_ids(decoder, prompt, seed)

    def run() -> None:
        for start in range(0, prompt, CHUNK_TOKENS):
            advance(decoder, state, [Work(ids[start : start + CHUNK_TOKENS], start, 0)])

    return run


def decoding(decoder: Decoder, state: DecoderState, batch: int, context: int, steps: int, seed: int = 0) -> Callable[[], None]:
    """The same of the last `steps` steps of `batch` sequences that come to `context` tokens."""
    ids = _random_ids(decoder, batch, seed)

    def run() -> None:
        for position in range(context - steps, context):
            advance(decoder, state, [Work([token], position, slot) for slot, token in enumerate(ids)])

    return run


def _random_ids(decoder: Decoder, count: int, seed: int) -> list[int]:
    return torch.randint(decoder.config.vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def _median_seconds(run: Callable[[], None], decoder: Decoder, repeats: int) -> float:
    """The first run warms up caches, allocators and compiled code."""
    run()
    return statistics.median(seconds(run, decoder) for _ in range(repeats))


def seconds(run: Callable[[], None], decoder: Decoder) -> float:
    """How long one run takes, until the device is done."""
    _wait(decoder)
    start = time.perf_counter()
    run()
    _wait(decoder)
    return time.perf_counter() - start


def _wait(decoder: Decoder) -> None:
    if decoder.embedding.weight.is_cuda:
        torch.cuda.synchronize()
