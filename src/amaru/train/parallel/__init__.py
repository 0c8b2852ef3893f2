"""Training on several processes: a mesh of data x tensor, FSDP2 over the first and `amaru.parallel` over the second.

Lives here: the mesh, sharded weights, the loss over a divided vocabulary, gradients and their norm, distributed checkpoints.
Not here: the loop, which asks a `Placement` for what differs. Imports train, parallel, models and below.
"""

from amaru.train.parallel.layout import Layout
from amaru.train.parallel.objective import DividedCrossEntropy
from amaru.train.parallel.spread import Spread

__all__ = ["DividedCrossEntropy", "Layout", "Spread"]
