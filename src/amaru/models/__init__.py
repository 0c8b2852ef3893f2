"""Whole models: the decoder, its families and formats, its cost, and the proof that two of them agree.

Lives here: `Decoder`, pattern strings, family files, checkpoints on disk, parity certificates. Not here: layers
(`nn`), training, generation. Imports nn, ops, data, axes, config and errors.
"""

from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.state import DecoderState

__all__ = ["Decoder", "DecoderConfig", "DecoderState"]
