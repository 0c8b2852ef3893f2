"""`amaru verify`: are two checkpoints one function, and where do they differ?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import Finding, JsonFlag, LiveLine, emit
from amaru.report.numbers import percent


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="A checkpoint of any format, or transformers:PATH for stock transformers on PATH.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one, written likewise.")],
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Draws the token ids that both are run on.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where the certificate goes; left out: inside A, or beside it if it is a file.")] = None,
    json: JsonFlag = False,
) -> None:
    """Compare two checkpoints: tensors by name, then hidden states after every layer and logits on seeded inputs, in fp32 and in
    the stored dtype. Exit 1 when they differ."""
    from amaru.config import to_dict
    from amaru.models.certificate import beside
    from amaru.models.stock import PREFIX
    from amaru.models.verify import verify

    with LiveLine() as live:
        certificate = verify(a, b, seed=seed, report=live.update)
    path = out or beside(Path(a.removeprefix(PREFIX)))
    emit({**to_dict(certificate), "saved": path}, json=json, people=show)  # first: a place that cannot be written loses nothing
    certificate.save(path)
    LiveLine().note(f"saved {path}")
    if not certificate.equal:
        raise Finding(f"A and B are {certificate.verdict}.")


def show(facts: Mapping[str, Any], console: Console) -> None:
    console.print(f"A  {facts['a']}\nB  {facts['b']}\n")
    unequal = [tensor["name"] for tensor in facts["tensors"] if not tensor["equal"]]
    console.print(f"tensors: {len(facts['tensors']) - len(unequal)} equal, {len(unequal)} not")
    for what, names in (("not equal", unequal), ("only in A", facts["only_in_a"]), ("only in B", facts["only_in_b"])):
        for name in names:
            console.print(f"  {what}: {name}", soft_wrap=True)
    for comparison in facts["comparisons"]:
        agreement = f"same argmax for {percent(comparison['argmax_agreement'])} of tokens"
        console.print(f"\n{comparison['dtype']}: KL {comparison['kl']:.1e} nats/token, {agreement}", style="bold")
        console.print(_places(comparison))
    for note in facts["notes"]:
        console.print(f"\nnote: {note}", soft_wrap=True)
    console.print(f"\n{facts['verdict']}", style="bold", soft_wrap=True)


def _places(comparison: Mapping[str, Any]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("after")
    for name in ("max difference", "allowed", "largest value", "1 - cosine"):
        table.add_column(name, justify="right")
    for place in comparison["places"]:
        style = "" if place["max_abs"] <= place["allowed"] else "red"
        numbers = (place["max_abs"], place["allowed"], place["scale"], max(0.0, 1 - place["cosine"]))
        table.add_row(place["name"], *(f"{number:.1e}" for number in numbers), style=style)
    return table
