"""Fewer bits: how numbers become codes, and which layers of a decoder take them, for use (8 and 4 bits) and in training (FP8).

Lives here: encodings, their application, the emulated products of FP8. Not here: products with codes (`ops`), the layer that holds them
(`nn`).
Imports models, nn, ops, config and errors.
"""

from amaru.precision.encode import encode
from amaru.precision.quantise import Quantised, quantise
from amaru.precision.scheme import Scheme, coverage

__all__ = ["Quantised", "Scheme", "coverage", "encode", "quantise"]
