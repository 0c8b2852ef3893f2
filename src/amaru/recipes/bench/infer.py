"""Inference: prefill and decode in tokens per second, ours, the limit's and the peers', taken side by side in one run."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models import roofline
from amaru.models.checkpoint import load
from amaru.models.convert import Job
from amaru.models.cost import Workload
from amaru.models.decoder import Decoder
from amaru.models.devices import Device, Machine
from amaru.models.targets import Request
from amaru.ops.heap import keep_freed_memory
from amaru.recipes.bench.ask import ask
from amaru.recipes.bench.limits import Probe, this_machine
from amaru.serve.forward import CHUNK_TOKENS, Work, advance
from amaru.serve.speed import seconds

PEERS = {  # the script that runs it, and its settings that are tried: the best counts, row by row
    "transformers": ("transformers_side.py", ("eager",)),
    "vllm": ("vllm_side.py", ("compiled", "eager")),
    "llama.cpp": ("llama_side.py", ("flash_attn=False", "flash_attn=True")),
}
NARROW = ", states in bf16"  # behind the name of a row
Progress = Callable[[str], None]


class Bench(Config):
    """`Bench(prefill=(1024, 2048), decode=(1, 8, 32))`: which rows are measured.

    prefill    tokens of one sequence, from nothing
    decode     sequences that decode together, each with `context` tokens behind it
    steps      tokens that each decodes in a repetition
    repeats    of which the fastest counts
    states     how SSM states are held: rows of decoding for each; a peer's are those that it has
    """

    prefill: tuple[int, ...] = (1024, 2048)
    decode: tuple[int, ...] = (1, 8, 32)
    context: int = Field(default=64, gt=0)
    steps: int = Field(default=32, gt=0)
    repeats: int = Field(default=3, gt=0)
    states: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)

    @property
    def rows(self) -> list[str]:
        decode = [f"decode {batch}{NARROW if state == 'bf16' else ''}" for state in self.states for batch in self.decode]
        return [f"prefill {tokens}" for tokens in self.prefill] + decode


class Row(Config):
    """Tokens per second; `peers` by name, None where one cannot.

    limit   from bytes and FLOPs at the rates that were measured when the run began
    then    the same at the rates just before and after the repetition that counts: memory has fast and slow minutes
    """

    name: str
    ours: float
    spread: float
    limit: float
    then: float
    peers: dict[str, float | None]


class Taken(NamedTuple):
    """A row's tokens per second, and what this machine could do at that moment."""

    rate: float
    device: Device


class Result(Config):
    checkpoint: str
    rows: tuple[Row, ...]
    bandwidth: float
    flops: dict[str, float]
    threads: int
    versions: dict[str, str]
    settings: Bench


def run(
    checkpoint: str | Path,
    peers: dict[str, str],
    bench: Bench = Bench(),  # noqa: B008  (frozen)
    progress: Progress = print,
    device: Device | None = None,
    note: Progress = print,
) -> Result:
    """`run("ckpt", {"vllm": "/envs/vllm/bin/python"})`: our rows are taken before and after every peer, so that a machine that
    slows down on the way slows both. `device` has this machine's rates when they were measured already. `note` gets figures as they
    are taken, so that a run that is stopped has said something.

    Raises `ConfigError` for a peer that is not known, `BackendError` with its last words for one that fails.
    """
    if unknown := sorted(peers.keys() - PEERS.keys()):
        raise ConfigError(f"There is no peer '{unknown[0]}'; there is: {', '.join(PEERS)}.")
    progress("limits of this machine")
    keep_freed_memory()
    decoder = load(checkpoint)
    known = device or this_machine()
    probe = (lambda: known) if device else Probe(decoder.embedding.weight.dtype)

    def ours() -> dict[str, Taken]:
        found = {}
        for name in bench.rows:
            progress(f"amaru: {name}")
            found[name] = _taken(decoder, name, bench, probe)
        note(_told("amaru", {name: taken.rate for name, taken in found.items()}))
        return found

    taken, theirs, versions = [ours()], {}, {"amaru": version("amaru"), "torch": torch.__version__}
    for name, python in peers.items():
        theirs[name], versions[name] = _peer(name, python, Path(checkpoint), bench, progress, note)
        taken.append(ours())
    limit = partial(_limit, decoder, bench)
    rows = (_row(name, [each[name] for each in taken], theirs, known, limit) for name in bench.rows)
    return Result(
        checkpoint=str(checkpoint),
        rows=tuple(rows),
        bandwidth=known.bandwidth or 0.0,
        flops=known.flops,
        threads=torch.get_num_threads(),
        versions=versions,
        settings=bench,
    )


def _taken(decoder: Decoder, row: str, bench: Bench, probe: Callable[[], Device]) -> Taken:
    """The fastest of some repetitions, with the better of what was measured before and after it."""
    tokens, work = work_of(decoder, row, bench)
    work()
    before, found = probe(), []
    for _ in range(bench.repeats):
        took, after = seconds(work, decoder), probe()
        found.append(Taken(tokens / took, _better(before, after)))
        before = after
    return max(found, key=lambda taken: taken.rate)


