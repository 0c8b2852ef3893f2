"""How fast the parent and its students run: taken after all training, one after the other, so that nothing runs beside them."""

from pathlib import Path
from typing import Any

from amaru.config.records import read_record
from amaru.recipes.compare import speed
from amaru.recipes.reproduce.compression.strand import Strand
from amaru.serve.speed import Timing

TIMINGS = {
    "alone": Timing(prompt=1024, batch=1, context=1024, steps=32, repeats=7),
    "crowd": Timing(prompt=1024, batch=32, context=1024, steps=16, repeats=7),
}


def measure_all(strand: Strand) -> None:
    """`speed-NAME-alone.json` and `speed-NAME-crowd.json` for the parent and every student that has a record."""
    for name in ("parent", *students(strand.run.directory)):
        checkpoint = strand.parent if name == "parent" else strand.run.path(name)
        for how, timing in TIMINGS.items():
            speed(strand.run, f"{name}-{how}", checkpoint, timing)


def students(directory: Path) -> list[str]:
    """The names that the records of a parent's cells give their students."""
    records = [read_record(path) for path in sorted(directory.glob("cell-*.json"))]
    return [record["student"] for record in records if "student" in record]


def ratios(directory: Path, student: str) -> dict[str, float]:
    """How many times as fast as the parent: prefill and decode of one sequence, decode of 32; nothing where it is not measured."""
    found: dict[str, float] = {}
    for how in TIMINGS:
        own, parent = (_read(directory / f"speed-{name}-{how}.json") for name in (student, "parent"))
        if own and parent:
            found |= {f"{what}_{how}": own[what] / parent[what] for what in ("prefill", "decode")}
    return found


def _read(path: Path) -> dict[str, Any] | None:
    return read_record(path) if path.exists() else None
