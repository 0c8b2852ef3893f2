"""Training steps beside the rate of products, and a small model trained, in two precisions, and cut by half."""

import importlib.util
from dataclasses import replace

import torch
from measure import TINY, Ceilings, drawn
from piece import Lacking, Row, row, shape
from pretraining import halved, pretrained

from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.recipes.bench.train import prepared
from amaru.train.metrics import Past
from amaru.train.settings import TrainConfig


def training(limits: Ceilings) -> list[Row]:
    return [trained(limits, fp8=False)]


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


def pretraining_bf16(limits: Ceilings) -> list[Row]:
    return _pretrained("bf16")


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


def compression(limits: Ceilings) -> list[Row]:
    """Half of the model of `pretraining_bf16`."""
    models = halved()["rows"]
    return [row(f"{name}, {facts['parameters']:,} parameters: validation loss", facts["loss"], "nats") for name, facts in models.items()]
