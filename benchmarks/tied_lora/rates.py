"""The learning rate of each method, chosen on a seed and on held-out answers that no result is taken from.

    python benchmarks/tied_lora/rates.py trials.yaml RUN rates.json

tries a few on the Transformer's first task at the common rank, with bases and tokenizer of RUN (an `amaru reproduce tied-lora` that has
come so far). TL5 and TL6 take LoRA's, as the paper says they can; methods with a random factor share one, but for the VeRA-equivalent.
What is scored is a part of the task's training file that is then not learned. A run that was stopped goes on; the best of each is printed
as YAML for the recipe.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import yaml

from amaru.config import from_dict
from amaru.recipes.adapt import learned, scored, text_of
from amaru.recipes.reproduce.tied_lora import TRANSFORMER_NAME, Cell, TiedLoraTrials, recipe_of
from amaru.recipes.reproduce.tied_lora_verdict import scored_as
from amaru.recipes.reproduce.workers import Silence
from amaru.recipes.run import Run

SEED = 100
TRIED = {
    "LoRA": (3e-3, 1e-2, 3e-2),
    "VeRA-equivalent": (2e-3, 1e-2),
    "B, u, v": (3e-4, 2e-3),
}


def main(recipe: Path, directory: Path, out: Path) -> None:
    trials = from_dict(TiedLoraTrials, yaml.safe_load(recipe.read_text()))
    task = next(iter(trials.tasks))
    found = json.loads(out.read_text()) if out.exists() else {}
    for method, rates in TRIED.items():
        for rate in rates:
            if str(rate) not in found.setdefault(method, {}):
                found[method][str(rate)] = tried(trials, task, method, rate, directory)
                out.write_text(json.dumps(found, indent=1))
                print(method, rate, found[method][str(rate)], flush=True)
    best = {method: float(max(scores, key=scores.__getitem__)) for method, scores in found.items()}
    alike = dict.fromkeys(("A alone", "B alone", "A, u, v", "B, u, v"), best["B, u, v"])
    rates = alike | {"VeRA-equivalent": best["VeRA-equivalent"]}
    print(yaml.safe_dump({"learning": {"lr": best["LoRA"]}, "rates": rates}, sort_keys=False))


def tried(trials: TiedLoraTrials, task: str, method: str, rate: float, directory: Path) -> float:
    cell, start = Cell(TRANSFORMER_NAME, task, method, trials.rank, SEED), directory / f"base-{TRANSFORMER_NAME}"
    asked = recipe_of(replace(trials, rates={method: rate}), cell, start)
    asked = replace(asked, held_out=(), validation_share=0.1)
    with Run(directory / "rates" / f"{method.replace(', ', '')}-{rate}".replace(" ", "-"), "rate", asked, Silence()) as run:
        text = text_of(asked, run)
        return scored_as(trials.tasks[task].score, scored(asked, run, "after", text, learned(asked, run, text)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
