"""Learning from a teacher: losses on logits and hidden states, the teacher that gives them or what it said before, and the objective that
training takes.

Not here: the training loop (`train`), which this package never imports. Imports models, nn, ops, data and below.
"""

from amaru.distill.cache import Kept, LogitCache
from amaru.distill.caching import fill
from amaru.distill.losses import forward_kl
from amaru.distill.objective import Distillation
from amaru.distill.teacher import LiveTeacher
from amaru.distill.terms import Matching, Terms

__all__ = ["Distillation", "Kept", "LiveTeacher", "LogitCache", "Matching", "Terms", "fill", "forward_kl"]
