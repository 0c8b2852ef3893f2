"""`amaru show plan.safetensors`: what a plan makes of its parent, axis by axis, from how many to how many, and in which layers."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from amaru.report.numbers import count, percent

RENUMBERED = (
    "Tokens are dropped: the student has a tokenizer of its own, with other numbers for the same tokens. Text that was tokenised for the "
    "parent, and logits stored of it, do not fit the student."
)


def show(facts: Mapping[str, Any], console: Console) -> None:
    before, after = facts["parameters"]["before"], facts["parameters"]["after"]
    layers = f"{facts['layers']['after']} of {facts['layers']['before']} layers"
    console.print(f"plan {facts['key']}: {layers}, {count(before)} -> {count(after)} parameters ({percent(after / before)})", style="bold")
    for name, said in _origin(facts):
        console.print(f"{name:<11}{said}", soft_wrap=True)
    console.print()
    table = Table("axis", "layers of", "from", "to", "which", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for row in _rows(facts):
        table.add_row(*row)
    console.print(table)
    if whole := _whole(facts):
        console.print(f"\nkept whole: {', '.join(whole)}", soft_wrap=True)
    if any(row["axis"] == "vocab" and row["after"] < row["before"] for row in facts["axes"]):
        console.print(f"\n{RENUMBERED}")


def _origin(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "student", facts["student"]
    yield "indices", facts["ranking"]
    if facts["budget"]:
        yield "budget", facts["budget"]
    if facts["made_from"]:
        yield "made from", ", ".join(f"{name} {fingerprint}" for name, fingerprint in facts["made_from"].items())


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    for kind, dropped in facts["dropped"].items():
        if dropped:
            total = facts["of_kind"][kind]
            yield "(layers)", kind, str(total), str(total - len(dropped)), f"without {_listed(dropped)}"
    for row in facts["axes"]:
        if row["after"] < row["before"]:
            stay = facts["of_kind"].get(row["kind"], 0) - len(facts["dropped"].get(row["kind"], ()))
            which = "" if not row["kind"] else f"all {stay}" if len(row["layers"]) == stay else _listed(row["layers"])
            per = f" for each {' and '.join(row['per'])}" if row["per"] else ""
            yield row["axis"] + per, row["kind"] or "(network)", f"{row['before']:,}", f"{row['after']:,}", which


def _whole(facts: Mapping[str, Any]) -> list[str]:
    """Axes that no layer narrows."""
    narrowed = {row["axis"] for row in facts["axes"] if row["after"] < row["before"]}
    return list(dict.fromkeys(f"{row['axis']} {row['before']:,}" for row in facts["axes"] if row["axis"] not in narrowed))


def _listed(layers: list[int]) -> str:
    return ", ".join(map(str, layers))
