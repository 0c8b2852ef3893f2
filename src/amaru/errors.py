"""Every error that amaru raises on purpose.

    AmaruError
    ├── ConfigError       a setting that is unknown, of the wrong type, or contradicts another
    ├── DataError         text that cannot be found, read, decoded or tokenised
    ├── CheckpointError   a checkpoint that is missing, cut short, or differs from its config
    ├── ArtifactError     a saved stage result that cannot be read, or was made from something else
    ├── BudgetError       a budget that no candidate meets, or that is used up
    ├── EndpointError     a model behind HTTP that cannot be asked: no such model, a key that is refused
    ├── BackendError      a forced backend that refuses, or a missing optional dependency
    ├── StorageError      the disk is full or not writable
    ├── TrainingError     a loss that is no longer finite
    ├── ProcessError      another process of a run over several ended, or they no longer agree
    ├── CapacityError     a request that this server can never hold
    └── BusyError         a request that came while the queue was full; it may come again

A message is one sentence or two: what was wrong, what was found, what is allowed, what to do next.
The command line prints it without a traceback and exits with 2. The lower layers raise them; nothing
here imports anything.
"""


class AmaruError(Exception):
    """Base of all errors meant for the person at the keyboard."""


class ConfigError(AmaruError, ValueError):
    """A setting that is unknown, of the wrong type, or contradicts another."""


class DataError(AmaruError, ValueError):
    """Text that cannot be found, read, decoded or tokenised."""


class CheckpointError(AmaruError, ValueError):
    """A checkpoint that is missing, cut short, or differs from its config."""


class ArtifactError(AmaruError, ValueError):
    """A saved stage result that cannot be read, or was made from something else."""


class BudgetError(AmaruError, ValueError):
    """A budget that no candidate meets, or that is used up."""


class EndpointError(AmaruError, ConnectionError):
    """A model behind HTTP that cannot be asked: no such model, a key that is missing or refused."""


class BackendError(AmaruError, RuntimeError):
    """A forced backend that refuses, or a missing optional dependency."""


class StorageError(AmaruError, OSError):
    """The disk is full or not writable; what was there before is untouched."""


class TrainingError(AmaruError, ArithmeticError):
    """A loss that is no longer finite."""


class ProcessError(AmaruError, RuntimeError):
    """Another process of a run over several ended, or they no longer agree."""


class CapacityError(AmaruError, ValueError):
    """A request whose state and cache would not fit even if it ran alone."""


class BusyError(AmaruError, RuntimeError):
    """The queue is full; nothing was begun, and the same request may come again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
