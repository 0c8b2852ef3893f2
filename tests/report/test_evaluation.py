"""The page of tasks: every figure of the facts is on it, and a heat map has a mark for each cell."""

from amaru.report.evaluation import evaluation_page
from amaru.report.heat import heat_map

MEANS = {"mean": 0.625, "low": 0.5, "high": 0.75, "count": 8}
OTHER = {**MEANS, "mean": 0.25}
DIFFERENCE = {"mean": 0.375, "low": 0.1, "high": 0.6, "p": 0.03125, "test": "McNemar, exact"}
FACTS = {
    "checkpoint": "runs/a",
    "against": "runs/b",
    "tasks": [
        {
            "task": "passkey",
            "items": 8,
            "kept": 0,
            "metrics": {"found": MEANS, "nats": {**MEANS, "low": float("nan")}, "perplexity": MEANS},
            "cells": {"4000 0.00": MEANS, "4000 1.00": {**MEANS, "mean": 1.0}, "16000 0.00": MEANS, "16000 1.00": MEANS},
            "against": {"metrics": {"found": OTHER, "nats": OTHER, "perplexity": OTHER}},
            "difference": {"found": DIFFERENCE, "nats": DIFFERENCE},
        }
    ],
}


def test_every_figure_is_on_the_page() -> None:
    html = evaluation_page(FACTS).html()
    for text in ("62.5 %", "50.0 % to 75.0 %", "25.0 %", "37.5 %", "10.0 % to 60.0 %", "0.031", "McNemar, exact", "16,000"):
        assert text in html, text
    assert html.count('class="mark"') == 4 and "nan" not in html


def test_a_heat_map_names_its_cells() -> None:
    svg = heat_map({("1k", "0"): 0.0, ("1k", "1"): 1.0, ("4k", "0"): 0.5}, "tokens", "depth")
    assert svg.count('class="mark"') == 3 and "tokens 4k, depth 0: 50.0 %" in svg
