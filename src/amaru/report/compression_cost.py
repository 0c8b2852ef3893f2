"""What a compression cost in tokens and minutes, what proves its cut, and the commands that make it again."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amaru.compress.scores import Scores
from amaru.config.records import read_record
from amaru.report.numbers import duration, percent
from amaru.report.page import Cell, Commands, Facts, Prose, Section, Table
from amaru.report.training import metrics

Row = list[Cell]
OWN = ("amaru", "hymba")  # model types that transformers only knows after `import amaru.models.hf`


def proof_and_cost(directory: Path) -> list[Section]:
    """What proves the cut (of a run that has it), and what all of it took."""
    return [*([_certificate(directory)] if (directory / "certificate.json").exists() else []), _cost(directory)]


def _cost(directory: Path) -> Section:
    """Tokens that went through a model, and the time of each stage."""
    facts, search = read_record(directory / "run.json"), read_record(directory / "search.json")
    steps = {name: step["seconds"] for name, step in read_record(directory / "steps.json").items()}
    recipe, scores = facts["recipe"], Scores.load(directory / "scores.safetensors")
    ranked = sum(row.get("tokens", 0) for row in search["candidates"])
    short = _trained(path for path in directory.glob("search/*") if path.is_dir())
    rows: list[Row] = [
        ["importance of widths", scores.tokens, steps.get("widths.safetensors", steps.get("scores.safetensors"))],
        ["importance of layers", recipe["layer_rows"] * recipe["text"]["row_length"], steps.get("scores.safetensors")],
        ["times of layers", None, steps.get("latency.safetensors")],
        ["blocks taught one by one", _taught(directory, recipe), None],
        [f"{len(search['candidates'])} candidates as they are cut", ranked or None, None],
        ["short distillations", *short],
        ["the search in all", None, steps.get("plan.safetensors")],
        ["cut and its certificate", None, steps.get("pruned", 0.0) + steps.get("certificate.json", 0.0)],
        ["long distillation", *_trained([directory / "student-training"])],
    ]
    rows = [row for row in rows if row[1] is not None or row[2] is not None]
    table = Table(
        ["stage", "tokens", "time"],
        rows,
        formats={"tokens": lambda value: f"{value:,.0f}", "time": duration},
        caption="A layer is scored by a pass without it. Where a run went on after a stop, a stage shows the time since then.",
    )
    return Section("What it cost", [table])


def _trained(folders: Iterable[Path]) -> tuple[int | None, float | None]:
    """Tokens and seconds of trainings, from their logs."""
    steps = [step for folder in folders if (folder / "metrics.jsonl").exists() for step in metrics(folder)]
    return (sum(step["tokens"] for step in steps), sum(step["seconds"] for step in steps)) if steps else (None, None)


def _taught(directory: Path, recipe: Mapping[str, Any]) -> int | None:
    if recipe["method"] != "puzzle" or not recipe["puzzle"]["local"]["tokens"]:
        return None
    blocks = [row for row in read_record(directory / "blocks.json") if row["error_taught"] is not None]
    return recipe["puzzle"]["local"]["tokens"] * len(blocks)


def _certificate(directory: Path) -> Section:
    """The proof of the cut; and the student beside stock transformers, where `amaru verify` was asked."""
    found = read_record(directory / "certificate.json")
    turned = found["turned"]
    facts: dict[str, Cell] = {
        "verdict": found["verdict"],
        "plan": found["plan"],
        "tensors": found["tensors"],
        "parameters": found["parameters"],
        "reordered parent": None if turned is None else f"logits differ by {turned['max_abs']:.1e}; {turned['allowed']:.1e} is allowed",
    }
    verified = directory / "student" / "certificate.json"
    if not verified.exists():
        check = verification(directory / "student")
        beside = f"{shlex.join(check)} compares the student with stock transformers." if check else "Stock transformers has no such model."
        return Section("Certificate", [Facts(facts), Prose(beside)])
    other = read_record(verified)
    facts["beside"] = other["b"]
    facts["student"] = other["verdict"]
    for each in other["comparisons"]:
        same = percent(each["argmax_agreement"])
        facts[f"in {each['dtype']}"] = f"KL {each['kl']:.1e} nats a token, the same choice for {same} of tokens"
    return Section("Certificate", [Facts(facts)])


def verification(student: Path) -> list[str] | None:
    """The command that compares a student with stock transformers; None where that knows no such model."""
    known = read_record(student / "config.json")["model_type"] not in OWN
    return ["amaru", "verify", str(student), f"transformers:{student}"] if known else None


def commands_section(directory: Path) -> Section:
    """The command that made it, and those that make its parts again from what lies in the run."""
    facts = read_record(directory / "run.json")
    recipe, run = facts["recipe"], str(directory)
    parent, texts = recipe["checkpoint"], [word for path in recipe["text"]["data"] for word in ("--data", path)]
    lines = [
        *filter(None, [verification(directory / "student")]),
        ["amaru", "show", f"{run}/plan.safetensors"],
        ["amaru", "cut", parent, "cut", "--plan", f"{run}/plan.safetensors"],
        ["amaru", "distill", "--teacher", parent, "--student", f"{run}/pruned", *texts, "--tokens", str(recipe["learning"]["tokens"])],
    ]
    return Section("To make it again", [Commands([*map(shlex.join, lines), facts["command"]])])
