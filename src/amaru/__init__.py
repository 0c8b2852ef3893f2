"""amaru: build, train, compress, distil and run hybrid Mamba-Transformer language models."""

__version__ = "0.1.0"
