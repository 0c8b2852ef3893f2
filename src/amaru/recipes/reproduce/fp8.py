"""Controlled pairs of BF16 and FP8: the same text, weights and batches, so that only the arithmetic of the projections differs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field

from amaru.config import Config, from_dict
from amaru.config.records import read_lines, read_record
from amaru.data.loader import in_order
from amaru.errors import ConfigError
from amaru.eval.perplexity import evaluate
from amaru.models import cost
from amaru.models.checkpoint import fingerprint
from amaru.models.decoder import Decoder
from amaru.precision.fp8 import Fp8Recipe, prepare
from amaru.recipes.compare import BATCH_ROWS, for_arithmetic
from amaru.recipes.fit import fit
from amaru.recipes.fp8 import training_in
from amaru.recipes.learning import Learning
from amaru.recipes.reproduce import shapes
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import HOLDS, NOT, UNDECIDED, within
from amaru.recipes.run import Run
from amaru.recipes.shape import Shape
from amaru.recipes.text import PYTHON, Text, TextRecipe
from amaru.recipes.text import prepare as prepare_text
from amaru.train.objective import CrossEntropy

Arithmetic = Literal["bf16", "fp8", "control"]


class Size(Config):
    """One size of the comparison: its shape, its training, its seeds, and the seeds that have a control besides."""

    shape: Shape
    learning: Learning
    seeds: tuple[int, ...]
    controls: tuple[int, ...] = ()


SMALL = Size(
    shape=shapes.SMALL,
    learning=Learning(tokens=600_000, batch_rows=4, lr=4e-3, validations=20),
    seeds=(0, 1, 2),
    controls=(0, 1, 2),
)
LARGE = Size(
    shape=shapes.LARGE,
    learning=Learning(tokens=200_000, batch_rows=4, lr=2e-3, validations=20),
    seeds=(0,),
)


class Fp8Pairs(Config):
    """`Fp8Pairs()`: three seeds at 3.7 M parameters and one at 15 M, on Python's own source.

    Within a pair seed, first weights, batches and their order are the same. The control of a seed is BF16 again from weights that
    were rounded to bf16 once: it shows how far two runs drift apart that differ by rounding alone.

    aim          the relative gap of loss that the claim allows
    look_every   steps between two looks at scales and underflow
    """

    text: TextRecipe = TextRecipe(data=(PYTHON,), vocab=2048, row_length=256, limit_megabytes=8.0)
    small: Size = SMALL
    large: Size = LARGE
    fp8: Fp8Recipe = Fp8Recipe()
    aim: float = Field(default=1e-3, gt=0)
    look_every: int = Field(default=50, gt=0)

    def check(self) -> None:
        for size in (self.small, self.large):
            if not set(size.controls) <= set(size.seeds):
                raise ConfigError(f"A control belongs to a pair; got controls {list(size.controls)} and seeds {list(size.seeds)}.")
        if len(set(self.small.seeds)) < 2:
            raise ConfigError(f"An interval needs at least two different seeds; got {list(self.small.seeds)}.")


class Cell(NamedTuple):
    """One training run of the comparison; its record is `cell-NAME.json`."""

    size: str
    seed: int
    arithmetic: Arithmetic

    @property
    def name(self) -> str:
        return f"{self.size}-seed{self.seed}-{self.arithmetic}"


def cells(recipe: Fp8Pairs) -> Iterator[Cell]:
    """In the order they are run: pairs first, controls last."""
    sizes = {"small": recipe.small, "large": recipe.large}
    for name, size in sizes.items():
        yield from (Cell(name, seed, arithmetic) for seed in size.seeds for arithmetic in ("bf16", "fp8"))
    for name, size in sizes.items():
        yield from (Cell(name, seed, "control") for seed in size.controls)


def make(recipe: Fp8Pairs, run: Run) -> None:
    """Train and measure every cell that has no record yet."""
    text = prepare_text(recipe.text, run)
    for cell in cells(recipe):
        _make_cell(recipe, run, text, cell)


def _make_cell(recipe: Fp8Pairs, run: Run, text: Text, cell: Cell) -> None:
    size = recipe.small if cell.size == "small" else recipe.large
    config = size.shape.resolve(text.tokenizer.vocab_size)
    training = size.learning.training(text.training.row_length, cell.seed)
    fp8 = recipe.fp8 if cell.arithmetic == "fp8" else None

    def drawn() -> Decoder:
        decoder = Decoder(config).initialise(cell.seed)
        if cell.arithmetic == "control":
            _round_once(decoder)
        return decoder

    start, watch = training_in(fp8, drawn, run, cell.name, training.steps, look_every=recipe.look_every)
    made_from = {"shape": repr(config), "seed": str(cell.seed), "arithmetic": repr(fp8) if fp8 else cell.arithmetic}
    checkpoint = fit(run, cell.name, text, training, start, CrossEntropy, made_from, watch=watch)

    def measured() -> dict[str, Any]:
        steps = read_lines(run.path(f"{cell.name}-training") / "metrics.jsonl")
        return {
            **cell._asdict(),
            "parameters": cost.parameters(config),
            "tokens": training.steps * training.batch_rows * text.training.row_length,
            "validation": _validation(steps),
            "loss": {"bf16": _loss(checkpoint, text, None), "fp8": _loss(checkpoint, text, recipe.fp8)},
        }

    run.result(f"cell-{cell.name}", made_from | {"checkpoint": fingerprint(checkpoint)}, measured, title=f"losses of {cell.name}")


@torch.no_grad()
def _round_once(decoder: Decoder) -> None:
    for parameter in decoder.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))


def _validation(steps: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """[tokens seen, loss] of every validation along the way."""
    seen, found = 0, []
    for step in steps:
        seen += step["tokens"]
        if "loss" in step["validation"]:
            found.append([seen, step["validation"]["loss"]])
    return found


def _loss(checkpoint: Path, text: Text, fp8: Fp8Recipe | None) -> float:
    """On all validation rows, in either arithmetic."""
    decoder = for_arithmetic(checkpoint, "bf16")
    if fp8:
        prepare(decoder, fp8)
    return evaluate(decoder, in_order(text.validation, BATCH_ROWS)).loss


def judge(directory: Path) -> dict[str, Any]:
    """The verdict, from the records of the cells that are there and nothing else: `judge(Path("runs/fp8"))["verdict"]`."""
    recipe = from_dict(Fp8Pairs, read_record(directory / "run.json")["recipe"])
    wanted = list(cells(recipe))
    records = {cell: read_record(path) for cell in wanted if (path := directory / f"cell-{cell.name}.json").exists()}
    pairs = [_pair(records, cell) for cell in records if cell.arithmetic == "fp8" and cell._replace(arithmetic="bf16") in records]
    small = [pair["gap"] for pair in pairs if pair["size"] == "small"]
    bounds = interval(small)
    controls = [pair["control_gap"] for pair in pairs if pair["size"] == "small" and pair["control_gap"] is not None]
    verdict = within(bounds, recipe.aim)
    return {
        "verdict": verdict,
        "sentence": _sentence(verdict, bounds, small, pairs, recipe.aim) + _beside(controls),
        "aim": recipe.aim,
        "gap": mean(small) if small else None,
        "interval": bounds,
        "controls": {"gap": mean(controls) if controls else None, "interval": interval(controls)},
        "pairs": pairs,
        "missing": [cell.name for cell in wanted if cell not in records],
    }


def _pair(records: Mapping[Cell, Mapping[str, Any]], cell: Cell) -> dict[str, Any]:
    """Gaps of one pair, relative to BF16: at the end on all validation rows, and along the way on some of them."""
    fp8, bf16 = records[cell], records[cell._replace(arithmetic="bf16")]
    control = records.get(cell._replace(arithmetic="control"))
    return {
        "size": cell.size,
        "seed": cell.seed,
        "parameters": fp8["parameters"],
        "tokens": fp8["tokens"],
        "bf16": bf16["loss"]["bf16"],
        "bf16_in_fp8": bf16["loss"]["fp8"],
        "fp8": fp8["loss"]["fp8"],
        "fp8_in_bf16": fp8["loss"]["bf16"],
        "gap": fp8["loss"]["fp8"] / bf16["loss"]["bf16"] - 1,
        "curve": _curve(fp8, bf16),
        "control": None if control is None else control["loss"]["bf16"],
        "control_gap": None if control is None else control["loss"]["bf16"] / bf16["loss"]["bf16"] - 1,
        "control_curve": None if control is None else _curve(control, bf16),
    }


def _curve(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[list[float]]:
    points = zip(one["validation"], other["validation"], strict=True)
    return [[tokens, loss / base - 1] for (tokens, loss), (_, base) in points]


def _sentence(verdict: str, bounds: Sequence[float] | None, gaps: Sequence[float], pairs: Sequence[Mapping[str, Any]], aim: float) -> str:
    if bounds is None:
        return f"Unfinished: {len(gaps)} of the small pairs are there, and an interval needs two."
    low, high = bounds
    large = [f"{pair['gap']:+.3%} at {pair['parameters'] / 1e6:.1f} M parameters" for pair in pairs if pair["size"] == "large"]
    said = {
        HOLDS: f"lies within {aim:.1%}",
        NOT: f"lies outside {aim:.1%}",
        UNDECIDED: f"reaches beyond {aim:.1%} without leaving it, so these seeds do not decide",
    }
    return (
        f"{verdict.capitalize()}: FP8's loss is {mean(gaps):+.3%} beside BF16's over {len(gaps)} seeds, and the 95 % interval "
        f"({low:+.3%} to {high:+.3%}) {said[verdict]}; " + (f"{', '.join(large)}." if large else "the larger pair is not there yet.")
    )


def _beside(controls: Sequence[float]) -> str:
    """How far chance alone carries two runs apart, where there are controls enough to tell."""
    if (bounds := interval(controls)) is None:
        return ""
    low, high = bounds
    return f" BF16 beside itself, its first weights rounded once, comes to {mean(controls):+.3%} ({low:+.3%} to {high:+.3%})."
