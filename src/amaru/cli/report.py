"""`amaru report`: the page of a run, written again from its artifacts."""

from pathlib import Path
from typing import Annotated

import typer

from amaru.cli.output import JsonFlag, emit


def command(
    run: Annotated[Path, typer.Argument(help="The run directory, what was --out of a verb.")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes: an .md has its figures beside it; else RUN/report.html.")] = None,
    json: JsonFlag = False,
) -> None:
    """Write the HTML report of a run: one file that opens anywhere, without a network."""
    from amaru.report.runs import write_report

    path = write_report(run, out)
    emit(
        {"run": run, "report": path, "bytes": path.stat().st_size},
        json=json,
        people=lambda result, console: console.print(result["report"]),
    )
