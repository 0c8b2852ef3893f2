"""Inference: prefill and decode in tokens per second, ours, the limit's and the peers', taken side by side in one run."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

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
from amaru.recipes.bench.limits import best, this_machine
from amaru.serve.forward import CHUNK_TOKENS, Work, advance

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
    """Tokens per second. `limit` follows from bytes and FLOPs at this run's measured rates; `peers` by name, None where it cannot."""

    name: str
    ours: float
    spread: float
    limit: float
    peers: dict[str, float | None]


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
    device, decoder = device or this_machine(), load(checkpoint)

    def ours() -> dict[str, float]:
        found = rates(decoder, bench, progress)
        note(_told("amaru", found))
        return found

    taken, theirs, versions = [ours()], {}, {"amaru": version("amaru"), "torch": torch.__version__}
    for name, python in peers.items():
        theirs[name], versions[name] = _peer(name, python, Path(checkpoint), bench, progress, note)
        taken.append(ours())
    machine = Machine(count=1, device=device)
    rows = (_row(name, taken, theirs, _limit(decoder, name, bench, machine)) for name in bench.rows)
    return Result(
        checkpoint=str(checkpoint),
        rows=tuple(rows),
        bandwidth=device.bandwidth or 0.0,
        flops=device.flops,
        threads=torch.get_num_threads(),
        versions=versions,
        settings=bench,
    )


def rates(decoder: Decoder, bench: Bench, progress: Progress) -> dict[str, float]:
    """Tokens per second of every row."""
    found = {}
    for row in bench.rows:
        progress(f"amaru: {row}")
        kind, count, state = _parts(row)
        decoder.state_dtype = torch.bfloat16 if state == "bf16" else None
        if kind == "prefill":
            found[row] = count / best(partial(_prefill, decoder, count), bench.repeats)
        else:
            found[row] = count * bench.steps / _decode_seconds(decoder, count, bench)
    decoder.state_dtype = None
    return found


def _parts(row: str) -> tuple[str, int, Literal["fp32", "bf16"]]:
    kind, count = row.removesuffix(NARROW).split()
    return kind, int(count), "bf16" if row.endswith(NARROW) else "fp32"


def _prefill(decoder: Decoder, tokens: int) -> None:
    state = decoder.new_state(1, tokens)
    ids = _ids(decoder, tokens)
    for start in range(0, tokens, CHUNK_TOKENS):
        advance(decoder, state, [Work(ids[start : start + CHUNK_TOKENS], start, 0)])


def _decode_seconds(decoder: Decoder, batch: int, bench: Bench) -> float:
    state, ids = decoder.new_state(batch, bench.context + bench.steps), _ids(decoder, bench.context)
    advance(decoder, state, [Work(ids, 0, slot) for slot in range(batch)])

    def decode() -> None:
        for position in range(bench.context, bench.context + bench.steps):
            advance(decoder, state, [Work([ids[slot % bench.context]], position, slot) for slot in range(batch)])

    return best(decode, bench.repeats)


def _ids(decoder: Decoder, count: int) -> list[int]:
    return torch.randint(3, decoder.config.vocab, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def _limit(decoder: Decoder, name: str, bench: Bench, machine: Machine) -> float:
    """Tokens per second at which bytes or FLOPs of this row alone would run at the measured rates."""
    kind, count, state = _parts(name)
    stored = "bf16" if decoder.embedding.weight.dtype == torch.bfloat16 else "fp32"
    if kind == "prefill":
        workload = Workload(context=count, weights=stored, kv=stored)
        return count / (roofline.prefill(decoder.config, workload, machine).seconds or float("inf"))
    workload = Workload(context=bench.context + bench.steps // 2, batch=count, weights=stored, kv=stored, state=state)
    return count / (roofline.decode(decoder.config, workload, machine).seconds or float("inf"))


def _row(name: str, taken: Sequence[dict[str, float]], theirs: dict[str, dict[str, float | None]], limit: float) -> Row:
    found = [each[name] for each in taken]
    spread = (max(found) - min(found)) / statistics.median(found)
    return Row(name=name, ours=max(found), spread=spread, limit=limit, peers={peer: rows.get(name) for peer, rows in theirs.items()})


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
