"""The pieces of the measurement, each well under nine minutes: `python benchmarks/gpu/pieces.py NAME OUT` adds to OUT/records.json.

They stand in the order of their worth, the least risk first. Without a GPU a piece runs on a tiny model, to see that it runs.
"""

import gc
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from launches import LAUNCHES
from measure import DEVICE, TINY, Ceilings, bytes_of, ceilings, device_seconds, drawn, filled, rounded, seconds, wait
from pretraining import halved, pretrained

from amaru import __version__
from amaru.models import cost
from amaru.models.cost import Workload
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.families import config_of
from amaru.nn.attention import Attention
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.ops.linear import linear
from amaru.ops.ssd import chunked
from amaru.ops.ssd import triton as ssd_on_gpu
from amaru.recipes.bench.train import prepared
from amaru.serve.forward import Work, advance
from amaru.serve.speed import decoding
from amaru.train.metrics import Past
from amaru.train.settings import TrainConfig

Row = dict[str, Any]
PIECES: dict[str, Callable[[Ceilings], list[Row]]] = {}
CHUNK = 8192  # tokens of a prompt at once
LONG, ANSWER = (256, 16) if TINY else (65536, 1024)
ROOM = 0.92  # of the GPU's memory


def piece(run: Callable[[Ceilings], list[Row]]) -> Callable[[Ceilings], list[Row]]:
    PIECES[run.__name__] = run
    return run


class Lacking(Exception):
    """What a piece needs is not on this machine."""


def shape(name: str) -> DecoderConfig:
    """A published shape; without a GPU a tiny one of its kind."""
    config = config_of(name)
    if not TINY:
        return config
    small = {"mamba2": Mamba2(heads=4, channels=16, groups=2, state=16), "mlp": MLP(ffn=64)}
    layers = [small.get(layer.kind) or Attention(query_heads=4, kv_heads=2, channels=16) for layer in config.layers[:8]]
    return replace(config, vocab=256, hidden=64, layers=tuple(layers))  # type: ignore[type-var]


def row(what: str, value: float, unit: str, share: float | None = None, target: float | None = None) -> Row:
    """`share` of what the machine can do, or the ratio that `target` speaks of."""
    return {"what": what, "value": rounded(value), "unit": unit, "share": None if share is None else rounded(share), "target": target}


@piece
def machine(limits: Ceilings) -> list[Row]:
    return [row("copy, bytes read and written", limits.copy / 1e12, "TB/s"), row("bf16 product 8192³", limits.product / 1e12, "TFLOP/s")]


