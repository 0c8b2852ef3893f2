"""Decoding, prompts, and both at the largest batch that fits, beside this GPU's ceilings and beside transformers."""

import importlib.util

import torch
from measure import DEVICE, TINY, Ceilings, bytes_of, drawn, filled, seconds
from piece import Lacking, Piece, Row, row, shape

from amaru.models import cost
from amaru.models.cost import Workload
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.mlp import MLP
from amaru.serve.forward import Work, advance
from amaru.serve.speed import decoding

CHUNK = 8192  # tokens of a prompt at once
LONG, ANSWER = (256, 16) if TINY else (65536, 1024)
ROOM = 0.92  # of the GPU's memory


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


def throughput(name: str, fp8: bool = False) -> Piece:
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

    return run


def activations(config: DecoderConfig) -> int:
    """Bytes beside weights and states: the widest layer of a chunk a few times, and what torch keeps for products."""
    widest = max([4 * config.hidden, *(2 * layer.ffn for layer in config.layers if isinstance(layer, MLP))])
    return 2 * 4 * CHUNK * widest + 2**30


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
