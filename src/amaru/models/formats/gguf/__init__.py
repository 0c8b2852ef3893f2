"""GGUF, the file that llama.cpp loads: Nemotron-H written with its tokenizer, and read back to prove what was written.

Lives here: names, shapes and values of its tensors, its metadata, its vocabulary, the file itself. Not here: quantisation
(the `gguf` package does that). Imports data, axes and the decoder.
"""

from amaru.models.formats.gguf.metadata import refuses
from amaru.models.formats.gguf.read import GGUF
from amaru.models.formats.gguf.tensors import TYPES
from amaru.models.formats.gguf.write import remarks, write

__all__ = ["GGUF", "TYPES", "refuses", "remarks", "write"]
