"""`amaru compress`: a parent and a budget in, a distilled student out."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.demo import comparison
from amaru.cli.output import JsonFlag, LiveLine, emit

MEASURED = "60% of the parent's, or {} (measured here)."


def command(
    checkpoint: Annotated[str, typer.Argument(help="The parent: a checkpoint directory with a tokenizer.")],
    data: Annotated[list[str] | None, typer.Option(help="Text: files, directories or globs; @python is Python's own source.")] = None,
    memory: Annotated[str | None, typer.Option(help="Budget of memory: 60% of the parent's, or 2GiB.")] = None,
    reserve: Annotated[str | None, typer.Option(help="Of that memory kept free, for activations and the runtime: 10% or 1GiB.")] = None,
    params: Annotated[str | None, typer.Option(help="Budget of parameters: 50%, 300M, 4.5B.")] = None,
    prefill_latency: Annotated[str | None, typer.Option(help="Budget of a prompt: " + MEASURED.format("200ms"))] = None,
    decode_latency: Annotated[str | None, typer.Option(help="Budget of a step of --batch sequences: " + MEASURED.format("30ms"))] = None,
    throughput: Annotated[
        str | None, typer.Option(help="At least so many tokens/s at the largest batch in --memory: 200, or 1.5x the parent's at --batch.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Times by the published peaks of a device, such as h100; not measured.")] = None,
    latency_table: Annotated[Path | None, typer.Option(help="File of measured times, made or extended; else a cache.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens each sequence may reach, for memory and steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences at once, for memory and steps.")] = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens of the prompt that --prefill-latency speaks of.")] = None,
    weights: Annotated[str | None, typer.Option(help="Of the memory budget: fp32, bf16, fp8, int8, int4 or nvfp4.")] = None,
    kv: Annotated[str | None, typer.Option(help="The same choice, for keys and values.")] = None,
    state: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16, for the SSM state.")] = None,
    method: Annotated[str | None, typer.Option(help="minipuzzle: one width for layers of a kind; puzzle: a block for each.")] = None,
    rank_by: Annotated[str | None, typer.Option(help="Before training: loss, teacher_kl, accuracy or teacher_agreement.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens of the long distillation, such as 2M.")] = None,
    short_tokens: Annotated[str | None, typer.Option(help="Tokens of each finalist's first short distillation.")] = None,
    finalists: Annotated[int | None, typer.Option(help="How many candidates are distilled for a short while.")] = None,
    rounds: Annotated[int | None, typer.Option(help="So often the better half goes on, with twice the tokens.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe, or a published one by name; flags win over it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the data order.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. learning.lr=5e-4, space.limit=16.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    device: Annotated[str, typer.Option(help="Where candidates are ranked and taught: cpu, cuda, cuda:1.")] = "cpu",
    shapes: Annotated[bool, typer.Option("--shapes", help="List the shapes that fit, and stop; a preset will do, and no text.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings and the budget, and stop.")] = False,
    json: JsonFlag = False,
) -> None:
    """Make a model smaller: importance, candidates under the budget, short distillation of the best, long distillation of the winner.

    The budget is any of --memory, --params, --prefill-latency, --decode-latency and --throughput, together. Times are those of a table
    that is measured on this machine (blocks in place, N and 2N of them), or with --target bounds of a device by its published figures.

    The same command continues an interrupted run. The student is a checkpoint that stock transformers loads, unless its layers differ
    in width (--method puzzle).
    """
    from amaru.cli.settings import build_recipe, count
    from amaru.recipes.compress import compress
    from amaru.recipes.compression import CompressRecipe, forecast
    from amaru.recipes.published import COMPRESS, find, said
    from amaru.recipes.run import Run, default_directory

    given = {
        "checkpoint": checkpoint,
        "text.data": tuple(data) if data else None,
        "memory": memory,
        "reserve": reserve,
        "parameters": params,
        "prefill": prefill_latency,
        "decode": decode_latency,
        "throughput": throughput,
        "target": target,
        "latency_table": None if latency_table is None else str(latency_table),
        "workload.context": context,
        "workload.batch": batch,
        "workload.weights": weights,
        "workload.kv": kv,
        "workload.state": state,
        "prompt": prompt,
        "method": method,
        "rank_by": rank_by,
        "learning.tokens": count("--tokens", tokens),
        "short_tokens": count("--short-tokens", short_tokens),
        "finalists": finalists,
        "rounds": rounds,
        "seed": seed,
    }
    file = None if recipe is None else find(recipe, COMPRESS)
    if shapes:
        from amaru.recipes.shapes import outlook

        given["text.data"] = given["text.data"] or ("@python",)  # nothing is read of it
        resolved = build_recipe(CompressRecipe, file, given, settings or [])
        with LiveLine() as progress:
            found = outlook(resolved, progress) | {"paper": said(file)}
        emit(found, json=json, people=_print_shapes)
        return
    resolved = build_recipe(CompressRecipe, file, given, settings or [])
    directory = out or default_directory("compress", resolved)
    if dry_run:
        from amaru.cli.settings import print_forecast

        emit(forecast(resolved, directory), json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "compress", resolved, progress, device) as run:
        progress.note(f"Compressing in {directory}")
        compressed = compress(resolved, run)
    from amaru.report.compression_cost import verification
    from amaru.report.runs import write_report

    check = verification(compressed.student)
    facts = {
        "student": compressed.student,
        "shape": compressed.plan.candidate.describe(),
        "budget": compressed.budget.describe(),
        "rows": compressed.rows,
        "report": write_report(directory),
        "next": [
            shlex.join(["amaru", "generate", str(compressed.student), "--prompt", "The "]),
            *([shlex.join(check)] if check else []),
        ],
    }
    emit(facts, json=json, people=_print)


def _print_shapes(facts: Mapping[str, Any], console: Console) -> None:
    console.print(f"budget   {facts['budget']}", soft_wrap=True)
    console.print(f"parent   {facts['parent']}", soft_wrap=True)
    for rule, count in facts["refused"].items():
        console.print(f"rule     {rule} keeps {count:,} shapes out")
    console.print(f"shapes   {facts['shapes']:,}, of which {facts['fitting']:,} fit", soft_wrap=True)
    for share, count in facts["using"].items():
        console.print(f"         {count:,} use at least {share} of the budget")
    if facts["paper"]:
        console.print(f"paper    {facts['paper']}", soft_wrap=True)
    console.print()
    for row in facts["fullest"]:
        console.print(f"  {row['used']:.1%}  {row['shape']}: {row['cost']}", soft_wrap=True)


def _print(facts: Mapping[str, Any], console: Console) -> None:
    console.print()
    console.print(comparison(facts["rows"]))
    console.print()
    for name in ("student", "shape", "budget", "report"):
        console.print(f"{name:<8} {facts[name]}", soft_wrap=True)
    console.print("\nNext:")
    for line in facts["next"]:
        console.print(f"  {line}", soft_wrap=True)
