"""Checkpoints: a Hugging Face directory opened lazily, loaded into a decoder, or written from one."""

from amaru.models.checkpoint.assembling import Read, assemble, in_dtype, kept, load, place
from amaru.models.checkpoint.reading import Checkpoint, Codes, fingerprint, head_name
from amaru.models.checkpoint.writing import Dtype, save, write

__all__ = [
    "Checkpoint",
    "Codes",
    "Dtype",
    "Read",
    "assemble",
    "fingerprint",
    "head_name",
    "in_dtype",
    "kept",
    "load",
    "place",
    "save",
    "write",
]
