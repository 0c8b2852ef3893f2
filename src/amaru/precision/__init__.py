"""Weights in fewer bits: how numbers become codes, and which layers of a decoder take them.

Lives here: encodings and their application. Not here: products with codes (`ops`), the layer that holds them (`nn`).
Imports models, nn, ops, config and errors.
"""

from amaru.precision.encode import encode
from amaru.precision.quantise import Quantised, quantise
from amaru.precision.scheme import Scheme, coverage

__all__ = ["Quantised", "Scheme", "coverage", "encode", "quantise"]
