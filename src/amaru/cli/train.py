"""`amaru train`: text in, checkpoint out."""

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.cli.processes import together


def command(
    context: typer.Context,
    data: Annotated[list[str] | None, typer.Option(help="Files, directories or globs; @python is Python's own source.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe, or a published one by name; flags win over it.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Go on from this checkpoint instead of a new model.")] = None,
    config: Annotated[str | None, typer.Option(help="A new model's shape: a preset, a config.json, or YAML of its layers.")] = None,
    pattern: Annotated[str | None, typer.Option(help="The stack: M Mamba-2, * attention, - MLP.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the residual stream.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens to train on, such as 2M or 300k.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16, fp32, or fp8: projections in 8 bits, the rest in bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and data order.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. text.vocab=8192, shape.ffn=1024.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write the metrics for TensorBoard too.")] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Train in so many processes here. Under torchrun: all of its.")] = None,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="So many of them share every layer; the others share every batch.")] = 1,
    sequence_parallel: Annotated[bool, typer.Option("--sequence-parallel", help="Those share the tokens between layers too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and what it needs.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train a hybrid model on your text. The same command continues an interrupted run."""
    from amaru.cli.settings import build_recipe, count, in_precision
    from amaru.recipes.forecast import forecast
    from amaru.recipes.published import find
    from amaru.recipes.run import default_directory
    from amaru.recipes.several import run_together
    from amaru.recipes.train import TrainRecipe, train_model
    from amaru.report.runs import write_report
    from amaru.train.parallel.layout import Layout
    from amaru.train.tensorboard import TensorBoard

    given = {
        "text.data": tuple(data) if data else None,
        "start": start,
        "model": config,
        "shape.pattern": pattern,
        "shape.hidden": hidden,
        "learning.tokens": count("--tokens", tokens),
        "learning.lr": lr,
        "seed": seed,
        **in_precision(precision, settings or []),
    }
    resolved = build_recipe(TrainRecipe, recipe and find(recipe), given, settings or [])
    directory = out or default_directory("train", resolved)
    if dry_run:
        emit(forecast(resolved, directory, device), json=json, people=_print_forecast)
        return
    with together(context, processes, "--processes", follow_signals=True) as world, ExitStack() as stack:
        layout = Layout.of(world.size, tensor_parallel, sequence_parallel)
        progress = stack.enter_context(LiveLine())
        board = stack.enter_context(TensorBoard(directory / "tensorboard")) if tensorboard and world.leads else None
        run = stack.enter_context(run_together(directory, "train", resolved, progress, layout, device))
        run.progress.note(f"Training in {directory}")
        trained = train_model(resolved, run, watch=board.write if board else lambda metrics: None)
    if not world.leads:
        return
    first = next(iter(resolved.text.sources().values()))  # of a blend; compressing takes one source
    following = [
        shlex.join(["amaru", "generate", str(trained.checkpoint), "--prompt", "The "]),
        shlex.join(["amaru", "compress", str(trained.checkpoint), *(word for name in first.data for word in ("--data", name))])
        + " --memory 60%",
    ]
    emit({**trained.summary, "report": write_report(directory), "next": following}, json=json, people=_print_summary)


def _print_forecast(facts: Any, console: Console) -> None:
    """Sizes and durations as people read them; still YAML that `--recipe` reads back."""
    from amaru.cli.settings import print_forecast
    from amaru.report.numbers import count, duration, size

    told = {**facts, "training_flops": f"{facts['training_flops']:.3g}"}
    told |= {name: count(facts[name]) for name in ("parameters", "active_parameters", "tokens")}
    told["parameters_by_kind"] = {name: count(number) for name, number in facts["parameters_by_kind"].items()}
    told["memory"] = {name: size(number) for name, number in facts["memory"].items()}
    told["time"] = f"{duration(facts['time']['seconds'])}: {facts['time']['by']}"
    print_forecast(told, console)


def _print_summary(result: Any, console: Console) -> None:
    console.print(
        f"checkpoint           {result['checkpoint']}  ({result['parameters'] / 1e6:.2f} M parameters, {result['tokens']:,} tokens)"
    )
    console.print(f"validation loss      {result['loss']:.4f} nats a token")
    console.print(f"next-token accuracy  {result['accuracy']:.1%}")
    if result["bits_per_byte"] is not None:
        console.print(f"bits per byte        {result['bits_per_byte']:.3f}")
    console.print(f"report               {result['report']}")
    console.print("\nNext:")
    for line in result["next"]:
        console.print(f"  {line}")
