"""The report of the demo: the compression's own sections, and the student against its twin trained from scratch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amaru.config.records import read_record
from amaru.report.compression import cards, comparison_table, compression_sections
from amaru.report.compression_cost import proof_and_cost
from amaru.report.numbers import decimals
from amaru.report.page import Cards, Commands, Page, Preformatted, Prose, Section, Table
from amaru.report.training import curves_of, metrics, provenance, validation_curves


def demo_page(directory: Path) -> Page:
    """The page of `amaru demo`."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "comparison.json")
    rows, verdict = found["rows"], found["verdict"]
    return Page(
        title="A hybrid model, compressed",
        subtitle=f"trained, cut and distilled on this machine, {facts['started']}",
        sections=[
            Section("In short", [Cards(cards(rows)), comparison_table(rows, caption=_caption(found)), Prose(verdict["sentence"])]),
            Section("Student against twin", [_seeds(found), _race(directory, found)]),
            *compression_sections(directory / "compress"),
            *proof_and_cost(directory / "compress"),
            Section("The parent learning", [_parent(directory)]),
            Section(
                "What they write",
                [Preformatted(f"{name}:\n{text}", prompt) for prompt, texts in found["samples"].items() for name, text in texts.items()],
            ),
            Section("Where to go from here", [Commands(found["next"])]),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def _caption(found: Mapping[str, Any]) -> str:
    timing = found["timing"]
    return (
        f"Loss in nats a token on the same validation rows. Memory: weights and caches in bf16, SSM states in fp32, {timing['batch']} "
        f"sequence(s) at context {timing['context']:,}. Prefill of {timing['prompt']:,} tokens; decoding at that context."
    )


def _seeds(found: Mapping[str, Any]) -> Table:
    """Every run that the verdict rests on."""
    rows = [[row["model"], row["lr"], row["seed"], row["loss"]] for row in found["runs"]]
    return Table(
        ["model", "peak learning rate", "seed", "validation loss"],
        rows,
        formats={"validation loss": decimals(4)},
        caption=found["verdict"]["rule"],
    )


def _race(directory: Path, found: Mapping[str, Any]) -> Any:
    curves: dict[str, Sequence[Any]] = {"student (distilled)": metrics(directory / "compress" / "student-training")}
    curves[f"twin (from scratch, lr {found['verdict']['twin_lr']:g})"] = metrics(directory / found["verdict"]["twin_folder"])
    return validation_curves(curves, "Validation loss against tokens seen; both see the same tokens in the same batches.")


def _parent(directory: Path) -> Any:
    return curves_of(
        {"training": metrics(directory / "parent" / "model-training")},
        "Loss of each step, averaged over neighbours, and on validation rows.",
    )