@piece
def smoke(limits: Ceilings) -> list[Row]:
    """All kernels against their references, on this GPU."""
    if TINY:
        raise Lacking("a CUDA GPU; without one the same tests run in `make test` and `make soak`")
    tests = ["tests/ops/triton", "tests/serve/test_captured.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "8", "-m", "", "--deselect", "tests/ops/triton/test_library.py", *tests]
    done = subprocess.run([*command, "-p", "no:cacheprovider"], capture_output=True, text=True)
    print(done.stdout[-6000:], done.stderr[-2000:])
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    return [row(f"kernels against references: {last}", float(done.returncode == 0), "all passed", float(done.returncode == 0), 1.0)]


@piece
def decode(limits: Ceilings) -> list[Row]:
    config, context = shape("nemotron-h-8b"), 64 if TINY else 1024
    decoder, rows = drawn(config), []
    for batch, target in ((1, 0.75), (8, None), (32, None), (64, 0.65)):
        taken = step_seconds(decoder, batch, context)
        floor = step_bytes(decoder, batch, context)
        share = floor / taken / limits.copy
        rows.append(row(f"nemotron-h-8b decode, batch {batch}, {context} places", batch / taken, "tokens/s", share, target))
    return rows


@torch.inference_mode()
def step_seconds(decoder: Decoder, batch: int, context: int, steps: int = 16) -> float:
    state = filled(decoder.new_state(batch, context))
    run = decoding(decoder, state, batch, context, min(steps, context))
    return seconds(run, 5, 2) / min(steps, context)


def step_bytes(decoder: Decoder, batch: int, context: int) -> float:
    """Weights, keys and values are read once, fixed states read and written."""
    held = cost.memory(decoder.config, Workload(context=context, batch=batch))
    return bytes_of(decoder) + held.kv + 2 * (held.ssm_state + held.conv_state)


@piece
def prefill(limits: Ceilings) -> list[Row]:
    config, rows = shape("nemotron-h-8b"), []
    decoder = drawn(config)
    for tokens in (LONG // 8, LONG):
        taken = prompt_seconds(decoder, tokens)
        share = cost.prompt_flops(config, tokens).total / taken / limits.product
        target = 0.55 if tokens == LONG else None
        rows.append(row(f"nemotron-h-8b prefill of {tokens:,} tokens", tokens / taken, "tokens/s", share, target))
    return rows


@torch.inference_mode()
def prompt_seconds(decoder: Decoder, tokens: int, repeats: int = 2) -> float:
    state, ids = decoder.new_state(1, tokens), torch.randint(decoder.config.vocab, (tokens,)).tolist()

    def run() -> None:
        for start in range(0, tokens, CHUNK):
            advance(decoder, state, [Work(ids[start : start + CHUNK], start, 0)])

    return seconds(run, repeats, 1)


@piece
def kernels(limits: Ceilings) -> list[Row]:
    """Each wrapper at the widths of Nemotron-H 8B, forward and backward together; where the time of a step goes."""
    if TINY:
        raise Lacking("a CUDA GPU")
    torch.set_default_device(DEVICE)
    return [row(f"{name}: all launches of benchmarks/gpu/launches.py", 1e6 * device_seconds(run), "us") for name, run in LAUNCHES.items()]


@piece
def scan(limits: Ceilings) -> list[Row]:
    """The scan's forward pass at the shape of the 8B model: ours beside the form in products of torch, and other sizes of its blocks."""
    tokens = 256 if TINY else 8192
    heads, channels, groups, state = (4, 16, 2, 16) if TINY else (128, 64, 8, 128)
    x = torch.randn(tokens, heads, channels, device=DEVICE, dtype=torch.bfloat16)
    B, C = (torch.randn(tokens, groups, state, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    dt, A, D = torch.rand(tokens, heads, device=DEVICE) * 0.1, -torch.rand(heads, device=DEVICE), torch.ones(heads, device=DEVICE)
    given, asked = (x, dt, A, B, C, D), {"cu_seqlens": torch.tensor([0, tokens]), "return_states": True}
    unfused = device_seconds(lambda: chunked.ssd(*given, **asked), 5)
    rows = [row(f"scan of {tokens} tokens by products in torch", 1e6 * unfused, "us")]
    if TINY:
        return rows
    best = float("inf")
    kept = ssd_on_gpu.CHUNK, ssd_on_gpu.WARPS, ssd_on_gpu.HELD
    for chunk, warps, held in ((64, 8, 8192), (64, 4, 8192), (32, 4, 8192), (32, 8, 8192), (64, 4, 4096), (64, 8, 4096), (128, 8, 8192)):
        ssd_on_gpu.CHUNK, ssd_on_gpu.WARPS, ssd_on_gpu.HELD = chunk, warps, held
        taken = device_seconds(lambda: ssd_on_gpu.ssd(*given, **asked))
        best = min(best, taken)
        rows.append(row(f"the same in one launch, chunk {chunk}, {warps} warps, {held} numbers of state", 1e6 * taken, "us"))
    ssd_on_gpu.CHUNK, ssd_on_gpu.WARPS, ssd_on_gpu.HELD = kept
    return [*rows, row("scan forward: times as fast as unfused", unfused / best, "x", unfused / best, 1.5)]


@piece
def products(limits: Ceilings) -> list[Row]:
    """What torch's products of few rows reach: whether a kernel of our own would pay."""
    rows, (hidden, ffn, inner) = [], (64, 128, 128) if TINY else (4096, 21504, 18560)
    for count in (1, 8, 64):
        for out, width in ((inner, hidden), (ffn, hidden), (hidden, ffn)):
            weights = [torch.randn(out, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(1 if TINY else 4)]
            x = torch.randn(count, width, device=DEVICE, dtype=torch.bfloat16)
            taken = device_seconds(lambda x=x, weights=weights: [linear(x, weight) for weight in weights]) / len(weights)
            rows.append(row(f"{count} x [{width}, {out}]", 1e6 * taken, "us", weights[0].nbytes / taken / limits.copy))
    return rows


@piece
def training(limits: Ceilings) -> list[Row]:
    return [trained(limits, fp8=False)]


@piece
def training_fp8(limits: Ceilings) -> list[Row]:
    if importlib.util.find_spec("torchao") is None:
        raise Lacking("torchao")
    plain, eight = trained(limits, fp8=False), trained(limits, fp8=True)
    ratio = eight["value"] / plain["value"]
    return [eight, row("FP8 against bf16, same step", ratio, "x", ratio, 1.25)]


def trained(limits: Ceilings, fp8: bool) -> Row:
    """Whole steps of a hybrid of 2 B: 8,192 tokens, weights in fp32, arithmetic in bf16, gradients clipped, AdamW."""
    config, length = middle(), 128 if TINY else 8192
    decoder = drawn(config, torch.float32).requires_grad_(True)
    decoder.compute_dtype = torch.bfloat16
    if fp8:
        from amaru.precision.fp8 import Fp8Recipe, prepare

        prepare(decoder, Fp8Recipe(ends=2, counted="layers"))
    recipe = TrainConfig(steps=2 if TINY else 8, batch_rows=1, lr=1e-5, dtype="bf16")
    stepper = prepared(decoder, length, recipe)
    steps = [stepper.step(step, Past(recipe.guard.window)).seconds for step in range(recipe.steps)]
    taken = sorted(steps[1:])[len(steps[1:]) // 2]
    share = length * cost.training_flops(config, (length + 1) // 2) / taken / limits.product
    name = f"training, {cost.parameters(config) / 1e9:.1f} B hybrid, {'FP8' if fp8 else 'bf16'}, {length:,} tokens"
    return row(name, length / taken, "tokens/s", share, None if fp8 else 0.35)


def middle() -> DecoderConfig:
    config = shape("nemotron-h-8b")
    if TINY:
        return config
    small = {"mamba2": Mamba2(heads=64, channels=64, groups=8, state=128), "mlp": MLP(ffn=8192)}
    layers = [small.get(layer.kind) or Attention(query_heads=16, kv_heads=4, channels=128) for layer in config.layers]
    return replace(config, hidden=2048, layers=tuple(layers))  # type: ignore[type-var]


def throughput(name: str, fp8: bool = False) -> Callable[[Ceilings], list[Row]]:
    """Tokens per second of the largest batch that fits, 65,536 in and 1,024 out. Put together from parts that add up: prompts are
    prefilled one after the other, and steps of the full batch are taken halfway through the answers."""

    @torch.inference_mode()
    def run(limits: Ceilings) -> list[Row]:
        config, kind = shape(name), {"weights": "fp8"} if fp8 else {}
        decoder = drawn(config, fp8=fp8)
        one = cost.memory(config, Workload(context=LONG + ANSWER, **kind)).sequences
        room = (2**31 if TINY else ROOM * torch.cuda.get_device_properties(DEVICE).total_memory) - bytes_of(decoder) - activations(config)
        batch = min(4 if TINY else 256, int(room // one))
        if batch < 1:
            raise Lacking(f"memory: a sequence of {LONG + ANSWER:,} places takes {one / 2**30:.1f} GiB beside the weights")
        prompt = prompt_seconds(decoder, LONG, 2)
        step = step_seconds(decoder, batch, LONG + ANSWER // 2, 8)
        rate = batch * ANSWER / (batch * prompt + ANSWER * step)
        what = f"{name}{' in FP8 weights' if fp8 else ''}, {LONG:,} in, {ANSWER:,} out, batch {batch}"
        parts = row("of that a prompt", prompt, "s"), row("and a step", 1e3 * step, "ms")
        return [row(what, rate, "tokens/s"), *parts]

    run.__name__ = f"throughput_{name.replace('-', '_').replace('.', '_')}"
    return piece(run)


def activations(config: DecoderConfig) -> int:
    """Bytes beside weights and states: the widest layer of a chunk a few times, and what torch keeps for products."""
    widest = max([4 * config.hidden, *(2 * layer.ffn for layer in config.layers if isinstance(layer, MLP))])
    return 2 * 4 * CHUNK * widest + 2**30


throughput("nemotron-h-8b")
throughput("llama-3.1-8b")
throughput("qwen2.5-7b")
throughput("nemotron-h-56b", fp8=True)
throughput("nemotron-h-47b", fp8=True)


@piece
def transformers(limits: Ceilings) -> list[Row]:
    """The same shape with random weights in transformers' torch path, and in amaru, on this GPU."""
    if importlib.util.find_spec("transformers") is None:
        raise Lacking("transformers")
    from peer import stock_times

    tokens, batch, context = (128, 4, 128) if TINY else (2048, 32, 1024)
    config = shape("nemotron-h-8b")
    theirs = stock_times(config, DEVICE, tokens, batch, context)
    decoder = drawn(config)
    ours = {"prefill": prompt_seconds(decoder, tokens), "decode": step_seconds(decoder, batch, context)}
    names = {"prefill": f"prefill of {tokens} tokens", "decode": f"decode, batch {batch}"}
    return [row(f"{names[key]}: times as fast as transformers", theirs[key] / ours[key], "x", theirs[key] / ours[key], 5.0) for key in ours]


@piece
def pretraining_bf16(limits: Ceilings) -> list[Row]:
    return _pretrained("bf16")


@piece
def pretraining_fp8(limits: Ceilings) -> list[Row]:
    plain = pretrained("bf16")
    rows = _pretrained("fp8")
    gap = rows[0]["value"] / plain["loss"] - 1
    return [*rows, row("loss of FP8 beside bf16", 100 * gap, "%"), row("pace of FP8 beside bf16", rows[1]["value"] / plain["pace"], "x")]


def _pretrained(precision: str) -> list[Row]:
    found = pretrained(precision)
    drawn_from = found["drawn"][0]
    what = f"{found['parameters'] / 1e6:.0f} M hybrid, {precision}, {found['tokens']:,} tokens, {drawn_from['epochs']:.2g} epochs"
    points = [row(f"loss of {precision} after {tokens:,} tokens", value, "nats") for tokens, value in found["curve"]]
    return [row(f"{what}: validation loss", found["loss"], "nats"), row(f"pace of {precision}", found["pace"], "tokens/s"), *points]


@piece
def compression(limits: Ceilings) -> list[Row]:
    """Half of the model of `pretraining_bf16`."""
    models = halved()["rows"]
    return [row(f"{name}, {facts['parameters']:,} parameters: validation loss", facts["loss"], "nats") for name, facts in models.items()]


def record(name: str) -> dict[str, Any]:
    """What a piece gave, or why it gave nothing, with the machine and the versions."""
    start, limits = time.time(), ceilings()
    said: dict[str, Any] = {"status": "done", "rows": []}
    try:
        said["rows"] = PIECES[name](limits)
        wait()
    except Lacking as reason:
        said |= {"status": "lacks", "said": str(reason)}
    except Exception as error:
        traceback.print_exc()
        said |= {"status": "failed", "said": f"{type(error).__name__}: {error}"[:500]}
    gc.collect()
    return {"piece": name, **said, "seconds": round(time.time() - start, 1), "ceilings": asdict(limits), "machine": here()}


def here() -> dict[str, str]:
    gpu = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else "none"
    versions = {"amaru": __version__} | {each: version(each) for each in ("triton", "transformers", "torchao")}
    return {"gpu": gpu, "torch": torch.__version__, "python": platform.python_version(), "day": time.strftime("%Y-%m-%d"), **versions}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main(name: str, out: str) -> None:
    found = record(name)
    keep(Path(out), found)
    print(json.dumps(found["rows"] or found.get("said"), indent=1))


def keep(folder: Path, found: dict[str, Any]) -> None:
    """One file for all, in the order of the pieces: what comes back from a machine elsewhere may be few files."""
    path = folder / "records.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    records[found["piece"]] = found
    path.write_text(json.dumps({name: records[name] for name in PIECES if name in records}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--list"]:
            print("\n".join(PIECES))
        case [name, out]:
            main(name, out)
        case [name, out, said]:  # of a piece whose process did not come so far
            limits = Ceilings(0.0, 0.0)
            keep(Path(out), {"piece": name, "status": "failed", "said": said, "rows": [], "ceilings": asdict(limits), "machine": here()})
