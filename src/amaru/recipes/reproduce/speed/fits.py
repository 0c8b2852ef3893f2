"""Whether a model fits into devices: weights, one sequence, and how many more."""

from pathlib import Path
from typing import Any

from pydantic import Field

from amaru.config import Config, from_dict
from amaru.config.records import read_record
from amaru.models import cost
from amaru.models.capacity import sequences
from amaru.models.cost import Format, Workload
from amaru.models.devices import machine
from amaru.models.families import config_of
from amaru.recipes.reproduce.judging import HOLDS, NOT, UNFINISHED, Found, finding, judgement, records
from amaru.recipes.run import Run


class Fits(Config):
    """`Fits()`: Nemotron-4 340B on one server of eight H100 (2406.11704)."""

    model: str = "nemotron-4-340b"
    machine: str = "8xH100-80GB"
    weights: Format = "fp8"
    otherwise: Format = "bf16"
    context: int = Field(default=4096, gt=0)
    reserve: float = Field(default=0.1, ge=0, lt=1)


def make(recipe: Fits, run: Run) -> None:
    for stored in (recipe.weights, recipe.otherwise):
        run.result(f"cell-{stored}", {"cell": stored}, lambda stored=stored: _fit(recipe, stored), title=f"weights in {stored}")


def _fit(recipe: Fits, stored: Format) -> dict[str, Any]:
    found, config = machine(recipe.machine), config_of(recipe.model)
    workload, usable = Workload(context=recipe.context, weights=stored), int((1 - recipe.reserve) * found.device.memory)
    need = cost.memory(config, workload, found.count)
    return {
        "weights": need.weights,
        "need": need.total,
        "usable": usable,
        "sequences": sequences(config, workload, found.count, usable),
        "parameters": cost.parameters(config),
    }


def judge(directory: Path) -> Found:
    recipe = from_dict(Fits, read_record(directory / "run.json")["recipe"])
    there = records(directory, [recipe.weights, recipe.otherwise])
    claim = f"{recipe.model} fits {recipe.machine} in {recipe.weights.upper()}"
    missing = [stored for stored in (recipe.weights, recipe.otherwise) if stored not in there]
    if missing:
        return judgement([finding(claim, UNFINISHED, f"{claim}: not counted yet.")], missing)
    narrow, wide = there[recipe.weights], there[recipe.otherwise]
    verdict = HOLDS if narrow["need"] <= narrow["usable"] else NOT
    fits = "fits too" if wide["need"] <= wide["usable"] else "does not fit"
    sentence = (
        f"Weights in {recipe.weights.upper()} take {narrow['weights'] / 1e9:.1f} of {narrow['usable'] / 1e9:.1f} GB on each device, with "
        f"room for {narrow['sequences']:,} sequences of {recipe.context:,} tokens; in {recipe.otherwise.upper()} they take "
        f"{wide['weights'] / 1e9:.1f} GB, which {fits}."
    )
    setting = f"No such devices here: counted from the real shape, {recipe.reserve:.0%} in reserve"
    return judgement([finding(claim, verdict, sentence, setting=setting, figure=narrow["need"] / narrow["usable"], interval=None)], [])
