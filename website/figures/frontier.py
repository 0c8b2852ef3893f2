"""The frontier of the search in docs/quickstart.md; search.csv holds what that run recorded of its 44 shapes."""

import csv
from pathlib import Path

from amaru.report import figures

RECORD = Path(__file__).with_name("search.csv")
BUDGET = 2_200_646  # bytes: 60 % of the parent's


def draw() -> str:
    with RECORD.open(newline="", encoding="utf-8") as file:
        rows = [(float(row["memory"]), float(row["loss"]), row["shape"].split(",")[0], row["state"]) for row in csv.DictReader(file)]
    return figures.frontier(rows, budget_bytes=BUDGET, y_label="loss as cut, nats a token")
