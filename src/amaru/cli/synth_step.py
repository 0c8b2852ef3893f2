"""`amaru synth step`: one step by itself, from rows in a file to rows in a file."""

from pathlib import Path
from typing import Annotated

import typer

from amaru.cli.output import Finding, JsonFlag, emit
from amaru.cli.synth_live import LiveTable
from amaru.errors import ConfigError


def step(
    kind: Annotated[str, typer.Argument(help="The kind of step: list, respond, reward.")],
    out: Annotated[Path, typer.Option(help="The directory that keeps every answer; the same command goes on from there.")],
    to: Annotated[Path, typer.Option(help="The file to write: .jsonl or .parquet; a card in Markdown comes beside it.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings of the step, name=value: column=question count=5.")] = None,
    rows: Annotated[Path | None, typer.Option(help="The rows that it takes: .jsonl or .parquet.")] = None,
    url: Annotated[str | None, typer.Option(help="The endpoint of the model that it asks.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name there.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="models.NAME.url=..., budget.calls=...; may come several times.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make the rows of one step by itself, and write them."""
    from amaru.config.strict import build
    from amaru.synth import export, session
    from amaru.synth.alone import alone
    from amaru.synth.recipe import Bound, SynthRecipe
    from amaru.synth.store import Store

    if (url is None) != (model is None):
        raise ConfigError("A model is told by --url and --model together.")
    models = {"model": {"url": url, "model": model}} if url else {}
    named = [*models, *(each.split(".")[1] for each in set_ or () if each.startswith("models.") and each.count(".") > 1)]
    seeds = {"file": str(rows.absolute())} if rows else {"rows": [{}]}
    values = {"models": models, "steps": alone(kind, seeds, list(dict.fromkeys(named)), {}, settings or ())}
    bound = Bound(build(SynthRecipe, values, set_ or []), Path())
    with LiveTable() as live:
        result = session.run(bound, out, None, live.update)
    failed = [f"{count:,}: {reason}" for tally in result["steps"].values() for reason, count in tally["failed"].items()]
    if not list(result["steps"].values())[-1]["rows"]:
        dropped = [f"{count:,}: {reason}" for tally in result["steps"].values() for reason, count in tally["dropped"].items()]
        raise Finding(f"No row came of it ({'; '.join([*failed, *dropped])}), so {to} is not written; the same command tries again.")
    with Store(out / session.STORE) as store:
        facts = export.export(bound, store, to)
    emit(result | facts, json=json, people=lambda result, console: console.print(f"{result['rows']:,} rows in {result['file']}"))
    if failed:
        raise Finding(f"Rows failed ({'; '.join(failed)}); the same command tries them again.")
