"""What reports show of trained shapes: a row a cell, and how they came to be in a sentence."""

from statistics import mean

from amaru.recipes.reproduce.judging import Found
from amaru.recipes.reproduce.trained.trials import Trial, score

CAPTION = "Per cent that were right, means over seeds."


def described(trial: Trial) -> str:
    """`Trained here: 3.7 to 3.8 M parameters, 2,500,096 tokens, 3 seeds`"""
    records = list(trial.records.values())
    if not records:
        return "Trained here"
    sizes = sorted({f"{record['parameters'] / 1e6:.1f}" for record in records}, key=float)
    span = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    seeds = len({cell.seed for cell in trial.records})
    mixed = ", ".join(f"{name} {weight / sum(trial.recipe.weights.values()):.0%}" for name, weight in trial.recipe.weights.items())
    return f"Trained on this CPU: {span} M parameters, {records[0]['tokens']:,} tokens ({mixed}), {seeds} seeds"


def scores_table(trial: Trial) -> Found:
    """Means over seeds, by shape; speeds beside where they were taken."""
    tasks = [task.name for task in trial.recipe.tasks()]
    headers = ["shape", "seeds", "rate", "parameters", "bytes a sequence", "loss", *tasks, "prefill, tokens/s", "decode, tokens/s"]
    rows = []
    for shape in dict.fromkeys(cell.shape for cell in trial.records):
        some = list(trial.values(shape, lambda record: record).values())
        if not some:
            continue
        found = [mean(score(task)(record) for record in some) for task in tasks]
        speeds = [round(speed[name]) for name in ("prefill", "decode")] if (speed := trial.speeds.get(shape)) else [None, None]
        facts = (some[0][name] for name in ("rate", "parameters", "bytes"))
        rows.append([shape, len(some), *facts, mean(record["loss"] for record in some), *found, *speeds])
    return {"title": "Means over seeds", "headers": headers, "rows": rows}


def scores_maps(trial: Trial) -> list[Found]:
    """For each task a map of its score by length and shape, means over seeds (and depths)."""
    drawn = []
    for task in (task.name for task in trial.recipe.tasks()):
        found: dict[tuple[str, str], list[float]] = {}
        for shape in dict.fromkeys(cell.shape for cell in trial.records):
            for cells in trial.values(shape, lambda record, task=task: record["tasks"][task]["cells"]).values():
                for where, score_there in cells.items():
                    found.setdefault((where.split(" ")[0], shape), []).append(score_there["mean"])
        if found:
            cells = [[length, shape, mean(some)] for (length, shape), some in found.items()]
            drawn.append({"title": f"{task[0].upper()}{task[1:]} by length", "caption": CAPTION, "x": "tokens", "y": "", "cells": cells})
    return drawn
