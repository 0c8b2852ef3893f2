"""`amaru synth`: data made by models over HTTP, from a recipe."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli import synth_step
from amaru.cli.output import Finding, JsonFlag, emit
from amaru.cli.synth_browse import browse
from amaru.cli.synth_live import LiveTable

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file, or the name of one that is here: open_questions.")]
Out = Annotated[Path, typer.Option(help="The directory that keeps every answer; the same command goes on from there.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting of the recipe, name=value; may come several times.")]
Rows = Annotated[
    list[str] | None, typer.Option("--rows", help="Rows of your own for a step that brings them, step=file; may come several times.")
]


def run(
    recipe: RecipeFile,
    out: Out,
    preview: Annotated[int | None, typer.Option(min=1, help="Take so many rows through every step, and show them.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Make the rows in so many processes; with --ray, of all its machines.")] = None,
    ray: Annotated[str | None, typer.Option(help="The address of a Ray cluster (auto: that of this machine) whose machines work.")] = None,
    set_: Settings = None,
    rows: Rows = None,
    json: JsonFlag = False,
) -> None:
    """Make the rows of a recipe; nothing that was answered before is asked again."""
    from amaru.synth import session

    bound = _bound(recipe, set_, rows)
    with LiveTable() as live:
        result = session.run(bound, out, preview, live.update, workers=workers, ray=ray)
    if preview:
        result["preview"] = _rows(bound, out)[:preview]
    words = ["amaru", "synth", "run" if preview else "export", str(recipe), "--out", str(out)]
    words += [word for option, given in (("--set", set_), ("--rows", rows)) for each in given or () for word in (option, each)]
    result["next"] = shlex.join(words if preview else [*words, "--to", "data.jsonl"])
    emit(result, json=json, people=_print_run)
    if failed := sum(sum(step["failed"].values()) for step in result["steps"].values()):
        raise Finding(f"{failed:,} rows failed, for the reasons above; the same command tries them again.")


def plan(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="A directory with a preview or a run: its measured tokens are used.")] = None,
    set_: Settings = None,
    rows: Rows = None,
    json: JsonFlag = False,
) -> None:
    """Tell what a recipe would ask: calls, tokens and money, step by step. Asks nothing."""
    from amaru.synth.forecast import forecast
    from amaru.synth.session import STORE
    from amaru.synth.store import Store

    bound = _bound(recipe, set_, rows)
    if out and (out / STORE).exists():
        with Store(out / STORE, reading=True) as store:
            steps = forecast(bound, store)
    else:
        steps = forecast(bound)
    told = [
        {"name": each.name, "kind": each.kind, "after": list(each.after), "taken": each.taken, "rows": each.rows}
        | vars(each.usage)
        | {"measured": each.measured}
        for each in steps
    ]
    total = {name: sum(step[name] for step in told) for name in ("calls", "prompt_tokens", "completion_tokens", "money")}
    emit({"steps": told, "total": total}, json=json, people=_print_plan)


def graph(recipe: RecipeFile, set_: Settings = None, rows: Rows = None, json: JsonFlag = False) -> None:
    """Print the steps of a recipe as a Mermaid graph."""
    bound = _bound(recipe, set_, rows)
    steps = bound.recipe.steps
    edges = [(steps[other].name, step.name) for number, step in enumerate(steps) for other in bound.recipe.before(number)]
    emit({"steps": [{"name": step.name, "kind": step.kind} for step in steps], "edges": edges}, json=json, people=_print_graph)


def export(
    recipe: RecipeFile,
    out: Out,
    to: Annotated[Path, typer.Option(help="The file to write: .jsonl or .parquet; a card in Markdown comes beside it.")],
    set_: Settings = None,
    rows: Rows = None,
    json: JsonFlag = False,
) -> None:
    """Write the finished rows as a data set, with a card."""
    from amaru.synth import export as exporting
    from amaru.synth.session import STORE
    from amaru.synth.store import Store

    with Store(out / STORE, reading=True) as store:
        facts = exporting.export(_bound(recipe, set_, rows), store, to)
    emit(facts, json=json, people=lambda result, console: console.print(f"{result['rows']:,} rows in {result['file']}, {result['card']}"))
    if facts["unfinished"] or facts["failed"]:
        missing = f"{facts['unfinished']:,} units are not finished and {facts['failed']:,} failed"
        raise Finding(f"{missing}; what could follow from them is not in the file.")


commands = {"run": run, "plan": plan, "graph": graph, "export": export, "step": synth_step.step, "browse": browse}


def _bound(recipe: Path, settings: list[str] | None, rows: list[str] | None) -> Any:
    from amaru.cli.settings import build_recipe
    from amaru.errors import ConfigError
    from amaru.synth.recipe import Bound, SynthRecipe, find_recipe

    file = find_recipe(recipe)
    if wrong := [each for each in rows or () if not all(each.partition("="))]:
        raise ConfigError(f"--rows is given as STEP=FILE; got '{wrong[0]}'.")
    files = {name: Path(given) for name, _, given in (each.partition("=") for each in rows or ())}
    return Bound(build_recipe(SynthRecipe, file, {}, settings or []).taking(files), file.parent)


def _rows(bound: Any, out: Path) -> list[dict[str, Any]]:
    from amaru.synth.reading import read_rows, results
    from amaru.synth.session import STORE
    from amaru.synth.store import Store

    with Store(out / STORE) as store:
        return list(results(bound, read_rows(bound, store)))


def _print_run(result: Mapping[str, Any], console: Console) -> None:
    grid = Table("step", "taken", "rows", "from before", "dropped", "failed", box=None, header_style="bold", pad_edge=False)
    for name, step in result["steps"].items():
        dropped, failed = sum(step["dropped"].values()), sum(step["failed"].values())
        grid.add_row(name, *(f"{value:,}" for value in (step["taken"], step["rows"], step["kept_from_before"], dropped, failed)))
    console.print(grid)
    if lost := result["lost_workers"]:
        console.print(f"  of {result['workers']} workers were lost, and others took their rows: {'; '.join(lost)}")
    for name, step in result["steps"].items():
        for what in ("dropped", "failed"):
            for reason, count in step[what].items():
                console.print(f"  {name}: {count:,} {what}: {reason}")
    usage = result["usage"]
    console.print(f"\nall runs here: {usage['calls']:,} calls, {usage['prompt_tokens'] + usage['completion_tokens']:,} tokens", end="")
    console.print(f", {usage['money']:,.4f} of money" if usage["money"] else "")
    for reason, count in result["failed_attempts"].items():
        console.print(f"  {count:,} attempts came to nothing: {reason}")
    for row in result.get("preview", ()):
        console.print()
        for name, value in row.items():
            console.print(f"  {name}: {value}")
    console.print(f"\nNext:\n  {result['next']}")


def _print_plan(result: Mapping[str, Any], console: Console) -> None:
    grid = Table("step", "kind", "after", "takes", "rows", "calls", "tokens", "money", "", box=None, header_style="bold", pad_edge=False)
    for row in result["steps"]:
        how = f"as in {row['measured']:,} calls so far" if row["measured"] else "answers at their longest" if row["calls"] else ""
        tokens = row["prompt_tokens"] + row["completion_tokens"]
        numbers = (f"{value:,}" for value in (row["taken"], row["rows"], row["calls"], tokens))
        grid.add_row(row["name"], row["kind"], ", ".join(row["after"]), *numbers, f"{row['money']:,.2f}", how)
    console.print(grid)
    total = result["total"]
    tokens = total["prompt_tokens"] + total["completion_tokens"]
    console.print(f"\n{total['calls']:,} calls, {tokens:,} tokens, {total['money']:,.2f} of money, if nothing fails and no row is dropped")


def _print_graph(result: Mapping[str, Any], console: Console) -> None:
    console.print("graph LR")
    for step in result["steps"]:
        console.print(f'  {step["name"]}["{step["name"]} ({step["kind"]})"]')
    for before, after in result["edges"]:
        console.print(f"  {before} --> {after}")
