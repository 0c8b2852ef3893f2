"""`amaru distill`: a student learns its teacher's next-token distributions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.errors import ConfigError


def command(
    teacher: Annotated[str, typer.Option(help="The checkpoint to learn from.")],
    student: Annotated[str, typer.Option(help="The checkpoint that learns; it is not changed, a new one is written.")],
    data: Annotated[list[str] | None, typer.Option(help="Text: files, directories or globs; @python is Python's own source.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens to train on, such as 2M.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    loss: Annotated[str | None, typer.Option(help="forward_kl (the default), reverse_kl or jensen_shannon, of the logits.")] = None,
    cross_entropy: Annotated[float | None, typer.Option(help="Weight of the text itself beside the teacher.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Bring hidden states together too: cosine or mse.")] = None,
    cache_logits: Annotated[
        Path | None, typer.Option(help="Keep the teacher's answers in this directory, and learn from them; other runs may use it too.")
    ] = None,
    top_k: Annotated[str | None, typer.Option(help="How many tokens of each answer are kept (128), or full.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16, fp32, or fp8: projections in 8 bits, the rest in bf16.")] = None,
    quantise: Annotated[str | None, typer.Option(help="Learn for codes, int8, int4 or fp8, and write the student so as well.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the data order.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. learning.batch_rows=4.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    json: JsonFlag = False,
) -> None:
    """Distil a student with its teacher's logits. The same command continues an interrupted run.

    Without anything else the loss is forward KL at temperature 1, and the teacher runs along. Teacher and student may be of any two
    families that share a tokenizer; the teacher may be quantised.
    """
    from amaru.cli.settings import build_recipe, count, in_precision
    from amaru.recipes.distill import DistillRecipe, distill
    from amaru.recipes.run import Run, default_directory

    given = {
        "teacher": teacher,
        "student": student,
        "text.data": tuple(data) if data else None,
        "learning.tokens": count("--tokens", tokens),
        "learning.lr": lr,
        "seed": seed,
        "loss.divergence": loss,
        "loss.cross_entropy": cross_entropy,
        "loss.hidden.by": hidden,
        "cache.directory": str(cache_logits) if cache_logits else None,
        "cache.top": _kept(top_k),
        "quantise.to": quantise,
        **in_precision(precision, settings or []),
    }
    resolved = build_recipe(DistillRecipe, recipe, given, settings or [])
    directory = out or default_directory("distill", resolved)
    with LiveLine() as progress, Run(directory, "distill", resolved, progress, device) as run:
        progress.note(f"Distilling in {directory}")
        found = distill(resolved, run)
    from amaru.report.runs import write_report

    emit({**found, "report": write_report(directory)}, json=json, people=_print)


def _kept(text: str | None) -> int | str | None:
    if text is None or text == "full":
        return text
    if not text.isdecimal():
        raise ConfigError(f"--top-k is a number of tokens, or full; got '{text}'.")
    return int(text)


def _print(facts: Mapping[str, Any], console: Console) -> None:
    for name, row in facts["rows"].items():
        console.print(
            f"{name:<10} loss {row['loss']:.4f}  KL to the teacher {row['teacher_kl']:.4f}  same choice {row['teacher_agreement']:.1%}"
        )
    console.print(f"\ncheckpoint  {facts['checkpoint']}\nreport      {facts['report']}")
