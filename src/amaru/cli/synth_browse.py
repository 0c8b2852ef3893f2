"""`amaru synth browse`: the rows of a run as a page."""

import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from amaru.cli.output import JsonFlag, emit


def browse(
    out: Annotated[Path, typer.Argument(help="The directory of a run, its --out.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the page is; 0 is any port that is free.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Look through the rows of a run, with filters and where each came from: a page on this machine, until Ctrl-C."""
    from amaru.report.rows import rows_page
    from amaru.synth.browsing import Browser
    from amaru.synth.session import STORE, opened
    from amaru.synth.store import Store

    bound, page = opened(out), rows_page(f"Synthetic data: {out.resolve().name}")
    with Store(out / STORE, reading=True) as store, Browser(bound, store, page, port) as browser:
        emit({"url": browser.url}, json=json, people=lambda result, console: console.print(f"{result['url']}  (Ctrl-C ends)"))
        with suppress(KeyboardInterrupt):
            signal.pause()
