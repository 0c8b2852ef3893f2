"""Learning from a teacher: losses on logits, the teacher that gives them, and the objective that training takes.

Not here: the training loop (`train`), which this package never imports. Imports models, nn, ops, data and below.
"""

from amaru.distill.losses import forward_kl
from amaru.distill.objective import Distillation

__all__ = ["Distillation", "forward_kl"]
