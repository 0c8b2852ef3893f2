"""Strict frozen configs, saved artifacts, and atomic files. Imports no torch and nothing of amaru but errors."""

from amaru.config.artifact import Artifact, fingerprint_bytes, fingerprint_file
from amaru.config.atomic import atomic_directory, atomic_file
from amaru.config.strict import Config, build, from_dict, to_dict

__all__ = [
    "Artifact",
    "Config",
    "atomic_directory",
    "atomic_file",
    "build",
    "fingerprint_bytes",
    "fingerprint_file",
    "from_dict",
    "to_dict",
]
