"""How fast the parent and its students run: taken after all training, in turns, so that nothing runs beside them.

A machine's pace changes within a minute, by more than a student may be faster: every model is timed once a round, its ratio is to the
parent of that round, and the median of rounds counts.
"""

from pathlib import Path
from statistics import median

from amaru.config.records import read_record
from amaru.recipes.compare import speed
from amaru.recipes.reproduce.compression.strand import Strand
from amaru.serve.speed import Timing

ROUNDS = 5
TIMINGS = {
    "alone": Timing(prompt=1024, batch=1, context=1024, steps=32, repeats=3),
    "crowd": Timing(prompt=1024, batch=32, context=1024, steps=16, repeats=3),
}


def measure_all(strand: Strand) -> None:
    """`speed-NAME-HOW-ROUND.json` for the parent and every student that has a record."""
    for number in range(ROUNDS):
        for name in ("parent", *students(strand.run.directory)):
            checkpoint = strand.parent if name == "parent" else strand.run.path(name)
            for how, timing in TIMINGS.items():
                speed(strand.run, f"{name}-{how}-{number}", checkpoint, timing)


def students(directory: Path) -> list[str]:
    """The names that the records of a parent's cells give their students."""
    records = [read_record(path) for path in sorted(directory.glob("cell-*.json"))]
    return [record["student"] for record in records if "student" in record]


def ratios(directory: Path, student: str) -> dict[str, float]:
    """How many times as fast as the parent: prefill and decode of one sequence, decode of 32; nothing where a round is not measured."""
    found: dict[str, float] = {}
    for how in TIMINGS:
        pairs = [tuple(directory / f"speed-{name}-{how}-{number}.json" for name in (student, "parent")) for number in range(ROUNDS)]
        if all(path.exists() for pair in pairs for path in pair):
            rounds = [(read_record(own), read_record(parent)) for own, parent in pairs]
            found |= {f"{what}_{how}": median(own[what] / parent[what] for own, parent in rounds) for what in ("prefill", "decode")}
    return found
