"""Every format a model may lie in, and which one a path is.

Lives here: formats other than Hugging Face's (`models.checkpoint`). Not here: families, which say what the tensors mean.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from amaru.config.atomic import recover_directory
from amaru.errors import CheckpointError
from amaru.models.checkpoint import Checkpoint
from amaru.models.formats.llama2c import Llama2c
from amaru.models.source import Source


class Format(NamedTuple):
    """How people know it, whether a path is one, and what reads it."""

    title: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], Any]


FORMATS = {
    "hf": Format("a Hugging Face directory (config.json and *.safetensors)", lambda path: (path / "config.json").is_file(), Checkpoint),
    "llama2c": Format("a llama2.c checkpoint (*.bin)", lambda path: path.suffix == ".bin" and path.is_file(), Llama2c),
}


def format_of(path: str | Path) -> str | None:
    """`format_of("student")  ->  "hf"`, or None for a path that is nothing known; `CheckpointError` for one that is two things."""
    found = [name for name, form in FORMATS.items() if form.recognises(Path(path))]
    if len(found) > 1:
        raise CheckpointError(f"{path} is both {' and '.join(FORMATS[name].title for name in found)}; take one away.")
    return found[0] if found else None


def open_checkpoint(path: str | Path) -> Source:
    """`open_checkpoint("student").read("norm.weight")`: whatever the format, tensors under our names.

    Raises `CheckpointError` for a path that is no checkpoint, listing what is read, and for one that is damaged.
    """
    path = recover_directory(path)
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path}.")
    if (name := format_of(path)) is None:
        raise CheckpointError(f"{path} is no checkpoint that amaru reads; it reads {', '.join(form.title for form in FORMATS.values())}.")
    return FORMATS[name].open(path)
