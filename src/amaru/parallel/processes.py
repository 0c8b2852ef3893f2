"""The processes of one run: found in the environment that torchrun (or `launch`) sets, joined in a group, parted without a hang."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

from amaru.errors import ConfigError, ProcessError

LOST = 75  # the exit code of a process that ended because another did; whoever started both looks at that one's
LAUNCHED = "AMARU_LAUNCHED"  # set where `launch` watches, and says what happened: a pipe that ends with it, and a file to meet by
UNLIMITED = timedelta(days=365)  # a server may idle; a process that dies closes its connections, which is noticed at once
SIGNS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset")


class World(NamedTuple):
    """`World(rank=0, size=4, local=0)`: which of how many processes this is, and which of this machine's."""

    rank: int
    size: int
    local: int

    @classmethod
    def found(cls) -> "World":
        """What torchrun says; one process where nobody started several. Raises `ConfigError` where half of it is missing."""
        if "WORLD_SIZE" not in os.environ:
            return cls(0, 1, 0)
        try:
            return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        except (KeyError, ValueError) as error:
            raise ConfigError(f"The environment has WORLD_SIZE but no usable RANK and LOCAL_RANK ({error}); start by torchrun.") from None

    @property
    def leads(self) -> bool:
        """Whether this is the process that talks to people and writes what only one may write."""
        return self.rank == 0


@contextmanager
def joined(world: World, *, follow_signals: bool = True) -> Iterator[World]:
    """`with joined(World.found()) as world:` the block runs in every process, with a group for `torch.distributed`.

    A process that fails ends the others: their connections break, and they raise `ProcessError` (under `launch` they leave
    quietly, since it prints the sentence of the one that failed). Without `follow_signals` Ctrl-C and SIGTERM are left to the
    first process, which tells the others.
    """
    if world.size == 1:
        yield world
        return
    if not (follow_signals or world.leads):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    dist.init_process_group("gloo", init_method=_meeting(), rank=world.rank, world_size=world.size, timeout=UNLIMITED)
    try:
        yield world
        dist.barrier()  # nobody closes connections that another still reads from
    except Exception as error:
        if not _lost(error):
            raise
        if LAUNCHED in os.environ:
            raise SystemExit(LOST) from None
        raise ProcessError(f"Process {world.rank} of {world.size} ended because it lost another; what that one said comes first.") from None
    finally:
        dist.destroy_process_group()


def _meeting() -> str:
    """Where the processes find each other; under `launch` this one also ends when that is gone, whatever ended it."""
    if LAUNCHED not in os.environ:
        return "env://"
    line, _, file = os.environ[LAUNCHED].partition(":")
    threading.Thread(target=_end_with, args=(int(line),), daemon=True).start()
    return f"file://{file}"


def _end_with(line: int) -> None:
    os.read(line, 1)  # nothing is ever written to it
    os._exit(LOST)


def _lost(error: Exception) -> bool:
    """Whether an error only says that another process is gone."""
    return any(sign in str(error) for sign in SIGNS)
