"""How much of Nemotron-4 340B's alignment data models wrote: counted from the sizes that its report prints (2406.11704, 3)."""

from pathlib import Path
from typing import Any

from pydantic import Field

from amaru.config import Config, from_dict
from amaru.config.records import read_record
from amaru.recipes.alignment.budget import REPORT
from amaru.recipes.reproduce.judging import UNFINISHED, Found, above, finding, judgement, records
from amaru.recipes.run import Run

COUNTED = "sizes"


class SyntheticShare(Config):
    """`SyntheticShare()`: the share that the report claims, and how many examples people wrote: for fine-tuning, and HelpSteer2."""

    claimed: float = Field(default=0.98, gt=0, lt=1)
    people: tuple[int, ...] = (10_000, 10_000)


def make(recipe: SyntheticShare, run: Run) -> None:
    run.result(f"cell-{COUNTED}", {"people": repr(recipe.people)}, lambda: _counted(recipe), title="published sizes")


def _counted(recipe: SyntheticShare) -> dict[str, Any]:
    """Rows of all stages that learn from answers or pairs; replayed code counts once, RPO's pairs once or in each of its rounds."""
    stages = {stage.name: stage.samples for stage in REPORT if stage.kind != "rated"}
    stages["general SFT"] = 200_000
    rounds = [samples for name, samples in stages.items() if name.startswith("RPO")]
    most = sum(stages.values())
    return {"people": sum(recipe.people), "least": most - sum(rounds[1:]), "most": most}


def judge(directory: Path) -> Found:
    recipe = from_dict(SyntheticShare, read_record(directory / "run.json")["recipe"])
    claim = f"At least {recipe.claimed:.0%} of the data that aligns Nemotron-4 340B was made by models"
    there = records(directory, [COUNTED])
    if not there:
        return judgement([finding(claim, UNFINISHED, f"{claim}: not counted yet.")], [COUNTED])
    found = there[COUNTED]
    bounds = [1 - found["people"] / rows for rows in (found["least"], found["most"])]
    sentence = (
        f"{found['people']:,} examples of people among {found['least']:,} to {found['most']:,} rows: {bounds[0]:.1%} to {bounds[1]:.1%} "
        f"were made by models."
    )
    setting = (
        "The data is not here: counted from the sizes that the report prints, RPO's pairs once or in each round; of data made here the "
        "card of `amaru synth export` tells the share"
    )
    return judgement([finding(claim, above(bounds, recipe.claimed), sentence, setting=setting, figure=bounds[0], interval=bounds)], [])
