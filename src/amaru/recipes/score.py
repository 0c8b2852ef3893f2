"""Importance of a model that need not fit into memory: `amaru score`, widths first and then layers, each kept when it is whole."""

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import torch
from pydantic import Field

from amaru.compress.halfway import Halfway
from amaru.compress.importance import score
from amaru.compress.removal import Metric, iterative_layer_scores, removals
from amaru.compress.scores import Scores
from amaru.config import Config
from amaru.config.records import read_record
from amaru.config.units import parse_bytes
from amaru.data.loader import Loader
from amaru.errors import ConfigError, DataError
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, fingerprint
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.streamed import streamed
from amaru.nn.batch import Batch
from amaru.recipes.run import Run
from amaru.recipes.text import Text, TextRecipe, prepare, tokenizer_of

FILE = "scores.safetensors"
COSTS = "costs.json"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class ScoreRecipe(Config):
    """`ScoreRecipe(checkpoint="nemotron-h-8b", text=...)`.

    samples               rows of text on which widths are scored; their length is `text.row_length`
    layer_samples         rows on which layers are left out one by one; 0: layers are not scored
    layer_tokens          only so many tokens of each of these; None: whole rows
    metrics               of layers: "mse" before the head (MiniPuzzle), "kl" of the logits (Minitron-SSM); the first one ranks
    layers_iteratively    drop the least important layer by the first metric, score the rest again, and so on (Nemotron Nano 2)
    floors                then, by kind, how many layers stay in any case (kinds not named: 1)
    ffn_after_activation  read neurons behind the activation (MiniPuzzle) instead of before it (Minitron-SSM)
    fluctuation           kinds of layers that are scored as FLAP does, such as mlp
    dtype                 of the arithmetic: bf16 or fp32; sums over tokens and samples are in fp32 and fp64
    hold                  bytes of hidden states that are held at once; text that needs more makes another pass over the weights
    """

    checkpoint: str
    text: TextRecipe = Field(default_factory=TextRecipe)
    samples: int = Field(default=128, gt=0)
    layer_samples: int = Field(default=16, ge=0)
    layer_tokens: int | None = Field(default=None, gt=0)
    metrics: tuple[Metric, ...] = Field(default=("mse", "kl"), min_length=1)
    layers_iteratively: bool = False
    floors: dict[str, int] = Field(default_factory=dict)
    ffn_after_activation: bool = False
    fluctuation: tuple[str, ...] = ()
    dtype: Literal["bf16", "fp32"] = "bf16"
    hold: str = "1GiB"
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        parse_bytes(self.hold)
        if self.layer_tokens is not None and self.layer_tokens > self.text.row_length:
            raise ConfigError(f"layer_tokens is {self.layer_tokens}, but a row has {self.text.row_length} tokens (text.row_length).")


def importance(recipe: ScoreRecipe, run: Run, text: Text | None = None) -> Scores:
    """The scores of a checkpoint, from the run directory where they are whole; `costs.json` tells what they took.

    `text` is the recipe's, where a run that does more has prepared it already.
    """
    return _Scoring(recipe, run, text or prepare(recipe.text, run, tokenizer_of(recipe.checkpoint))).scores()


class _Scoring:
    def __init__(self, recipe: ScoreRecipe, run: Run, text: Text) -> None:
        self.recipe, self.run = recipe, run
        self.checkpoint = Checkpoint(recipe.checkpoint)
        rows = max(recipe.samples, recipe.layer_samples)
        self.samples = calibration(text, rows, recipe.seed)
        self.origin = {"checkpoint": fingerprint(recipe.checkpoint), "text": text.fingerprint, "dtype": f"{recipe.dtype} {recipe.seed}"}
        self.decoder: Decoder = streamed(self.checkpoint, DTYPES[recipe.dtype])

    def scores(self) -> Scores:
        recipe = self.recipe
        how = f"{recipe.samples} {recipe.ffn_after_activation} {sorted(recipe.fluctuation)}"
        widths = self._keep("widths.safetensors", self.origin | {"widths": how}, self._widths, "widths")
        if not recipe.layer_samples:
            return self._keep(FILE, widths.made_from, lambda made_from, _: widths, "importance")
        ask = (recipe.layer_samples, recipe.layer_tokens, recipe.metrics, recipe.layers_iteratively, sorted(recipe.floors.items()))
        made_from = widths.made_from | {"layers": repr(ask)}
        return self._keep(FILE, made_from, lambda made_from, halfway: self._layers(widths, made_from, halfway), "layers")

    def _keep(
        self, name: str, made_from: dict[str, str], make: Callable[[dict[str, str], Halfway], Scores], title: str
    ) -> Scores:
        """A file of scores, made in pieces that survive a kill."""
        halfway = Halfway(self.run.path(f".{name}.halfway"), made_from)
        found = self.run.keep(
            name,
            made_from,
            lambda path: make(made_from, halfway).save(path),
            lambda path: Scores.load(path, made_from),
            title=title,
            describe=lambda scores: coverage(self.checkpoint.config, scores),
        )
        halfway.done()
        return found

    def _widths(self, made_from: dict[str, str], halfway: Halfway) -> Scores:
        recipe, samples = self.recipe, self.samples[: self.recipe.samples]
        with self._clock("widths", halfway, forward_flops(self.checkpoint.config, samples)):
            return score(
                self.decoder,
                samples,
                ffn_after_activation=recipe.ffn_after_activation,
                fluctuation=recipe.fluctuation,
                made_from=made_from,
                progress=self.run.progress.update,
                halfway=halfway,
                held=parse_bytes(recipe.hold),
            )

    def _layers(self, widths: Scores, made_from: dict[str, str], halfway: Halfway) -> Scores:
        recipe = self.recipe
        samples = [_short(sample, recipe.layer_tokens) for sample in self.samples[: recipe.layer_samples]]
        asked: dict[str, Any] = {"progress": self.run.progress.update, "halfway": halfway, "held": parse_bytes(recipe.hold)}
        scores = replace(widths, made_from=made_from)
        if recipe.layers_iteratively:
            ranks = iterative_layer_scores(self.decoder, samples, recipe.metrics[0], floors=recipe.floors, **asked)
            return scores.with_layers({f"{recipe.metrics[0]}, iteratively": ranks}, f"{recipe.metrics[0]}, iteratively")
        with self._clock("layers", halfway, removal_flops(self.checkpoint.config, samples, "kl" in recipe.metrics)):
            return scores.with_layers({**removals(self.decoder, samples, recipe.metrics, **asked)}, recipe.metrics[0])

    @contextmanager
    def _clock(self, stage: str, halfway: Halfway, flops: int) -> Iterator[None]:
        """Writes down what a stage took; of one that goes on after a stop, what was left of it."""
        whole, wall, busy = halfway.found(stage) is None, time.perf_counter(), _busy()
        yield
        took = {"seconds": time.perf_counter() - wall, "cpu_seconds": _busy() - busy, "peak_bytes": _peak()}
        path = self.run.path(COSTS)
        before = read_record(path) if path.exists() else {}
        self.run.write(COSTS, before | {stage: {"flops": flops, "whole": whole, "threads": torch.get_num_threads(), **took}})


