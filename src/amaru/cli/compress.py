"""`amaru compress`: a parent and a budget in, a distilled student out."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.demo import comparison
from amaru.cli.output import JsonFlag, LiveLine, emit


def command(
    checkpoint: Annotated[str, typer.Argument(help="The parent: a checkpoint directory with a tokenizer.")],
    data: Annotated[list[str] | None, typer.Option(help="Text: files, directories or globs; @python is Python's own source.")] = None,
    memory: Annotated[str | None, typer.Option(help="Budget of memory: 60% of the parent's, or 2GiB.")] = None,
    params: Annotated[str | None, typer.Option(help="Budget of parameters: 50%, 300M, 4.5B.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens each sequence may reach, for the memory budget.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences at once, for the memory budget.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens of the long distillation, such as 2M.")] = None,
    short_tokens: Annotated[str | None, typer.Option(help="Tokens of each finalist's short distillation.")] = None,
    finalists: Annotated[int | None, typer.Option(help="How many candidates are distilled for a short while.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the data order.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. learning.lr=5e-4, space.limit=16.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings and the budget, and stop.")] = False,
    json: JsonFlag = False,
) -> None:
    """Make a model smaller: importance, candidates under the budget, short distillation of the best, long distillation of the winner.

    The same command continues an interrupted run. The student is a checkpoint that stock transformers loads.
    """
    from amaru.cli.settings import build_recipe, count
    from amaru.recipes.compress import compress
    from amaru.recipes.compression import CompressRecipe, forecast
    from amaru.recipes.run import Run, default_directory

    given = {
        "checkpoint": checkpoint,
        "text.data": tuple(data) if data else None,
        "memory": memory,
        "parameters": params,
        "workload.context": context,
        "workload.batch": batch,
        "learning.tokens": count("--tokens", tokens),
        "short_tokens": count("--short-tokens", short_tokens),
        "finalists": finalists,
        "seed": seed,
    }
    resolved = build_recipe(CompressRecipe, recipe, given, settings or [])
    directory = out or default_directory("compress", resolved)
    if dry_run:
        from amaru.cli.settings import print_forecast

        emit(forecast(resolved, directory), json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "compress", resolved, progress) as run:
        progress.note(f"Compressing in {directory}")
        compressed = compress(resolved, run)
    from amaru.report.runs import write_report

    facts = {
        "student": compressed.student,
        "shape": compressed.plan.candidate.describe(),
        "budget": compressed.plan.budget.describe(),
        "rows": compressed.rows,
        "report": write_report(directory),
        "next": [
            shlex.join(["amaru", "generate", str(compressed.student), "--prompt", "The "]),
            shlex.join(["amaru", "verify", str(compressed.student), f"transformers:{compressed.student}"]),
        ],
    }
    emit(facts, json=json, people=_print)


def _print(facts: Mapping[str, Any], console: Console) -> None:
    console.print()
    console.print(comparison(facts["rows"]))
    console.print()
    for name in ("student", "shape", "budget", "report"):
        console.print(f"{name:<8} {facts[name]}", soft_wrap=True)
    console.print("\nNext:")
    for line in facts["next"]:
        console.print(f"  {line}", soft_wrap=True)
