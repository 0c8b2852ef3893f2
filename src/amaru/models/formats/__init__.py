"""Every format a model may lie in, and which one a path is.

Lives here: formats other than Hugging Face's (`models.checkpoint`). Not here: families, which say what the tensors mean.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from amaru.config.atomic import recover_directory
from amaru.errors import CheckpointError
from amaru.models.checkpoint import Checkpoint
from amaru.models.formats.gguf import GGUF
from amaru.models.formats.gguf.header import is_gguf
from amaru.models.formats.llama2c import Llama2c
from amaru.models.formats.megatron import MegatronCheckpoint
from amaru.models.formats.megatron.checkpoint import TRACKER
from amaru.models.formats.nemo import CONTEXT, WEIGHTS, NemoArchive, NemoCheckpoint
from amaru.models.source import Source

METADATA = ".metadata"  # of torch's distributed checkpoints
BACKEND = "metadata.json"  # of Megatron's, which says of what kind they are


class Format(NamedTuple):
    """How people know it, whether a path is one, and what reads it."""

    title: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], Any]


def _is_hf(path: Path) -> bool:
    """Megatron's directories may hold a config.json too, beside their own files."""
    return (path / "config.json").is_file() and not any((path / name).is_file() for name in (METADATA, BACKEND))


def _is_megatron(path: Path) -> bool:
    return any((path / name).is_file() for name in (TRACKER, METADATA, BACKEND))


def _is_nemo(path: Path) -> bool:
    return (path / WEIGHTS).is_dir() and not (path / "config.json").exists()


def _is_archive(path: Path) -> bool:
    """A tar file, whatever its name; or a directory that one was unpacked into."""
    if not path.is_file():
        return (path / "model_config.yaml").is_file()
    with open(path, "rb") as file:
        return file.read(262).endswith(b"ustar") or path.suffix == ".nemo"


def _is_llama2c(path: Path) -> bool:
    """A file without a mark of its own, so the name decides."""
    return path.suffix == ".bin" and path.is_file() and not is_gguf(path)


FORMATS = {
    "hf": Format("a Hugging Face directory (config.json and *.safetensors)", _is_hf, Checkpoint),
    "megatron": Format(f"a Megatron directory ({TRACKER}, or {METADATA} and *.distcp)", _is_megatron, MegatronCheckpoint),
    "nemo": Format(f"a NeMo 2 directory ({WEIGHTS}/ and {CONTEXT}/)", _is_nemo, NemoCheckpoint),
    "nemo archive": Format("a .nemo archive", _is_archive, NemoArchive),
    "gguf": Format("a GGUF file", is_gguf, GGUF),
    "llama2c": Format("a llama2.c checkpoint (*.bin)", _is_llama2c, Llama2c),
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