def calibration(text: Text, rows: int, seed: int) -> list[Batch]:
    """So many full rows of training text in a drawn order, one sample each; raises `DataError` when there are fewer."""
    drawn = map(Loader(text.training, 1, seed).batch, range(len(text.training)))
    full = (Batch(batch.ids, batch.positions, batch.cu_seqlens) for batch in drawn if len(batch.ids) == text.row_length)
    found = list(islice(full, rows))
    if len(found) < rows:
        raise DataError(
            f"Calibration asks for {rows} rows of {text.row_length} tokens, and the text fills {len(found)}; name more text, fewer rows "
            f"(--samples, --layer-samples), or shorter ones (--row-length)."
        )
    return found


def _short(sample: Batch, tokens: int | None) -> Batch:
    """Its first tokens: documents that begin among them, the last one cut off."""
    if tokens is None or tokens >= len(sample.ids):
        return sample
    ends = torch.cat([sample.cu_seqlens[sample.cu_seqlens < tokens], torch.tensor([tokens])])
    return Batch(sample.ids[:tokens], sample.positions[:tokens], ends)


def forward_flops(config: DecoderConfig, samples: Sequence[Batch]) -> int:
    """FLOPs of all layers over these samples."""
    return sum(_layer_flops(config, layer, samples) for layer in range(len(config.layers)))


def removal_flops(config: DecoderConfig, samples: Sequence[Batch], logits: bool) -> int:
    """FLOPs of the model and of all variants without one layer, each from where its layer would be; with the logits of each, or not."""
    passes = sum((index + 1) * _layer_flops(config, index, samples) for index in range(len(config.layers)))
    tokens = sum(len(sample.ids) for sample in samples)
    return passes + (2 * config.vocab * config.hidden * tokens * (len(config.layers) + 1) if logits else 0)


def _layer_flops(config: DecoderConfig, index: int, samples: Sequence[Batch]) -> int:
    layer = config.layers[index]
    before, with_it = (replace(config, layers=layers) for layers in (layer.needs, (*layer.needs, layer)))
    lengths = (length for sample in samples for length in sample.lengths.tolist())
    return sum(_of_length(with_it, length) - _of_length(before, length) for length in lengths)


def _of_length(config: DecoderConfig, tokens: int) -> int:
    found = cost.prompt_flops(config, tokens)
    return found.layers + found.attention


def coverage(config: DecoderConfig, scores: Scores) -> str:
    """Which axes of how many layers were scored, and which layers can only stay or go as a whole."""
    read = Counter(f"{layer.kind} [{axes}]" for layer, found in zip(config.layers, scores.within, strict=True) for axes in found)
    whole = Counter(layer.kind for layer, found in zip(config.layers, scores.within, strict=True) if not found)
    parts = [
        "hidden",
        *(f"{count} x {name}" for name, count in read.items()),
        *(f"{count} x {kind} as a whole" for kind, count in whole.items()),
    ]
    layers = "" if scores.layers is None else f"; every layer by its removal ({', '.join(scores.removals) or scores.layers_by})"
    return f"{', '.join(parts)}{layers}; {scores.samples} samples, {scores.tokens:,} tokens"


def _busy() -> float:
    """Seconds of all cores that this process has had."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    """The most bytes that were resident so far; pages of files that were read are not."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
