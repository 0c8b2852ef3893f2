"""A run of `amaru synth` as it goes on: a table that changes in place on a terminal, a line now and then in a log."""

import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from amaru.cli.output import LiveLine


class LiveTable:
    """`with LiveTable() as live: session.run(bound, out, live=live.update)`; it goes to stderr, and away at the end."""

    def __init__(self) -> None:
        self._line = LiveLine()
        self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False) if sys.stderr.isatty() else None

    def __enter__(self) -> "LiveTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, now: Any) -> None:
        """`now` is an `amaru.synth.progress.Now`."""
        if self._live:
            self._live.update(drawn(now), refresh=True)
        else:
            self._line.update(now.line)


def drawn(now: Any) -> Group:
    """Steps with a bar each, and below them the run as a whole."""
    grid = Table("step", "", "done", "of", "rows", "accepted", "failed", box=None, header_style="bold", pad_edge=False)
    for step in now.steps:
        bar = ProgressBar(total=max(step.expected, 1), completed=min(step.done, step.expected), width=24)
        accepted = "" if step.accepted is None else f"{100 * step.accepted:.0f} %"
        failed = Text(f"{step.failed:,}" if step.failed else "", style="red")
        grid.add_row(step.name, bar, f"{step.done:,}", f"{step.expected:,}", f"{step.rows:,}", accepted, failed)
    return Group(grid, Text(f"\n{_whole(now)}"))


def _whole(now: Any) -> str:
    from amaru.synth.progress import duration

    told = [f"{now.calls:,} calls", f"{now.calls_a_second:.1f} a second", f"pushed back {now.pushed_back:,} times"]
    told += [f"{now.ever.tokens:,} tokens so far", *([f"cost so far {now.ever.money:,.4f}"] if now.ever.money else [])]
    return ", ".join([*told, *([] if now.seconds_left is None else [f"about {duration(now.seconds_left)} left"])])