def _better(one: Device, other: Device) -> Device:
    flops = {kind: max(rate, other.flops[kind]) for kind, rate in one.flops.items()}
    return replace(one, bandwidth=max(one.bandwidth or 0.0, other.bandwidth or 0.0), flops=flops)


def work_of(decoder: Decoder, row: str, bench: Bench) -> tuple[int, Callable[[], None]]:
    """`work_of(decoder, "decode 8", bench)`: how many tokens a repetition of the row takes in or writes, and the repetition."""
    kind, count, state = _parts(row)
    decoder.state_dtype = torch.bfloat16 if state == "bf16" else None
    try:
        return (count, partial(_prefill, decoder, count)) if kind == "prefill" else (count * bench.steps, _decoding(decoder, count, bench))
    finally:
        decoder.state_dtype = None


def _parts(row: str) -> tuple[str, int, Literal["fp32", "bf16"]]:
    kind, count = row.removesuffix(NARROW).split()
    return kind, int(count), "bf16" if row.endswith(NARROW) else "fp32"


def _prefill(decoder: Decoder, tokens: int) -> None:
    state = decoder.new_state(1, tokens)
    ids = _ids(decoder, tokens)
    for start in range(0, tokens, CHUNK_TOKENS):
        advance(decoder, state, [Work(ids[start : start + CHUNK_TOKENS], start, 0)])


def _decoding(decoder: Decoder, batch: int, bench: Bench) -> Callable[[], None]:
    state, ids = decoder.new_state(batch, bench.context + bench.steps), _ids(decoder, bench.context)
    advance(decoder, state, [Work(ids, 0, slot) for slot in range(batch)])

    def decode() -> None:
        for position in range(bench.context, bench.context + bench.steps):
            advance(decoder, state, [Work([ids[slot % bench.context]], position, slot) for slot in range(batch)])

    return decode


def _ids(decoder: Decoder, count: int) -> list[int]:
    return torch.randint(3, decoder.config.vocab, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def _limit(decoder: Decoder, bench: Bench, name: str, device: Device) -> float:
    """Tokens per second at which bytes or FLOPs of this row alone would run at the measured rates."""
    kind, count, state = _parts(name)
    machine, stored = Machine(count=1, device=device), "bf16" if decoder.embedding.weight.dtype == torch.bfloat16 else "fp32"
    if kind == "prefill":
        workload = Workload(context=count, weights=stored, kv=stored)
        return count / (roofline.prefill(decoder.config, workload, machine).seconds or float("inf"))
    workload = Workload(context=bench.context + bench.steps // 2, batch=count, weights=stored, kv=stored, state=state)
    return count / (roofline.decode(decoder.config, workload, machine).seconds or float("inf"))


def _row(
    name: str, found: Sequence[Taken], theirs: dict[str, dict[str, float | None]], device: Device, limit: Callable[[str, Device], float]
) -> Row:
    best_one, slowest = max(found, key=lambda taken: taken.rate), min(taken.rate for taken in found)
    return Row(
        name=name,
        ours=best_one.rate,
        spread=(best_one.rate - slowest) / statistics.median(taken.rate for taken in found),
        limit=limit(name, device),
        then=limit(name, best_one.device),
        peers={peer: rows.get(name) for peer, rows in theirs.items()},
    )


def _told(who: str, rows: Mapping[str, float | None]) -> str:
    """`vllm, eager: prefill 1024 323, decode 1 21`"""
    return f"{who}: " + ", ".join(f"{row} {rate:,.0f}" for row, rate in rows.items() if rate is not None)


def _peer(
    name: str, python: str, checkpoint: Path, bench: Bench, progress: Progress, note: Progress
) -> tuple[dict[str, float | None], str]:
    """Its best rows and its version; llama.cpp is given the checkpoint as GGUF."""
    script, settings = PEERS[name]
    with tempfile.TemporaryDirectory() as folder:
        model = checkpoint
        if name == "llama.cpp":
            model = Path(folder) / "model.gguf"
            Job(Request(source=str(checkpoint), out=str(model), to="gguf", dtype="bf16")).run(verify=False)
        asked = {"prefill": bench.prefill, "decode": bench.decode, "context": bench.context, "steps": bench.steps}
        answers = []
        for setting in settings:
            progress(f"{name}, {setting}")
            answers.append(ask(name, python, script, str(model), asked | {"setting": setting}))
            note(_told(f"{name}, {setting}", answers[-1]["rows"]))
    rows: dict[str, float | None] = {}
    for row in bench.rows:
        found = [each["rows"][row.removesuffix(NARROW)] for each in answers]
        rows[row] = max((rate for rate in found if rate is not None), default=None)
    return rows, f"{answers[0]['version']} (best of {', '.join(settings)})"
