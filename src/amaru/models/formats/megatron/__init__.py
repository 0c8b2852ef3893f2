"""Megatron-Core's distributed checkpoints, in and out: Nemotron-H and Nemotron-4, of any number of tensor-parallel ranks."""

from amaru.models.formats.megatron.checkpoint import MegatronCheckpoint
from amaru.models.formats.megatron.export import export

__all__ = ["MegatronCheckpoint", "export"]
