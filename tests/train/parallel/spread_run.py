"""A short run in one process, and the same in several: what it recorded and the weights it ends in."""

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.parallel.small import NEMOTRON_H
from tests.train.small import RECIPE, packed_rows

from amaru.data.loader import Loader, in_order
from amaru.eval.perplexity import evaluate
from amaru.models import Decoder, DecoderConfig
from amaru.nn.moe import MoE
from amaru.parallel.shares import cut
from amaru.train.loop import train
from amaru.train.metrics import StepMetrics, read
from amaru.train.objective import CrossEntropy
from amaru.train.optim import adamw
from amaru.train.parallel.checkpoints import SpreadCheckpoints, whole_shape
from amaru.train.parallel.layout import Layout
from amaru.train.parallel.spread import Spread, local
from amaru.train.settings import TrainConfig

EXPERTS = MoE(experts=6, top_k=2, ffn=8, shared_ffn=12, groups=2, latent=6)
CONFIG = DecoderConfig(vocab=290, hidden=16, layers=(*NEMOTRON_H, EXPERTS))
TIED = replace(CONFIG, layers=NEMOTRON_H[1:3], tied=True, norm="layernorm1p")
SHORT = replace(RECIPE, steps=5, batch_rows=4, micro_tokens=24, clip=0.3, expert_balance=0.05)
ROWS = packed_rows(23)  # odd: tokens do not divide among processes

Weights = dict[str, torch.Tensor]


def whole(config: DecoderConfig, dtype: torch.dtype) -> Decoder:
    return Decoder(config).initialise(0).to(dtype)


class Forgetful:
    """Keeps no state: a run that is compared is not continued."""

    def __init__(self, directory: Path, made_from: dict[str, str]) -> None: ...
    def save(self, step: int, model: Decoder, optimizer: Any, best: int | None = None) -> None: ...
    def restore_weights(self, step: int, model: Decoder) -> None: ...
    def close(self) -> None: ...

    def restore(self, model: Decoder, optimizer: Any) -> int:
        return 0


def alone(
    out: Path, config: DecoderConfig = CONFIG, recipe: TrainConfig = SHORT, dtype: torch.dtype = torch.float64
) -> tuple[list[StepMetrics], Weights]:
    model = whole(config, dtype)
    history = train(model, CrossEntropy(), Loader(ROWS, recipe.batch_rows, recipe.seed), recipe, out)
    return list(history.steps), {name: parameter.detach() for name, parameter in model.named_parameters()}


def spread(
    out: Path, layout: Layout, config: DecoderConfig = CONFIG, recipe: TrainConfig = SHORT, dtype: torch.dtype = torch.float64
) -> tuple[list[StepMetrics], Weights, dict]:
    """In each process: the record, its part of the weights, and which part that is."""
    placement, start = Spread(config, layout, bf16=recipe.dtype == "bf16"), dict(whole(config, dtype).named_parameters())
    torch.set_default_dtype(dtype)  # parameters are made in it
    try:
        model = placement.model(lambda name, kept: cut(start[name].detach(), kept))
    finally:
        torch.set_default_dtype(torch.float32)
    loader = Loader(ROWS, recipe.batch_rows, recipe.seed)
    history = train(model, placement.objective, loader, recipe, out, placement=placement, store=Forgetful)
    parameters = dict(model.named_parameters())
    kept = {name: placement.kept(name, parameter) for name, parameter in parameters.items()}
    return list(history.steps), {name: local(parameter.detach()).clone() for name, parameter in parameters.items()}, kept


def assembled(found: Sequence[tuple[Weights, dict]]) -> Weights:
    """Whole tensors from what each process holds and where; those that hold the same must hold the same bits."""
    wholes: Weights = {}
    for parts, kept in found:
        for name, part in parts.items():
            if not part.ndim:
                assert torch.equal(wholes.setdefault(name, part), part), name
                continue
            shape = whole_shape(CONFIG, name.split("/")[0])
            whole = wholes.setdefault(name, torch.full(shape, torch.nan))
            chosen = zip(kept[name], shape, strict=True)
            places = torch.meshgrid(*(torch.arange(n) if held is None else torch.from_numpy(held) for held, n in chosen), indexing="ij")
            known = ~whole[places].isnan()
            assert torch.equal(whole[places][known], part[known]), name
            whole[places] = part
    assert not any(whole.isnan().any() for whole in wholes.values()), "every element is somewhere"
    return wholes


def interrupted(out: Path, layout: Layout, steps: int, background: bool = False, seconds: float = 1e6) -> tuple[list[float], int]:
    """Go on with the run in `out` until `steps` are done: losses since its beginning, and the step after which this process began."""
    recipe = replace(SHORT, steps=6, validate_every=1, checkpoint_seconds=seconds, checkpoint_in_background=background)
    placement, start = Spread(CONFIG, layout), dict(whole(CONFIG, torch.float32).named_parameters())
    model = placement.model(lambda name, kept: cut(start[name].detach(), kept))

    def store(directory: Path, made_from: dict[str, str]) -> SpreadCheckpoints:
        return SpreadCheckpoints(directory, made_from, in_background=background, spread=placement)

    told: list[int] = []

    def report(metrics: StepMetrics) -> None:
        told.append(metrics.step)
        if metrics.step == steps < recipe.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    loader = Loader(ROWS, recipe.batch_rows, recipe.seed)
    with contextlib.suppress(KeyboardInterrupt):
        train(
            model, placement.objective, loader, recipe, out, placement=placement, store=store, report=report, validate=validation
        )  # which leaves weights gathered
    return [step.loss for step in read(out / "metrics.jsonl")], told[0] - 1


def validation(model: Decoder) -> dict[str, float]:
    return {"loss": evaluate(model, in_order(ROWS, 2, limit=4)).loss}


def restored(out: Path, layout: Layout) -> tuple[Weights, dict]:
    """What is put into a fresh model and optimizer: this process's weights and moments, and where they belong in the whole."""
    placement, start = Spread(CONFIG, layout), dict(whole(CONFIG, torch.float32).named_parameters())
    model = placement.model(lambda name, kept: torch.zeros_like(cut(start[name].detach(), kept)))
    optimizer = adamw(model, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    SpreadCheckpoints(out / "checkpoints", {}, spread=placement).restore(model, optimizer)
    held, kept = {}, {}
    for name, parameter in model.named_parameters():
        for key, tensor in {"": parameter.detach(), **optimizer.state.get(parameter, {})}.items():
            held[f"{name}/{key}"], kept[f"{name}/{key}"] = local(tensor).clone(), placement.kept(name, parameter)
    return held, kept
