"""The report of preference optimisation: what held-out comparisons tell, chosen and rejected answers apart, and how far the model went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amaru.config.records import read_lines, read_record
from amaru.report.figures import loss_curves
from amaru.report.numbers import count, decimals, percent
from amaru.report.page import Block, Card, Cards, Drawing, Page, Prose, Section, Table
from amaru.report.training import metrics, provenance, thinned

SHOWN = 30  # rows that were dropped
Steps = Sequence[Mapping[str, Any]]


def preference_page(directory: Path) -> Page:
    """The page of `amaru prefer`."""
    facts = read_record(directory / "run.json")
    return Page(
        title=f"amaru prefer: {facts['recipe']['terms']['method']}",
        subtitle=f"{facts['recipe']['start']}, {facts['started']}",
        sections=[*preference_sections(directory, "model"), provenance(facts, read_record(directory / "steps.json"))],
        footer=f"amaru {facts['amaru']}",
    )


def preference_sections(directory: Path, name: str) -> list[Section]:
    """What a stage of this name tells, for pages of runs with several."""
    found, steps = read_record(directory / f"{name}.json"), metrics(directory / f"{name}-training")
    warning = [Prose(f"Warning at {found['warning']}")] if found["warning"] else []
    return [
        Section("In short", [*warning, Cards(_cards(found)), Prose(f"{found['implied']}."), _table(found)]),
        Section("Chosen and rejected apart", [_curves(steps, ("chosen", "rejected"), "nats against the reference", APART)]),
        Section(
            "On the way",
            [
                _curves(steps, ("accuracy", "longer"), "share of preferences", SHARES),
                _curves(steps, ("margin",), "margin of implicit rewards", "beta times the better answer's log-ratio less the other's."),
                _curves(steps, ("kl",), "nats", "Half the mean square of a token's log-ratio: KL to the reference, to second order."),
                _curves(steps, ("loss",), "loss", "Of each step, averaged over neighbours, and on held-out comparisons."),
            ],
        ),
        Section("Data", _data(directory, name, found)),
    ]


APART = (
    "log p less the reference's, of whole answers: chosen ones should rise, or fall less than rejected ones. Where both fall, probability "
    "goes to answers that nobody wrote."
)
SHARES = (
    "accuracy: preferences that the implicit rewards agree with. longer: those in which they are higher for the longer answer; where that "
    "is far above the share in the data, length was learned."
)


def _cards(found: Mapping[str, Any]) -> list[Card]:
    before, after = found["before"], found["after"]
    return [
        Card("reward accuracy", percent(after["accuracy"]), f"{percent(before['accuracy'])} before, {found['held_out']:,} held out"),
        Card("margin", f"{after['margin']:.3f}", "of implicit rewards"),
        Card("chosen", f"{after['chosen']:+.2f}", "nats an answer against the reference"),
        Card("rejected", f"{after['rejected']:+.2f}", "nats an answer against the reference"),
        Card("from the reference", f"{after['kl']:.4f}", "nats a token, to second order"),
        Card("comparisons", count(found["comparisons"]), f"{found['dropped']:,} rows dropped; {found['method']}"),
    ]


def _table(found: Mapping[str, Any]) -> Table:
    names = ("loss", "accuracy", "margin", "chosen", "rejected", "kl", "longer", "log_p_chosen", "log_p_rejected")
    formats = {name: percent if name in ("accuracy", "longer") else decimals(4 if name in ("loss", "kl") else 2) for name in names}
    rows = [[when, *(found[when][name] for name in names)] for when in ("before", "after")]
    caption = f"{found['held_out']:,} held-out comparisons. Log-probabilities in nats an answer, kl in nats a token."
    return Table(["", *names], rows, formats=formats, marked=1, caption=caption)


def _curves(steps: Steps, names: Sequence[str], label: str, caption: str) -> Drawing:
    """Values of every step averaged over neighbours, and those of held-out comparisons."""
    series = {}
    for name in names:
        series[name] = thinned([(step["step"], step[name] if name == "loss" else step["parts"][name]) for step in steps])
        held_out = [(float(step["step"]), step["validation"][name]) for step in steps if name in step["validation"]]
        series |= {f"{name}, held out": held_out} if held_out else {}
    return Drawing(loss_curves(series, x_label="step", y_label=label), caption)


def _data(directory: Path, name: str, found: Mapping[str, Any]) -> list[Block]:
    told = (
        f"{found['comparisons']:,} comparisons for training and {found['held_out']:,} held out, {found['answer_tokens']:.0f} tokens "
        f"an answer. The better answer is the longer one in {percent(found['longer'])} of the preferences."
    )
    dropped = read_lines(directory / f"{name}-dropped.jsonl")
    if not dropped:
        return [Prose(told)]
    reasons = {reason: sum(row["reason"] == reason for row in dropped) for reason in sorted({row["reason"] for row in dropped})}
    more = f"{name}-dropped.jsonl has all {len(dropped):,}." if len(dropped) > SHOWN else ""
    return [
        Prose(told),
        Table(["rows dropped", "why"], [[number, reason] for reason, number in reasons.items()]),
        Table(["where", "what"], [[row["source"], row["sentence"]] for row in dropped[:SHOWN]], caption=more),
    ]
