"""The report of a distillation: the student before and after beside its teacher, and how it came closer."""

from pathlib import Path

from amaru.config.records import read_record
from amaru.report.figures import loss_curves
from amaru.report.fp8_scales import scale_sections
from amaru.report.numbers import decimals, percent
from amaru.report.page import Card, Cards, Drawing, Page, Section, Table
from amaru.report.training import against_tokens, metrics, provenance, thinned, validation_curves

NAMES = {"teacher": "teacher", "before": "student before", "model": "student", "quantised": "student, quantised"}
DIVERGENCES = {"forward_kl": "forward KL", "reverse_kl": "reverse KL", "jensen_shannon": "Jensen-Shannon"}


def distillation_page(directory: Path) -> Page:
    """The page of `amaru distill`."""
    facts, steps = read_record(directory / "run.json"), metrics(directory / "model-training")
    there = [name for name in NAMES if name != "quantised" or facts["recipe"]["quantise"]]
    rows, terms = {NAMES[name]: read_record(directory / f"quality-{name}.json") for name in there}, facts["recipe"]["loss"]
    many = terms["cross_entropy"] or terms["hidden"]
    learned = "all terms of the loss" if many else f"{DIVERGENCES[terms['divergence']]}, nats"
    student, before = rows["student"], rows["student before"]
    cards = [
        Card("KL to the teacher", f"{student['teacher_kl']:.4f}", f"before {before['teacher_kl']:.4f}"),
        Card("validation loss", f"{student['loss']:.4f}", f"teacher {rows['teacher']['loss']:.4f}"),
        Card("same choice as the teacher", percent(student["teacher_agreement"]), f"before {percent(before['teacher_agreement'])}"),
    ]
    headers = ["model", "loss", "accuracy", "KL to teacher", "same choice"]
    cells = [[name, row["loss"], row["accuracy"], row["teacher_kl"], row["teacher_agreement"]] for name, row in rows.items()]
    formats = {"loss": decimals(4), "accuracy": percent, "KL to teacher": decimals(4), "same choice": percent}
    curve = thinned(against_tokens(steps, lambda step: step["loss"]))
    return Page(
        title="amaru distill",
        subtitle=f"{facts['recipe']['student']} from {facts['recipe']['teacher']}, {facts['started']}",
        sections=[
            Section("In short", [Cards(cards), Table(headers, cells, formats=formats, marked=2)]),
            Section(
                "Learning",
                [
                    Drawing(
                        loss_curves({"student": curve}, "tokens", learned),
                        "The loss of each step, averaged over neighbours.",
                    ),
                    validation_curves({"student": steps}, "Loss on validation rows."),
                ],
            ),
            *scale_sections(directory / "model-training"),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )
