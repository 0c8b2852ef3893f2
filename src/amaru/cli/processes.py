"""One command on several processes: started here, or found already started by torchrun."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.errors import ConfigError

if TYPE_CHECKING:
    from amaru.parallel.processes import World

TensorParallel = Annotated[
    int | None,
    typer.Option(min=1, help="Share the model among so many processes, each with its part of every layer. Under torchrun: all of its."),
]


@contextmanager
def together(
    context: typer.Context, count: int | None, flag: str = "--tensor-parallel", *, follow_signals: bool = False
) -> Iterator["World"]:
    """`with together(context, 2) as world:` the block runs in every process of this command; one that fails ends all.

    Where torchrun started none, they are started here with the words of this command line, and the block is not entered:
    `typer.Exit` brings their exit code. Without `follow_signals` only the first process hears Ctrl-C, and tells the others.
    """
    from amaru.parallel.launch import launch
    from amaru.parallel.processes import World, joined

    world = World.found()
    if world.size == 1 and count not in (None, 1):
        raise typer.Exit(launch(count, context.obj))
    if count not in (None, world.size):
        raise ConfigError(f"{flag} is {count}, but {world.size} processes were started; leave it out, or start {count}.")
    with joined(world, follow_signals=follow_signals) as world:
        yield world
