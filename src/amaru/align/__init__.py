"""Learning from comparisons of answers: what they are and how they are read, the losses, the reference, and what is watched on the way.

Imports train, adapters, models, data and below; runs (`recipes`) put its parts together.
"""

from amaru.align.comparisons import Answer, Comparison, Comparisons, Dropped, write
from amaru.align.reading import read

__all__ = ["Answer", "Comparison", "Comparisons", "Dropped", "read", "write"]
