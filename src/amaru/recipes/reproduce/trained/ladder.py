"""Hymba's ablation ladder on small models (2411.13676, tables 1 and 9): sequential, parallel, windows, shared caches, meta tokens.

    llama, mamba   either alone
    A              attention, then Mamba, in every block
    B              both side by side on one input
    C              B with windows in all blocks but the first, the middle and the last
    D              C with keys and values that neighbouring window layers share
    E              D with meta tokens

Blocks side by side have Mamba-1 as Hymba does, the sequential ones and Mamba alone Mamba-2.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from pydantic import Field

from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.decoder import AnyLayer, DecoderConfig
from amaru.models.families.hymba import pairs
from amaru.nn.attention import Attention
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.rope import Rope
from amaru.recipes.learning import Learning
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import UNFINISHED, Bounds, Found, above, finding, judgement, positive, together, told
from amaru.recipes.reproduce.trained.guessing import unlearned
from amaru.recipes.reproduce.trained.sizes import as_large
from amaru.recipes.reproduce.trained.tables import described, scores_maps, scores_table
from amaru.recipes.reproduce.trained.trials import Record, ShortTrials, Trial, loss, read, score

LLAMA, MAMBA, A, B, C, D, E = "llama", "mamba", "A", "B", "C", "D", "E"
CHANNELS = 32  # of a query or a key


class Ladder(ShortTrials):
    """`Ladder()`: seven blocks 160 wide, windows of 64, 16 meta tokens; every rung has the parameters of B.

    loss_within   windows and shared caches may cost so much of the loss, relatively
    """

    learning: Learning = Learning(tokens=1_200_000, batch_rows=2, validations=10)
    blocks: int = Field(default=7, gt=4)
    hidden: int = Field(default=160, gt=0)
    window: int = Field(default=64, gt=0)
    meta_tokens: int = Field(default=16, gt=0)
    loss_within: float = Field(default=0.01, gt=0)

    def check(self) -> None:
        super().check()
        if self.hidden % CHANNELS:
            raise ConfigError(f"Ladder.hidden must be a multiple of {CHANNELS}; got {self.hidden}.")

    @property
    def whole(self) -> tuple[int, ...]:
        """The blocks that see everything."""
        return 0, self.blocks // 2, self.blocks - 1


def names(recipe: Ladder) -> list[str]:
    return [LLAMA, MAMBA, A, B, C, D, E]


def shapes(recipe: Ladder, vocab: int) -> dict[str, DecoderConfig]:
    """All rungs at the size of B, by the width of the feed-forward layers."""
    side, count = _side(recipe), recipe.blocks
    mamba = Mamba2(heads=recipe.hidden // 16, channels=32, groups=1, state=16)
    attention = Attention(query_heads=side.query_heads, kv_heads=1, channels=CHANNELS, rope=Rope())
    local = replace(side, window=recipe.window)
    windows = [side if block in recipe.whole else local for block in range(count)]
    sharing = {block for group in pairs(count, recipe.whole) for block in group[1:]}
    shared = [replace(head, shares_kv=block in sharing) for block, head in enumerate(windows)]
    behind = [head if head.window is None else replace(head, sinks=recipe.meta_tokens) for head in shared]
    stacks = {
        LLAMA: _of(recipe, vocab, [[attention]] * count),
        MAMBA: _of(recipe, vocab, [[mamba]] * count),
        A: _of(recipe, vocab, [[attention, mamba]] * count),
        B: _of(recipe, vocab, [[side]] * count),
        C: _of(recipe, vocab, [[head] for head in windows]),
        D: _of(recipe, vocab, [[head] for head in shared]),
        E: replace(_of(recipe, vocab, [[head] for head in behind]), meta_tokens=recipe.meta_tokens),
    }
    wanted = cost.parameters(stacks[B])
    return {name: as_large(stack, wanted) for name, stack in stacks.items()}


def _side(recipe: Ladder) -> HybridHead:
    heads = recipe.hidden // CHANNELS
    rank = -(-recipe.hidden // 16)
    return HybridHead(query_heads=heads, kv_heads=1, qk_channels=CHANNELS, v_channels=2 * CHANNELS, rank=rank, rope=Rope())


def _of(recipe: Ladder, vocab: int, mixers: Sequence[Sequence[AnyLayer]]) -> DecoderConfig:
    mlp = MLP(ffn=3 * recipe.hidden, gated=True, activation="silu")
    layers = tuple(layer for block in mixers for layer in (*block, mlp))
    return DecoderConfig(vocab=vocab, hidden=recipe.hidden, layers=layers, tied=True)


def judge(directory: Path) -> Found:
    trial = read(Ladder, names, directory)
    recall = "recall" if "recall" in trial.recipe.weights else None
    found = [_parallel(trial, recall), _cheap(trial), _cache(trial), *([_meta(trial)] if recall else []), _sink(trial), _entropy(trial)]
    setting = f"{described(trial)}; its Mamba is Mamba-1 beside attention (B to E) and Mamba-2 elsewhere (A, mamba)"
    found = [each | {"setting": setting} for each in found]
    return judgement(found, trial.missing, maps=[*scores_maps(trial), *_maps(trial)], tables=[scores_table(trial)])


def _parallel(trial: Trial, recall: str | None) -> Found:
    """Lower loss than each other, and more recall than the sequential form."""
    claim = "Parallel heads beat sequential ones and either alone"
    gaps = {other: trial.gaps(other, B, loss) for other in (A, LLAMA, MAMBA)}
    bounds = {other: interval(values) for other, values in gaps.items()}
    if None in bounds.values():
        return _unfinished(claim)
    verdict = together(positive(each) for each in bounds.values())
    said = ", ".join(f"{other} {mean(values):+.3f} ({told(bounds[other], '+.3f')})" for other, values in gaps.items())
    points = trial.gaps(B, A, score(recall)) if recall else []
    more = f" Recall {100 * mean(points):+.1f} points beside A." if points else ""
    return finding(claim, verdict, f"Loss beside that of parallel heads: {said} nats.{more}", compared=bounds)


def _cheap(trial: Trial) -> Found:
    within, claim = trial.recipe.loss_within, "Windows and shared keys and values cost little"
    gaps = trial.gaps(D, B, loss, relative=True)
    bounds = interval(gaps)
    if bounds is None:
        return _unfinished(claim)
    sentence = f"Loss of D {mean(gaps):+.2%} beside B ({told(bounds, '+.2%')}); little is {within:.0%}."
    return finding(claim, above([-bounds[1], -bounds[0]], -within), sentence, figure=mean(gaps), interval=bounds)


def _cache(trial: Trial) -> Found:
    """Counted, at the context of the settings."""
    claim, kept = "They make the cache several times smaller", {name: _first(trial, name, "bytes") for name in (LLAMA, B, C, D)}
    if None in kept.values():
        return _unfinished(claim)
    ratio = kept[B] / kept[D]  # type: ignore[operator]
    said = ", ".join(f"{name} {(value or 0) / 1e6:.2f} MB" for name, value in kept.items())
    sentence = f"{ratio:.1f} times smaller at {trial.recipe.context:,} tokens ({said}); the paper: 3.8 times."
    return finding(claim, above([ratio, ratio], 2.0), sentence, figure=ratio, interval=None)


def _meta(trial: Trial) -> Found:
    claim = "Meta tokens raise recall"
    if found := unlearned(trial, claim, "recall", (D, E)):
        return found
    gaps = trial.gaps(E, D, score("recall"))
    bounds = interval(gaps)
    if bounds is None:
        return _unfinished(claim)
    sentence = f"Recall {100 * mean(gaps):+.1f} points with them ({told([100 * each for each in bounds], '+.1f')}); the paper: +3.75."
    return finding(claim, positive(bounds), sentence, figure=mean(gaps), interval=bounds)


def _sink(trial: Trial) -> Found:
    """What the first token gets without meta tokens beside with them."""
    claim = "Meta tokens take the attention that the first token gets without them"
    gaps, bounds = _looked(trial, "first")
    if bounds is None:
        return _unfinished(claim)
    shares = {name: mean(trial.values(name, looked("first")).values()) for name in (D, E)}
    meta = mean(trial.values(E, looked("meta")).values())
    sentence = f"The first token gets {shares[D]:.1%} of the attention without them and {shares[E]:.1%} with them; they get {meta:.1%}."
    return finding(claim, positive(bounds), sentence, figure=mean(gaps), interval=bounds)


def _entropy(trial: Trial) -> Found:
    claim = "With meta tokens attention is less spread out"
    gaps, bounds = _looked(trial, "entropy")
    if bounds is None:
        return _unfinished(claim)
    sentence = f"Entropy of attention without them less that with them: {mean(gaps):+.3f} nats ({told(bounds, '+.3f')})."
    return finding(claim, positive(bounds), sentence, figure=mean(gaps), interval=bounds)


def _looked(trial: Trial, what: str) -> tuple[list[float], Bounds]:
    """How much more of it there is without meta tokens than with them."""
    gaps = trial.gaps(D, E, looked(what))
    return gaps, interval(gaps)


def looked(what: str) -> Callable[[Record], float]:
    """The mean over layers of what attention heads look at."""
    return lambda record: mean(layer[what] for layer in record["attention"])


def _unfinished(claim: str) -> Found:
    return finding(claim, UNFINISHED, f"{claim}: fewer than two seeds are there.")


def _first(trial: Trial, shape: str, key: str) -> float | None:
    return next(iter(trial.values(shape, lambda record: record[key]).values()), None)


def _maps(trial: Trial) -> list[Found]:
    """Shares of attention by layer, without and with meta tokens, of the first seed that has both."""
    drawn = []
    for name, title in ((D, "Where attention goes without meta tokens"), (E, "Where attention goes with meta tokens")):
        record = next((record for cell, record in trial.records.items() if cell.shape == name), None)
        if record is not None:
            cells = [[str(layer["layer"]), what, layer[what]] for what in ("meta", "first", "itself") for layer in record["attention"]]
            drawn.append({"title": title, "caption": "Per cent of the attention, by layer.", "x": "layer", "y": "goes to", "cells": cells})
    return drawn
